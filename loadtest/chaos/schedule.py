"""The schedule, what is done to the deployment and when: a pure function of a seed, which replays a run that failed.

A schedule is a list of events, one after the other. An event is a fault, of one process or of what surrounds it, a
change that an operator asks for, or both: a fault in the middle of a change. Invariants: an event has one fault at
most; the schedule of a longer run begins with that of a shorter one, if both have the same kinds; what depends on the
deployment at that moment, such as which of its shards dies, is a number in [0, 1) here, and chosen by it there.

The faults of processes alone are in `faults`; each of the others has a file in `kinds`, which says what it does, what
is promised meanwhile, and how it is undone.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import Final


class Kind(StrEnum):
    """Kind of a thing that is done to a deployment."""

    KILL_SHARD = "kill-shard"
    STOP_SHARD = "stop-shard"
    SLOW_SHARD = "slow-shard"
    KILL_HEAD = "kill-head"
    STOP_HEAD = "stop-head"
    SLOW_HEAD = "slow-head"
    KILL_COORDINATOR = "kill-coordinator"
    STOP_COORDINATOR = "stop-coordinator"
    STOP_GCS = "stop-gcs"
    STOP_RAYLET = "stop-raylet"
    KILL_ALL = "kill-all"
    HOLD_COORDINATOR = "hold-coordinator"
    AWAY_STATE = "away-state"
    AWAY_LOGS = "away-logs"
    AWAY_VERSION = "away-version"
    FILL_DISK = "fill-disk"
    STEP_CLOCK = "step-clock"
    REEXPORT_VERSION = "reexport-version"
    REMOVE_VERSION = "remove-version"
    IMPERSONATE_SHARD = "impersonate-shard"
    RESTART = "restart"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    REBALANCE = "rebalance"

    @property
    def verb(self) -> str:
        """Verb of a fault, such as `kill`, `stop` or `slow`; a change's own name."""
        return self.partition("-")[0]

    @property
    def role(self) -> str:
        """Role of the process that a fault hits, such as `shard` or `gcs`, or what else it hits; empty for a change."""
        return self.partition("-")[2]


FAULTS: Final = tuple(kind for kind in Kind if kind.role)
CHANGES: Final = tuple(kind for kind in Kind if not kind.role)
SURROUNDINGS: Final = (
    Kind.STOP_RAYLET,
    Kind.KILL_ALL,
    Kind.HOLD_COORDINATOR,
    Kind.AWAY_STATE,
    Kind.AWAY_LOGS,
    Kind.AWAY_VERSION,
    Kind.FILL_DISK,
    Kind.STEP_CLOCK,
    Kind.REEXPORT_VERSION,
    Kind.REMOVE_VERSION,
    Kind.IMPERSONATE_SHARD,
)
"""Faults of what a deployment lives in, or of all of it at once. In the first round they come first."""
COMMANDING: Final = (Kind.AWAY_VERSION, Kind.FILL_DISK, Kind.REEXPORT_VERSION, Kind.REMOVE_VERSION)
"""Faults that give commands of their own, and so never come in the middle of a change."""
LONG_RUN_S: Final = 120.0
"""Time of load from which on a run has the kinds that take long."""
LONG: Final = frozenset({*COMMANDING, Kind.HOLD_COORDINATOR})
"""Kinds that a shorter run is without: each takes a large part of a minute."""
LONG_RUN_RATIO: Final = 3
"""How many of `SURROUNDINGS` there are for one other kind in the first round of such a run, so that all have a turn."""
INTERRUPTED_CHANGES: Final = (Kind.PUBLISH, Kind.ROLLBACK, Kind.REBALANCE)
"""Changes that a fault may come in the middle of. A rolling restart has a victim of its own at any time."""
INTERRUPTED_SHARE: Final = 0.5
"""Share of these changes that a fault comes in the middle of."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Effects that a client may notice of a kind, with two copies or more of every table but one."""

    fails: bool
    """Whether requests may fail."""
    fills: bool
    """Whether answers may name features of the table with one copy, for which its default vector stands."""


def promise(kind: Kind, heads: int) -> Promise:
    """Return what a client may notice of a kind with so many heads: another head answers, where there is one."""
    if kind is Kind.KILL_ALL:
        return Promise(fails=True, fills=True)
    heads_go = kind in (Kind.RESTART, Kind.REMOVE_VERSION) or kind.role == "head"
    shards_go = kind is Kind.RESTART or kind.role == "shard" or kind in SHARD_KILLERS
    return Promise(fails=heads_go and heads < 2, fills=shards_go)


SHARD_KILLERS: Final = (
    Kind.AWAY_LOGS,
    Kind.AWAY_VERSION,
    Kind.FILL_DISK,
    Kind.REEXPORT_VERSION,
    Kind.REMOVE_VERSION,
)
"""Faults that kill a shard besides, to see that it comes back nevertheless."""

