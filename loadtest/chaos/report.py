"""The end of a run: what was seen as one value, as tables for people, and as the keys of the last line."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ringpull.loadtest.chaos.goodput import Goodput
from ringpull.loadtest.chaos.oracle import Verdict
from ringpull.loadtest.chaos.processes import Usage
from ringpull.loadtest.chaos.push_oracle import PushCounts
from ringpull.loadtest.chaos.record import (
    CALM,
    FILL_GRACE_S,
    Record,
    Span,
    broke_promise,
    cause,
    phases,
    too_late,
    unexplained_fills,
    unprovoked,
)
from ringpull.loadtest.chaos.schedule import Kind, promise

NORMAL_FACTOR: Final = 5.0
"""Ratio to the p99 of the calm up to which the p99 of a second is normal again."""
NORMAL_S: Final = 0.05
"""Latency that is normal whatever the p99 of the calm: one late tick of a busy machine is no fault of a deployment."""
MAX_SLOW_S: Final = 30.0
"""Time for which latencies are looked at after a deployment is healthy."""
SHOWN_TROUBLES: Final = 3
"""Troubles shown of each cause."""
UNEXPLAINED: Final = "default vectors while all shards were there"


@dataclass(frozen=True, slots=True)
class Phase:
    """Requests that were due while one kind of thing went on."""

    name: str
    requests: int
    filled: int
    failed: int
    wrong: int
    p50_ms: float
    p99_ms: float
    """99th percentile of all of them, those that failed included."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Findings of a run."""

    seed: int
    phases: Sequence[Phase]
    failed_by_cause: Mapping[str, int]
    failed_promised: int
    recovery_s: Mapping[str, float]
    """Median time to recovery by kind."""
    goodput: Goodput | None
    """Goodput at three times the top rate; None: the overload was left out, or the run broke off."""
    hurried: int
    """Requests in a hurry."""
    kinds: Mapping[str, int]
    """How often each kind was done."""
    not_done: Mapping[str, str]
    """Reason why a kind was not done, of each that was not."""
    pushes: PushCounts | None = None
    """Counts of pushed rows; None: none were pushed."""

    @property
    def predicts(self) -> int:
        return sum(phase.requests for phase in self.phases)

    @property
    def wrong(self) -> int:
        return sum(phase.wrong for phase in self.phases) + (self.goodput.wrong if self.goodput else 0)

    @property
    def good(self) -> bool:
        """Whether all promises were kept."""
        return self.wrong == 0 and self.failed_promised == 0 and (self.pushes is None or self.pushes.good)

    def last_line(self) -> dict[str, Any]:
        """Return the keys of the last line."""
        return {
            "predicts": self.predicts,
            "wrong": self.wrong,
            "failed_promised": self.failed_promised,
            "failed_by_cause": dict(self.failed_by_cause),
            "recovery_s": {kind: round(seconds, 2) for kind, seconds in self.recovery_s.items()},
            "goodput_at_3x": None if self.goodput is None else round(self.goodput.ratio, 3),
            "hurried": self.hurried,
            "kinds": dict(self.kinds),
            "not_done": dict(self.not_done),
            "pushes": None if self.pushes is None else asdict(self.pushes),
            "seed": self.seed,
        }


def find(
    record: Record,
    *,
    seed: int,
    heads: int,
    goodput: Goodput | None,
    broken: str = "",
    pushes: PushCounts | None = None,
    not_done: Mapping[Kind, str] = MappingProxyType({}),
) -> Findings:
    """Return what a run's record says.

    Args:
        heads: Number of heads: with one, requests may fail when it goes.
        broken: What did not come back; it counts as one failure.
        pushes: Counts of pushed rows.
        not_done: Reasons why kinds were not done, of those that turn out not to be.
    """
    failed = [trouble for trouble in record.troubles if trouble.verdict is Verdict.FAILED]
    causes = Counter(cause(record.spans, trouble) for trouble in failed)
    others = Counter({UNEXPLAINED: unexplained_fills(record, heads)})
    others.update(f"{span.kind} was not carried through: {span.said}" for span in unprovoked(record.spans))
    others.update([f"not back: {broken}"] if broken else [])
    others.update(record.broken)
    causes += others
    done = Counter(str(span.kind) for span in record.spans)
    return Findings(
        seed=seed,
        phases=_phases(record),
        failed_by_cause=dict(causes.most_common()),
        failed_promised=sum(broke_promise(record.spans, trouble, heads) for trouble in failed)
        + too_late(record)
        + others.total(),
        recovery_s=_recoveries(record, heads),
        goodput=goodput,
        hurried=record.hurried,
        kinds={kind: done[kind] for kind in Kind if done[kind]},
        not_done={kind: reason for kind, reason in not_done.items() if not done[kind]},
        pushes=pushes,
    )


def _phases(record: Record) -> list[Phase]:
    due, took, verdicts = record.arrays()
    names = phases(record.spans, due)
    found = []
    for name in (CALM, *map(str, Kind)):
        here = names == name
        if not here.any():
            continue
        counts = np.bincount(verdicts[here], minlength=len(Verdict))
        p50_ms, p99_ms = np.percentile(took[here], [50, 99]) * 1e3
        found.append(
            Phase(
                name,
                int(here.sum()),
                int(counts[Verdict.FILLED]),
                int(counts[Verdict.FAILED]),
                int(counts[Verdict.WRONG]),
                float(p50_ms),
                float(p99_ms),
            )
        )
    return found


