"""Warm-up of the kernels: compiles all of them into numba's cache on disk, which every process shares.

A kernel is compiled once per combination of argument types, which only its callers know. So a tiny table is pulled with
every operation, and ranked, through shard, wire and router, over a real connection, and pulled from its files; it is
given a newer row, and compared; and the columns of two requests are read and joined, and vectors laid side by side, as
in the head. Where kernels are compiled for all, rows are pushed and folded, and pushed plainly, too: a shard loads
those kernels with its first push.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.deploy.view.streams import fill_closed_descriptors
from ringpull.inference.head.local_reads.files import LocalFiles
from ringpull.inference.head.local_reads.following import Following
from ringpull.inference.head.request import kernels
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.model.input_kernels import lay_short_side_by_side, lay_side_by_side
from ringpull.inference.wire.column_codec import encode_column
from ringpull.inference.wire.packing import pack
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, keys_of, keys_of_texts
from ringpull.ps.identity import UNKNOWN
from ringpull.ps.live.finite_rows import EXPONENTS, first_not_finite
from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.numbers import Numbers, slots_of
from ringpull.ps.live.plain_push import taken
from ringpull.ps.live.record import LiveName
from ringpull.ps.live.settings import LiveSettings
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.spec import AFFINE_BYTES, VECTOR_TYPES, Pooling, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.changed_rows import changed_rows, compared_by_number
from ringpull.ps.store.newer.directory import Directory, upserted
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.push_messages import PushRequest
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress, ShardMap
from ringpull.router.top_k import KeyLists, TopKQuery

MODEL: Final = "warm-up"
TABLE: Final = "table"
COMPILE_TIMEOUT_S: Final = 300.0
"""Time allowed for the first pull, which waits for the compiler: minutes on a busy machine."""

LOG_LIMIT_BYTES: Final = 1 << 23
"""Limit on the log of the pushes: they are a MiB or two at a time."""

BYTES_TABLE: Final = "bytes"
SPECS: Final = {
    TABLE: TableSpec(name=TABLE, dim=4),
    BYTES_TABLE: TableSpec(name=BYTES_TABLE, dim=0, row_type=RowType.BYTES),
}


def compile_all(within: str | None = None) -> None:
    """Compile every kernel into the cache.

    Args:
        within: Folder for tiny tables; default: the temporary one.
    """
    warm_up(within)
    with tempfile.TemporaryDirectory(prefix="ringpull-", dir=within) as folder:
        _write_tables(Path(folder))
        _push_rows(Path(folder))
    _push_plainly()


def warm_up(within: str | None = None) -> None:
    """Compile every kernel but those of pushes into the cache, or load it from there.

    Args:
        within: Folder for tiny tables; default: the temporary one.
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
            for shard in shards:
                shard.prepare([VersionPlacement(MODEL, 1, _whole_tables(Path(folder)))])
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
    zero = np.zeros(1, np.int64)
    where = zero, zero + 1, zero, zero, zero
    lay_side_by_side(np.ones(1, np.float32), *where, np.empty((1, 1), np.float32))
    lay_short_side_by_side(np.ones(1, np.uint32), *where, np.empty((1, 1), np.uint16))


def _write_tables(folder: Path) -> None:
    for table, spec in SPECS.items():
        with TableWriter(folder / table, spec) as writer:
            if spec.is_bytes:
                writer.add_bytes(np.arange(64), BytesRows.of([bytes(key) for key in range(64)]))
            else:
                writer.add(np.arange(64), np.ones((64, spec.dim), np.float32))
            writer.finish()


def _whole_tables(folder: Path) -> dict[str, TablePlacement]:
    slots = (SlotRange(0, SLOTS),)
    return {table: TablePlacement(str(folder / table), slots=slots, sources=()) for table in SPECS}


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


def _push_rows(folder: Path) -> None:
    """Push rows and removals to half of all slots, which is what the shard serves, until all are folded."""
    for row_type in VECTOR_TYPES:
        first_not_finite(np.ones((1, 4 * AFFINE_BYTES), np.uint8), row_type)
    keys_of(np.zeros(1, np.uint64))
    shard = Shard(0)
    live = LiveShard(shard, folder / "live", settings=LiveSettings(log_limit_bytes=LOG_LIMIT_BYTES))
    try:
        placed = VersionPlacement(MODEL, 1, _whole_tables(folder), lineage=1, live=frozenset(SPECS))
        shard.open(MODEL, 1, {table: folder / table for table in SPECS}, placed=placed)
        shard.assign(1, [ServedRanges(Ring.even([0, 1]), {})], [(MODEL, 1)])
        numbers = itertools.count(1)
        while live.log_bytes <= LOG_LIMIT_BYTES // 2:  # from where on rows are folded
            for table, spec in SPECS.items():
                mask = shard.owned(MODEL, table)
                assert mask is not None
                positions = np.flatnonzero(mask).astype(np.uint64) << np.uint64(SLOT_SHIFT)
                rows = np.ones(len(positions) * (spec.row_bytes or 1), np.uint8)
                lengths = np.ones(len(positions) if spec.is_bytes else 0, np.uint32)
                push = partial(PushRequest, MODEL, table, 1, 1, 1, positions=positions)
                _pushed(live, push(next(numbers), False, rows=rows, lengths=lengths))
                _pushed(live, push(next(numbers), True))
        until_s = time.monotonic() + COMPILE_TIMEOUT_S
        while not live.folds and time.monotonic() < until_s:  # Without a fold, one that serves compiles its kernels.
            time.sleep(0.001)
    finally:
        live.close()


def _push_plainly() -> None:
    """Take in a plain push of each type of rows that there are such pushes of: those before are too large for it."""
    positions = np.arange(SLOTS, dtype=np.uint64) << np.uint64(SLOT_SHIFT)
    for row_type in EXPONENTS:
        spec = TableSpec(name=TABLE, dim=4, row_type=row_type)
        table = LiveTables(0).made(LiveName(MODEL, 1, TABLE), spec.row_bytes)
        table.row_type = row_type
        table.write(np.zeros((1, spec.row_bytes), np.uint8), 1)  # which opens a block
        numbers = Numbers()
        numbers.put(table.name, 1, slots_of(positions), 1, 0.0)  # at all slots
        push = PushRequest(MODEL, TABLE, 1, 1, 1, 2, False, positions[:1], np.zeros(spec.row_bytes, np.uint8))
        if taken(push, table, numbers, 2, 0.0) is None:
            raise AssertionError(f"a push of {row_type} was not taken in plainly")


def _pushed(live: LiveShard, push: PushRequest) -> None:
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    live.pushes.push(push, time.monotonic() + COMPILE_TIMEOUT_S, answers.put)
    while True:
        try:
            answer = answers.get(timeout=0.001)
        except queue.Empty:  # a coordinator confirms first pushes; here there is none
            live.confirm(live.pushed | live.wanted)
            continue
        if isinstance(answer, Exception):
            raise answer
        return


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
    fill_closed_descriptors()  # A loop whose socket were standard input would abort.
    compile_all(*sys.argv[1:])
