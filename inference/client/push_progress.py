"""Pushes of one writer on their way: what both pushers decide, without I/O.

A writer has an id by which shards know it, and numbers its pushes. What goes out a second time keeps its number, so it
is applied once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from ringpull.inference.client.earlier_life import EarlierLife
from ringpull.inference.client.lanes import MAX_NUMBER, PIECES, Lanes, Outgoing
from ringpull.inference.client.numbers import whole
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget, SinglePush
from ringpull.ps.errors import InvalidInput, RingpullError, StaleNumber, may_pass

MAX_HELD_BYTES: Final = 64 << 20
"""Bytes of keys and rows that a pusher holds until they are acknowledged; whoever pushes more waits."""
MOST_NAMELESS: Final = 32
"""Pushes of one client without a name at a time, each of a writer of its own; more wait. A shard remembers 896 of all
clients, a writer of two tables counting twice, each for 10 minutes."""
MAX_NAME: Final = 128
_ID_BITS: Final = 63


def new_nameless() -> int:
    """Return the id of a writer without a name that nobody else has."""
    return secrets.randbits(_ID_BITS)


def number_by_clock() -> int:
    """Return a number above those of earlier lives of a writer that began with this, too: microseconds since 1970."""
    return time.time_ns() // 1_000


@dataclass(slots=True)
class Nameless:
    """Writer without a name, of one push at a time."""

    writer: int
    number: int = 0
    """Number of its last push."""


class NamelessWriters:
    """Writers without a name of one client: as many as have pushed at the same time, and no more than that may.

    Thread-safe, but for `later`, which is for one event loop.

    A forked process has others: with those of its parent, pushes of both would have the same numbers, and the later one
    be taken for the earlier, sent again.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._free: list[Nameless] = []
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(MOST_NAMELESS)
        self._later_turns = asyncio.Semaphore(MOST_NAMELESS)
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<NamelessWriters {len(self._free)} free>"

    @contextmanager
    def one(self) -> Iterator[Nameless]:
        """Have a writer for one push; waits while as many push as may."""
        self._check_process()
        with self._turns:
            writer = self.take()
            try:
                yield writer
            finally:
                self.give_back(writer)

    @asynccontextmanager
    async def later(self) -> AsyncIterator[Nameless]:
        """Do what `one` does, in an event loop."""
        self._check_process()
        async with self._later_turns:
            writer = self.take()
            try:
                yield writer
            finally:
                self.give_back(writer)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            self._begin()

    def take(self) -> Nameless:
        """Return one that nobody pushes with, its number that of the push to come."""
        self._check_process()
        with self._lock:
            writer = self._free.pop() if self._free else Nameless(new_nameless())
        writer.number += 1
        return writer

    def give_back(self, writer: Nameless) -> None:
        """Note that its push has ended, however it did: the next one has a larger number."""
        with self._lock:
            self._free.append(writer)


def single_push(target: PushTarget, keyed: KeyedRows, writer: Nameless, request_id: str) -> SinglePush:
    """Return a push that is one message."""
    number = writer.number * PIECES + PIECES - 1
    return SinglePush(target=target, keyed=keyed, writer=writer.writer, number=number, request_id=request_id)


