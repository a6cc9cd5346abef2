"""Push thread: takes all pushes that wait, up to some MiB, and has them committed together. One per shard.

They come from the event loop, or from connections that this has lent (`ringpull.ps.wire.loans`), which the thread reads
and answers itself.

Nobody waits for it but who pushes: look-ups have threads of their own. A push to a table that has none yet waits until
the coordinator has saved that this shard is to have pushed rows: only then it knows not to give its slots to others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from ringpull.ps.errors import DeadlineExceeded, RingpullError, Unavailable
from ringpull.ps.live.commit import Commits, Target
from ringpull.ps.live.push_tally import PushTally
from ringpull.ps.live.record import LiveName
from ringpull.ps.wire.ledger import REQUEST_BYTES
from ringpull.ps.wire.loans import Loan, Loans
from ringpull.ps.wire.push_messages import PushReply, PushRequest

GROUP_BYTES: Final = 4 << 20
"""Bytes of pushes that are committed together; a larger one alone."""
LEAST_OF_LOAN_BYTES: Final = 256 << 10
"""Bytes of pushes up to which each connection on loan is read for a group, however large that is."""
MOST_OF_LOANS_BYTES: Final = 16 << 20
"""Bytes of pushes, and memory of them besides, from which on no further connection on loan is read for a group: a
thousand of them would make it hundreds of MiB that nothing counts, and everybody's pushes wait for it."""
LOOK_S: Final = 0.05
"""Time between two looks at the deadlines of pushes that wait for the coordinator."""
IDLE_S: Final = 1.0
"""Time between two looks whether there is something else to do, such as folding, while nobody pushes."""
BUSY_S: Final = 0.02
"""The same while there are pushes: a look after each small group would cost as much as half of its commit."""

_LOG: Final = logging.getLogger(__name__)

Done = Callable[[PushReply | Exception], None]


class _Waiting(NamedTuple):
    """Push that waits."""

    request: PushRequest
    deadline_s: float
    answer: Done
    received_s: float
    loan: Loan | None = None
    """Loan that it was read of."""


