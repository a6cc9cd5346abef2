"""`make rebalance-check`: shards, copies and versions change under load, and every single prediction is checked.

    python -m ringpull.loadtest.rebalance_check

It serves a generated model with the real command, on a private Ray, each shard with a data folder of its own: so rows
are streamed from shard to shard. A client asks all the while, several requests at once, and holds every score against
an oracle (`loadtest.bench.checked_model`). The last line is JSON; the exit status is 1 when a request failed or a score
was wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from ringpull import AsyncClient
from ringpull.inference.client.operations import GetChange, OperationsClient
from ringpull.inference.errors import RingpullError
from ringpull.inference.prediction import Prediction
from ringpull.loadtest.bench.checked_model import (
    MODEL,
    ROWS,
    CheckedRequest,
    Weights,
    expected,
    export_version,
    make_requests,
)
from ringpull.loadtest.bench.deployment import deployed

IN_FLIGHT: Final = 4
PAUSE_S: Final = 0.01
"""Between an answer and the next request: the change is measured, not how busy this client can make two cores."""
REQUESTS: Final = 200
SETTLED_S: Final = 0.5
"""After a change: shards that leave are still ending."""
BEFORE_S: Final = 2.0
"""Of calm before each change, which the change is measured against: eight shards on two cores are slower than two, and
that is no fault of the change."""
AFTER_S: Final = 2.0
LOOK_S: Final = 0.1
"""Between two looks at whether a change is under way."""
SHOWN_ERRORS: Final = 5

console: Final = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One change: a command line of `ringpull`, and the versions that have to be on disk before it."""

    command: tuple[str, ...]
    live: int
    """The version that answers when it is through."""

    @property
    def moves(self) -> bool:
        """Whether it plans before it acts."""
        return self.command[0] == "rebalance"


def rebalance(live: int, *options: str) -> Step:
    return Step(("rebalance", *options), live)


STEPS: Final = (
    rebalance(1, "--shards", "4"),
    Step(("publish", f"{MODEL}/2"), 2),
    rebalance(2, "--shards", "3", "--replicas", "user=2"),
    Step(("publish", f"{MODEL}/3"), 3),
    rebalance(3, "--shards", "8"),
    Step(("rollback", MODEL), 2),
    rebalance(2, "--replicas", "item=all", "--replicas", "user=1"),
    Step(("publish", f"{MODEL}/4"), 4),
    rebalance(4, "--shards", "2", "--replicas", "item=2"),
)
FIRST_SHARDS: Final = 2
FIRST_REPLICAS: Final = ("--replicas", "item=2", "--replicas", "genre=all")
VERSIONS: Final = 4


class Oracle:
    """What each version must answer to each request."""

    def __init__(self, requests: Sequence[CheckedRequest], versions: int, rows: Mapping[str, int] = ROWS) -> None:
        self._expected = {
            version: [expected(weights, request) for request in requests]
            for version, weights in ((version, Weights.of(version, rows)) for version in range(1, versions + 1))
        }

    def complaint(self, number: int, prediction: Prediction, live: Collection[int]) -> str:
        """Return what is wrong with the answer to the request of this number; empty when nothing is.

        Args:
            live: Versions that were live at some time between request and answer.
        """
        if prediction.version not in live:
            return f"version {prediction.version} answered; live was {sorted(live)}"
        right = self._expected[prediction.version]
        if prediction.filled:
            return f"{prediction.filled[0].feature}: {prediction.filled[0].reason}"
        (scores,) = prediction.outputs.values()
        if right[number].wrong(scores):
            return f"version {prediction.version}: scores {scores} of request {number}, not {right[number].scores}"
        return ""


@dataclass(slots=True)
class Seen:
    """What the client has seen so far."""

    predicts: int = 0
    failed: int = 0
    wrong: int = 0
    versions: set[int] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"before": [], "during": [], "between": []})
    """How long requests took, by what was going on when they were sent."""

    def complain(self, text: str) -> None:
        self.complaints.append(text)
        if len(self.complaints) <= SHOWN_ERRORS:
            console.print(f"  {text}", style="red", highlight=False, markup=False)

    def p99_ms(self, when: str, first: int = 0) -> float:
        """Return the 99th percentile, from the request of this number on; 0 when there were too few for one."""
        seconds = self.seconds[when][first:]
        return statistics.quantiles(seconds, n=100)[98] * 1e3 if len(seconds) > 1 else 0.0


