"""Numbers: the last number of each writer's pushes, by table and slot, so that a push that is sent again applies once.

A writer counts its pushes. At each slot a larger number than the last is new, the same one is a repetition, and a
smaller one was given up by its writer before it sent the next: it must never apply. Numbers are kept by slot since
slots are never split: whoever owns a slot later has its numbers, too. Only slots that were used cost memory.

All of them together are bounded, as folds write them to the log: a new writer is refused beyond that.

Writers with the top bit set are nameless: clients that push now and then, under a random id. They are forgotten some
time after their last push. The writer 0 counts nothing, and each of its pushes is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import LimitExceeded, StaleNumber
from ringpull.ps.hashing import SLOTS
from ringpull.ps.live.push_kernels import AT_ONCE, last_numbers, put_number, slots_at
from ringpull.ps.live.record import LiveName
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.kernels import address
from ringpull.ps.wire.push_messages import NAMELESS as NAMELESS

NO_WRITER: Final = 0
"""Writer whose pushes have no numbers."""
MAX_WRITERS: Final = 1024
"""Writers of all tables of a shard, a writer of two tables counting twice: 10 bytes for each slot that it used."""
KEPT_FOR_NAMES: Final = MAX_WRITERS // 8
"""Places among these that only writers with a name are given: a trainer is not locked out by many that have none."""
FORGET_AFTER_S: Final = 600.0
"""Time after its last push when a nameless writer is forgotten: no client tries one push again for so long."""

Slots = NDArray[np.uint16]
"""Slots, of each row or otherwise, in any order and any number of times."""

MIN_SLOTS_KEPT: Final = 1 << 18
"""Slots of all writers that are remembered, however small the log may be."""
LOG_BYTES_PER_SLOT: Final = 64
"""Bytes of the log's limit for each of them: written anew, 16 each, they take a quarter of it."""
_DENSE_FROM: Final = SLOTS // 16
"""Slots from which on a writer has a place for each: it uses all of them soon."""

_ALL_SLOTS: Final = np.arange(SLOTS, dtype=np.uint16)


@dataclass(slots=True)
class _Numbers:
    """Numbers of one writer in one table."""

    slots: Slots
    """Each once, ascending."""
    numbers: UInt64Array
    """Last number of each slot; 0: none."""
    seen_s: float


def slots_of(positions: UInt64Array) -> Slots:
    """Return the slot of each position."""
    slots = np.empty(len(positions), np.uint16)
    positions = np.ascontiguousarray(positions)
    for begin in range(0, len(slots), AT_ONCE):
        slots_at(address(positions) + 8 * begin, slots[begin : begin + AT_ONCE])
    return slots


class LastNumbers(NamedTuple):
    """Last numbers of a writer at the slots that a push touches."""

    of_slots: UInt64Array
    """(n,); 0: none."""
    largest: int
    """The largest of them; 0: there is none."""