CALM_S: Final = 5.0
"""Time before the first event: what latencies are compared with."""
END_S: Final = 5.0
"""Time without new events at the end."""
GAP_S: Final = (3.0, 6.0)
"""Time from one event to the next, when the first is over by then."""
PAUSE_S: Final = (1.0, 5.0)
"""Time that a victim is stopped or slow, that something is away, that a stranger listens."""
HOLD_S: Final = 30.0
"""Time that a held coordinator is stopped: three of its leases."""
LASTING: Final = ("stop", "slow", "hold", "away", "impersonate")
"""Verbs of faults that last for a time that is known before."""
DELAY_S: Final = (0.1, 2.0)
"""Time from the beginning of a change to the fault in it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or change."""

    kind: Kind
    pick: float
    """Number in [0, 1) that picks one of its possible victims, versions, numbers of shards."""
    seconds: float = 0.0
    """Time that it lasts; 0: it is over at once, or when it has seen what it looks for."""
    without: int = 0
    """Version that is not to be published, as its folder is away; 0: any may be."""


@dataclass(frozen=True, slots=True)
class Command:
    """A change as a script gives it: a command line, and the version that is live when it is through."""

    words: tuple[str, ...]
    live: int

    @property
    def kind(self) -> Kind:
        """Kind of the change: its verb."""
        return Kind(self.words[0])


@dataclass(frozen=True, slots=True)
class Event:
    """A fault, a change, or a change with a fault in it; at least one of the two."""

    at_s: float
    """Time since the load began; later when the event before it is not over by then."""
    change: Fault | Command | None = None
    fault: Fault | None = None
    delay_s: float = 0.0
    """Time from the beginning of the change to the fault."""

    def __str__(self) -> str:
        parts = []
        if self.change is not None:
            parts.append(str(self.change.kind))
        if self.fault is not None:
            parts.append(
                f"{self.fault.kind} {self.fault.seconds:.1f} s" if self.fault.seconds else str(self.fault.kind)
            )
        return f"{self.at_s:6.1f} s  " + f", {self.delay_s:.1f} s later ".join(parts)


def schedule(seed: int, seconds: float, without: Collection[Kind] = (), *, only: Collection[Kind] = ()) -> list[Event]:
    """Return the events of a run, in the order of time.

    Args:
        seconds: How long there is load. In less than `LONG_RUN_S` there are no kinds that take long.
        without: Kinds that are left out.
        only: Kinds that there are, also in a short run; empty: all.
    """
    left_out = (frozenset(Kind) - set(only) if only else too_long(seconds)) | frozenset(without)
    events = _events(random.Random(seed), left_out, LONG_RUN_RATIO if seconds >= LONG_RUN_S else 1)
    return list(takewhile(lambda event: event.at_s < seconds - END_S, events))


def too_long(seconds: float) -> frozenset[Kind]:
    """Return the kinds that a run is without because they take too long for it."""
    return LONG if seconds < LONG_RUN_S else frozenset()


def _events(rng: random.Random, without: frozenset[Kind], surroundings: int) -> Iterator[Event]:
    """Yield events without end, in rounds that have every kind once.

    Args:
        surroundings: How many of `SURROUNDINGS` come in the first round before each other kind.
    """
    interrupting = [kind for kind in FAULTS if kind not in without and kind not in (*LONG, Kind.STEP_CLOCK)]
    kinds = [kind for kind in Kind if kind not in without]
    at_s, first = CALM_S, True
    while kinds:
        rng.shuffle(kinds)
        for kind in _mixed(kinds, surroundings) if first else kinds:
            change = _fault(rng, kind) if kind in CHANGES else None
            fault = _fault(rng, kind) if kind in FAULTS else None
            if kind in INTERRUPTED_CHANGES and interrupting and rng.random() < INTERRUPTED_SHARE:
                fault = _fault(rng, rng.choice(interrupting))
            both = change is not None and fault is not None
            yield Event(at_s, change, fault, rng.uniform(*DELAY_S) if both else 0.0)
            at_s += rng.uniform(*GAP_S)
        first = False


def _mixed(kinds: Sequence[Kind], surroundings: int) -> list[Kind]:
    """Return kinds with so many of `SURROUNDINGS` before each of the others, as long as there are any."""
    around = [kind for kind in kinds if kind in SURROUNDINGS]
    # A rolling restart takes as long as three of the others.
    others = sorted((kind for kind in kinds if kind not in SURROUNDINGS), key=lambda kind: kind is Kind.RESTART)
    mixed = list[Kind]()
    while around or others:
        mixed += [*around[:surroundings], *others[:1]]
        around, others = around[surroundings:], others[1:]
    return mixed


def _fault(rng: random.Random, kind: Kind) -> Fault:
    return Fault(kind, rng.random(), _seconds(rng, kind))


def _seconds(rng: random.Random, kind: Kind) -> float:
    if kind is Kind.HOLD_COORDINATOR:
        return HOLD_S
    return rng.uniform(*PAUSE_S) if kind.verb in LASTING else 0.0
