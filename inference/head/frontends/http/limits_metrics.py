"""The metrics of what is limited before it is work: calls that are being received, and HTTP connections."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.registry import Collector

from ringpull.inference.head.frontends.http.limits import ConnectionCounts
from ringpull.inference.head.receiving import Receiving
from ringpull.ps.metric_families import ALONE, Family, counter, gauge


class LimitsCollector(Collector):
    """Families of these metrics. To be collected on the head's event loop, which owns all it reads."""

    def __init__(self, receiving: Receiving, connections: ConnectionCounts) -> None:
        self._receiving = receiving
        self._connections = connections

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        yield gauge(
            "ringpull_receiving_calls",
            "Calls that were begun and whose message is not there yet.",
            (),
            {ALONE: len(self._receiving)},
        )
        yield gauge(
            "ringpull_overdue_calls",
            "Of these, those whose message should be there: they count as no work.",
            (),
            {ALONE: self._receiving.overdue},
        )
        yield counter(
            "ringpull_receiving_ended_total",
            "Calls that were ended before their message was there.",
            ("reason",),
            {(reason,): count for reason, count in self._receiving.ended.items()},
        )
        yield gauge("ringpull_http_connections", "Open HTTP connections.", (), {ALONE: self._connections.open})
        yield counter(
            "ringpull_http_ended_total",
            "HTTP connections that were ended by a limit.",
            ("reason",),
            {(reason,): count for reason, count in self._connections.ended.items()},
        )

    def describe(self) -> list[Family]:
        """Return nothing: a registry would else collect when it is made, before there is anything to read."""
        return []
