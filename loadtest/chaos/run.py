"""One run: models are made, served and asked, the schedule is played, and everything is taken down.

A run ends early when the deployment does not come back; what was seen until then is reported all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import uvloop
from rich.console import Console

from ringpull import AsyncClient
from ringpull.inference.client.operations import OperationsClient
from ringpull.loadtest.chaos import goodput
from ringpull.loadtest.chaos.changes import Operator
from ringpull.loadtest.chaos.checked_load import CheckedLoad
from ringpull.loadtest.chaos.checked_model import MODEL, make_requests
from ringpull.loadtest.chaos.driver import Driver
from ringpull.loadtest.chaos.faults import inject, victim
from ringpull.loadtest.chaos.health import Broken, Health
from ringpull.loadtest.chaos.kinds.registry import INJECT, impossible
from ringpull.loadtest.chaos.kinds.scene import Folders, Scene, swapped
from ringpull.loadtest.chaos.kinds.surroundings import served_among
from ringpull.loadtest.chaos.oracle import SINGLE_COPY, Live, Oracle
from ringpull.loadtest.chaos.processes import Usage, lower_priority, usage
from ringpull.loadtest.chaos.push_oracle import PushCounts
from ringpull.loadtest.chaos.pushed_load import PushedLoad
from ringpull.loadtest.chaos.pushed_model import PUSHED
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.chaos.report import Findings, find, show
from ringpull.loadtest.chaos.schedule import END_S, LONG_RUN_S, Command, Event, Fault, Kind, schedule, too_long
from ringpull.loadtest.chaos.serving import RunCommand
from ringpull.loadtest.deployment import Deployment
from ringpull.loadtest.generator import endless_arrivals

ROWS: Final = {"user": 20_000, "item": 10_000, "genre": 19}
VERSIONS: Final = {MODEL: 3, SINGLE_COPY: 1}
"""Versions by model; of `checked` one is live, one is kept open, one can be published."""
OTHERS: Final = {MODEL: [swapped(version, version) for version in range(1, VERSIONS[MODEL] + 1)]}
"""Contents that a version may get by a re-export."""
REQUESTS: Final = 100
LARGE_REQUESTS: Final = 20
SHARDS: Final = 4
PUSHED_STAY: Final = "rows are pushed in this run, and those are not moved: another seed, or --pushes off"
REPLICAS: Final = tuple(
    word
    for model, user_copies in ((MODEL, 2), (SINGLE_COPY, 1))
    for copies in (f"user={user_copies}", "item=2", "genre=all")
    for word in ("--replicas", f"{model}/{copies}")
)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run."""

    seconds: float
    seed: int
    rate: float
    heads: int
    timeout_s: float
    overload_s: float
    without: Sequence[Kind]
    only: Sequence[Kind]
    opened: bool = False
    """Whether shards open the models' files in place."""
    pushes: str = "auto"
    """Whether rows are pushed, and so never moved: "on", "off", or "auto", by the seed."""

    @property
    def pushing(self) -> bool:
        """Whether rows are pushed."""
        if self.pushes != "auto" or self.opened or Kind.REBALANCE in self.only:
            return self.pushes == "on"
        return pushes_rows(self.seed)


