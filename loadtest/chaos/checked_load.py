"""The load of a checked run: the generator asks, and every answer is held against the oracle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from ringpull.inference.errors import DeadlineExceeded, LimitExceeded
from ringpull.inference.prediction import Prediction
from ringpull.inference.top_k_answer import TopK
from ringpull.loadtest.chaos.checked_model import ids_of
from ringpull.loadtest.chaos.oracle import Live, Oracle, Question, Verdict
from ringpull.loadtest.chaos.rankings import RANKED_TABLE, K
from ringpull.loadtest.chaos.record import LATE, Record
from ringpull.loadtest.generator import Load, NotSent, Outcome

MAX_IN_FLIGHT: Final = 2_000
"""Requests in flight beyond which one fails unsent."""

HURRY_S: Final = 0.1
"""Deadline of a request in a hurry."""
HURRIED_EVERY: Final = 5
"""Number of requests of which one is in a hurry, at times when some are; no multiple of how many models there are."""


class Predict(Protocol):
    """A client's call."""

    def __call__(
        self,
        model: str,
        features: Mapping[str, Any],
        context: Mapping[str, Any],
        /,
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[Prediction]: ...


class Rank(Protocol):
    """A client's call for the rows with the largest scores."""

    def __call__(self, model: str, table: str, query: Any, k: int, /, *, exclude: Any) -> Awaitable[TopK]: ...


class CheckedLoad:
    """Load from `start` to `stop`, open or closed.

    Args:
        models: Models that are asked in turns, each with the requests of the oracle.
        top_k: Asks for the oracle's rankings; None: none is asked for.
    """

    def __init__(
        self,
        predict: Predict,
        models: Sequence[str],
        oracle: Oracle,
        live: Live,
        top_k: Rank | None = None,
    ) -> None:
        self._predict = predict
        self._top_k = top_k
        self._calls = [request.features() for request in oracle.requests]
        self._questions = [Question(model, number) for number in range(len(oracle.requests)) for model in models]
        if top_k is not None:
            self._questions += [Question(model, number, ranks=True) for number in oracle.rankings for model in models]
        self._oracle = oracle
        self._live = live
        self.record = Record()
        self._load = self._new_load(self.record)
        self._sending: asyncio.Task[None] | None = None
        self._stopping = False
        self._hurried = False
        self._in_a_hurry: set[int] = set()
        self.versions: set[int] = set()
        """Versions that answered."""

    def now_s(self) -> float:
        """Return seconds since the load began."""
        return self._load.now_s()

    async def ask_all(self) -> Record:
        """Ask everything once, one after the other; return a record of it, which is no part of the load's own."""
        record = Record()
        await self._new_load(record).closed_loop(range(len(self._questions)), 1)
        return record

    async def warm_up(self) -> None:
        """Ask everything once.

        Raises:
            RuntimeError: Before anything was done to the deployment, an answer is not right.
        """
        record = await self.ask_all()
        if any(verdict != Verdict.RIGHT for verdict in record.verdicts):
            text = record.troubles[0].text if record.troubles else "default vectors"
            raise RuntimeError(f"before anything was done: {text}")

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Give a share of the requests that are sent within this context a deadline of 100 ms."""
        self._hurried = True
        try:
            yield
        finally:
            self._hurried = False

    def start(self, arrivals: Iterable[float]) -> None:
        """Begin to ask at these times, whatever the answers do."""
        self._begin(lambda load: load.open_loop(itertools.takewhile(self._goes_on, arrivals)))

    def start_closed(self, in_flight: int, pause_s: float) -> None:
        """Begin to ask so many questions at a time, with a pause after each answer."""
        numbers = itertools.takewhile(self._goes_on, itertools.count())
        self._begin(lambda load: load.closed_loop(numbers, in_flight, pause_s=pause_s))

    async def stop(self) -> None:
        """Send no more, and return when all that was sent is answered; raises what ended the load before, a defect."""
        assert self._sending is not None
        self._stopping = True
        await self._sending

    def _begin(self, run: Callable[[Load], Awaitable[None]]) -> None:
        self._load = self._new_load(self.record)  # its clock begins now
        self._sending = asyncio.ensure_future(run(self._load))

    def _new_load(self, record: Record) -> Load:
        return Load(self._ask, partial(self._ended, record), max_in_flight=MAX_IN_FLIGHT)

    def _goes_on(self, _: float) -> bool:
        return not self._stopping

    async def _ask(self, number: int, late_s: float) -> tuple[Verdict, str]:
        question = self._questions[number % len(self._questions)]
        if question.ranks:
            return await self._rank(question)
        features, context = self._calls[question.number]
        live = self._live.now(question.model)
        if self._hurried and number % HURRIED_EVERY == 0:
            self._in_a_hurry.add(number)
            self.record.hurried += 1
            prediction = await self._predict(question.model, features, context, timeout_s=HURRY_S)
        else:
            prediction = await self._predict(question.model, features, context)
        self.versions.add(prediction.version)
        return self._oracle.judge(question, prediction, live | self._live.now(question.model))

    async def _rank(self, question: Question) -> tuple[Verdict, str]:
        """Ask for a ranking; never in a hurry: how long a scan of a stopped shard is waited for is no pull's time."""
        assert self._top_k is not None
        live = self._live.now(question.model)
        ranking = self._oracle.rankings[question.number]
        answer = await self._top_k(question.model, RANKED_TABLE, ranking.query, K, exclude=ids_of(ranking.excluded))
        self.versions.add(answer.version)
        return self._oracle.judge_ranking(question, answer, live | self._live.now(question.model))

    def _ended(self, record: Record, outcome: Outcome) -> None:
        hurried = outcome.number in self._in_a_hurry
        self._in_a_hurry.discard(outcome.number)
        if outcome.error is None:
            verdict, text = outcome.answer
            error = "wrong" if text else ""
        else:
            model = self._questions[outcome.number % len(self._questions)].model
            verdict, text = Verdict.FAILED, f"{model}: {outcome.error}"
            error = "not sent" if isinstance(outcome.error, NotSent) else outcome.status
            if hurried and isinstance(outcome.error, (DeadlineExceeded, LimitExceeded)):
                error = LATE
        record.ended(outcome.due_s, outcome.end_s, verdict, error, text)
