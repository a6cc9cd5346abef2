"""The record of a run: every request, and the spans of time in which something was being done to the deployment.

Times are seconds since the load began. The span of a fault ends when all processes are healthy again, that of a change
when it is over. A request belongs to the fault that began last of those under way when it was due, else to the change,
else to the calm.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.loadtest.chaos.oracle import Verdict
from ringpull.loadtest.chaos.schedule import Kind, promise

CALM: Final = "calm"

LATE: Final = "late"
"""Error of a request in a hurry that was not answered in its time, or refused for lack of it."""
LATE_SHARE: Final = 0.01
"""Share of the requests in a hurry that may be late: two cores that run the load besides miss some by themselves."""

FILL_GRACE_S: Final = 5.0
"""Time for which answers may still be filled in: a shard that is back is asked again when a head next tries it. That
counts as its recovery."""


@dataclass(slots=True)
class Span:
    """A time in which something was being done."""

    kind: Kind
    begin_s: float
    end_s: float = math.inf
    said: str = ""
    """Reason why a change was not carried through; empty when it was."""

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s

    def meets(self, other: Span | Trouble) -> bool:
        """Whether both cover a moment in common; a request covers the time from when it was due to its end."""
        begin_s = other.begin_s if isinstance(other, Span) else other.due_s
        return self.begin_s <= other.end_s and self.end_s >= begin_s


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that failed or was answered wrongly."""

    due_s: float
    end_s: float
    verdict: Verdict
    error: str
    """Class of the error; `wrong` for a wrong answer, `late` for a request in a hurry."""
    text: str


@dataclass(slots=True)
class Record:
    """Requests of a run, all of them, in the order of their answers."""

    due_s: array[float] = field(default_factory=lambda: array("d"))
    took_s: array[float] = field(default_factory=lambda: array("d"))
    """Latencies, from when a request was due."""
    verdicts: bytearray = field(default_factory=bytearray)
    troubles: list[Trouble] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Promises that were broken other than by an answer, in words."""
    hurried: int = 0
    """Requests in a hurry."""

    def ended(self, due_s: float, now_s: float, verdict: Verdict, error: str = "", text: str = "") -> None:
        """Count one request that ended just now."""
        self.due_s.append(due_s)
        self.took_s.append(now_s - due_s)
        self.verdicts.append(verdict)
        if verdict in (Verdict.FAILED, Verdict.WRONG):
            self.troubles.append(Trouble(due_s, now_s, verdict, error, text))

    def begin(self, kind: Kind, now_s: float) -> Span:
        """Open a span; whoever opens it sets its end."""
        span = Span(kind, now_s)
        self.spans.append(span)
        return span

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
        """Return due times, latencies and verdicts, (requests,) each, in the order of due times."""
        due = np.array(self.due_s)
        order = np.argsort(due, kind="stable")
        return due[order], np.array(self.took_s)[order], np.frombuffer(bytes(self.verdicts), np.uint8)[order]


def phases(spans: Sequence[Span], due_s: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return for each request, by when it was due, the kind of what was going on, or `calm`: (requests,)."""
    found = np.full(len(due_s), CALM, dtype=object)
    for span in sorted(spans, key=_weight):
        found[(due_s >= span.begin_s) & (due_s <= span.end_s)] = str(span.kind)
    return found


def cause(spans: Sequence[Span], trouble: Trouble) -> str:
    """Return what a request met on its way, and what became of it: `kill-head: Unavailable`."""
    met = [span for span in spans if span.meets(trouble)]
    return f"{max(met, key=_weight).kind if met else CALM}: {trouble.error}"


def broke_promise(spans: Sequence[Span], trouble: Trouble, heads: int) -> bool:
    """Whether a failed request met nothing on its way that may fail one; those that were late are counted together."""
    return trouble.error != LATE and not any(span.meets(trouble) and promise(span.kind, heads).fails for span in spans)


def too_late(record: Record) -> int:
    """Return how many requests in a hurry were late, if that is more than may be; else 0."""
    late = sum(trouble.error == LATE for trouble in record.troubles)
    return late if late > LATE_SHARE * record.hurried else 0


def unexplained_fills(record: Record, heads: int) -> int:
    """Return how many answers were filled in although all shards were there."""
    due, took, verdicts = record.arrays()
    filled = verdicts == Verdict.FILLED
    for span in record.spans:
        if promise(span.kind, heads).fills:
            filled &= (due + took < span.begin_s) | (due > span.end_s + FILL_GRACE_S)
    return int(filled.sum())


def unprovoked(spans: Sequence[Span]) -> list[Span]:
    """Return the changes that were not carried through although no fault came in the middle of them."""
    faults = [span for span in spans if span.kind.role]
    return [span for span in spans if span.said and not any(fault.meets(span) for fault in faults)]


def _weight(span: Span) -> tuple[bool, float]:
    """Order of spans that cover the same time: faults outweigh changes, then the one that began last."""
    return bool(span.kind.role), span.begin_s
