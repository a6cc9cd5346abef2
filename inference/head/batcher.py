"""The micro-batcher: requests that wait at the same time become one pull and one run of the dense program.

    prepare   on the event loop, at once: requests -> work, and which of them are refused
    pull      on the event loop, awaited
    compute   in the worker thread: one answer per request, or as many runs as it takes to tell who fails

Invariants:
- An idle batcher never waits: a request is taken as soon as nothing is being pulled or computed.
- The last two stages overlap: while batch k is computed in the worker thread, batch k+1 is pulled, once it has as many
  rows; requests that arrive meanwhile wait in the queue and fill batch k+2. One batch is in each stage. (Pulled
  at once, batches would be as small as they come, and each has its price.)
- A busy batcher first lets in who stands at the door, as long as the batch is small, and for a few milliseconds at
  most: gRPC hands over one request at a time, in many turns of the loop, and the batches of a crowd would be as small
  as those of a few.
- A pull that takes much longer than usual is passed: the next batch is pulled beside it, so a shard that hangs delays
  those it has to answer and not everyone. There are at most `max_pulls`; else the above holds as if the slow one were
  not there, so batches stay as large as ever.
- A pull that fails because of some damaged rows fails those who asked for them: the batch is halved, and each half is
  pulled by itself, down to one request. At most `MAX_HALVINGS` times, no longer than there is time for, and so often a
  second: damage that everybody asks for must cost neither a pull for each nor the time of those behind.
- A batch that fails to compute is halved, too, but what was pulled for it is cut and not pulled again. Here a halving
  does not count if one of the halves is computed: it cost no more than twice what those it answers would have alone.
  So who sends what the program fails for, again and again, fails alone; a program that fails for all costs little.
- Requests are taken in order of arrival, up to `max_rows` rows; a larger request rides alone. Each gets one answer or
  one error.
- A request whose caller went away, or whose deadline passed, is answered at once and leaves the queue unserved. The
  deadline of a batch is its latest one, so no impatient request cuts another short.

It knows nothing of features: the stages are given to it. One event loop owns it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ringpull.inference.head.halved_runs import Computed, HalvedRuns
from ringpull.inference.head.halvings import Halvings
from ringpull.ps.errors import DeadlineExceeded, NotAnswered, Unavailable
from ringpull.ps.histogram import Histogram

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Work = TypeVar("Work")
Answer = TypeVar("Answer")

SLOW_FACTOR: Final = 8.0
"""Times the moving average that a pull takes before it counts as slow."""
PATIENCE_S: Final = 0.1
"""Shortest time after which a pull counts as slow: on a busy machine any pull may take as long."""
WEIGHT: Final = 0.1
"""Weight of the newest pull in the moving average."""
QUIET_TURNS: Final = 32
"""Turns of the event loop without a new request after which none is on its way in. A turn takes a microsecond or two
where nothing else is to be done."""
LET_IN_S: Final = 0.005
"""Longest time that a batch waits for more: other models on the loop make its turns long, a crowd makes them many."""
SMALL_ROWS: Final = 64
"""Rows below which a batch is worth waiting for more: besides its rows, a batch costs as much as about so many."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """The time of one request by stage, in seconds."""

    queue_s: float
    """Time spent waiting: to be taken, and for the worker thread."""
    prepare_s: float
    lookup_s: float
    dense_s: float
    batch_rows: int
    """Rows of the batch it rode in."""
    first: bool = True
    """Whether it is the first of its batch that is answered: so many batches there were."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[Prepared]):
    """The result of `prepare` for the items of a batch."""

    work: Prepared
    refused: Mapping[int, Exception]
    """Items that fail alone, by their places; the rest are in `work`, under their places."""


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
    prepared_s: float = 0.0
    pulled_s: float = 0.0
    whole: _Batch[Item, Answer] | None = None
    """Batch, as it was taken, of which this is a part; None: this is it."""
    halvings: int = 0
    """Halvings of a whole batch and its parts so far."""
    pulling_s: float = 0.0
    """Time for which a whole batch and its parts have been pulled so far."""

    @property
    def deadline_s(self) -> float:
        """Latest deadline of its requests."""
        return max(entry.deadline_s for entry in self.entries)

    @property
    def places(self) -> Sequence[int]:
        """Places of its requests."""
        return range(len(self.entries))

    def abandoned(self) -> bool:
        """Whether no caller waits for the answer any more."""
        return all(entry.answer.done() for entry in self.entries)

    def live(self) -> list[_Waiting[Item, Answer]]:
        """Return the requests whose callers still wait."""
        return [entry for entry in self.entries if not entry.answer.done()]

    def live_places(self, places: Sequence[int]) -> list[int]:
        """Return those of some places whose callers still wait."""
        return [place for place in places if not self.entries[place].answer.done()]

    def halves(self) -> list[_Batch[Item, Answer]]:
        """Return the live requests as two batches."""
        live, whole = self.live(), self.whole or self
        middle = len(live) // 2
        return [
            _Batch(entries, sum(entry.rows for entry in entries), self.taken_s, whole=whole)
            for entries in (live[:middle], live[middle:])
        ]

    def part(self, places: Sequence[int]) -> _Batch[Item, Answer]:
        """Return the requests at these places as a batch that has come as far."""
        entries = [self.entries[place] for place in places]
        rows = sum(entry.rows for entry in entries)
        return _Batch(entries, rows, self.taken_s, self.prepared_s, self.pulled_s)

    def answer(self, computed: Computed[Answer]) -> None:
        """Answer its requests with what came of a run."""
        if computed.error is not None:
            self.fail(computed.error)
            return
        prepare_s, lookup_s = self.prepared_s - self.taken_s, self.pulled_s - self.prepared_s
        waited_s, dense_s = (computed.started_s - self.pulled_s) + self.taken_s, computed.ended_s - computed.started_s
        first = True
        for place, answer in computed.answers.items():
            entry = self.entries[place]
            if not entry.answer.done():
                times = StageTimes(waited_s - entry.submitted_s, prepare_s, lookup_s, dense_s, self.rows, first)
                entry.answer.set_result((answer, times))
                first = False

    def fail(self, error: BaseException) -> None:
        """Answer its requests with an error."""
        for entry in self.entries:
            if not entry.answer.done():
                entry.answer.set_exception(error)


