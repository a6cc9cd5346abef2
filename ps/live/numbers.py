"""Numbers: the last number of each writer's pushes, by table and slot, so that a push that is sent again applies once.

A writer counts its pushes. At each slot a larger number than the last is new, the same one is a repetition, and a
smaller one was given up by its writer before it sent the next: it must never apply. Numbers are kept by slot since
slots are never split: whoever owns a slot later has its numbers, too. Only slots that were used cost memory.

All of them together are bounded, as folds write them to the log: beyond that a new writer is refused, and one that
would use more slots than it has.

Writers with the top bit set are nameless: clients that push now and then, under a random id. They are forgotten some
time after their last push. A writer with a name may come back much later, so it is forgotten only where others need its
place, those that pushed last the latest. The writer 0 counts nothing, and each of its pushes is new.
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
NAMED_KEPT_S: Final = 86_400.0
"""Time after its last push for which a writer with a name is kept, however many need its place: a trainer that goes on
after a crash, or a file that is pushed again, finds its numbers for at least so long."""

Slots = NDArray[np.uint16]
"""Slots, of each row or otherwise, in any order and any number of times."""

MIN_SLOTS_KEPT: Final = 1 << 18
"""Slots of all writers that are remembered, however small the log may be: a quarter of the least that it may be."""
LOG_BYTES_PER_SLOT: Final = 64
"""Bytes of the log's limit for each of them: written anew, 16 each, they take a quarter of it."""
_DENSE_FROM: Final = SLOTS // 16
"""Slots from which on a writer has a place for each: it uses all of them soon."""

_ALL_SLOTS: Final = np.arange(SLOTS, dtype=np.uint16)
_NO_SLOTS: Final = np.empty(0, np.uint16)


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
        self._nameless = 0
        """How many of these have no name."""
        self.slots = 0
        """Slots that there is a place for, of all writers."""

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
        if kept is None or kept.slots.size < SLOTS:
            self._check_room(name, writer, kept, slots, now_s)
        return LastNumbers(last, largest)

    def _check_room(self, name: LiveName, writer: int, kept: _Numbers | None, slots: Slots, now_s: float) -> None:
        """Check that there is a place for a writer and the slots of its push, and forget others for it if need be.

        Raises:
            LimitExceeded: There is none.
        """
        writers, nameless = kept is None, bool(writer & NAMELESS)
        if self._has_room(writers, SLOTS, nameless=nameless):  # mostly
            return
        growth = _growth(kept, slots)
        if not writers and not growth:  # however much there is: a restart may find more than there may be
            return
        if not self._has_room(writers, growth, nameless=nameless):
            self.forget(now_s, writers, growth, but=(name, writer))
        if self._has_room(writers, growth, nameless=nameless):
            return
        more = "is one more" if kept is None else f"has {kept.slots.size} of them and would have {growth} more"
        raise LimitExceeded(
            f"{name}: a shard remembers {MAX_WRITERS} writers at most (MAX_WRITERS), of which {KEPT_FOR_NAMES} are for"
            f" those with a name, and {self._most_slots} slots of all of them (--log-limit / {LOG_BYTES_PER_SLOT}), and"
            f" writer {writer:016x} {more}; use fewer names or a larger --log-limit, or wait until others are"
            f" forgotten: nameless ones {FORGET_AFTER_S:.0f} s after their last push, others"
            f" {NAMED_KEPT_S / 3600:.0f} h",
            retry_after_s=FORGET_AFTER_S,
        )

    def _has_room(self, writers: int, slots: int, *, nameless: bool = False) -> bool:
        if writers and len(self._of) + writers > MAX_WRITERS:
            return False
        if writers and nameless and self._nameless + writers > MAX_WRITERS - KEPT_FOR_NAMES:
            return False
        return self.slots + slots <= self._most_slots

    def put(self, name: LiveName, writer: int, slots: Slots, numbers: UInt64Array | int, now_s: float) -> None:
        """Set the last number of a writer at these slots, at equal ones to equal numbers."""
        kept = self._of.get((name, writer))
        if kept is None:
            kept = self._of[name, writer] = _Numbers(np.empty(0, np.uint16), np.empty(0, np.uint64), now_s)
            self._nameless += bool(writer & NAMELESS)
        kept.seen_s, before = now_s, kept.slots.size
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
            self.slots += kept.slots.size - before
        kept.numbers[slots if kept.slots.size == SLOTS else np.searchsorted(kept.slots, slots)] = numbers

    def forget(self, now_s: float, writers: int = 0, slots: int = 0, *, but: tuple[LiveName, int] | None = None) -> int:
        """Forget writers without a name that have not pushed for long, and as many others as there is no room for.

        Args:
            writers: Writers that there is to be room for.
            slots: Slots that there is to be room for.
            but: Table and writer that stay, and are to have the room: without a name, of others that have none alone.

        Returns:
            How many were forgotten.
        """
        nameless = but is not None and bool(but[1] & NAMELESS)
        before, by_age = len(self._of), sorted(self._of, key=lambda key: self._of[key].seen_s)
        for key in by_age:
            if key[1] & NAMELESS and key != but and now_s - self._of[key].seen_s > FORGET_AFTER_S:
                self._forget(key)
        for key in by_age:
            if nameless or self._has_room(writers, slots):
                break
            if key in self._of and key != but and now_s - self._of[key].seen_s > NAMED_KEPT_S:
                self._forget(key)
        return before - len(self._of)

    def drop(self, name: LiveName) -> None:
        """Forget all writers of a table."""
        for key in [key for key in self._of if key[0] == name]:
            self._forget(key)

    def _forget(self, key: tuple[LiveName, int]) -> None:
        self.slots -= self._of.pop(key).slots.size
        self._nameless -= bool(key[1] & NAMELESS)

    def all(self) -> Iterator[tuple[LiveName, int, Slots, UInt64Array]]:
        """Yield table, writer, its slots and the last number of each."""
        for (name, writer), kept in self._of.items():
            used = kept.numbers > 0
            yield name, writer, kept.slots[used], kept.numbers[used]


def _growth(kept: _Numbers | None, slots: Slots) -> int:
    """Return how many places a writer has more once these slots have one each."""
    before = _NO_SLOTS if kept is None else kept.slots
    new = int(np.setdiff1d(slots, before).size)
    if not new:
        return 0
    after = before.size + new
    return (SLOTS if after > _DENSE_FROM else after) - before.size