class PushProgress:
    """Pushes of one writer. Used by one thread at a time.

    Args:
        target: What they are for; its table is that of none of them.
        writer: Name of the writer, or the id of a nameless one.
        number: Number above which those of pushes are; None: behind the clock.
        resumes: Whether pushes above it may have been sent by an earlier life of the writer.
        request_id: For the server's logs.
    """

    def __init__(
        self,
        target: PushTarget,
        writer: str | int,
        number: int | None,
        *,
        resumes: bool = False,
        request_id: str = "",
    ) -> None:
        if isinstance(writer, str):
            if not 0 < len(writer) <= MAX_NAME:
                raise InvalidInput(f"writer: has {len(writer)} characters; a name has 1 to {MAX_NAME}")
        else:
            try:
                writer = whole("writer", writer, 0, (1 << _ID_BITS) - 1)
            except InvalidInput as exc:
                raise InvalidInput(f"{exc}, of {_ID_BITS} random bits, or a name") from exc
        after = number_by_clock() if number is None else whole("number", number, 0, MAX_NUMBER)
        self._target = target
        self._writer = writer
        self._request_id = request_id
        self._earlier = EarlierLife() if resumes else None
        self._total = PushAnswer()
        self._out = 0
        self._is_settled = target.lineage is not None
        """Whether the lineage is known that all rows are for; until then one message is out at a time."""
        self.lanes = Lanes(after, whole=not resumes)
        self.error: RingpullError | None = None
        """Why nothing goes out any more; None: it does."""

    def add(self, table: str, keyed: KeyedRows, number: int | None) -> int:
        """Take a push, and return its number.

        Raises:
            InvalidInput: Its number is not above that of the push before, a key is no text, or a row is none that any
                table takes.
            RingpullError: One before has failed.
        """
        self.check()
        replace(self._target, table=table)  # which checks its name
        keyed.check_texts()
        keyed.check_rows(table)
        chosen = self.lanes.number + 1 if number is None else whole("number", number, 1, MAX_NUMBER)
        self.lanes.add(table, keyed, chosen)
        if self._earlier is not None and len(keyed):
            self._earlier.handed_on(chosen, self.lanes.acknowledged)
        return chosen

    def next(self) -> tuple[Outgoing, SinglePush] | None:
        """Return what may go out now; None: nothing, or it cannot be dealt, which is the error of all then."""
        if self.error is not None or (self._out and not self._is_settled):
            return None
        try:
            outgoing = self.lanes.next()
        except Exception as exc:  # of rows that cannot be cut, or a bug: else whoever flushes would wait for ever
            self.error = exc if isinstance(exc, RingpullError) else RingpullError(f"{type(exc).__name__}: {exc}")
            return None
        if outgoing is None:
            return None
        self._out += 1
        target = replace(self._target, table=outgoing.table)
        return outgoing, SinglePush(
            target=target,
            keyed=outgoing.keyed,
            writer=self._writer,
            number=outgoing.number,
            request_id=self._request_id,
        )

    def ended(self, outgoing: Outgoing, how: PushAnswer | RingpullError) -> None:
        """Note that a message is acknowledged, or is not and will not be sent again.

        Of several that are not, the first is told, but what somebody has to act on goes before what passes by itself.
        """
        self._out -= 1
        if isinstance(how, PushAnswer):
            self._done(outgoing, how)
        else:
            self._failed(outgoing, how)

    def _done(self, outgoing: Outgoing, answer: PushAnswer) -> None:
        self.lanes.done(outgoing)
        if self._earlier is not None:
            self._earlier.acknowledged(outgoing, answer)
            self.lanes.join_above(self._earlier.last)
        self._total = self._total.and_then(answer)
        self._is_settled = True
        if self._target.lineage is None and answer.lineage:
            # Whatever is published meanwhile: rows that were made for one lineage are for no other.
            named = self._target.version is not None or self._target.label is not None
            self._target = replace(self._target, lineage=answer.lineage, version=None, label=None, only_live=not named)

    def _failed(self, outgoing: Outgoing, error: RingpullError) -> None:
        if isinstance(error, StaleNumber) and self._earlier is not None and self._earlier.may_have_sent(outgoing):
            self.lanes.done(outgoing)  # by an earlier life, which went on behind it
            self._total = self._total.and_then(PushAnswer(repeated=len(outgoing.keyed)))
        elif self.error is None or (may_pass(self.error) and not may_pass(error)):
            first, last = min(outgoing.pushes), max(outgoing.pushes)
            which = f"push {first}" if first == last else f"pushes {first} to {last}"
            self.error = _told(error, f"{which} of table {outgoing.table}: {error}{_hint(error)}")

    def taken(self) -> PushAnswer:
        """Return the acknowledgement of all that was acknowledged since the last call.

        Raises:
            RingpullError: A push has failed.
        """
        self.check()
        total, self._total = self._total, PushAnswer()
        return total

    def check(self) -> None:
        """Check that no push has failed.

        Raises:
            RingpullError: One has; the message says which, and so far what is acknowledged.
        """
        if self.error is not None:
            raise self.error


def _hint(error: RingpullError) -> str:
    if isinstance(error, StaleNumber):
        return (
            "; another process pushes as this writer, or the clock went back: give the pusher a number, or another name"
        )
    return ""


def _told(error: RingpullError, text: str) -> RingpullError:
    made: Any = type(error)(text)
    if hasattr(error, "retry_after_s"):
        made.retry_after_s = error.retry_after_s
    return made  # type: ignore[no-any-return]
