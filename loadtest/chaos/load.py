"""The load: requests at Poisson times whatever the answers do, every answer held against the oracle.

One thread of asyncio, light on purpose: it shares its cores with the deployment. A request counts from when it was due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ringpull.inference.errors import RingpullError
from ringpull.inference.prediction import Prediction
from ringpull.loadtest.bench.checked_model import CheckedRequest
from ringpull.loadtest.chaos.oracle import Live, Oracle, Outcome, Question
from ringpull.loadtest.chaos.record import Record

MOST_IN_FLIGHT: Final = 2_000
"""Beyond this a request fails unsent: memory is finite."""

Predict = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[Prediction]]
"""Of a client: model, features, context."""


class Load:
    """Asks from `start` to `stop`.

    Args:
        models: Asked in turns, with the same requests.
        rate: Requests per second, of all models together.
        seed: Of the arrival times.
    """

    def __init__(
        self,
        predict: Predict,
        requests: Sequence[CheckedRequest],
        models: Sequence[str],
        oracle: Oracle,
        live: Live,
        *,
        rate: float,
        seed: int,
    ) -> None:
        self._predict = predict
        self._calls = [request.features() for request in requests]
        self._models = models
        self._oracle = oracle
        self._live = live
        self._gap_s = 1 / rate
        self._rng = np.random.default_rng([seed, 0xC405])
        self._in_flight: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._begin = time.perf_counter()
        self.record = Record()

    def now_s(self) -> float:
        """Return seconds since the load began."""
        return time.perf_counter() - self._begin

    async def warm_up(self) -> None:
        """Ask everything once, a few at a time; what comes of it counts, but not as latency.

        Raises:
            RuntimeError: Before anything was done to the deployment, an answer is not right.
        """
        for number, (features, context) in enumerate(self._calls):
            for model in self._models:
                question = Question(model, number)
                answer = await self._predict(model, features, context)
                outcome, text = self._oracle.judge(question, answer, self._live.now(model))
                if outcome is not Outcome.RIGHT:
                    raise RuntimeError(f"before anything was done: {text or 'default vectors'}")

    def start(self) -> None:
        self._begin = time.perf_counter()
        self._sending = asyncio.create_task(self._send_on())

    async def stop(self) -> None:
        """Send no more, and return when all that was sent is answered.

        Raises:
            Exception: What ended the load before: a defect of this program.
        """
        assert self._sending is not None
        self._sending.cancel()
        done, _ = await asyncio.wait([self._sending])
        for task in done:
            if not task.cancelled():
                task.result()
        await asyncio.gather(*self._in_flight)

    async def _send_on(self) -> None:
        due_s, number = 0.0, 0
        while True:
            due_s += self._rng.exponential(self._gap_s)
            # Even when late: answers must be read, or none of those waiting ever ends.
            await asyncio.sleep(max(due_s - self.now_s(), 0))
            question = Question(
                self._models[number % len(self._models)], number // len(self._models) % len(self._calls)
            )
            number += 1
            if len(self._in_flight) >= MOST_IN_FLIGHT:
                why = f"{MOST_IN_FLIGHT} requests were waiting"
                self.record.ended(due_s, self.now_s(), Outcome.FAILED, "not sent", why)
                continue
            task = asyncio.create_task(self._ask(question, due_s))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _ask(self, question: Question, due_s: float) -> None:
        features, context = self._calls[question.number]
        live = self._live.now(question.model)
        try:
            answer = await self._predict(question.model, features, context)
        except RingpullError as exc:
            self.record.ended(due_s, self.now_s(), Outcome.FAILED, type(exc).__name__, f"{question.model}: {exc}")
            return
        now_s = self.now_s()
        outcome, text = self._oracle.judge(question, answer, live | self._live.now(question.model))
        self.record.ended(due_s, now_s, outcome, "wrong" if text else "", text)
