"""A router with local reads over real shards of this process, without a socket between: shards may be of another
machine, die, move their ranges, and have copies of their own."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ringpull.inference.head.local_reads.files import LocalFiles
from ringpull.inference.head.local_reads.following import Following
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import ConnectionLost, NotFound
from ringpull.ps.identity import number_of
from ringpull.ps.local.flat_pull import FlatSubLookups, FlatTables
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.slot_mask import runs
from ringpull.ps.spec import OnUnavailable, Pooling, RowType, TableSpec
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.merge import Part, merge
from ringpull.ps.wire.files_messages import FilesRequest
from ringpull.ps.wire.messages import Reply, Request, StatisticsRequest
from ringpull.router.client import Router
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.reference import ReferenceBytes, ReferenceTable
from tests.router.cases import LISTS, Tables, assert_reference
from tests.router.fakes import PATIENT

MODEL = "model"
DIMS = {"users": 16, "items": 5, LISTS: 0}
VECTORS = tuple(name for name in DIMS if name != LISTS)
ROWS = 600
KEYS = 2 * ROWS
"""Keys that are looked up: half of them have rows."""


def write_tables(folder: Path, seed: int, on_unavailable: OnUnavailable = OnUnavailable.ERROR) -> Tables:
    """Write tables with other rows for each seed, and return them with their references."""
    made: dict[str, tuple[TableSpec, ReferenceTable | ReferenceBytes]] = {}
    rng = np.random.default_rng(seed)
    for name, dim in DIMS.items():
        keys = rng.permutation(KEYS)[:ROWS].astype(np.uint64)
        if dim == 0:
            lists = [rng.bytes(int(length)) for length in rng.integers(0, 60, ROWS)]
            spec = TableSpec(name=name, dim=0, row_type=RowType.BYTES, on_unavailable=on_unavailable)
            with TableWriter(folder / name, spec) as writer:
                writer.add_bytes(keys, BytesRows.of(lists))
                writer.finish()
            made[name] = spec, ReferenceBytes(dict(zip(keys.tolist(), lists, strict=True)))
            continue
        rows, default = rng.normal(size=(ROWS, dim)).astype(np.float32), rng.normal(size=dim).astype(np.float32)
        spec = TableSpec(name=name, dim=dim, default=tuple(default.tolist()), on_unavailable=on_unavailable)
        with TableWriter(folder / name, spec, default=default) as writer:
            writer.add(keys, rows)
            writer.finish()
        made[name] = spec, ReferenceTable.from_arrays(keys, rows, default)
    return made


class CountedTables(FlatTables):
    """Tables of a layout whose newest answer is kept."""

    answer: PullReply | None = None

    def pull(self, request: PullRequest, lookups: FlatSubLookups) -> PullReply | None:
        CountedTables.answer = super().pull(request, lookups)
        return CountedTables.answer


class CountedFiles(LocalFiles):
    """Local files, read by one thread, that count the pulls whose answer was the flat one."""

    flat = 0

    def _flat(self, *asked: Any) -> FlatTables:
        made = super()._flat(*asked)
        made.__class__ = CountedTables
        return made

    def _count(self, request: PullRequest, reply: PullReply) -> None:
        self.flat += reply is CountedTables.answer
        super()._count(request, reply)


class Cluster:
    """Shards, the map and one router that reads locally what the shards of this machine serve."""

    def __init__(self, ring: Ring, replicas: int | str = 1) -> None:
        self.shards = {shard: Shard(shard) for shard in ring.shards}
        self.ring = ring
        self.replicas: Mapping[tuple[str, str], int | str] = {(MODEL, name): replicas for name in DIMS}
        self.epoch = 0
        self.dead: set[int] = set()
        self.elsewhere: set[int] = set()
        """Shards of another machine."""
        self.earlier_build: set[int] = set()
        self.versions: dict[int, tuple[Tables, str]] = {}
        self.pulls = 0
        """Pulls that shards were asked for."""
        self.files = CountedFiles(1)
        self.checks = 0
        self.router = Router(self.connect, settings=PATIENT, local=self.files)
        self.later_s = 0.0
        self.following = Following(self.files, self.router, clock=lambda: time.monotonic() + self.later_s)

    async def connect(self, address: ShardAddress) -> Wire:
        if address.shard in self.dead:
            raise ConnectionLost(f"shard {address.shard} is dead")
        return Wire(self, address.shard)

    def map(self, ring: Ring | None = None, before: Sequence[Ring] = ()) -> None:
        """Make a new map of this ring, whose shards serve that of `before` too."""
        self.ring = ring or self.ring
        self.epoch += 1
        for shard in set(self.ring.shards) - self.shards.keys():
            self.shards[shard] = Shard(shard)
        self.assign([*before, self.ring])
        addresses = tuple(ShardAddress(shard, "here", shard) for shard in self.ring.shards)
        self.router.update(ShardMap(self.epoch, addresses, self.ring, self.replicas))

    def assign(self, rings: Sequence[Ring]) -> None:
        """Have the shards serve their ranges of these rings."""
        for shard in self.shards.values():
            named = {(MODEL, version): identity for version, (_, identity) in self.versions.items()}
            shard.assign(self.epoch, [ServedRanges(ring, self.replicas) for ring in rings], named)

    def open(self, version: int, folder: Path, tables: Tables) -> None:
        """Have all shards serve a version from these files, and the router know it."""
        identity = f"{version:016x}"
        self.versions[version] = tables, identity
        for shard in self.shards.values():
            shard.open(MODEL, version, {name: folder / name for name in DIMS}, identity=identity)
        self.router.register(MODEL, version, {name: spec for name, (spec, _) in tables.items()}, identity=identity)

    def open_copies(self, version: int, folder: Path, tables: Tables, copies: Path) -> None:
        """Have every shard serve a version from a copy of just its ranges."""
        self.open(version, folder, tables)
        for number, shard in self.shards.items():
            bases = {name: self.copied(number, shard, version, name, folder, copies) for name in DIMS}
            shard.install(MODEL, version, bases)

    def copied(self, number: int, shard: Shard, version: int, name: str, folder: Path, copies: Path) -> Base:
        """Return a shard's copy of its ranges of a table; it is written once for the same ranges."""
        mask = shard.owned(MODEL, name)
        assert mask is not None
        copy = copies / f"{number}-{version}-{name}-{zlib.crc32(mask)}"
        if copy.exists():
            return Base.open(copy)
        whole = Base.open(folder / name)
        parts = [Part(slots, whole) for slots in runs(mask)]
        return merge(copy, whole.spec, whole.identity, parts, Job())

    async def learn(self, *versions: int) -> None:
        """Have the files of these versions read here."""
        for version in versions:
            await self.following.learn(MODEL, version, number_of(self.versions[version][1]))

    async def look(self) -> None:
        """Look for changes once, and open what has changed."""
        await self.following._ask_all(())
        await asyncio.gather(*self.following._open_due())

    def retire(self, version: int) -> None:
        """Let go of a version."""
        self.router.retire(MODEL, version)
        self.following.forget(MODEL, version)
        del self.versions[version]
        for shard in self.shards.values():
            shard.retire(MODEL, version)

    async def pull(self, version: int, lookups: Sequence[Lookup]) -> Sequence[LookupResult]:
        return await self.router.pull(MODEL, version, lookups, deadline_s=time.monotonic() + 60)

    def keys_here(self) -> int:
        """Return how many keys were answered here so far."""
        return sum(each.here for each in self.router.counters().tables.values())

    def keys(self) -> int:
        return sum(each.keys for each in self.router.counters().tables.values())

    async def close(self) -> None:
        await self.router.close()
        self.following.close()
        self.files.close()


