"""Tables with newer rows, and a dict beside them that says what they must have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOTS, keys_of, positions_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.format import SlotRanges
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import Directory, upserted
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.store.row_codec import encode
from ringpull.ps.store.table import Table


def stored_rows(rng: np.random.Generator, spec: TableSpec, count: int) -> RawRows:
    """Return random rows as a table stores them."""
    if spec.is_bytes:
        return BytesRows.of([rng.bytes(size) for size in rng.integers(0, 40, count)])
    return encode(rng.normal(size=(count, spec.dim)).astype(np.float32), spec)


def row_at(rows: RawRows, number: int) -> bytes:
    """Return one row as stored."""
    return rows[number] if isinstance(rows, BytesRows) else rows[number].tobytes()


def write_rows(folder: Path, spec: TableSpec, rows: dict[int, bytes], held: SlotRanges = fmt.FULL) -> Base:
    """Write a base of rows as stored, by position."""
    positions = np.array(sorted(rows), np.uint64)
    data = [rows[position] for position in positions.tolist()]
    stored: RawRows = BytesRows.of(data)
    if not spec.is_bytes:
        stored = np.frombuffer(b"".join(data), np.uint8).reshape(len(data), spec.row_bytes)
    with BaseWriter(folder, spec, len(positions), held=held) as writer:
        writer.append(positions, stored)
        writer.finish()
    return Base.open(folder)


@dataclass
class LiveTable:
    """A base, newer rows, and what both together must answer."""

    base: Base
    segments: Segments
    directory: Directory
    rows: dict[int, bytes]
    """Rows as stored, by position."""
    touched: set[int] = field(default_factory=set)
    """Positions that have a word."""

    @classmethod
    def of(cls, base: Base, *, budget: Budget | None = None, room: int = 1) -> LiveTable:
        positions = base.sections.positions
        stored = base.raw_rows(0, base.rows)
        rows = {position: row_at(stored, i) for i, position in enumerate(positions.tolist())}
        segments = Segments(base.spec.row_bytes, budget)
        return cls(base, segments, Directory.with_room(room), rows)

    @property
    def table(self) -> Table:
        return Table(self.base, Newer(self.directory, self.segments))

    def push(self, positions: NDArray[np.uint64], rows: RawRows, stamp: int = 1) -> int:
        self.directory, new = upserted(self.directory, positions, self.segments.append(rows, stamp))
        for i, position in enumerate(positions.tolist()):
            self.rows[position] = row_at(rows, i)
        return self._seen(positions, new)

    def remove(self, positions: NDArray[np.uint64], stamp: int = 1) -> int:
        words = self.segments.gone(stamp, len(positions))
        self.directory, new = upserted(self.directory, positions, words)
        for position in positions.tolist():
            self.rows.pop(position, None)
        return self._seen(positions, new)

    def _seen(self, positions: NDArray[np.uint64], new: int) -> int:
        before = len(self.touched)
        self.touched |= set(positions.tolist())
        assert new == len(self.touched) - before
        return new

    def check(self) -> None:
        """Hold directory and segments against the dict."""
        positions, words = self.directory.walk(SlotRange(0, SLOTS))
        assert positions.tolist() == sorted(self.touched)
        assert self.directory.rows == len(self.touched)
        gone = self.segments.is_gone(words)
        assert positions[gone].tolist() == sorted(self.touched - set(self.rows))
        rows = self.segments.rows(words[~gone])
        for i, position in enumerate(positions[~gone].tolist()):
            assert row_at(rows, i) == self.rows[position]


def random_positions(rng: np.random.Generator, base: Base, count: int) -> NDArray[np.uint64]:
    """Return positions, half of them of a base: each once, in any order, and now and then that of key 0."""
    keys = rng.integers(0, 2**64, count, np.uint64)
    known = rng.choice(keys_of(base.sections.positions), count)
    chosen = np.unique(np.where(rng.random(count) < 0.5, known, keys))
    if rng.random() < 0.3:
        chosen = np.append(chosen, np.uint64(0))
    return positions_of(rng.permutation(chosen))


def small_base(folder: Path, row_type: RowType = RowType.FLOAT32, *, dim: int = 4, rows: int = 300) -> Base:
    """Write and open a base of random rows, with a default vector that is not zero."""
    rng = np.random.default_rng(5)
    bytes_rows = row_type is RowType.BYTES
    default = None if bytes_rows else tuple(float(x) for x in rng.normal(size=dim).astype(np.float32))
    spec = TableSpec(name=folder.name, dim=0 if bytes_rows else dim, row_type=row_type, default=default)
    stored = stored_rows(rng, spec, rows)
    positions = np.unique(rng.integers(0, 2**64, rows, np.uint64)).tolist()
    return write_rows(folder, spec, {position: row_at(stored, i) for i, position in enumerate(positions)})