class CheckingClient:
    """Asks without end, and checks every answer."""

    def __init__(self, client: AsyncClient, requests: Sequence[CheckedRequest], oracle: Oracle) -> None:
        self._client = client
        self._calls = [request.features() for request in requests]
        self._oracle = oracle
        self._next = itertools.cycle(range(len(requests)))
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self.seen = Seen()
        self.when = "before"
        self.live = {1}
        """Versions that may answer now: during a change of versions, two."""

    async def warm_up(self) -> None:
        """Ask every request once; what comes of it is checked, but not timed."""
        await asyncio.gather(*(self._ask(number, timed=False) for number in range(len(self._calls))))

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(IN_FLIGHT)]

    async def stop(self) -> None:
        """Return when the requests in flight are answered."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._ending:
            await self._ask(next(self._next), timed=True)
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, number: int, *, timed: bool) -> None:
        features, context = self._calls[number]
        when, live, begin_s = self.when, self.live, time.perf_counter()
        self.seen.predicts += 1
        try:
            prediction = await self._client.predict(MODEL, features, context)
        except RingpullError as exc:
            self.seen.failed += 1
            self.seen.complain(f"failed: {type(exc).__name__}: {exc}")
            return
        if timed:
            self.seen.seconds[when].append(time.perf_counter() - begin_s)
        self.seen.versions.add(prediction.version)
        if complaint := self._oracle.complaint(number, prediction, live | self.live):
            self.seen.wrong += 1
            self.seen.complain(f"wrong: {complaint}")


@dataclass(slots=True)
class Moved:
    """Bytes of all moves so far."""

    copied: int = 0
    least: int = 0
    copied_vs_planned: list[float] = field(default_factory=list)
    """Of each move. Only the first has to copy all that was planned: later ones find rows on disk that a shard had to
    hold before."""


RunCommand = Callable[..., Awaitable[dict[str, Any]]]
"""Runs a command line, given word by word, and returns its JSON."""


class Driver:
    """Runs the steps, each as its users would."""

    def __init__(self, run_command: RunCommand, client: CheckingClient) -> None:
        self._run_command = run_command
        self._client = client
        self.moved = Moved()
        self.published = 0
        self.busy = False

    async def run(self, step: Step) -> None:
        """Carry one step out and tell how it went; the client is told what goes on by `follow`, while it is busy.

        Raises:
            RuntimeError: Its command failed.
        """
        seen = self._client.seen
        self.busy = True
        begin_s, before, first = time.perf_counter(), seen.predicts, len(seen.seconds["during"])
        planned = await self._run_command(*step.command, "--dry-run") if step.moves else {}
        self._client.live = self._client.live | {step.live}
        done = await self._run_command(*step.command, *(("--yes",) if step.moves else ()))
        self._client.live = {step.live}
        details = f", p99 {seen.p99_ms('during', first):.0f} ms"
        if step.moves:
            self.moved.copied_vs_planned.append(done["copied_bytes"] / planned["copied_bytes"])
            self.moved.least += planned["least_bytes"]
            self.moved.copied += done["copied_bytes"]
            details += f", {done['copied_bytes'] / 1e6:.1f} MB copied, {planned['copied_bytes'] / 1e6:.1f} MB planned"
        self.published += step.command[0] == "publish"
        console.print(
            f"[green]✓[/] {' '.join(step.command)} [dim]{time.perf_counter() - begin_s:.1f} s,"
            f" {seen.predicts - before} predicts{details}[/]",
            highlight=False,
            soft_wrap=True,
        )
        await asyncio.sleep(SETTLED_S)
        self.busy = False


UnderWay = Callable[[], Awaitable[bool]]


async def follow(client: CheckingClient, driver: Driver, under_way: UnderWay) -> None:
    """Tell the client what is going on, until cancelled: a command that starts up is no change yet, and no calm."""
    while True:
        client.when = "during" if await under_way() else "between" if driver.busy else "before"
        await asyncio.sleep(LOOK_S)


def ringpull(target: str, folder: Path) -> RunCommand:
    """Return what runs a command line of `ringpull` in a process of its own, and returns its JSON.

    It raises RuntimeError, with what was said, when the command failed.
    """

    async def run(*arguments: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            # Its start takes a core for most of a second. Operators have machines of their own for that.
            *("nice", "-n", "19", sys.executable, "-m", "ringpull", *arguments, "--target", target, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "RINGPULL_STATE_DIR": str(folder / "state")},
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"ringpull {' '.join(arguments)}: {err.decode().strip()}")
        found: dict[str, Any] = json.loads(out)
        return found

    return run


async def check(
    target: str,
    run_command: RunCommand,
    under_way: UnderWay,
    requests: Sequence[CheckedRequest],
    oracle: Oracle,
    *,
    before_s: float = BEFORE_S,
    after_s: float = AFTER_S,
) -> dict[str, Any]:
    """Run all steps under load against a head; return the keys of the last line.

    Args:
        before_s: How long latencies are measured before each step.
        after_s: How long answers are checked after the last one.
    """
    # Without retries: a change has to be unseen, not mended.
    async with AsyncClient(target, retries=0) as connection:
        client = CheckingClient(connection, requests, oracle)
        driver = Driver(run_command, client)
        await client.warm_up()
        client.start()
        try:
            following = asyncio.create_task(follow(client, driver, under_way))
            for step in STEPS:
                await asyncio.sleep(before_s)
                await driver.run(step)
            await asyncio.sleep(after_s)
            following.cancel()
        finally:
            await client.stop()
    return last_line(client.seen, driver.moved, driver.published)


def last_line(seen: Seen, moved: Moved, published: int) -> dict[str, Any]:
    """Return the keys of the last line."""
    before_ms, during_ms = seen.p99_ms("before"), seen.p99_ms("during")
    return {
        "predicts": seen.predicts,
        "failed": seen.failed,
        "wrong": seen.wrong,
        "moved_vs_least": _ratio(moved.copied, moved.least),
        "copied_vs_planned": round(moved.copied_vs_planned[0], 4) if moved.copied_vs_planned else None,
        "most_copied_vs_planned": round(max(moved.copied_vs_planned, default=0.0), 4),
        "p99_before_ms": round(before_ms, 2),
        "p99_during_ms": round(during_ms, 2),
        "p99_during_vs_before": _ratio(during_ms, before_ms),
        "versions_published": published,
        "versions_seen": sorted(seen.versions),
    }


def _ratio(value: float, base: float) -> float | None:
    return round(value / base, 4) if base else None


def main() -> None:
    try:
        line = run()
    except RuntimeError as exc:
        console.print(f"error: {exc}", style="red", highlight=False, markup=False)
        sys.exit(1)
    print(json.dumps(line), flush=True)
    sys.exit(1 if line["failed"] or line["wrong"] else 0)


def run() -> dict[str, Any]:
    """Make the model, serve it, run the check, take everything down; return the keys of the last line.

    Raises:
        RuntimeError: A command failed.
    """
    begin_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ringpull-check-") as made:
        folder = Path(made)
        model = folder / MODEL
        requests = make_requests(REQUESTS)
        # The first alone: the others are not there yet when it is served.
        export_version(model, 1)
        oracle = Oracle(requests, VERSIONS)
        _tell("made the model and its oracle", begin_s)
        serve_s = time.perf_counter()
        with deployed(model, FIRST_SHARDS, "--data-dir", str(folder / "data"), *FIRST_REPLICAS) as ours:
            _tell(f"served it from {FIRST_SHARDS} shards", serve_s)
            for version in range(2, VERSIONS + 1):
                export_version(model, version)
            with OperationsClient(ours.target) as operations:

                async def under_way() -> bool:
                    return (await asyncio.to_thread(operations.call, GetChange())).under_way

                line = asyncio.run(check(ours.target, ringpull(ours.target, folder), under_way, requests, oracle))
    _tell("all of it", begin_s)
    return line


def _tell(what: str, begin_s: float) -> None:
    console.print(f"[green]✓[/] {what} [dim]{time.perf_counter() - begin_s:.1f} s[/]", highlight=False)


if __name__ == "__main__":
    main()
