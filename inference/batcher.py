"""The micro-batcher: requests that wait at the same time become one pull and one run of the dense program.

Invariants:
- An idle batcher never waits: a request is taken as soon as nothing is being pulled.
- Two stages overlap: while batch k is computed in the worker thread, batch k+1 is pulled; requests that arrive
  meanwhile wait in the queue and fill batch k+2. At most one batch is in each stage.
- Requests are taken in order of arrival, up to `max_rows` rows; a larger request rides alone. Each gets one answer or
  one error.
- A request whose caller went away, or whose deadline passed, is answered at once and leaves the queue unserved. The
  deadline of a batch is its latest one, so no impatient request cuts another short.

It knows nothing of features: the two stages are given to it. One event loop owns it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ps.errors import DeadlineExceeded, Unavailable

Item = TypeVar("Item")
Work = TypeVar("Work")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where one request's time went, in seconds."""

    queue_s: float
    """Waiting: to be taken, and for the worker thread."""
    lookup_s: float
    dense_s: float
    batch_rows: int
    """Rows of the batch it rode in."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    rows: int
    deadline_s: float
    submitted_s: float
    answer: asyncio.Future[tuple[Answer, StageTimes]]


@dataclass(slots=True, eq=False)
class _Batch(Generic[Item, Answer]):
    entries: list[_Waiting[Item, Answer]]
    rows: int
    taken_s: float
    pulled_s: float = field(default=0.0)

    def abandoned(self) -> bool:
        """Whether no caller waits for the answer any more."""
        return all(entry.answer.done() for entry in self.entries)

    def fail(self, error: BaseException) -> None:
        for entry in self.entries:
            if not entry.answer.done():
                entry.answer.set_exception(error)


class Batcher(Generic[Item, Work, Answer]):
    """Turns single requests into batches of two stages, `pull` and `compute`."""

    def __init__(
        self,
        pull: Callable[[Sequence[Item], float], Awaitable[Work]],
        compute: Callable[[Work], Sequence[Answer]],
        executor: Executor,
        *,
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an idle batcher.

        Args:
            pull: First stage, on the event loop: items of a batch and the absolute deadline.
            compute: Second stage, in `executor`: one answer per item, in their order.
            executor: Runs `compute`; may be shared with other batchers.
            max_rows: Rows of a batch.
            clock: Seconds; deadlines are on this clock.
        """
        self._pull = pull
        self._compute = compute
        self._executor = executor
        self._max_rows = max_rows
        self._clock = clock
        self._queue: OrderedDict[_Waiting[Item, Answer], None] = OrderedDict()
        """In order of arrival. Not a deque: who gives up leaves at once, from anywhere, or a stuck pull would keep all
        that expired behind it."""
        self._pump: asyncio.Task[None] | None = None
        self._computing: asyncio.Future[tuple[Sequence[Answer], float, float]] | None = None
        self._closed = False

    def __repr__(self) -> str:
        stages = f"pulling={self._pump is not None} computing={self._computing is not None}"
        return f"Batcher(waiting={len(self._queue)} {stages} closed={self._closed})"

    async def submit(self, item: Item, rows: int, deadline_s: float) -> tuple[Answer, StageTimes]:
        """Ride in the next batch and return the answer, and where the time went.

        Raises:
            DeadlineExceeded: The clock passed `deadline_s` first.
            Unavailable: The batcher is closed.
            Exception: Whatever a stage raised for the batch.
        """
        if self._closed:
            raise Unavailable("this head is stopping")
        now = self._clock()
        if deadline_s <= now:
            raise DeadlineExceeded("the deadline had passed before the request was queued")
        loop = asyncio.get_running_loop()
        entry = _Waiting[Item, Answer](item, rows, deadline_s, now, loop.create_future())
        self._queue[entry] = None
        if self._pump is None:
            # The task starts at the loop's next turn: all requests of this turn ride together.
            self._pump = loop.create_task(self._run())
        timer = loop.call_later(deadline_s - now, _expire, entry)
        try:
            return await entry.answer
        finally:
            timer.cancel()
            self._queue.pop(entry, None)

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered; fail what is left after `timeout_s`."""
        self._closed = True
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=timeout_s)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        if self._computing is not None:
            await asyncio.wait([self._computing])

    async def _run(self) -> None:
        """Take and pull batch after batch until the queue is empty, then end: an idle batcher has no task."""
        batch: _Batch[Item, Answer] | None = None
        try:
            while (batch := self._take()) is not None:
                await self._pull_and_hand_over(batch)
        except asyncio.CancelledError:
            error = Unavailable("this head stopped before the answer was complete")
            if batch is not None:
                batch.fail(error)
            for entry in self._queue:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
            self._queue.clear()
            raise
        finally:
            self._pump = None

    def _take(self) -> _Batch[Item, Answer] | None:
        """Remove the next batch from the queue; None when no live request waits."""
        now = self._clock()
        entries: list[_Waiting[Item, Answer]] = []
        rows = 0
        while self._queue:
            entry = next(iter(self._queue))
            if entry.deadline_s <= now:
                _expire(entry)
            if not entry.answer.done():
                if entries and rows + entry.rows > self._max_rows:
                    break
                entries.append(entry)
                rows += entry.rows
            del self._queue[entry]
        return _Batch(entries, rows, now) if entries else None

    async def _pull_and_hand_over(self, batch: _Batch[Item, Answer]) -> None:
        try:
            work = await self._pull(
                [entry.item for entry in batch.entries], max(entry.deadline_s for entry in batch.entries)
            )
            batch.pulled_s = self._clock()
            if self._computing is not None:
                await asyncio.wait([self._computing])
            if batch.abandoned():
                return
            computing = asyncio.get_running_loop().run_in_executor(self._executor, self._timed_compute, work)
        except Exception as exc:
            batch.fail(exc)
            return
        self._computing = computing
        computing.add_done_callback(lambda done: self._answer(batch, done))

    def _timed_compute(self, work: Work) -> tuple[Sequence[Answer], float, float]:
        started_s = self._clock()
        return self._compute(work), started_s, self._clock()

    def _answer(
        self, batch: _Batch[Item, Answer], computed: asyncio.Future[tuple[Sequence[Answer], float, float]]
    ) -> None:
        if self._computing is computed:
            self._computing = None
        error = computed.exception()
        if error is not None:
            batch.fail(error)
            return
        answers, started_s, ended_s = computed.result()
        lookup_s, dense_s = batch.pulled_s - batch.taken_s, ended_s - started_s
        waited_s = (started_s - batch.pulled_s) + batch.taken_s
        for entry, answer in zip(batch.entries, answers, strict=True):
            if not entry.answer.done():
                times = StageTimes(waited_s - entry.submitted_s, lookup_s, dense_s, batch.rows)
                entry.answer.set_result((answer, times))


def _expire(entry: _Waiting[Item, Answer]) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(DeadlineExceeded("the deadline passed before the answer was complete"))
