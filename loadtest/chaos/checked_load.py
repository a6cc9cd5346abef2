"""The load of a checked run: the generator asks, and every answer is held against the oracle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from ringpull.inference.prediction import Prediction
from ringpull.loadtest.chaos.oracle import Live, Oracle, Question, Verdict
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.generator import Load, NotSent, Outcome

Predict = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[Prediction]]
"""A client's call: model, features, context."""


class CheckedLoad:
    """Load from `start` to `stop`, open or closed.

    Args:
        models: Models that are asked in turns, each with the requests of the oracle.
    """

    def __init__(
        self,
        predict: Predict,
        models: Sequence[str],
        oracle: Oracle,
        live: Live,
    ) -> None:
        self._predict = predict
        self._calls = [request.features() for request in oracle.requests]
        self._questions = [Question(model, number) for number in range(len(oracle.requests)) for model in models]
        self._oracle = oracle
        self._live = live
        self._load = Load(self._ask, self._ended)
        self._sending: asyncio.Task[None] | None = None
        self._stopping = False
        self.record = Record()
        self.versions: set[int] = set()
        """Versions that answered."""

    def now_s(self) -> float:
        """Return seconds since the load began."""
        return self._load.now_s()

    async def warm_up(self) -> int:
        """Ask everything once, one after the other; return how many requests that were. They are not recorded.

        Raises:
            RuntimeError: Before anything was done to the deployment, an answer is not right.
        """
        for number in range(len(self._questions)):
            verdict, text = await self._ask(number, 0.0)
            if verdict is not Verdict.RIGHT:
                raise RuntimeError(f"before anything was done: {text or 'default vectors'}")
        return len(self._questions)

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
        self._load = Load(self._ask, self._ended)  # its clock begins now
        self._sending = asyncio.ensure_future(run(self._load))

    def _goes_on(self, _: float) -> bool:
        return not self._stopping

    async def _ask(self, number: int, late_s: float) -> tuple[Verdict, str]:
        question = self._questions[number % len(self._questions)]
        features, context = self._calls[question.number]
        live = self._live.now(question.model)
        prediction = await self._predict(question.model, features, context)
        self.versions.add(prediction.version)
        return self._oracle.judge(question, prediction, live | self._live.now(question.model))

    def _ended(self, outcome: Outcome) -> None:
        if outcome.error is None:
            verdict, text = outcome.answer
            error = "wrong" if text else ""
        else:
            model = self._questions[outcome.number % len(self._questions)].model
            verdict, text = Verdict.FAILED, f"{model}: {outcome.error}"
            error = "not sent" if isinstance(outcome.error, NotSent) else outcome.status
        self.record.ended(outcome.due_s, outcome.end_s, verdict, error, text)