class Numbers:
    """Numbers of all writers of one shard. Used by one thread at a time."""

    def __init__(self, log_limit_bytes: int = 1 << 30) -> None:
        self._of: dict[tuple[LiveName, int], _Numbers] = {}
        self._most_slots = max(MIN_SLOTS_KEPT, log_limit_bytes // LOG_BYTES_PER_SLOT)

    @property
    def slots(self) -> int:
        """Slots that there is a place for, of all writers."""
        return sum(kept.slots.size for kept in self._of.values())

    def __repr__(self) -> str:
        return f"<Numbers of {len(self._of)} writers>"

    def last(self, name: LiveName, writer: int, slots: Slots) -> UInt64Array:
        """Return the last number of a writer at each of these slots; 0 where there is none."""
        kept = self._of.get((name, writer))
        last = np.zeros(len(slots), np.uint64)
        if kept is not None and kept.slots.size == SLOTS:
            return kept.numbers[slots]
        if kept is not None and kept.slots.size:
            at = np.minimum(np.searchsorted(kept.slots, slots), kept.slots.size - 1)
            known = kept.slots[at] == slots
            last[known] = kept.numbers[at[known]]
        return last

    def writable_at_all_slots(self, name: LiveName, writer: int) -> UInt64Array | None:
        """Return the memory that has a writer's number of each slot, not a copy: what is put there is its last number.

        None: the writer has pushed nothing, or to few slots. Whoever puts a number has it `seen`.
        """
        kept = self._of.get((name, writer))
        return kept.numbers if kept is not None and kept.slots.size == SLOTS else None

    def seen(self, name: LiveName, writer: int, now_s: float) -> None:
        """Note when a writer has pushed."""
        self._of[name, writer].seen_s = now_s

    def check(self, name: LiveName, writer: int, number: int, slots: Slots, now_s: float) -> LastNumbers:
        """Return the last numbers of a writer at the slots that a push touches: where one is smaller, the push is new.

        Raises:
            StaleNumber: It is larger somewhere: the writer has gone on since.
            LimitExceeded: The writer is new, and there are as many as there may be.
        """
        kept = self._of.get((name, writer))
        if kept is not None and kept.slots.size == SLOTS:
            last, largest = np.empty(len(slots), np.uint64), 0
            for begin in range(0, len(slots), AT_ONCE):
                some = slice(begin, begin + AT_ONCE)
                largest = max(largest, int(last_numbers(kept.numbers, slots[some], last[some])))
        else:
            last = self.last(name, writer, slots)
            largest = int(last.max(initial=0))
        if largest > number:
            at = int(np.argmax(last))
            raise StaleNumber(
                f"{name}: writer {writer:016x} sent number {number} after {int(last[at])} (slot {int(slots[at])});"
                " numbers go up: give the writer another name, or begin above its last number"
            )
        if kept is None and self._is_full(writer) and not (self.forget(now_s) and not self._is_full(writer)):
            raise LimitExceeded(
                f"{name}: a shard remembers {MAX_WRITERS} writers at most (MAX_WRITERS), of which {KEPT_FOR_NAMES} are"
                f" for those with a name, and {self._most_slots} slots"
                f" of all of them (--log-limit / {LOG_BYTES_PER_SLOT}), and writer {writer:016x} is one more; use fewer"
                f" names, or wait until nameless ones are forgotten, {FORGET_AFTER_S:.0f} s after their last push",
                retry_after_s=FORGET_AFTER_S,
            )
        return LastNumbers(last, largest)

    def _is_full(self, writer: int) -> bool:
        """Return whether there is no place for one more writer."""
        most = MAX_WRITERS - KEPT_FOR_NAMES if writer & NAMELESS else MAX_WRITERS
        return len(self._of) >= most or self.slots >= self._most_slots

    def put(self, name: LiveName, writer: int, slots: Slots, numbers: UInt64Array | int, now_s: float) -> None:
        """Set the last number of a writer at these slots, at equal ones to equal numbers."""
        kept = self._of.get((name, writer))
        if kept is None:
            kept = self._of[name, writer] = _Numbers(np.empty(0, np.uint16), np.empty(0, np.uint64), now_s)
        kept.seen_s = now_s
        if isinstance(numbers, int) and kept.slots.size == SLOTS:
            for begin in range(0, len(slots), AT_ONCE):
                put_number(kept.numbers, slots[begin : begin + AT_ONCE], np.uint64(numbers))
            return
        if kept.slots.size < SLOTS:
            at = np.searchsorted(kept.slots, slots)
            known = at < kept.slots.size
            known[known] = kept.slots[at[known]] == slots[known]
            if known.all():
                kept.numbers[at] = numbers
                return
            new = np.unique(slots[~known])
            if kept.slots.size + new.size > _DENSE_FROM:
                grown = np.zeros(SLOTS, np.uint64)
                grown[kept.slots] = kept.numbers
                kept.slots, kept.numbers = _ALL_SLOTS, grown
            else:
                new_at = np.searchsorted(kept.slots, new)
                kept.slots, kept.numbers = np.insert(kept.slots, new_at, new), np.insert(kept.numbers, new_at, 0)
        kept.numbers[slots if kept.slots.size == SLOTS else np.searchsorted(kept.slots, slots)] = numbers

    def forget(self, now_s: float) -> int:
        """Forget the nameless writers that have not pushed for long; return how many there were."""
        old = [key for key, kept in self._of.items() if key[1] & NAMELESS and now_s - kept.seen_s > FORGET_AFTER_S]
        for key in old:
            del self._of[key]
        return len(old)

    def drop(self, name: LiveName) -> None:
        """Forget all writers of a table."""
        for key in [key for key in self._of if key[0] == name]:
            del self._of[key]

    def all(self) -> Iterator[tuple[LiveName, int, Slots, UInt64Array]]:
        """Yield table, writer, its slots and the last number of each."""
        for (name, writer), kept in self._of.items():
            used = kept.numbers > 0
            yield name, writer, kept.slots[used], kept.numbers[used]
