"""The schedule, what is done to the deployment and when: a pure function of a seed, which replays a run that failed.

A schedule is a list of events, one after the other. An event is a fault of one process, a change that an operator asks
for, or both: a fault in the middle of a change. Invariants: an event has one victim at most; the schedule of a longer
run begins with that of a shorter one; what depends on the deployment at that moment, such as which of its shards dies,
is a number in [0, 1) here, and chosen by it there.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
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
    RESTART = "restart"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    REBALANCE = "rebalance"

    @property
    def verb(self) -> str:
        """Verb of a fault, `kill`, `stop` or `slow`; a change's own name."""
        return self.partition("-")[0]

    @property
    def role(self) -> str:
        """Role of the process that a fault hits: `shard`, `head`, `coordinator`, `gcs`; empty for a change."""
        return self.partition("-")[2]


FAULTS: Final = tuple(kind for kind in Kind if kind.role)
CHANGES: Final = tuple(kind for kind in Kind if not kind.role)
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
    heads_go = kind is Kind.RESTART or kind.role == "head"
    shards_go = kind is Kind.RESTART or kind.role == "shard"
    return Promise(fails=heads_go and heads < 2, fills=shards_go)


CALM_S: Final = 5.0
"""Time before the first event: what latencies are compared with."""
END_S: Final = 5.0
"""Time without new events at the end."""
GAP_S: Final = (3.0, 6.0)
"""Time from one event to the next, when the first is over by then."""
PAUSE_S: Final = (1.0, 5.0)
"""Time that a victim is stopped, or slow."""
DELAY_S: Final = (0.1, 2.0)
"""Time from the beginning of a change to the fault in it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or change."""

    kind: Kind
    pick: float
    """Number in [0, 1) that picks one of its possible victims, versions, numbers of shards."""
    seconds: float = 0.0
    """Time that a victim is stopped or slow."""


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


def schedule(seed: int, seconds: float, without: Collection[Kind] = ()) -> list[Event]:
    """Return the events of a run, in the order of time.

    Args:
        seconds: How long there is load.
        without: Kinds that are left out.
    """
    return list(takewhile(lambda event: event.at_s < seconds - END_S, _events(random.Random(seed), frozenset(without))))


def _events(rng: random.Random, without: frozenset[Kind]) -> Iterator[Event]:
    """Yield events without end, in rounds that have every kind once."""
    faults = [kind for kind in FAULTS if kind not in without]
    kinds = [kind for kind in Kind if kind not in without]
    at_s = CALM_S
    while kinds:
        rng.shuffle(kinds)
        for kind in kinds:
            change = _fault(rng, kind) if kind in CHANGES else None
            fault = _fault(rng, kind) if kind in FAULTS else None
            if kind in INTERRUPTED_CHANGES and faults and rng.random() < INTERRUPTED_SHARE:
                fault = _fault(rng, rng.choice(faults))
            both = change is not None and fault is not None
            yield Event(at_s, change, fault, rng.uniform(*DELAY_S) if both else 0.0)
            at_s += rng.uniform(*GAP_S)


def _fault(rng: random.Random, kind: Kind) -> Fault:
    return Fault(kind, rng.random(), rng.uniform(*PAUSE_S) if kind.verb in ("stop", "slow") else 0.0)
