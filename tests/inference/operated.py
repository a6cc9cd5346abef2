"""Heads in front of a coordinator that answers from a table, for what operators ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import HeadAddress
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.ring import Ring
from ringpull.router.shard_map import ShardAddress, ShardMap

NOBODY = ShardMap(1, (ShardAddress(0, "127.0.0.1", 1),), Ring.even([0]), {})


@contextmanager
def operated(
    operations: Any, config: HeadConfig | None = None, *, state: Path | None = None, **settings: Any
) -> Iterator[HeadAddress]:
    """Serve a head that has nothing but its verbs."""
    head = HeadProcess(config or HeadConfig(), operations, state=None if state is None else lambda: state, **settings)
    try:
        yield head.route(NOBODY, {}, ())
    finally:
        head.drain(timeout_s=0)


def grpc_of(address: HeadAddress) -> str:
    return f"{address.host}:{address.grpc_port}"
