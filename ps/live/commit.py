"""Commit: what a group of pushes does, in order: refused or stamped, written, logged, shown, synced, acknowledged.

No threads and no sockets here. Rows are written to memory first, since that may fail; then to the log; then look-ups
see them; then the log is synced, by the policy `sync`; then they are acknowledged. A push that fails before it was
shown leaves nothing behind. One that fails after it may be seen and may vanish, and was never acknowledged: whoever
sends it again under its number gets it applied once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError, Unavailable
from ringpull.ps.hashing import SLOTS, keys_of
from ringpull.ps.live.finite_rows import first_not_finite
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.numbers import NO_WRITER, Numbers, Slots, slots_of
from ringpull.ps.live.plain_push import taken
from ringpull.ps.live.record import Record, RecordKind
from ringpull.ps.live.settings import LOG_LIMIT_BYTES, Durability
from ringpull.ps.live.stamp import NO_STAMP
from ringpull.ps.spec import MAX_BYTES_ROW, UInt64Array
from ringpull.ps.store.raw_rows import RawRows, chosen, flat, lengths_of, rows_of
from ringpull.ps.wire.push_messages import MAX_PUSH_BYTES, PushReply, PushRequest

ROWS_AT_ONCE: Final = 1024
"""Rows that are shown at a time: some 40 us, after which others may have the interpreter."""

DIRECTORY_PARTS: Final = 8
"""Parts of the memory of newer rows, of which all but one may go to what finds them."""

MENDING_SHARE: Final = 2
"""Size of the log, in its limits, up to which pushes are taken to slots that are closed since rows are damaged."""

AGAIN_AFTER_S: Final = 1.0
"""Time after which a push may be tried again that was refused until rows are folded: a round takes some seconds."""

_NO_SLOTS: Final[Slots] = np.empty(0, np.uint16)

Answer = PushReply | RingpullError


@dataclass(slots=True)
class _Accepted:
    """Push that is to be applied, to some of its slots at least."""

    place: int
    """Among those of the group."""
    request: PushRequest
    table: LiveTable
    stamp: int
    positions: UInt64Array
    rows: RawRows
    repeated: int
    words: UInt64Array
    slots: Slots
    last: UInt64Array | None
    """Numbers of the slots before; None: it has none."""
    new_keys: int = 0

    def record(self) -> Record:
        """Return what the log says of it."""
        kind = RecordKind.GONE if self.request.remove else RecordKind.ROWS
        return Record(
            kind,
            self.table.name,
            self.table.row_bytes,
            self.stamp,
            self.request.writer,
            self.request.number,
            self.positions,
            flat(self.rows),
            lengths_of(self.rows),
        )


Target = Callable[[PushRequest], LiveTable]
"""Function that returns the table that a push is for. Raises why it is refused."""


class Commits:
    """Applies groups of pushes. Used by one thread."""

    def __init__(
        self,
        tables: LiveTables,
        numbers: Numbers,
        log: Log | None,
        *,
        target: Target,
        epoch: Callable[[], int],
        renew: Callable[[LiveTable, Sequence[int]], None],
        durability: Durability = Durability.SYNC,
        log_limit_bytes: int = LOG_LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on after what was replayed.

        Args:
            log: None: the policy is `memory`.
            epoch: Epoch of the shard's map.
            renew: Has tables of these versions made anew, whose directory is another one; called without the lock.
            log_limit_bytes: Size of the log beyond which pushes are refused.
        """
        self.last_stamp = max([table.last_stamp for table in tables.all()], default=0)
        if log is not None:
            self.last_stamp = max(self.last_stamp, log.last_stamp)
        self._tables, self._numbers, self._log = tables, numbers, log
        self._target, self._epoch, self._renew, self._clock = target, epoch, renew, clock
        self._durability, self._log_limit_bytes = durability, log_limit_bytes

    def mark(self, table: LiveTable) -> None:
        """Note in the log that a table is to have pushed rows: who finds no such note later has lost the log.

        Raises:
            Unavailable: The log cannot be written.
        """
        if table.name in self._tables.logged:
            return
        if self._log is not None:
            with self._tables.lock:
                self._append([mark_of(table, self._log.last_stamp)])
            self._log.sync()
        self._tables.logged.add(table.name)

    def note(self) -> int:
        """Have in the log what no push caused, such as that deltas were opened; as durable as pushes.

        Raises:
            LimitExceeded, Unavailable: The log cannot be written; it goes there with the next group then.
        """
        with self._tables.lock:
            self._append([])
        failed = self._synced()
        if failed is not None:
            raise failed
        return self.last_stamp

    def commit(self, requests: Sequence[PushRequest]) -> list[Answer]:
        """Apply pushes in their order; return the answer to each, all of them as durable as the policy says."""
        answers: list[Answer | None] = [None] * len(requests)
        renewed: dict[LiveTable, set[int]] = {}
        with self._tables.lock:
            accepted: list[_Accepted] = []
            try:
                self._accept(requests, answers, accepted)
                self._tables.given.took(self.last_stamp)
                self._append([each.record() for each in accepted])
            except (LimitExceeded, Unavailable) as error:
                self._undo(accepted, answers, error)
                accepted = []
            except BaseException as error:  # Their numbers must not say that they were applied.
                self._undo(accepted, answers, Unavailable(f"pushes failed: {error}"))
                raise
            for place, each in enumerate(accepted):
                if answers[each.place] is not None:
                    continue  # It failed with one before it.
                try:
                    changed = self._show(each)
                except (LimitExceeded, MemoryError, OSError) as error:
                    changed = list(each.table.versions)  # Directories may have grown before it failed.
                    failure = error if isinstance(error, LimitExceeded) else _no_memory(each.table, error)
                    later = accepted[place + 1 :]
                    self._undo([each, *_repetitions(each, later)], answers, failure, later)
                if changed:
                    renewed.setdefault(each.table, set()).update(changed)
            if renewed:
                self._tables.count_held()
        for table, versions in renewed.items():
            self._renew(table, sorted(versions))
        failed = self._synced()
        for each in accepted:
            if answers[each.place] is None:
                answers[each.place] = PushReply(each.stamp, len(each.positions), each.new_keys, each.repeated)
        return [
            failed if failed is not None and not isinstance(answer, RingpullError) else answer
            for answer in answers
            if answer is not None
        ]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self, requests: Sequence[PushRequest], answers: list[Answer | None], accepted: list[_Accepted]) -> None:
        for place, request in enumerate(requests):
            try:
                outcome = self._accepted(place, request)
            except RingpullError as error:
                answers[place] = error
                continue
            if isinstance(outcome, PushReply):
                answers[place] = outcome
            else:
                accepted.append(outcome)

    def _accepted(self, place: int, request: PushRequest) -> _Accepted | PushReply:
        """Write the rows of a push that are new, and note its number; nothing shows them yet."""
        table = self._target(request)
        rows = _rows_in(request, table)
        positions = request.positions
        if not positions.size:
            return PushReply(self.last_stamp, 0, 0, 0)
        self._check_room(table, positions)
        stamp = self._tables.given.next(self.last_stamp, self._epoch())
        try:
            plain = taken(request, table, self._numbers, stamp, self._clock())
        except (LimitExceeded, MemoryError, OSError) as error:
            raise _no_memory(table, error) from error
        if plain is not None:  # mostly
            self.last_stamp = stamp
            return _Accepted(place, request, table, stamp, positions, rows, 0, *plain)
        slots, last, fresh = _NO_SLOTS, None, None
        if request.writer != NO_WRITER:
            slots = slots_of(positions)
            last, largest = self._numbers.check(table.name, request.writer, request.number, slots, self._clock())
            if largest == request.number:  # not mostly, and none is larger
                fresh = last < np.uint64(request.number)
                if not fresh.any():
                    return PushReply(self.last_stamp, 0, 0, len(positions))
                positions, slots, last = positions[fresh], slots[fresh], last[fresh]
                rows = rows if request.remove else chosen(rows, fresh)
        _check_finite(request, table, rows, fresh)  # of those alone: an older build may have applied the others
        try:
            words = table.write_gone(len(positions), stamp) if request.remove else table.write(rows, stamp)
        except (LimitExceeded, MemoryError, OSError) as error:
            raise _no_memory(table, error) from error
        if last is not None:
            self._numbers.put(table.name, request.writer, slots, request.number, self._clock())
        self.last_stamp = stamp
        repeated = len(request.positions) - len(positions)
        return _Accepted(place, request, table, stamp, positions, rows, repeated, words, slots, last)

    def _check_room(self, table: LiveTable, positions: UInt64Array) -> None:
        budget = self._tables.budget
        growth = table.growth_bytes(positions)
        held = budget.held_bytes + growth
        if growth and budget.used_bytes + held > budget.limit_bytes:
            self._tables.wants_fold = True
            raise _no_memory(table, f"rows have {budget.used_bytes} bytes, and what finds them would have {held}")
        if held > budget.limit_bytes // DIRECTORY_PARTS * (DIRECTORY_PARTS - 1):
            raise LimitExceeded(
                f"{table.name}: pushes are refused: what finds its rows would have {held} bytes of"
                f" {budget.limit_bytes} (--newer-memory); they are taken again after `ringpull compact`"
            )
        if self._log is not None and self._log.bytes > self._log_limit_bytes:
            damaged = {name for name, slots in self._tables.quarantined.copy().items() if slots}
            if table.name in damaged and self._log.bytes <= MENDING_SHARE * self._log_limit_bytes:
                slots = np.fromiter(self._tables.quarantined[table.name], np.uint16)
                if np.isin(slots_of(positions), slots).any():
                    return  # What is damaged is replaced by such a push, or never, and nothing is folded before.
            why = (
                f", once damaged rows of {' and '.join(map(str, sorted(damaged)))} were pushed again" if damaged else ""
            )
            raise LimitExceeded(
                f"pushes are refused: the log has {self._log.bytes} bytes, and {self._log_limit_bytes} are the most"
                f" (--log-limit); they are taken again when it was folded{why}",
                retry_after_s=AGAIN_AFTER_S,
            )

    def _append(self, records: list[Record]) -> None:
        if self._log is None:
            self._tables.were_logged()
            return
        due = self._tables.to_log(records, self._log.last_stamp)
        if due:
            self._log.append(due)
            self._tables.were_logged()

    def _undo(
        self,
        failed: Sequence[_Accepted],
        answers: list[Answer | None],
        error: RingpullError,
        later: Sequence[_Accepted] = (),
    ) -> None:
        """Have pushes fail, with what would be acknowledged in this group because they had been applied.

        Args:
            later: Pushes of the group that may yet be applied: their numbers stay, as a smaller one must not apply.
        """
        for place, answer in enumerate(answers):
            if isinstance(answer, PushReply) and answer.repeated:
                answers[place] = error
        for each in reversed(failed):
            answers[each.place] = error
            each.table.has_waste = True
            if each.last is not None:
                self._put_back(each, each.last)
                for other in later:
                    _as_if_without(each, each.last, other)

    def _put_back(self, push: _Accepted, last: UInt64Array) -> None:
        """Put the numbers back that a push's slots had before it, but for those that another one has set since."""
        name, writer, number = push.table.name, push.request.writer, np.uint64(push.request.number)
        own = self._numbers.last(name, writer, push.slots) == number
        self._numbers.put(name, writer, push.slots[own], last[own], self._clock())

    def _show(self, push: _Accepted) -> list[int]:
        if len(push.positions) <= ROWS_AT_ONCE:  # mostly
            push.new_keys, versions = push.table.show(push.positions, push.words, push.stamp)
            return versions
        renewed: list[int] = []
        for begin in range(0, len(push.positions), ROWS_AT_ONCE):
            some = slice(begin, begin + ROWS_AT_ONCE)
            new, versions = push.table.show(push.positions[some], push.words[some], push.stamp)
            push.new_keys += new
            renewed += versions
        return renewed

    def _synced(self) -> RingpullError | None:
        """Return when all is as durable as it should be, or why it may not be."""
        if self._log is not None and self._durability is Durability.SYNC:
            try:
                self._log.sync()
            except (LimitExceeded, Unavailable) as error:
                return error
        return None