class Served:
    """The deployment as the driver sees it: changed by an operator, hit by signals, and by what surrounds it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def execute(self, change: Fault | Command) -> str:
        assert isinstance(change, Fault)
        said = await self._scene.operator.execute(change)
        await self._scene.health.wait()
        return said

    async def inject(self, fault: Fault, injected: Callable[[], None]) -> None:
        if surrounding := INJECT.get(fault.kind):
            await surrounding(self._scene, fault, injected)
            return
        process = await asyncio.to_thread(victim, self._scene.ours, fault)
        if process is None:
            return
        injected()
        await inject(process, fault)
        await self._scene.health.wait(*([process] if fault.kind.verb == "kill" else []))


class Run:
    """One run against a deployment that is up; what it has seen so far stays in it when it breaks off."""

    def __init__(
        self, options: Options, ours: Deployment, run_command: RunCommand, folders: Folders, console: Console
    ) -> None:
        self._options = options
        self._ours = ours
        self._run_command = run_command
        self._folders = folders
        self._console = console
        self.record = Record()
        self.goodput: goodput.Goodput | None = None
        self.broken = ""
        """Part of the deployment that did not come back; empty: none."""
        self.usages: dict[str, dict[str, Usage]] = {}
        self.pushes: PushCounts | None = None
        """Counts of pushes; None: no rows are pushed."""

    async def play(self, events: list[Event]) -> None:
        """Play the schedule under load, then the overload.

        Raises:
            RuntimeError: An answer was wrong before anything was done.
        """
        options, live = self._options, Live(dict.fromkeys(VERSIONS, 1))
        oracle = Oracle(make_requests(REQUESTS, seed=options.seed, rows=ROWS), VERSIONS, ROWS, others=OTHERS)
        arrivals = endless_arrivals(options.rate, np.random.default_rng([options.seed, 0xC405]))
        async with (
            AsyncClient(self._ours.target, timeout_s=options.timeout_s) as client,
            AsyncClient(self._ours.target, timeout_s=options.timeout_s, straight_pushes=False) as through,
        ):
            with OperationsClient(self._ours.target) as operations:
                load = CheckedLoad(client.predict, tuple(VERSIONS), oracle, live, client.top_k)
                self.record = load.record
                health = Health(self._ours, client, operations, options.heads)
                operator = Operator(self._run_command, operations, live, VERSIONS[MODEL])
                await load.warm_up()
                await self._measure("before")
                load.start(arrivals)
                pushed = None
                if options.pushing:
                    pushed = PushedLoad(client, through, load.record, load.now_s, options.seed)
                    pushed.start()
                    self.pushes = pushed.counts
                scene = Scene(
                    self._ours,
                    self._folders,
                    health,
                    operator,
                    self._run_command,
                    client.status,
                    load.record.broken.append,
                    partial(_reexported, oracle),
                    load.hurried,
                    moves=pushed is None,
                )
                driver = Driver(Served(scene), load.record, load.now_s, self._console)
                try:
                    await driver.play(events, options.seconds - END_S)
                    await asyncio.sleep(max(options.seconds - load.now_s(), 0))
                except Broken as exc:
                    self.broken = str(exc)
                finally:
                    await load.stop()
                    if pushed is not None:
                        await pushed.stop()
        self._console.print(f"played {driver.played} of {len(events)} events", highlight=False)
        await self._measure("after")
        if options.overload_s and not self.broken:
            await self._overload(live, oracle.contents)

    async def _overload(self, live: Live, contents: Mapping[tuple[str, int], int]) -> None:
        options = self._options
        sizes = {"candidates": goodput.CANDIDATES, "max_items": goodput.MAX_ITEMS}
        requests = make_requests(LARGE_REQUESTS, seed=options.seed, rows=ROWS, **sizes)
        oracle = Oracle(requests, {MODEL: VERSIONS[MODEL]}, ROWS, others=OTHERS, contents=contents)
        # In life the load comes from other machines.
        await asyncio.to_thread(lambda: lower_priority(self._ours.running("head", "shard")))
        self.goodput = await goodput.measure(
            self._ours.target, oracle, live, seconds=options.overload_s, seed=options.seed
        )
        await self._measure("after overload")

    async def _measure(self, when: str) -> None:
        self.usages[when] = await asyncio.to_thread(usage, self._ours)


def _reexported(oracle: Oracle, version: int) -> None:
    oracle.reexported(MODEL, version, swapped(version, oracle.contents.get((MODEL, version), version)))


def local_reads(seed: int) -> str:
    """Return whether heads read rows themselves: half of the seeds have every key asked of shards, as if these were on
    other machines, and in the other half what is done to shards is hardly felt."""
    return "auto" if seed % 2 else "off"


def pushes_rows(seed: int) -> bool:
    """Return whether rows are pushed: with half of the seeds, of those with local reads as of those without. With the
    others shards come and go, which is refused where there are pushed rows."""
    return seed // 2 % 2 == 1


def run(options: Options, console: Console) -> Findings:
    """Make the models, serve them, play the schedule, take everything down; show and return what was found.

    Raises:
        RuntimeError: A command failed, or the deployment did not come up.
    """
    reads = local_reads(options.seed)
    given = ("--heads", str(options.heads), *REPLICAS, "--local-reads", reads)
    served = VERSIONS | ({PUSHED: 1} if options.pushing else {})
    with served_among(served, ROWS, SHARDS, given, opened=options.opened) as (ours, run_command, folders):
        cannot = impossible(folders) | ({Kind.REBALANCE: PUSHED_STAY} if options.pushing else {})
        events = schedule(options.seed, options.seconds, {*options.without, *cannot}, only=options.only)
        what = "rows pushed" if options.pushing else "shards moved"
        console.print(f"seed {options.seed}, {options.seconds:g} s, local reads {reads}, {what}:", highlight=False)
        for event in events:
            console.print(f"  {event}", highlight=False, markup=False)
        playing = Run(options, ours, run_command, folders, console)
        uvloop.run(playing.play(events))
    findings = find(
        playing.record,
        seed=options.seed,
        heads=options.heads,
        goodput=playing.goodput,
        broken=playing.broken,
        pushes=playing.pushes,
        not_done=reasons(options, cannot),
    )
    show(console, findings, playing.record, playing.usages)
    return findings


def reasons(options: Options, cannot: Mapping[Kind, str]) -> dict[Kind, str]:
    """Return why a kind was not done, should it turn out that it was not, of each that was to be done.

    Args:
        cannot: Kinds that cannot be done here, and why.
    """
    long = dict.fromkeys(too_long(options.seconds), f"it takes long: only in runs of {LONG_RUN_S:g} s or more")
    found = {**dict.fromkeys(Kind, "the run was over before its turn"), **({} if options.only else long), **cannot}
    asked = frozenset(options.only or Kind) - set(options.without)
    return {kind: reason for kind, reason in found.items() if kind in asked}
