"""Calls from process to process: late, lost on the way there or back, made twice, cut off, or to who is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ringpull.ps.errors import RingpullError, Unavailable
from tests.simulation.kernel import Kernel, Process, Waiting

T = TypeVar("T")


@dataclass(slots=True)
class Weather:
    """How likely a call meets what; all nothing in good weather."""

    lost: float = 0.0
    """It never arrives."""
    unanswered: float = 0.0
    """It is carried out, and its answer is lost."""
    late: float = 0.0
    """Its caller gives up, and it arrives all the same, later."""
    twice: float = 0.0
    """It arrives twice, the second time later."""
    delay_s: float = 0.02
    """Longest way, one way."""
    late_s: float = 3.0
    """Longest delay of what is late."""


FINE = Weather()
GIVE_UP_S = 1.0
"""Time after which a caller whose call or answer was lost is told so."""


class Answer(Generic[T]):
    """What a call returned or raised, once it has."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.value: T | None = None
        self.error: RingpullError | None = Unavailable("it died while it was asked")


class Network:
    """The ways between processes."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.weather = FINE
        self.cut: set[frozenset[str]] = set()
        """Pairs of names whose processes do not reach each other."""

    def reaches(self, one: str, other: str) -> bool:
        """Return whether two names reach each other."""
        return frozenset((one, other)) not in self.cut

    def way_s(self) -> float:
        """Return how long a message takes, one way."""
        return self.kernel.random.random() * self.weather.delay_s

    def call(
        self,
        source: Process,
        name: str,
        find: Callable[[], Any],
        work: Callable[[Any], T],
        *,
        at_once: bool = False,
        once: bool = False,
    ) -> T:
        """Have another process do something, from a task of `source`; return what it returned.

        Args:
            name: Whom it is for.
            find: Returns that process's object as it is when the call arrives; it has a `process`.
            work: What is called with it, in a task of that process.
            at_once: It does not block, and needs no task of its own.
            once: It arrives, and once, whatever the weather, unless it is cut off.

        Raises:
            RingpullError: `work` raised it.
            Unavailable: It was lost, or whom it was for is gone.
        """
        kernel, random = self.kernel, self.kernel.random
        weather = FINE if once else self.weather
        luck = random.random()
        kernel.sleep(self.way_s())
        if at_once and weather is FINE and not self.cut:
            target = find()
            if not target.process.stopped:
                try:
                    return work(target)
                finally:
                    kernel.sleep(self.way_s())
        if not self.reaches(source.name, name) or luck < weather.lost:
            kernel.sleep(GIVE_UP_S)
            raise Unavailable(f"{name} cannot be reached")
        luck -= weather.lost
        if luck < weather.late:
            self._deliver(find, work, random.random() * weather.late_s)
            raise Unavailable(f"{name} has not answered in time")
        luck -= weather.late
        answer = self._deliver(find, work, 0.0)
        if luck < weather.twice:
            self._deliver(find, work, random.random() * weather.late_s)
        luck -= weather.twice
        kernel.wait(answer.waiting)
        kernel.sleep(self.way_s())
        if not self.reaches(source.name, name) or 0 <= luck < weather.unanswered:
            kernel.sleep(GIVE_UP_S)
            raise Unavailable(f"the answer of {name} was lost")
        if answer.error is not None:
            raise answer.error
        return answer.value  # type: ignore[return-value]

    def _deliver(self, find: Callable[[], Any], work: Callable[[Any], T], delay_s: float) -> Answer[T]:
        answer: Answer[T] = Answer()

        def arrive() -> None:
            try:
                target = find()
            except Unavailable as exc:
                answer.error = exc
                self.kernel.open(answer.waiting)
                return
            self.kernel.spawn(target.process, lambda: self._answer(answer, target, work))
            target.process.asked[answer.waiting] = None

        if delay_s:
            self.kernel.later(delay_s, arrive)
        else:
            arrive()
        return answer

    def _answer(self, answer: Answer[T], target: Any, work: Callable[[Any], T]) -> None:
        try:
            answer.value, answer.error = work(target), None
        except RingpullError as exc:
            answer.error = exc
        target.process.asked.pop(answer.waiting, None)
        self.kernel.open(answer.waiting)