class PushThread:
    """Commits pushes. `push`, `borrow`, `confirm`, `run` and `close` may be called from any thread."""

    def __init__(
        self, shard: int, commits: Commits, target: Target, *, aside: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread.

        Args:
            target: See `Commits`; also asked before a push waits for the coordinator.
            aside: Called between groups, but for those that follow soon, and once a second.
        """
        self.tally = PushTally()
        self._commits, self._target, self._aside = commits, target, aside
        self._loans = Loans()
        self._changed = threading.Lock()  # guards all below
        self._sleeps = False
        self._pushes: deque[_Waiting] = deque()
        self._held: list[_Waiting] = []
        self._tasks: deque[Callable[[], None]] = deque()
        self._confirmed: frozenset[LiveName] = frozenset()
        self._has_news = False
        """Whether pushes that are held are to be looked at again: others of their tables come behind them."""
        self._closing = False
        self._looked_s, self._owes_look = -math.inf, False
        self._thread = threading.Thread(target=self._run, name=f"push-{shard}", daemon=True)
        self._thread.start()

    def push(self, request: PushRequest, deadline_s: float, answer: Done) -> None:
        """Have a push committed, and `answer` called with what came of it."""
        with self._changed:
            if not self._closing:
                self._pushes.append(_Waiting(request, deadline_s, answer, time.monotonic()))
                self._wake()
                return
        answer(Unavailable("the shard ends"))

    def borrow(self, loan: Loan) -> bool:
        """Read and answer the pushes of a connection from now on; False: the shard ends, or there are too many."""
        with self._changed:
            if self._closing or self._loans.full:
                return False
            self._loans.add(loan)
            self._wake()
            return True

    @property
    def wanted(self) -> frozenset[LiveName]:
        """Tables with pushes that wait for the coordinator."""
        with self._changed:
            return frozenset(_name(each.request) for each in self._held) - self._confirmed

    def confirm(self, names: Iterable[LiveName]) -> None:
        """Take in for which tables the coordinator has saved that this shard has, or is to have, pushed rows."""
        with self._changed:
            self._confirmed, self._has_news = frozenset(names), True
            self._wake()

    def run(self, task: Callable[[], int]) -> int:
        """Call a function between two groups, in the thread, and return what it returns.

        Raises:
            Unavailable: The thread ends.
        """
        done = threading.Event()
        outcome: list[int | BaseException] = []

        def call() -> None:
            try:
                outcome.append(task())
            except BaseException as exc:
                outcome.append(exc)
            done.set()

        with self._changed:
            if self._closing:
                raise Unavailable("the shard ends")
            self._tasks.append(call)
            self._wake()
        done.wait()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def close(self) -> None:
        """Refuse what waits, finish the group under way, and end. Idempotent."""
        with self._changed:
            self._closing = True
            waiting = [*self._pushes, *self._held]
            self._pushes.clear()
            self._held.clear()
            self._wake()
        for each in waiting:
            each.answer(Unavailable("the shard ends"))
        self._thread.join()

    def _wake(self) -> None:
        if self._sleeps:
            self._sleeps = False
            self._loans.wake()

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            group, tasks, expired, confirmed = self._next()
            for task in tasks:
                task()
            for each in expired:
                self._refuse(each, DeadlineExceeded("the push's time was up before it was applied"))
            if group:
                self._commit(self._allowed(group, confirmed))
            self._loans.send()
            with self._changed:
                if self._closing and not self._tasks:
                    self._loans.close()
                    return
            now = time.monotonic()
            self._owes_look = now < self._looked_s + BUSY_S
            if self._owes_look:
                continue
            self._looked_s = now
            try:
                self._aside()
            except Exception:  # what is done aside must not end pushes
                _LOG.exception("what a shard does beside pushes failed")

    def _next(self) -> tuple[list[_Waiting], list[Callable[[], None]], list[_Waiting], frozenset[LiveName]]:
        """Wait; return the next group, the tasks before it, the pushes whose time is up, and what is confirmed.

        What is confirmed while the group is under way is not for it: a push must not go before one that is held.
        """
        timeout_s = 0.0
        with self._changed:
            self._sleeps = not (self._pushes or self._tasks or self._closing or self._has_news)
            if self._sleeps:
                timeout_s = LOOK_S if self._held or self._owes_look else IDLE_S
        ready = self._loans.wait(timeout_s)
        with self._changed:
            self._sleeps = False
            if self._has_news:
                self._pushes.extendleft(reversed(self._held))
                self._held, self._has_news = [], False
            tasks = list(self._tasks)
            self._tasks.clear()
            now = time.monotonic()
            group: list[_Waiting] = []
            expired: list[_Waiting] = []
            size = 0
            if self._held:  # not mostly
                expired = [each for each in self._held if each.deadline_s <= now]
                self._held = [each for each in self._held if each.deadline_s > now]
            while self._pushes and (not group or size + self._pushes[0].request.nbytes <= GROUP_BYTES):
                each = self._pushes.popleft()
                if each.deadline_s <= now:
                    expired.append(each)
                    continue
                size += each.request.nbytes
                group.append(each)
            confirmed = self._confirmed
        read = 0
        for place, loan in enumerate(ready):
            if read >= MOST_OF_LOANS_BYTES:
                self._loans.unread.extend(ready[place:])  # They come first then, as they wait longest.
                break
            jobs, now = loan.take(max(GROUP_BYTES - size, LEAST_OF_LOAN_BYTES)), time.monotonic()
            for job, request in jobs:
                read += job.size + REQUEST_BYTES
                each = _Waiting(request, job.deadline_s, partial(loan.answer, job), job.received_s, loan)
                if job.deadline_s <= now:
                    expired.append(each)
                else:
                    size += job.size
                    group.append(each)
        return group, tasks, expired, confirmed

    def _allowed(self, group: list[_Waiting], confirmed: frozenset[LiveName]) -> list[_Waiting]:
        """Return the pushes that may be committed; others are refused, or wait."""
        allowed = []
        for each in group:
            # A push of no keys asks for the last stamp, and changes nothing.
            if not each.request.positions.size or _name(each.request) in confirmed:
                allowed.append(each)
                continue
            if each.loan is not None:
                each.loan.end()  # What waits counts among what the event loop has in hand.
            try:
                self._commits.mark(self._target(each.request))
            except RingpullError as error:
                self._refuse(each, error)
                continue
            with self._changed:
                if not self._closing:
                    self._held.append(each)
                    continue
            each.answer(Unavailable("the shard ends"))
        return allowed

    def _commit(self, group: list[_Waiting]) -> None:
        if not group:
            return
        began_s = time.monotonic()
        answers: list[PushReply | Exception]
        try:
            answers = list(self._commits.commit([each.request for each in group]))
        except Exception as error:  # whoever pushed must hear of it
            _LOG.exception("pushes failed")
            answers = [error] * len(group)
        now = time.monotonic()
        self.tally.committed(answers, now - began_s)
        for each, answer in zip(group, answers, strict=True):
            self.tally.visible_s.observe(now - each.received_s)
            each.answer(answer)

    def _refuse(self, each: _Waiting, error: Exception) -> None:
        self.tally.refused(error)
        each.answer(error)


def _name(request: PushRequest) -> LiveName:
    return LiveName(request.model, request.lineage, request.table)