def _recoveries(record: Record, heads: int) -> dict[str, float]:
    due, took, verdicts = record.arrays()
    calm = took[phases(record.spans, due) == CALM]
    normal_s = max(NORMAL_FACTOR * float(np.percentile(calm, 99)), NORMAL_S) if len(calm) else NORMAL_S
    found: defaultdict[str, list[float]] = defaultdict(list)
    begins = [span.begin_s for span in record.spans if promise(span.kind, heads).fills]
    for span in record.spans:
        if np.isfinite(span.end_s):
            # What is filled in after the next one has begun is not this one's doing.
            next_s = min((begin_s for begin_s in begins if begin_s > span.begin_s), default=np.inf)
            filled = (verdicts == Verdict.FILLED) & (due < next_s) & promise(span.kind, heads).fills
            found[str(span.kind)].append(recovery_s(span, due, took, filled, normal_s))
    return {kind: statistics.median(found[kind]) for kind in sorted(found)}


def recovery_s(
    span: Span,
    due_s: NDArray[np.float64],
    took_s: NDArray[np.float64],
    filled: NDArray[np.bool_],
    normal_s: float,
) -> float:
    """Return the time from the beginning of a span until all is as before it.

    That is when the deployment is healthy, no answer is filled in any more, and the p99 of a second is normal again.

    Args:
        due_s, took_s, filled: All requests, (requests,) each, in the order of due times; filled are those whose
            answers had default vectors for what was lost.
        normal_s: The p99 up to which a second is normal.
    """
    lossy = filled & (due_s >= span.begin_s) & (due_s <= span.end_s + FILL_GRACE_S)
    back_s = float((due_s + took_s)[lossy].max(initial=span.end_s))
    at_s = back_s
    while at_s < back_s + MAX_SLOW_S:
        second = took_s[(due_s >= at_s) & (due_s < at_s + 1)]
        if not len(second) or np.percentile(second, 99) <= normal_s:
            break
        at_s += 1
    return at_s - span.begin_s


def show(
    console: Console,
    findings: Findings,
    record: Record,
    usages: Mapping[str, Mapping[str, Usage]],
) -> None:
    """Print the tables.

    Args:
        usages: What processes take, by when it was measured, in the order of time, and by role.
    """
    title = "requests by what went on when they were due; median time until all was as before"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("phase", no_wrap=True)
    for column in ("asked", "filled", "failed", "wrong", "p50 ms", "p99 ms", "back s"):
        table.add_column(column, justify="right", no_wrap=True)
    for phase in findings.phases:
        recovered = findings.recovery_s.get(phase.name)
        table.add_row(
            phase.name,
            *(f"{count:,}" for count in (phase.requests, phase.filled, phase.failed, phase.wrong)),
            f"{phase.p50_ms:.1f}",
            f"{phase.p99_ms:.1f}",
            "" if recovered is None else f"{recovered:.1f}",
            style="red" if phase.failed or phase.wrong else "",
        )
    console.print(table)
    console.print(_growth(usages))
    if findings.goodput is not None:
        console.print(_overload(findings.goodput))
    if (pushes := findings.pushes) is not None:
        console.print(
            f"{pushes.pushes:,} pushes of {pushes.rows:,} rows acknowledged, {pushes.resumed:,} times begun anew,"
            f" {pushes.repeats:,} sent twice; {pushes.reads:,} reads: {pushes.outside:,} rows outside,"
            f" {pushes.twice:,} pushes applied twice, {pushes.lost:,} keys lost",
            style="" if pushes.good else "red",
            highlight=False,
        )
    for text, count in findings.failed_by_cause.items():
        _tell(console, f"failed  {count:6,}  {text}")
    for kind, reason in findings.not_done.items():
        console.print(f"not done: {kind}: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    shown: Counter[str] = Counter()
    for trouble in record.troubles:
        why = cause(record.spans, trouble)
        shown[why] += 1
        if shown[why] <= SHOWN_TROUBLES:
            took_s = trouble.end_s - trouble.due_s
            _tell(console, f"{trouble.due_s:8.2f} s  {why} after {took_s:.2f} s: {trouble.text}")


def _tell(console: Console, text: str) -> None:
    console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def _growth(usages: Mapping[str, Mapping[str, Usage]]) -> Table:
    title = "memory (PSS) and descriptors of a process, and how many there are"
    table = Table("each", title=title, title_justify="left", box=SIMPLE_HEAD)
    for when in usages:
        table.add_column(when, justify="right")
    for role in next(iter(usages.values()), {}):
        cells = [
            f"{usage.pss_bytes / 2**20:.1f} MiB, {usage.descriptors:.0f} ({usage.processes})"
            for usage in (measured[role] for measured in usages.values())
        ]
        table.add_row(role, *cells)
    return table


def _overload(goodput: Goodput) -> str:
    refused = ", ".join(f"{count:,} {code}" for code, count in goodput.refused.most_common()) or "none"
    return (
        f"top rate {goodput.top_rate:.0f}/s; offered {goodput.offered_rate:.0f}/s, answered in time"
        f" {goodput.good_rate:.0f}/s: goodput {goodput.ratio:.0%}. Refused: {refused}, half of them within"
        f" {goodput.refused_p50_ms:.0f} ms. This program took {goodput.generator_cores:.1f} cores, and"
        f" sent 1% of them {goodput.late_p99_ms:.0f} ms late or more"
    )
