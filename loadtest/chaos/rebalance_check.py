"""`make rebalance-check`: shards, copies and versions change under load, and every single prediction is checked.

    python -m ringpull.loadtest.chaos.rebalance_check

A script of chaos: changes only, always the same ones, each by its command, against a model of tables with data folders
of their own, so that rows are streamed. A closed loop asks all the while, without retries: a change has to be unseen,
not mended. The last line is JSON; the exit status is 1 when a request failed or a score was wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull import AsyncClient
from ringpull.inference.client.operations import GetChange, OperationsClient
from ringpull.loadtest.chaos.changes import Operator
from ringpull.loadtest.chaos.checked_load import CheckedLoad
from ringpull.loadtest.chaos.checked_model import MODEL, ROWS, make_requests
from ringpull.loadtest.chaos.driver import Driver
from ringpull.loadtest.chaos.oracle import Live, Oracle, Verdict
from ringpull.loadtest.chaos.record import CALM, Record, Span, phases
from ringpull.loadtest.chaos.schedule import Command, Event, Fault, Kind
from ringpull.loadtest.chaos.serving import RunCommand, served_models

IN_FLIGHT: Final = 4
PAUSE_S: Final = 0.01
"""Pause between an answer and the next request: the change is measured, not how busy this client can make two cores."""
REQUESTS: Final = 200
SETTLED_S: Final = 0.5
"""Time after a change that is no calm yet: shards that leave are still ending."""
BEFORE_S: Final = 2.0
"""Calm before each change, which the change is measured against: eight shards on two cores are slower than two, and
that is no fault of the change."""
AFTER_S: Final = 2.0
LOOK_S: Final = 0.1
"""Time between two looks at whether a change is under way."""
SHOWN_ERRORS: Final = 5


def rebalance(live: int, *options: str) -> Command:
    return Command(("rebalance", *options, "--yes"), live)


SCRIPT: Final = (
    rebalance(1, "--shards", "4"),
    Command(("publish", f"{MODEL}/2"), 2),
    rebalance(2, "--shards", "3", "--replicas", "user=2"),
    Command(("publish", f"{MODEL}/3"), 3),
    rebalance(3, "--shards", "8"),
    Command(("rollback", MODEL), 2),
    rebalance(2, "--replicas", "item=all", "--replicas", "user=1"),
    Command(("publish", f"{MODEL}/4"), 4),
    rebalance(4, "--shards", "2", "--replicas", "item=2"),
)
FIRST_SHARDS: Final = 2
REMOTE: Final = ("--local-reads", "off")
FIRST_REPLICAS: Final = ("--replicas", "item=2", "--replicas", "genre=all")
VERSIONS: Final = 4


@dataclass(slots=True)
class Moved:
    """Bytes of all moves so far."""

    copied: int = 0
    least: int = 0
    copied_vs_planned: list[float] = field(default_factory=list)
    """Ratio of each move. Only the first has to copy all that was planned: later ones find rows on disk that a shard
    had to hold before."""


class Scripted:
    """The deployment as the driver sees it: a move is planned before it is made, and its bytes are counted."""

    def __init__(self, operator: Operator, run_command: RunCommand, live: Live, console: Console) -> None:
        self._operator = operator
        self._run_command = run_command
        self._live = live
        self._console = console
        self.moved = Moved()

    async def execute(self, change: Fault | Command) -> str:
        """Carry one command of the script out.

        Raises:
            RuntimeError: It failed, or another version is live than the script says.
        """
        assert isinstance(change, Command)
        words = " ".join(change.words)
        planned = await self._run_command(*change.words, "--dry-run") if change.kind is Kind.REBALANCE else None
        done = await self._operator.run(change)
        if self._live.now(MODEL) != {change.live}:
            raise RuntimeError(f"ringpull {words}: live is {sorted(self._live.now(MODEL))}, not {change.live}")
        if planned is not None:
            self.moved.copied_vs_planned.append(done["copied_bytes"] / planned["copied_bytes"])
            self.moved.least += planned["least_bytes"]
            self.moved.copied += done["copied_bytes"]
            words += f": {done['copied_bytes'] / 1e6:.1f} MB copied, {planned['copied_bytes'] / 1e6:.1f} MB planned"
        self._console.print(f"  {words}", style="dim", highlight=False, soft_wrap=True)
        return ""

    async def inject(self, *_: object) -> None:
        """Do nothing: a script has no faults."""


async def watch(load: CheckedLoad, operations: OperationsClient, under_way: list[Span]) -> None:
    """Note when a change is under way, until cancelled: a command that starts up is no change yet, and no calm."""
    open_span: Span | None = None
    while True:
        changing = (await asyncio.to_thread(operations.call, GetChange())).under_way
        if changing and open_span is None:
            open_span = Span(Kind.REBALANCE, load.now_s())  # whatever kind it is: only its time is looked at
            under_way.append(open_span)
        elif not changing and open_span is not None:
            open_span.end_s, open_span = load.now_s(), None
        await asyncio.sleep(LOOK_S)


async def check(
    target: str,
    run_command: RunCommand,
    operations: OperationsClient,
    oracle: Oracle,
    console: Console,
    *,
    before_s: float = BEFORE_S,
    after_s: float = AFTER_S,
) -> dict[str, Any]:
    """Play the script under load against a head; return the keys of the last line.

    Args:
        before_s: How long latencies are measured before each command.
        after_s: How long answers are checked after the last one.

    Raises:
        RuntimeError: A command failed.
    """
    live, under_way = Live({MODEL: 1}), list[Span]()
    async with AsyncClient(target, retries=0) as client:
        load = CheckedLoad(client.predict, (MODEL,), oracle, live, client.top_k)
        scripted = Scripted(Operator(run_command, operations, live, VERSIONS), run_command, live, console)
        driver = Driver(scripted, load.record, load.now_s, console, settle_s=SETTLED_S + before_s)
        warm_up = await load.ask_all()
        load.start_closed(IN_FLIGHT, PAUSE_S)
        watching = asyncio.create_task(watch(load, operations, under_way))
        try:
            await driver.play([Event(before_s, command) for command in SCRIPT], float("inf"))
            await asyncio.sleep(after_s)
        finally:
            watching.cancel()
            await load.stop()
    for trouble in [*warm_up.troubles, *load.record.troubles][:SHOWN_ERRORS]:
        console.print(f"  {trouble.error}: {trouble.text}", style="red", highlight=False, markup=False)
    published = sum(span.kind is Kind.PUBLISH for span in load.record.spans)
    return {
        **last_line(load.record, under_way, scripted.moved, warm_up),
        "versions_published": published,
        "versions_seen": sorted(load.versions),
        "by_command": by_command(load.record, under_way),
    }


def last_line(record: Record, under_way: Sequence[Span], moved: Moved, warm_up: Record) -> dict[str, Any]:
    """Return the figures of the last line.

    Args:
        under_way: Times in which a change was under way, each within the span of its command.
        warm_up: Requests that came before: checked, but not timed.
    """
    due, took, verdicts = record.arrays()
    answered = verdicts != Verdict.FAILED
    busy = [Span(span.kind, span.begin_s, span.end_s + SETTLED_S) for span in record.spans]
    during = phases(under_way, due) != CALM
    before_ms = _p99_ms(took[(phases(busy, due) == CALM) & ~during & answered])
    during_ms = _p99_ms(took[during & answered])
    counts = Counter(record.verdicts) + Counter(warm_up.verdicts)
    return {
        "predicts": counts.total(),
        "failed": counts[Verdict.FAILED],
        "wrong": counts[Verdict.WRONG],
        "moved_vs_least": _ratio(moved.copied, moved.least),
        "copied_vs_planned": round(moved.copied_vs_planned[0], 4) if moved.copied_vs_planned else None,
        "most_copied_vs_planned": round(max(moved.copied_vs_planned, default=0.0), 4),
        "p99_before_ms": round(before_ms, 2),
        "p99_during_ms": round(during_ms, 2),
        "p99_during_vs_before": _ratio(during_ms, before_ms),
    }


def by_command(record: Record, under_way: Sequence[Span]) -> list[dict[str, Any]]:
    """Return what requests took while each command of the script had a change under way: which one the tail is of."""
    due, took, verdicts = record.arrays()
    answered = verdicts != Verdict.FAILED
    found = []
    for command, span in zip(SCRIPT, record.spans, strict=False):  # a command that failed was the last
        own = [each for each in under_way if each.meets(span)]
        during = took[(phases(own, due) != CALM) & answered]
        found.append(
            {
                "command": " ".join(word for word in command.words if word != "--yes"),
                "requests": len(during),
                "p50_ms": round(float(np.median(during)) * 1e3, 2) if len(during) else 0.0,
                "p99_ms": round(_p99_ms(during), 2),
            }
        )
    return found


def _p99_ms(took_s: NDArray[np.float64]) -> float:
    return float(np.percentile(took_s, 99)) * 1e3 if len(took_s) else 0.0


def _ratio(value: float, base: float) -> float | None:
    return round(value / base, 4) if base else None


def run(console: Console) -> dict[str, Any]:
    """Make the model, serve it, play the script, take everything down; return the keys of the last line.

    Raises:
        RuntimeError: A command failed.
    """
    oracle = Oracle(make_requests(REQUESTS), {MODEL: VERSIONS})
    with (
        # Heads that read rows themselves would hardly feel what shards do to each other.
        served_models({MODEL: VERSIONS}, ROWS, FIRST_SHARDS, (*FIRST_REPLICAS, *REMOTE)) as (ours, run_command),
        OperationsClient(ours.target) as operations,
    ):
        return asyncio.run(check(ours.target, run_command, operations, oracle, console))


def main() -> None:
    console = Console(stderr=True)
    try:
        line = run(console)
    except RuntimeError as exc:
        console.print(f"error: {exc}", style="red", highlight=False, markup=False)
        sys.exit(1)
    print(json.dumps(line), flush=True)
    sys.exit(1 if line["failed"] or line["wrong"] else 0)


if __name__ == "__main__":
    main()