class Batcher(Generic[Item, Prepared, Work, Answer]):
    """Turns single requests into batches that go through the stages `prepare`, `pull` and `compute`."""

    def __init__(
        self,
        prepare: Callable[[Sequence[Item]], Ready[Prepared]],
        pull: Callable[[Prepared, float], Awaitable[Work]],
        compute: Callable[[Work], Mapping[int, Answer]],
        executor: Executor,
        *,
        max_rows: int,
        split: Callable[[Work, Sequence[int]], Work] | None = None,
        max_pulls: int = 1,
        patience_s: float = PATIENCE_S,
        batch_rows: Histogram | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an idle batcher.

        Args:
            prepare: First stage, on the event loop: the items of a batch.
            pull: Second stage, on the event loop: what is prepared and the absolute deadline. Not called when every
                item was refused.
            compute: Third stage, in `executor`: an answer for every item that was not refused, by its place.
            executor: Runs `compute`; may be shared with other batchers.
            max_rows: Rows of a batch.
            split: Cuts from a batch's work the part for the items at these places, which are then its places 0, 1 and
                so on; in `executor`. None: a batch that fails to compute fails as a whole.
            max_pulls: Pulls at a time; all but one are slow.
            patience_s: Shortest time after which a pull counts as slow.
            batch_rows: Histogram of the rows of batches.
            clock: Seconds; deadlines are on this clock.
        """
        self._prepare = prepare
        self._pull = pull
        self._runs = HalvedRuns(compute, split, executor, clock)
        self._max_rows = max_rows
        self._max_pulls = max_pulls
        self._patience_s = patience_s
        self._batch_rows = batch_rows
        self._clock = clock
        self._queue: OrderedDict[_Waiting[Item, Answer], None] = OrderedDict()
        """Waiting requests in order of arrival. Not a deque: who gives up leaves at once, from anywhere, or a stuck
        pull would keep all that expired behind it."""
        self._queued_rows = 0
        self._pumps: set[asyncio.Task[None]] = set()
        """Tasks that each take and pull one batch after the other; all but the taker wait for a slow pull, and end
        after it."""
        self._taker: asyncio.Task[None] | None = None
        """Pump that takes the next batch; None: none does, as nothing waits, or all have slow pulls."""
        self._mean_pull_s = 0.0
        self._pull_halvings = Halvings(clock)
        self._held: asyncio.Future[None] | None = None
        """Future that is done when the next batch may be taken; None: nobody waits for that."""
        self._worthwhile_rows = 0
        """Rows in the queue from which on the next batch is pulled before the last one is computed."""
        self._computing: asyncio.Future[Any] | None = None
        """Run of `compute` under way, or all runs for the parts of a batch that failed."""
        self._closed = False

    def __repr__(self) -> str:
        stages = f"pulling={len(self._pumps)} computing={self._computing is not None}"
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
        entry: _Waiting[Item, Answer] = _Waiting(item, rows, deadline_s, now, loop.create_future())
        self._queue[entry] = None
        self._queued_rows += rows
        if self._queued_rows >= self._worthwhile_rows:
            self._release()
        self._pump()
        timer = loop.call_later(deadline_s - now, _expire, entry)
        try:
            return await entry.answer
        finally:
            timer.cancel()
            if entry in self._queue:
                self._remove(entry)
            del entry  # An error in its answer holds this frame, which would hold the error.

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered; fail what is left after `timeout_s`."""
        self._closed = True
        until_s = time.monotonic() + timeout_s
        while self._pumps and (left_s := until_s - time.monotonic()) > 0:
            await asyncio.wait(self._pumps, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        error = Unavailable("this head stopped before the answer was complete")
        for entry in self._queue:
            if not entry.answer.done():
                entry.answer.set_exception(error)
        self._queue.clear()
        self._queued_rows = 0
        if left := tuple(self._pumps):
            for pump in left:
                pump.cancel()
            await asyncio.wait(left)
        while self._computing is not None:  # in a loop: if it fails, its parts are computed
            await asyncio.wait([self._computing])

    def _pump(self) -> None:
        """Have someone take the next batch, if nobody does and one more may."""
        if self._taker is None and len(self._pumps) < self._max_pulls:
            # The task starts at the loop's next turn: all requests of this turn ride together.
            self._taker = pump = asyncio.get_running_loop().create_task(self._run())
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)  # of one that was cancelled before it began

    async def _run(self) -> None:
        """Take and pull batch after batch until the queue is empty, then end: an idle batcher has no task."""
        own = asyncio.current_task()
        assert own is not None
        batch: _Batch[Item, Answer] | None = None
        busy = self._computing is not None
        try:
            while self._taker in (own, None):
                self._taker = own
                if busy:
                    await self._let_in()
                if (batch := self._take()) is None:
                    break
                busy = True
                await self._pull_and_hand_over(batch)
                if self._taker is own and self._computing is not None and self._queued_rows < self._worthwhile_rows:
                    assert self._held is None or self._held.done(), "only the taker waits"
                    self._held = asyncio.get_running_loop().create_future()
                    await self._held
        except asyncio.CancelledError:
            if batch is not None:
                batch.fail(Unavailable("this head stopped before the answer was complete"))
            raise
        finally:
            self._pumps.discard(own)
            if self._taker is own:
                self._taker = self._held = None

    async def _let_in(self) -> None:
        """Wait while requests come in, turn by turn, and all that wait would still be a small batch."""
        quiet, waiting, until_s = 0, len(self._queue), self._clock() + LET_IN_S
        while quiet < QUIET_TURNS and 0 < self._queued_rows < min(SMALL_ROWS, self._max_rows):
            if self._clock() >= until_s:
                break
            await asyncio.sleep(0)
            quiet, waiting = (0 if len(self._queue) > waiting else quiet + 1), len(self._queue)

    def _pass(self, pump: asyncio.Task[None]) -> None:
        """Give up a pump as the taker, as its pull is slow: someone else takes the next batch, or whoever ends first.

        One that is not the taker has been passed already, and takes nothing from who is.
        """
        if self._taker is not pump:
            return
        self._taker = None
        if self._queue:
            self._pump()

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
            self._remove(entry)
        if entries and self._batch_rows is not None:
            self._batch_rows.observe(rows)
        return _Batch(entries, rows, now) if entries else None

    def _remove(self, entry: _Waiting[Item, Answer]) -> None:
        del self._queue[entry]
        self._queued_rows -= entry.rows

    def _release(self) -> None:
        """Let the next batch be taken, if it is held."""
        held, self._held = self._held, None
        if held is not None and not held.done():
            held.set_result(None)

    async def _pull_and_hand_over(self, batch: _Batch[Item, Answer]) -> None:
        try:
            ready = self._prepare([entry.item for entry in batch.entries])
            batch.prepared_s = self._clock()
            for place, error in ready.refused.items():
                batch.entries[place].answer.set_exception(error)
            if batch.abandoned():
                return
            work = await self._pull_in_turn(batch, ready.work)
            batch.pulled_s = self._clock()
            while self._computing is not None:  # in a loop: a batch whose pull was slow may have come first
                await asyncio.wait([self._computing])
            if batch.abandoned():
                return
            computing = self._runs.begin(work)
        except Exception as exc:
            took_s = self._clock() - batch.prepared_s
            halves = batch.halves() if isinstance(exc, NotAnswered) and self._may_halve(batch) else [batch]
            for half in halves:
                if half is not batch and self._clock() + took_s <= half.deadline_s:
                    await self._pull_and_hand_over(half)
                else:
                    half.fail(exc)
            return
        self._computing, self._worthwhile_rows = computing, min(batch.rows, self._max_rows)
        computing.add_done_callback(lambda done: self._computed(batch, work, done))

    def _may_halve(self, batch: _Batch[Item, Answer]) -> bool:
        """Whether a batch whose pull failed is to be pulled in halves; counts it if so."""
        whole = batch.whole or batch
        if len(batch.live()) < 2 or not self._pull_halvings.take(whole.halvings):
            return False
        whole.halvings += 1
        return True

    async def _pull_in_turn(self, batch: _Batch[Item, Answer], prepared: Prepared) -> Work:
        """Pull, and be passed when that is slow: all parts of a batch together."""
        own, loop, whole = asyncio.current_task(), asyncio.get_running_loop(), batch.whole or batch
        slow_s = max(self._patience_s, SLOW_FACTOR * self._mean_pull_s)
        began_s = self._clock()
        timer: asyncio.TimerHandle | None = None
        if self._max_pulls > 1 and own is not None and self._taker is own:
            timer = loop.call_later(max(0.0, slow_s - whole.pulling_s), self._pass, own)
        try:
            return await self._pull(prepared, batch.deadline_s)
        finally:
            if timer is not None:
                timer.cancel()
            took_s = self._clock() - began_s
            whole.pulling_s += took_s
            if batch is whole:
                self._mean_pull_s += WEIGHT * (min(took_s, slow_s) - self._mean_pull_s)

    def _computed(self, batch: _Batch[Item, Answer], work: Work, done: asyncio.Future[Computed[Answer]]) -> None:
        """Answer a batch; if it failed, compute its parts in its place."""
        if (fault := done.exception()) is not None:  # of the executor
            self._stage_is_free(done)
            batch.fail(fault)
            return
        computed = done.result()
        if computed.error is not None and self._runs.may_halve and len(batch.live()) > 1:
            parts = asyncio.get_running_loop().create_task(self._runs.compute_parts(batch, work, computed))
            self._computing = parts
            parts.add_done_callback(self._stage_is_free)
            return
        self._stage_is_free(done)
        batch.answer(computed)

    def _stage_is_free(self, computing: asyncio.Future[Any]) -> None:
        if self._computing is computing:
            self._computing = None
            # Goes on in a later turn of the loop: these answers leave first.
            asyncio.get_running_loop().call_soon(self._release)


def _expire(entry: _Waiting[Item, Answer]) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(DeadlineExceeded("the deadline passed before the answer was complete"))
