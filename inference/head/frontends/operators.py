"""Operators' verbs on a head, whatever protocol they come over: who may, who did, and the way to the coordinator.

The coordinator is asked in threads of its own, few, so that one that hangs holds up operators and nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.audit import AuditLog, Entry
from ringpull.ps.errors import Busy, DeadlineExceeded, Retryable, Unavailable
from ringpull.router.control.change_end import check_ended
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, ChangeStatus, GetChange, OperatorVerbs
from ringpull.router.control.verbs import Request, Role, Verb

R = TypeVar("R")
T = TypeVar("T")

THREADS: Final = 4
"""Threads of the operators' door, and of all other ways in together: no crowd at a port keeps operators waiting."""

DOOR: Final = "admin"
"""Name of the operators' door."""

LOOK_S: Final = 0.1
"""Time between two looks at a change that is waited for."""

SILENCE_S: Final = 60.0
"""Time without an answer after which a change is waited for no more; a restart of the coordinator takes much less."""

Ask = Callable[[OperatorVerbs, float | None], T]
"""Work of a verb, in a thread: asks the coordinator, until a moment of the monotonic clock; None: as long as it takes.
"""


class Operators:
    """The way of operators through a head, shared by all front-ends. Owned by the event loop.

    Args:
        operations: The way to the coordinator; None: there is none, and every verb says so.
        audit: Where verbs that change something are told; None: as events only.
    """

    def __init__(self, operations: OperatorVerbs | None, audit: AuditLog | None = None) -> None:
        self._operations = operations
        self.audit: Final = audit or AuditLog()
        """Audit log of the head."""
        self._at_door = ThreadPoolExecutor(THREADS, "operators")
        self._elsewhere = ThreadPoolExecutor(THREADS, "operations")

    def __repr__(self) -> str:
        return f"<Operators {self._operations!r}>"

    async def execute(
        self,
        request: Request[R],
        *,
        authorization: str | None,
        access: Access,
        peer: str,
        door: str,
        timeout_s: float | None,
    ) -> R:
        """Have the coordinator carry out a verb; return its reply.

        Args:
            authorization: What the caller shows of itself; None: nothing.
            access: Rule of who may have what by this way in.
            peer: Address that the caller comes from, for the audit log.
            door: Name of the way in, also for the audit log: `admin`, `grpc` or `http`.
            timeout_s: Time that the caller waits, from now; None: as long as it takes.

        Raises:
            Unauthenticated, Forbidden: The caller may not have that; it is told of.
            DeadlineExceeded: The time was up before it was begun, and nothing was.
            Unavailable: There is no coordinator, or it cannot be reached.
            RingpullError: The coordinator refuses it.
        """
        verb = VERBS.of(request)
        until_s = _until_s(timeout_s)

        def ask(operations: OperatorVerbs, until_s: float | None) -> R:
            return call_in_time(operations, request, until_s)

        if verb.role is not Role.OPERATE:
            access.admit(authorization, verb.role)
            return await asyncio.wrap_future(self.begin(ask, door, until_s))
        entry = self._entry(request, peer, door)
        return await self.audited(entry, lambda: self._admitted(ask, verb, authorization, access, entry, until_s))

    async def change(
        self,
        request: Request[ChangeStatus],
        *,
        authorization: str | None,
        access: Access,
        peer: str,
        door: str,
        timeout_s: float | None,
    ) -> ChangeStatus:
        """Begin a change, as `execute` does, and wait until it is over; return how it ended.

        Another change that is under way is waited for first: clients of other protocols know nothing of turns.

        Raises:
            ChangeGivenUp: It was given up; what served before it serves on. The message has the reason.
            DeadlineExceeded: The time was up first; the change goes on, or has not begun.
            Unavailable: Nobody tells how it goes on.
            RingpullError: As `execute`.
        """
        until_s = _until_s(timeout_s)
        verb, entry = VERBS.of(request), self._entry(request, peer, door)

        def ask(operations: OperatorVerbs, until_s: float | None) -> ChangeStatus:
            return call_in_time(operations, request, until_s)

        def begin() -> Future[ChangeStatus]:
            return self._admitted(ask, verb, authorization, access, entry, until_s)

        while True:
            try:
                begun = await self.audited(entry, begin, waits=True)
                break
            except Busy as busy:
                try:
                    await self._turn(busy, door, until_s)
                except BaseException as exc:
                    self.audit.tell(entry, exc)
                    await self.audit.written()
                    raise
        status, heard_s = begun, time.monotonic()
        while status.under_way and status.id == begun.id:
            if until_s is not None and time.monotonic() + LOOK_S > until_s:
                raise DeadlineExceeded(f"{begun.kind.value} {begun.subject} is not over yet; it goes on")
            seen, heard_s = await self._look(door, heard_s)
            status = seen or status
        check_ended(begun, status)
        return status

    async def _turn(self, busy: Busy, door: str, until_s: float | None) -> None:
        """Wait until no change is under way.

        Raises:
            DeadlineExceeded: The time was up first.
            Unavailable: Nobody tells how it goes on.
        """
        seen, heard_s = None, time.monotonic()
        while seen is None or seen.under_way:
            if until_s is not None and time.monotonic() + LOOK_S > until_s:
                raise DeadlineExceeded(f"nothing was begun in time: {busy}") from busy
            seen, heard_s = await self._look(door, heard_s)

    async def _look(self, door: str, heard_s: float) -> tuple[ChangeStatus | None, float]:
        """Return the change under way or the last one, a while from now, and when that was heard; None: it is not told.

        Raises:
            Unavailable: Nobody has told for `SILENCE_S`.
        """
        await asyncio.sleep(LOOK_S)
        try:
            look = self.begin(lambda operations, _: operations.call(GetChange()), door, None)
            return await asyncio.wrap_future(look), time.monotonic()
        except Retryable as exc:
            if time.monotonic() - heard_s > SILENCE_S:
                raise Unavailable(f"the coordinator has not answered for {SILENCE_S:.0f} s: {exc}") from exc
            return None, heard_s

    def admit(self, verb: str, *, authorization: str | None, access: Access, peer: str, door: str) -> None:
        """Let in whoever is known at all, before it is received what is asked for; whoever is not is told of.

        Args:
            verb: Name of the verb that is asked for.
            authorization, access, peer, door: As of `execute`.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
        """
        with self.audit.refusals_of(Entry(verb, "", peer, door)):
            access.admit(authorization, *ANY_ROLE)

    @contextmanager
    def reading(
        self, verb: str, asked: str, *, authorization: str | None, access: Access, peer: str, door: str
    ) -> Iterator[None]:
        """Context of reading what an operator asks for, in whichever protocol: a refusal of it is told of.

        Args:
            verb: Name of the verb that it is.
            asked: Text of it, for the audit log.
            authorization, access, peer, door: As of `execute`.

        Raises:
            Unauthenticated, Forbidden: The caller may not operate; what would be right is for others to know.
        """
        entry = Entry(verb, asked, peer, door)
        with self.audit.refusals_of(entry):
            entry.who = access.admit(authorization, Role.OPERATE).name
            yield

    async def audited(self, entry: Entry, begin: Callable[[], Future[T]], *, waits: bool = False) -> T:
        """Have a verb carried out that changes something, and tell of it, also of a refusal.

        Args:
            begin: Lets the caller in, and hands the verb to a thread.
            waits: Whether it is tried again once another change is over, so that its being `Busy` is no outcome yet.
        """
        try:
            with self.audit.refusals_of(entry):
                begun = begin()
            # Told from where it is carried out: that goes on when whoever asked goes away.
            begun.add_done_callback(partial(self._tell, entry, waits=waits))
            return await asyncio.wrap_future(begun)
        finally:
            await self.audit.written()

    def begin(self, ask: Ask[T], door: str, until_s: float | None) -> Future[T]:
        """Hand a verb to a thread.

        Args:
            ask: See `Ask`.
            door: Name of the way in.
            until_s: Moment of the monotonic clock until which its caller waits; None: as long as it takes.

        Raises:
            Unavailable: There is no coordinator.
        """
        if self._operations is None:
            raise Unavailable("this head was started without a coordinator; nothing can be changed through it")
        threads = self._at_door if door == DOOR else self._elsewhere
        return threads.submit(ask, self._operations, until_s)

    def close(self) -> None:
        """End the threads once they are idle."""
        self._at_door.shutdown(wait=False)
        self._elsewhere.shutdown(wait=False)

    def _admitted(
        self,
        ask: Ask[T],
        verb: Verb[Any],
        authorization: str | None,
        access: Access,
        entry: Entry,
        until_s: float | None,
    ) -> Future[T]:
        entry.who = access.admit(authorization, verb.role).name
        return self.begin(ask, entry.door, until_s)

    def _entry(self, request: Request[Any], peer: str, door: str) -> Entry:
        verb = VERBS.of(request)
        return Entry(verb.name, VALUES.to_json(verb.request, request), peer, door)

    def _tell(self, entry: Entry, done: Future[Any], *, waits: bool) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if not (waits and isinstance(error, Busy)):
            self.audit.tell(entry, error)


def call_in_time(operations: OperatorVerbs, request: Request[R], until_s: float | None) -> R:
    """Ask the coordinator, unless whoever asks has given up meanwhile, while the threads were busy.

    Raises:
        DeadlineExceeded: It has.
        RingpullError: See `OperatorVerbs.call`.
    """
    if until_s is None:
        return operations.call(request)
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("the operators' threads of this head are busy; nothing was begun")
    return operations.call(request, within_s=left_s)


def _until_s(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s
