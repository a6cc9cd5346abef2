"""Shards with tables open, in this process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import Replicas
from ringpull.ps.wire.messages import RangePullRequest
from tests.ps.tables import MODEL, VERSION, WrittenTable

ONE_SHARD = Ring.even([0])
VERSIONS = {(MODEL, VERSION), (MODEL, 4)}


def open_shard(*tables: WrittenTable, shard: int = 0, ring: Ring = ONE_SHARD, replicas: Replicas = 1) -> Shard:
    opened = Shard(shard)
    opened.open(MODEL, VERSION, {table.folder.name: table.folder for table in tables})
    assign(opened, 1, ring, {(MODEL, table.folder.name): replicas for table in tables})
    return opened


def assign(shard: Shard, epoch: int, ring: Ring, replicas: Mapping[tuple[str, str], Replicas] | None = None) -> None:
    shard.assign(epoch, [ServedRanges(ring, replicas or {})], VERSIONS)


def owned_keys(keys: np.ndarray, ring: Ring, shard: int, replicas: Replicas = 1) -> np.ndarray:
    slots = (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)
    return keys[ring.owned_mask(shard, replicas)[slots] != 0]


def range_request(begin: int = 0, end: int = SLOTS, cursor: int = 0, max_bytes: int = 1 << 20) -> RangePullRequest:
    return RangePullRequest(MODEL, VERSION, "users", begin, end, cursor, max_bytes)


def flip_a_row_byte(table: WrittenTable) -> None:
    path = table.folder / "rows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
