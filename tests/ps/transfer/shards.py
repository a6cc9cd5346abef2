"""Shards with data folders of their own, without processes or sockets: a peer is asked by calling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import Unavailable
from ringpull.ps.placement import RangeSource, ServedRanges, VersionPlacement
from ringpull.ps.ring import Ring
from ringpull.ps.scrub import Scrubber
from ringpull.ps.shard import Shard
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.copies import LocalCopies
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.row_check import RowCheck
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.messages import DescribeReply, DescribeRequest, RangePullReply, RangePullRequest
from tests.ps.tables import MODEL, VERSION, WrittenTable
from tests.ps.transfer.placements import NOWHERE, owned_slots, placement

BLOCK_BYTES = 4000


class DirectPeers:
    """`ringpull.ps.transfer.peer.Peers` over shards of this process; the port is the shard's id."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self.shards = shards
        self.rows = 0
        """Streamed so far."""

    def request(self, source: RangeSource, message: DescribeRequest | RangePullRequest) -> object:
        reply: DescribeReply | RangePullReply
        port = source.port
        if port not in self.shards:
            raise Unavailable(f"no shard {port}")
        if isinstance(message, DescribeRequest):
            return self.shards[port].describe(message)
        reply = self.shards[port].range_pull(message)
        self.rows += len(reply.positions)
        return reply

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Member:
    """A shard and its copies; `restart` is what a kill leaves of it."""

    def __init__(self, shard: int, data_dir: Path, peers: dict[int, Shard], limit_bytes: int | None = None) -> None:
        self.id = shard
        self._data_dir = data_dir
        self._shards = peers
        self._limit_bytes = limit_bytes
        self._start()

    def _start(self) -> None:
        memory = CheckedRows(self._data_dir / "checked-rows")
        self.damage = Damage(memory, copied=True)
        self.shard = self._shards[self.id] = Shard(self.id, self.damage.known)
        self.scrub = Scrubber(self.shard, self.damage, memory)
        self.folder = self._data_dir / f"shard-{self.id}"
        self.copies = LocalCopies(
            self.folder,
            Throttle(),
            limit_bytes=self._limit_bytes,
            block_bytes=BLOCK_BYTES,
            row_check=RowCheck(memory, Throttle()),
            damage=self.damage,
        )
        self.peers = DirectPeers(self._shards)
        self.job = Job()

    def restart(self) -> None:
        self.copies.close()
        self._start()

    def limit(self, limit_bytes: int) -> None:
        """Restart it with another limit."""
        self._limit_bytes = limit_bytes
        self.restart()

    def prepare(self, *placements: VersionPlacement) -> None:
        self.job = Job()
        self.copies.prepare(placements, self.shard, self.peers, self.job)

    def prepare_streamed(self, ring: Ring, before: Ring, tables: Sequence[str] = ("users",)) -> None:
        """Hold what is owned in `ring`, from the owners in `before`; no version's folder is in reach."""
        sources = [
            RangeSource(owned.slots, "peer", owner)
            for owned in before.ranges
            for owner in owned.owners
            if owner != self.id
        ]
        self.prepare(placement([NOWHERE / table for table in tables], owned_slots(ring, self.id, ring.ranks), sources))

    def assign(self, epoch: int, *rings: Ring, versions: Sequence[tuple[str, int]] = ((MODEL, VERSION),)) -> None:
        served_ranges = [
            ServedRanges(ring, {(MODEL, "users"): ring.ranks, (MODEL, "items"): ring.ranks}) for ring in rings
        ]
        self.shard.assign(epoch, served_ranges, versions)

    def tidy(self, versions: Sequence[tuple[str, int]] = ((MODEL, VERSION),), *, drop_pieces: bool = False) -> None:
        self.copies.tidy(versions, self.shard, Job(), drop_pieces=drop_pieces)

    def base(self, table: str = "users") -> Base:
        """Return what it has on disk."""
        [folder] = (self.folder / MODEL / str(VERSION) / table).glob("base-*")
        return Base.open(folder)

    def pieces(self, table: str = "users") -> list[Path]:
        return sorted((self.folder / MODEL / str(VERSION) / table).glob("piece-*"))

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Crew:
    """Members that share a data folder; a context manager that lets go of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[int, Shard] = {}
        self._members: list[Member] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.copies.close()

    def add(self, shard: int, folder: str = "data", limit_bytes: int | None = None) -> Member:
        member = Member(shard, self._folder / folder, self._shards, limit_bytes)
        self._members.append(member)
        return member

    def bring_up(self, count: int, ring: Ring, *tables: WrittenTable) -> list[Member]:
        """Return shards 0, 1, ...; those in the ring have copied their ranges from the tables' folders."""
        made = [self.add(shard) for shard in range(count)]
        for shard in set(ring.shards) & set(range(count)):
            made[shard].prepare(placement([table.folder for table in tables], owned_slots(ring, shard, ring.ranks)))
            made[shard].assign(1, ring)
        return made
