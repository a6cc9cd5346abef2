"""Operators' verbs on a head, whatever protocol they come over: who may, who did, and the way to the coordinator.

The coordinator is asked in threads of its own, few, so that one that hangs holds up operators and nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from ringpull.inference.head.access import Access
from ringpull.inference.head.audit import AuditLog, Entry
from ringpull.ps.errors import DeadlineExceeded, Retryable, Unavailable
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

    async def carry_out(
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
        entry = Entry(verb.name, VALUES.to_json(verb.request, request), peer, door)
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
        """Begin a change, as `carry_out` does, and wait until it is over; return how it ended.

        Raises:
            ChangeGivenUp: It was given up; what served before it serves on. The message has the reason.
            DeadlineExceeded: The time was up first; the change goes on.
            Unavailable: Nobody tells how it goes on.
            RingpullError: As `carry_out`.
        """
        until_s = _until_s(timeout_s)
        begun = await self.carry_out(
            request, authorization=authorization, access=access, peer=peer, door=door, timeout_s=timeout_s
        )
        status, heard_s = begun, time.monotonic()
        while status.under_way and status.id == begun.id:
            if until_s is not None and time.monotonic() + LOOK_S > until_s:
                raise DeadlineExceeded(f"{begun.kind.value} {begun.subject} is not over yet; it goes on")
            await asyncio.sleep(LOOK_S)
            try:
                look = self.begin(lambda operations, _: operations.call(GetChange()), door, None)
                status, heard_s = await asyncio.wrap_future(look), time.monotonic()
            except Retryable as exc:
                if time.monotonic() - heard_s > SILENCE_S:
                    raise Unavailable(f"the coordinator has not answered for {SILENCE_S:.0f} s: {exc}") from exc
        check_ended(begun, status)
        return status

    async def audited(self, entry: Entry, begin: Callable[[], Future[T]]) -> T:
        """Have a verb carried out that changes something, and tell of it, also of a refusal.

        Args:
            begin: Lets the caller in, and hands the verb to a thread.
        """
        try:
            with self.audit.refusals_of(entry):
                begun = begin()
            # Told from where it is carried out: that goes on when whoever asked goes away.
            begun.add_done_callback(partial(self._tell, entry))
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

    def _tell(self, entry: Entry, done: Future[Any]) -> None:
        self.audit.tell(entry, asyncio.CancelledError() if done.cancelled() else done.exception())


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
