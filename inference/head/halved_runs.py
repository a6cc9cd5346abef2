"""Runs of `compute`, in the worker thread: of a whole batch, and of its halves where that fails.

Each run is a turn of the executor: batches of others come between. How many halvings there may be, and which of them
count, is in `ringpull.inference.head.halvings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from ringpull.inference.head.halvings import Halvings
from ringpull.ps.errors import Unavailable

Work = TypeVar("Work")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class Computed(Generic[Answer]):
    """Outcome of one run of `compute`."""

    answers: Mapping[int, Answer]
    error: Exception | None
    started_s: float
    ended_s: float


class Halved(Protocol[Answer]):
    """Batch, as its runs need it."""

    @property
    def deadline_s(self) -> float:
        """Latest deadline of its requests."""
        ...

    @property
    def places(self) -> Sequence[int]:
        """Places of its requests."""
        ...

    def abandoned(self) -> bool:
        """Whether no caller waits for the answer any more."""
        ...

    def live_places(self, places: Sequence[int]) -> list[int]:
        """Return those of some places whose callers still wait."""
        ...

    def part(self, places: Sequence[int]) -> Self:
        """Return the requests at these places as a batch that has come as far."""
        ...

    def answer(self, computed: Computed[Answer]) -> None:
        """Answer its requests with what came of a run."""
        ...

    def fail(self, error: BaseException) -> None:
        """Answer its requests with an error."""
        ...


class HalvedRuns(Generic[Work, Answer]):
    """Runs of one batcher's `compute`."""

    def __init__(
        self,
        compute: Callable[[Work], Mapping[int, Answer]],
        split: Callable[[Work, Sequence[int]], Work] | None,
        executor: Executor,
        clock: Callable[[], float],
    ) -> None:
        """Take what is run; see `Batcher`."""
        self._compute = compute
        self._split = split
        self._executor = executor
        self._clock = clock
        self._halvings = Halvings(clock)

    @property
    def may_halve(self) -> bool:
        """Whether a batch can be halved at all."""
        return self._split is not None

    def begin(self, work: Work, places: Sequence[int] | None = None) -> asyncio.Future[Computed[Answer]]:
        """Compute a batch, or the part of it at some places, in the worker thread."""
        # Not `run_in_executor`: a chain of two futures costs the loop several times what this does.
        computed: asyncio.Future[Computed[Answer]] = asyncio.get_running_loop().create_future()
        self._executor.submit(self._run_for, computed, work, places)
        return computed

    async def compute_parts(self, batch: Halved[Answer], work: Work, whole: Computed[Answer]) -> None:
        """Compute what failed as a whole in halves, and those that fail in halves again, down to one request."""
        counted = 0
        failed: list[tuple[Sequence[int], Computed[Answer]]] = [(batch.places, whole)]
        try:
            while failed:
                places, computed = failed.pop()
                live = batch.live_places(places)
                if len(live) < 2 or not self._halvings.take(counted):
                    batch.part(live).answer(computed)
                    continue
                middle, failed_before = len(live) // 2, len(failed)
                for half in (live[:middle], live[middle:]):
                    own = await self._half(batch.part(half), work, half, whole, computed)
                    if own is not None:
                        failed.append((half, own))
                if len(failed) == failed_before + 2:
                    counted += 1
                else:
                    self._halvings.give_back()
        except BaseException as exc:  # as when the executor is shut down: nobody may wait for ever
            batch.fail(
                exc if isinstance(exc, Exception) else Unavailable("this head stopped before the answer was complete")
            )
            raise

    async def _half(
        self,
        part: Halved[Answer],
        work: Work,
        places: Sequence[int],
        whole: Computed[Answer],
        computed: Computed[Answer],
    ) -> Computed[Answer] | None:
        """Compute one half, and answer it; return what came of it if it failed.

        Args:
            part: The half.
            work: Work of the whole batch.
            places: Places of the half in that.
            whole: Run of the whole batch, for how long one takes.
            computed: Run of what was halved, by which the half is answered where there is no time for its own.
        """
        if part.abandoned():
            return None
        if self._clock() + (whole.ended_s - whole.started_s) > part.deadline_s:
            part.answer(computed)
            return None
        own = await self.begin(work, places)
        if own.error is not None:
            return own
        part.answer(own)
        return None

    def _run_for(self, computed: asyncio.Future[Computed[Answer]], work: Work, places: Sequence[int] | None) -> None:
        """Have the loop be told what comes of a run; in the worker thread."""
        outcome: Computed[Answer] | BaseException
        try:
            outcome = self._run(work, places)
        except BaseException as exc:
            outcome = exc
        with suppress(RuntimeError):  # The loop has ended.
            computed.get_loop().call_soon_threadsafe(_tell, computed, outcome)

    def _run(self, work: Work, places: Sequence[int] | None) -> Computed[Answer]:
        """Compute a batch, or the part of it at some places."""
        started_s = self._clock()
        try:
            if places is not None and self._split is not None:
                work = self._split(work, places)
            return Computed(self._compute(work), None, started_s, self._clock())
        except Exception as exc:
            return Computed({}, exc, started_s, self._clock())


def _tell(computed: asyncio.Future[Computed[Answer]], outcome: Computed[Answer] | BaseException) -> None:
    if computed.done():  # Nobody waits for it any more.
        return
    if isinstance(outcome, BaseException):
        computed.set_exception(outcome)
    else:
        computed.set_result(outcome)
