"""Warm-up of the kernels: compiles all of them into numba's cache on disk, which every process shares.

A kernel is compiled once per combination of argument types, which only its callers know. So a tiny table is pulled with
every operation, and ranked, through shard, wire and router, over a real connection, and pulled from its files; it is
given a newer row, and compared; and the columns of two requests are read and joined as in the head.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.inference.head.local_reads.files import LocalFiles
from ringpull.inference.head.local_reads.following import Following
from ringpull.inference.head.request import kernels
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.wire.column_codec import encode_column
from ringpull.inference.wire.packing import pack
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOTS, keys_of_texts
from ringpull.ps.identity import UNKNOWN
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import Pooling, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.changed_rows import changed_rows, compared_by_number
from ringpull.ps.store.newer.directory import Directory, upserted
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.wire.connection import Connection
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap
from ringpull.router.top_k import KeyLists, TopKQuery

MODEL: Final = "warm-up"
TABLE: Final = "table"
COMPILE_TIMEOUT_S: Final = 300.0
"""Time allowed for the first pull, which waits for the compiler: minutes on a busy machine."""

BYTES_TABLE: Final = "bytes"
SPECS: Final = {
    TABLE: TableSpec(name=TABLE, dim=4),
    BYTES_TABLE: TableSpec(name=BYTES_TABLE, dim=0, row_type=RowType.BYTES),
}


def warm_up(within: str | None = None) -> None:
    """Compile every kernel of shards, router and head into the cache, or load it from there.

    Args:
        within: Folder for a tiny table; default: the temporary one.
    """
    with tempfile.TemporaryDirectory(prefix="ringpull-", dir=within) as folder:
        _write_tables(Path(folder))
        _change_rows(Path(folder))
        shards = [ShardProcess(i, metrics=False) for i in (0, 1)]
        try:
            shard_map = ShardMap(
                epoch=1,
                shards=tuple(ShardAddress(i, *shard.address()) for i, shard in enumerate(shards)),
                ring=Ring.even((0, 1), 1),
                replicas={(MODEL, table): 1 for table in SPECS},
            )
            whole_tables = {
                table: TablePlacement(str(Path(folder) / table), slots=(SlotRange(0, SLOTS),), sources=())
                for table in SPECS
            }
            for shard in shards:
                shard.prepare([VersionPlacement(MODEL, 1, whole_tables)])
                shard.assign(shard_map.epoch, [ServedRanges(shard_map.ring, shard_map.replicas)], [(MODEL, 1)])
            asyncio.run(_pull_everything(shard_map))
        finally:
            for shard in shards:
                shard.stop()
    _receive_columns()
    keys_of_texts(b"ab", np.array([1, 1], np.uint32))


def _receive_columns() -> None:
    column = encode_column(TABLE, np.arange(2))
    one, other = (ReceivedColumns.of(pack({TABLE: column}, {}), Limits(2, 2)) for _ in range(2))
    for received in (one, ReceivedColumns.joined([one, other])):
        begins, counts = received.places[:, kernels.NUMBERS].copy(), received.sizes[:, kernels.VALUES].copy()
        kernels.direct_keys(received.words, begins, counts, np.zeros((1, 3), np.int64))
        kernels.direct_offsets(received.words, begins, counts)
        kernels.all_within(received.words, begins, counts, np.zeros(1, np.int64), np.zeros(1, np.int64))


def _write_tables(folder: Path) -> None:
    for table, spec in SPECS.items():
        with TableWriter(folder / table, spec) as writer:
            if spec.is_bytes:
                writer.add_bytes(np.arange(64), BytesRows.of([bytes(key) for key in range(64)]))
            else:
                writer.add(np.arange(64), np.ones((64, spec.dim), np.float32))
            writer.finish()


def _change_rows(folder: Path) -> None:
    for table in SPECS:
        base = Base.open(folder / table)
        segments, positions = Segments(base.spec.row_bytes), base.positions_slice(0, 1)
        directory, _ = upserted(Directory.with_room(1), positions, segments.append(base.raw_rows(0, 1), 1))
        segments.stamps(directory.get(positions))
        Table(base, Newer(directory, segments)).newest_block(SlotRange(0, SLOTS), None, 1)
        for _ in changed_rows(base, base):
            pass
        if not base.spec.is_bytes:
            compared_by_number(base.sections.rows, base.sections.rows, np.arange(base.rows))


async def _pull_everything(shard_map: ShardMap) -> None:
    async def connect(address: ShardAddress) -> Connection:
        return await Connection.connect(address.host, address.port)

    # Shards do not answer while the compiler runs, and must not be ejected for that.
    patient = RouterSettings(
        eject_after_s=COMPILE_TIMEOUT_S, give_up_s=COMPILE_TIMEOUT_S, ping_timeout_s=COMPILE_TIMEOUT_S
    )
    router, files = Router(connect, settings=patient), LocalFiles(1)
    reader = Router(connect, settings=patient, local=files)
    for each in (router, reader):
        each.update(shard_map)
        each.register(MODEL, 1, SPECS)
    keys = np.arange(64, dtype=np.uint64)
    offsets = np.arange(0, 65, 4)
    pooled = [Lookup(TABLE, pooling, keys, offsets) for pooling in (Pooling.SUM, Pooling.MEAN, Pooling.MAX)]
    weighted = Lookup(TABLE, Pooling.SUM, keys, offsets, np.ones(64, np.float32))
    try:
        unpooled = [Lookup(table, Pooling.NONE, keys) for table in SPECS]
        await Following(files, reader).learn(MODEL, 1, UNKNOWN)
        for lookups in ([*pooled, weighted, *unpooled], pooled[:1]):
            for each in (router, reader):
                await each.pull(MODEL, 1, lookups, deadline_s=time.monotonic() + COMPILE_TIMEOUT_S)
        vectors = np.ones((2, SPECS[TABLE].dim), np.float32)
        query = TopKQuery(TABLE, vectors, 1, among=KeyLists.of([keys, keys[:1]]))
        await router.top_k(MODEL, 1, query, deadline_s=time.monotonic() + COMPILE_TIMEOUT_S)
    finally:
        await router.close()
        await reader.close()
        files.close()


if __name__ == "__main__":
    warm_up(*sys.argv[1:])