def _repetitions(push: _Accepted, later: Sequence[_Accepted]) -> list[_Accepted]:
    """Return the pushes that would be acknowledged in part because another one of that number had been applied."""
    number = push.request.number
    return [each for each in later if each.repeated and each.request.number == number and _of_one(push, each)]


def _as_if_without(push: _Accepted, last: UInt64Array, other: _Accepted) -> None:
    """Have a later push of the writer put back, should it fail as well, what was there before one that has failed.

    Args:
        last: Numbers that the slots of the failed push had before it.
    """
    if other.last is None or not _of_one(push, other):
        return
    place = np.full(SLOTS, -1)
    place[push.slots] = np.arange(len(push.slots))
    at = place[other.slots]
    after = (at >= 0) & (other.last == np.uint64(push.request.number))
    other.last[after] = last[at[after]]


def _of_one(push: _Accepted, other: _Accepted) -> bool:
    """Return whether two pushes are of one writer, in one table."""
    return push.table is other.table and push.request.writer == other.request.writer


def mark_of(table: LiveTable, stamp: int, folded: int = NO_STAMP) -> Record:
    """Return a record that says no more than that a table has pushed rows, or is to have some.

    Args:
        folded: Stamp up to which they are in a fold.
    """
    return Record(RecordKind.NUMBERS, table.name, table.row_bytes, stamp, number=folded)


