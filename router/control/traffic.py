"""Traffic: how many keys and bags one request looks up in each table, on average, counted or written by hand.

A bag is the ids of one feature of one row; where rows are not pooled, every key counts as a bag of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ringpull.ps.errors import InvalidInput
from ringpull.router.control.observed import TableTraffic


@dataclass(frozen=True, slots=True)
class TableLoad:
    """Average look-ups of one request in one table."""

    keys: float
    bags: float
    """Number of bags; at most the number of keys."""
    hottest_share: float = 0.0
    """Share of its look-ups that go to its hottest key; 0 when unknown."""

    def __post_init__(self) -> None:
        if not (0 <= self.keys < math.inf and 0 <= self.bags <= self.keys):
            raise InvalidInput(f"{self.keys} keys in {self.bags} bags a request: 0 or more keys, at most as many bags")
        if not 0 <= self.hottest_share <= 1:
            raise InvalidInput(f"the hottest key's share is {self.hottest_share}; it must be from 0 to 1")

    @property
    def bag_length(self) -> float:
        """Average number of keys in a bag."""
        return self.keys / self.bags if self.bags else 0.0


def load_of(traffic: Mapping[str, TableTraffic], requests: int) -> dict[str, TableLoad]:
    """Return the load of each table per request, from counts; empty when there were no requests."""
    if requests <= 0:
        return {}
    return {
        table: TableLoad(counted.keys / requests, min(counted.bags, counted.keys) / requests)
        for table, counted in traffic.items()
    }


def traffic_from_json(text: str) -> dict[str, TableLoad]:
    """Read a traffic file: look-ups per table, counted over `requests` requests.

        {"requests": 1000, "tables": {"ranker/item": {"keys": 50000, "bags": 1000, "hottest_share": 0.02}}}

    Keys of `tables` are `TABLE` or `MODEL/TABLE`. Without `bags`, every key counts as one.

    Raises:
        InvalidInput: It has another form; the message names the field.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"traffic: not JSON: {exc}") from exc
    if not isinstance(body, dict) or not isinstance(body.get("tables"), dict):
        raise InvalidInput('traffic: must be {"requests": N, "tables": {TABLE: {"keys": K, "bags": B}}}')
    requests = _number("requests", body.get("requests"))
    if requests <= 0:
        raise InvalidInput(f"traffic: requests is {requests:g}; it must be above 0")
    return {str(name): _load(f"tables.{name}", fields, requests) for name, fields in body["tables"].items()}


def _load(where: str, fields: Any, requests: float) -> TableLoad:
    if not isinstance(fields, dict):
        raise InvalidInput(f'traffic: {where} must be {{"keys": K, "bags": B, "hottest_share": H}}')
    unknown = sorted(fields.keys() - {"keys", "bags", "hottest_share"})
    if unknown:
        raise InvalidInput(f"traffic: {where} has no field {unknown[0]}: keys, bags and hottest_share")
    keys = _number(f"{where}.keys", fields.get("keys"))
    bags = _number(f"{where}.bags", fields.get("bags", keys))
    try:
        return TableLoad(
            keys / requests, bags / requests, _number(f"{where}.hottest_share", fields.get("hottest_share", 0))
        )
    except InvalidInput as exc:
        raise InvalidInput(f"traffic: {where}: {exc}") from exc


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"traffic: {where} is {value!r}; it must be a number")
    return float(value)
