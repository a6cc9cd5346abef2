"""One run: models are made, served and asked, the schedule is played, and everything is taken down.

A run ends early when the deployment does not come back; what was seen until then is told all the same.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from ringpull import AsyncClient
from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.export import TableOptions
from ringpull.loadtest.bench.checked_model import MODEL, export_version, make_requests
from ringpull.loadtest.bench.deployment import Deployment, deployed
from ringpull.loadtest.chaos import goodput
from ringpull.loadtest.chaos.blows import strike, victim
from ringpull.loadtest.chaos.changes import Operator
from ringpull.loadtest.chaos.driver import Driver
from ringpull.loadtest.chaos.load import Load
from ringpull.loadtest.chaos.oracle import FRAIL, Live, Oracle
from ringpull.loadtest.chaos.pieces import Pieces, Usage
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.chaos.report import Findings, find, show
from ringpull.loadtest.chaos.schedule import END_S, Event, Fault, Kind, schedule
from ringpull.loadtest.chaos.whole import Broken, Whole
from ringpull.loadtest.rebalance_check import RunCommand, ringpull

ROWS: Final = {"user": 20_000, "item": 10_000, "genre": 19}
VERSIONS: Final = 3
"""Of `checked`: one is live, one is kept open, one can be published."""
REQUESTS: Final = 100
LARGE_REQUESTS: Final = 20
SHARDS: Final = 4
REPLICAS: Final = (
    *("--replicas", f"{MODEL}/user=2", "--replicas", f"{MODEL}/item=2", "--replicas", f"{MODEL}/genre=all"),
    *("--replicas", f"{FRAIL}/user=1", "--replicas", f"{FRAIL}/item=2", "--replicas", f"{FRAIL}/genre=all"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is."""

    seconds: float
    seed: int
    rate: float
    heads: int
    timeout_s: float
    overload_s: float
    without: tuple[Kind, ...]


class Served:
    """The deployment as the driver sees it: changed by an operator, struck by signals."""

    def __init__(self, operator: Operator, pieces: Pieces, whole: Whole) -> None:
        self._operator = operator
        self._pieces = pieces
        self._whole = whole

    async def carry_out(self, change: Fault) -> str:
        said = await self._operator.carry_out(change)
        await self._whole.wait()
        return said

    async def strike(self, blow: Fault, struck: Callable[[], None]) -> None:
        process = await asyncio.to_thread(victim, self._pieces, blow)
        if process is None:
            return
        struck()
        await strike(process, blow)
        await self._whole.wait(process if blow.kind.verb == "kill" else None)


class Run:
    """One run against a deployment that is up; what it has seen so far stays in it when it breaks off."""

    def __init__(self, options: Options, ours: Deployment, run_command: RunCommand, console: Console) -> None:
        self._options = options
        self._ours = ours
        self._run_command = run_command
        self._console = console
        self._pieces = Pieces(ours.process)
        self.record = Record()
        self.goodput: goodput.Goodput | None = None
        self.broken = ""
        """What did not come back."""
        self.usages: dict[str, dict[str, Usage]] = {}

    async def play(self, events: list[Event]) -> None:
        """Play the schedule under load, then the overload.

        Raises:
            RuntimeError: An answer was wrong before anything was done.
        """
        options, live = self._options, Live({MODEL: 1, FRAIL: 1})
        requests = make_requests(REQUESTS, seed=options.seed, rows=ROWS)
        oracle = Oracle(requests, {MODEL: VERSIONS, FRAIL: 1}, ROWS)
        async with AsyncClient(self._ours.target, timeout_s=options.timeout_s) as client:
            with OperationsClient(self._ours.target) as operations:
                load = Load(
                    client.predict, requests, (MODEL, FRAIL), oracle, live, rate=options.rate, seed=options.seed
                )
                self.record = load.record
                whole = Whole(self._pieces, client, operations, options.heads)
                operator = Operator(self._run_command, operations, live, VERSIONS)
                await load.warm_up()
                await self._measure("before")
                load.start()
                driver = Driver(Served(operator, self._pieces, whole), load.record, load.now_s, self._console)
                try:
                    await driver.play(events, options.seconds - END_S)
                    await asyncio.sleep(max(options.seconds - load.now_s(), 0))
                except Broken as exc:
                    self.broken = str(exc)
                finally:
                    await load.stop()
        self._console.print(f"played {driver.played} of {len(events)} events", highlight=False)
        await self._measure("after")
        if options.overload_s and not self.broken:
            await self._overload(live)

    async def _overload(self, live: Live) -> None:
        requests = make_requests(
            LARGE_REQUESTS,
            seed=self._options.seed,
            rows=ROWS,
            candidates=goodput.CANDIDATES,
            most_items=goodput.MOST_ITEMS,
        )
        oracle = Oracle(requests, {MODEL: VERSIONS}, ROWS)
        # In life the load comes from other machines.
        await asyncio.to_thread(self._pieces.give_way)
        self.goodput = await goodput.measure(
            self._ours.target, requests, oracle, live, seconds=self._options.overload_s, seed=self._options.seed
        )
        await self._measure("after overload")

    async def _measure(self, when: str) -> None:
        self.usages[when] = await asyncio.to_thread(self._pieces.usage)


def run(options: Options, console: Console) -> Findings:
    """Make the models, serve them, play the schedule, take everything down; show and return what was found.

    Raises:
        RuntimeError: A command failed, or the deployment did not come up.
    """
    events = schedule(options.seed, options.seconds, options.without)
    console.print(f"seed {options.seed}, {options.seconds:g} s:", highlight=False)
    for event in events:
        console.print(f"  {event}", highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="ringpull-chaos-") as made:
        folder = Path(made)
        export_version(folder / MODEL, 1, ROWS)
        lossy = {"user": TableOptions(on_unavailable="default")}
        export_version(folder / FRAIL, 1, ROWS, name=FRAIL, tables=lossy)
        arguments = (str(folder / FRAIL), "--heads", str(options.heads), "--data-dir", str(folder / "data"), *REPLICAS)
        with deployed(folder / MODEL, SHARDS, *arguments) as ours:
            for version in range(2, VERSIONS + 1):
                export_version(folder / MODEL, version, ROWS)
            playing = Run(options, ours, ringpull(ours.target, folder), console)
            uvloop.run(playing.play(events))
    findings = find(
        playing.record, seed=options.seed, heads=options.heads, goodput=playing.goodput, broken=playing.broken
    )
    show(console, findings, playing.record, playing.usages)
    return findings