class Wire:
    """Connection to a shard of this process."""

    def __init__(self, cluster: Cluster, shard: int) -> None:
        self.cluster = cluster
        self.shard = shard

    @property
    def closed(self) -> bool:
        return self.shard in self.cluster.dead

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        shard = self.cluster.shards[self.shard]
        await asyncio.sleep(0)
        if self.closed:
            raise ConnectionLost(f"shard {self.shard} is dead")
        match message:
            case PullRequest():
                self.cluster.pulls += 1
                return shard.pull(message)
            case FilesRequest() if self.shard in self.cluster.earlier_build:
                raise NotFound("there is no table ''")
            case FilesRequest():
                reply = shard.files(message)
                if self.shard in self.cluster.elsewhere:
                    return replace(reply, machine="another machine")
                return reply
            case StatisticsRequest():
                return shard.statistics()
        raise AssertionError(message)

    async def close(self) -> None:
        pass


def lookups(seed: int = 0, *, lists: bool = True) -> list[Lookup]:
    """Return look-ups of all tables and poolings.

    Args:
        lists: Whether rows of bytes are among them. If not, a pull that is answered locally is answered flat.
    """
    rng = np.random.default_rng(seed)
    asked = []
    for name in DIMS if lists else VECTORS:
        for pooling in [Pooling.NONE] if name == LISTS else Pooling:
            keys = rng.integers(0, KEYS, 150).astype(np.uint64)
            offsets = np.sort(rng.integers(0, 151, 40))
            offsets[[0, -1]] = 0, 150
            asked.append(Lookup(name, pooling, keys, None if pooling is Pooling.NONE else offsets))
            if pooling is Pooling.SUM:
                asked.append(Lookup(name, pooling, keys, offsets, rng.normal(size=150).astype(np.float32)))
    return asked


async def check(cluster: Cluster, version: int, seed: int = 0) -> list[Lookup]:
    """Pull without and with rows of bytes, by turns; hold what comes against the reference, and return what was asked.

    Without them, what was answered here was answered flat.
    """
    asked = lookups(seed, lists=cluster.checks % 2 == 1)
    cluster.checks += 1
    here, flat = cluster.keys_here(), cluster.files.flat
    assert_reference(cluster.versions[version][0], asked, await cluster.pull(version, asked))
    if all(each.table != LISTS for each in asked) and cluster.keys_here() > here:
        assert cluster.files.flat > flat
    return asked


def keys_of(tables: Tables, pulls: Iterable[Sequence[Lookup]]) -> dict[str, tuple[int, int]]:
    """Return the keys of each table and how many of these it lacks, of pulls that were answered here: one by one."""
    counted: dict[str, tuple[int, int]] = {}
    for each in chain.from_iterable(pulls):
        keys, missing = counted.get(each.table, (0, 0))
        _, known = tables[each.table][1].pull(each.keys)
        counted[each.table] = keys + each.keys.size, missing + int((~known).sum())
    return counted


async def serving(written, ring: Ring, replicas=1, copies: Path | None = None) -> Cluster:
    cluster = Cluster(ring, replicas)
    cluster.map()
    if copies is None:
        cluster.open(1, *written[1])
    else:
        cluster.open_copies(1, *written[1], copies)
    cluster.assign([ring])
    await cluster.learn(1)
    return cluster


def damage(cluster: Cluster, shard: int, begin: int, end: int) -> None:
    """Have a shard find its rows of these slots of `users` damaged."""
    served = cluster.shards[shard]
    base = served.bases(MODEL, 1)["users"]
    assert served.quarantine((MODEL, 1, "users"), base, [BadBlock(0, 0, 1, (begin, end))])
