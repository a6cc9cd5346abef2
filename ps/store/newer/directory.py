"""Directory: the word of every position that has a newer row, in ring order.

One writer puts, any number of readers get, walk and pull meanwhile, without locks: a reader finds the word from before
or after. A directory only grows by another one taking its place (`grown`): readers of the old one go on in it, and see
nothing of what is put into the new one.
"""

from __future__ import annotations

from typing import Final, Self

import numpy as np

from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.kernels import address
from ringpull.ps.store.mapping import HUGE_PAGE_BYTES, anonymous
from ringpull.ps.store.newer import kernels
from ringpull.ps.store.newer.probe import BUCKET_BYTES, PLACES, PROBE, TAG_BYTES

MAX_LOAD: Final = 0.7
"""Share of places beyond which a directory is full: one bucket in thirty has no free place then, so that few look-ups
go on to the next, and processors guess right that none does."""

_MAX_BITS: Final = 40
_CROWDED_BITS: Final = 7
"""Doublings beyond what the rows need, after which positions are said to lie too close together."""

LAST_POSITION: Final = (1 << 64) - 1
_WORDS: Final = np.dtype(np.uint64)


class DirectoryFull(Exception):
    """Raised by `Directory.put`: all places near to that of a position are taken. `grown` has more."""


class Directory:
    """Positions and their words, in memory."""

    def __init__(self, bits: int, planned_bits: int | None = None) -> None:
        """Make an empty directory with a bucket for each value of the top `bits` of a position.

        Args:
            planned_bits: How many would do if positions were spread evenly; None: as many.
        """
        self._bits = bits
        self._planned_bits = bits if planned_bits is None else planned_bits
        self._buckets = 1 << bits
        self._capacity = int(MAX_LOAD * PLACES * self._buckets)
        total = self._buckets + PROBE
        size = total * (TAG_BYTES + BUCKET_BYTES)
        # Pages are taken as they are written to, huge ones where there are: look-ups go anywhere.
        self._memory = anonymous(size, huge_pages=size >= HUGE_PAGE_BYTES)
        self.buckets_at: int = address(np.frombuffer(self._memory, np.uint8))
        self.tags_at: int = self.buckets_at + total * BUCKET_BYTES
        self.shift: int = 64 - bits
        """`position >> shift` is the bucket."""
        self.rows = 0
        """Positions that have a word, those of gone rows included."""
        self.nbytes: int = size

    @classmethod
    def with_room(cls, rows: int) -> Self:
        """Return an empty directory that is not full before it has so many rows."""
        return cls(_bits_for(rows))

    @property
    def room(self) -> int:
        """How many more positions there may be; at 0 it should be `grown` before more is put."""
        return max(0, self._capacity - self.rows)

    def put(self, positions: UInt64Array, words: UInt64Array) -> int:
        """Give positions (n,) their words, the last of equal positions its own; return how many are new here.

        Raises:
            DirectoryFull: A position has no place; those before it have their words.
        """
        if len(positions) != len(words):
            raise InvalidInput(f"{len(positions)} positions cannot have {len(words)} words")
        positions, words = _flat(positions), _flat(words)
        done, new = kernels.put(
            self.tags_at, self.buckets_at, self.shift, address(positions), address(words), len(words)
        )
        self.rows += new
        if done < len(positions):
            raise DirectoryFull(f"no place near {int(positions[done])}: {self!r}")
        return int(new)

    def get(self, positions: UInt64Array) -> UInt64Array:
        """Return the words of positions (n,), 0 where there is none."""
        words = np.empty(len(positions), np.uint64)
        positions = _flat(positions)
        kernels.get(self.tags_at, self.buckets_at, self.shift, address(positions), words)
        return words

    def walk(self, slots: SlotRange) -> tuple[UInt64Array, UInt64Array]:
        """Return all positions of a slot range, ascending, and their words."""
        positions, words, _ = self.walk_between(slots.begin << SLOT_SHIFT, (slots.end << SLOT_SHIFT) - 1)
        return positions, words

    def walk_between(
        self, first: int, last: int, limit: int = LAST_POSITION >> 1
    ) -> tuple[UInt64Array, UInt64Array, int]:
        """Return positions from `first` to `last`, ascending, their words, and up to which position these are all.

        It ends at some position before `last`, between two buckets, once it has `limit` of them.
        """
        if not 0 <= first <= last <= LAST_POSITION:
            raise InvalidInput(f"positions {first} to {last} are no part of the ring")
        # Room for as many as there can be: of memory that nothing is written to no page is taken.
        places = PLACES * ((last >> self.shift) - (first >> self.shift) + PROBE)
        positions, words = np.empty(places, np.uint64), np.empty(places, np.uint64)
        count, after = kernels.walk(
            self.tags_at, self.buckets_at, self.shift, np.uint64(first), np.uint64(last), limit, positions, words
        )
        end = min(last, (int(after) << self.shift) - 1)
        return positions[:count].copy(), words[:count].copy(), end

    def copied(self, room: int = 0) -> Directory:
        """Return another directory with the same words, and room for some more rows."""
        bits = _bits_for(self.rows + room)
        return self._filled(bits, bits)

    def grown(self) -> Directory:
        """Return a larger directory with the same words, to take this one's place.

        Raises:
            LimitExceeded: It would be far larger than so many rows need: their positions lie too close together.
        """
        return self._filled(self._bits + 1, max(self._planned_bits, _bits_for(self.rows)))

    def _filled(self, bits: int, planned_bits: int) -> Directory:
        positions, words = self.walk(SlotRange(0, LAST_POSITION + 1 >> SLOT_SHIFT))
        while True:
            if bits > min(_MAX_BITS, planned_bits + _CROWDED_BITS):
                raise LimitExceeded(
                    f"{self.rows} newer rows need {1 << bits} buckets, as their positions lie too close together: keys"
                    " must be spread, as hashes are"
                )
            other = Directory(bits, planned_bits)
            try:
                other.put(positions, words)
            except DirectoryFull:
                bits += 1
            else:
                return other

    def __repr__(self) -> str:
        return f"<Directory rows={self.rows} buckets={self._buckets} bytes={self.nbytes}>"


def upserted(directory: Directory, positions: UInt64Array, words: UInt64Array) -> tuple[Directory, int]:
    """Give positions their words; return the directory that has them, grown if it had to be, and how many are new.

    A directory that was grown has to take the other one's place in its tables.

    Raises:
        LimitExceeded: Positions lie too close together. Readers may see some of the words.
    """
    before = directory.rows
    if directory.room < len(positions):
        # Room for all, as if each were new, but not for the same few ever again.
        needed = len(np.unique(positions[directory.get(positions) == 0]))
        if directory.room < needed:
            directory = directory.copied(max(needed, directory.rows))
    while True:
        try:
            directory.put(positions, words)
        except DirectoryFull:
            directory = directory.grown()
        else:
            return directory, directory.rows - before


def _bits_for(rows: int) -> int:
    return max(1, int(np.ceil(np.log2(max(1, rows) / (MAX_LOAD * PLACES)))))


def _flat(array: UInt64Array) -> UInt64Array:
    if array.dtype != _WORDS or array.ndim != 1:
        raise InvalidInput(f"positions and words are {array.dtype} {array.shape}; they must be uint64 (n,)")
    return np.ascontiguousarray(array)