def _no_memory(table: LiveTable, why: object) -> LimitExceeded:
    return LimitExceeded(
        f"{table.name}: pushes are refused: {why} (--newer-memory); they are taken again when rows were folded, or"
        " after `ringpull compact`",
        retry_after_s=AGAIN_AFTER_S,
    )


def _rows_in(request: PushRequest, table: LiveTable) -> RawRows:
    """Return the rows of a push.

    Raises:
        InvalidInput: They are no rows of the table.
        LimitExceeded: There are too many.
    """
    row_bytes, count, size = table.row_bytes, len(request.positions), request.rows.size
    if request.nbytes > MAX_PUSH_BYTES:
        raise LimitExceeded(f"a push has {request.nbytes} bytes; {MAX_PUSH_BYTES} are the most (MAX_PUSH_BYTES)")
    if request.remove:
        return np.empty((0, row_bytes), np.uint8) if row_bytes else rows_of(0, 0, request.rows, request.lengths)
    if row_bytes:
        if request.lengths.size or size != count * row_bytes:
            what = "rows of bytes" if request.lengths.size else f"{size} bytes of rows"
            raise InvalidInput(
                f"push to {request.model}/{request.table}: {what} for {count} keys; a row has {row_bytes} bytes"
            )
        return request.rows.reshape(count, row_bytes)
    if len(request.lengths) != count or int(request.lengths.max(initial=0)) > MAX_BYTES_ROW:
        raise InvalidInput(
            f"push to {request.model}/{request.table}: {len(request.lengths)} lengths up to"
            f" {int(request.lengths.max(initial=0))} for {count} keys; a row of bytes has {MAX_BYTES_ROW} at most"
        )
    return rows_of(0, count, request.rows, request.lengths)


def _check_finite(request: PushRequest, table: LiveTable, rows: RawRows, fresh: NDArray[np.bool_] | None) -> None:
    """Check the numbers of rows.

    Args:
        fresh: Which of the push they are; None: all.

    Raises:
        InvalidInput: One is not finite.
    """
    if isinstance(rows, BytesRows) or table.row_type is None:
        return
    bad = first_not_finite(rows, table.row_type)
    if bad is not None:
        place = bad if fresh is None else int(np.flatnonzero(fresh)[bad])
        key = int(keys_of(request.positions[place : place + 1])[0])
        raise InvalidInput(
            f"push to {request.model}/{request.table}: row {place}, of key {key}, has a number that is NaN or infinite"
        )
