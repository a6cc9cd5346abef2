"""What is done to the deployment and when: a pure function of a seed, so that a run that fails is replayed by its seed.

A schedule is a list of events, one after the other. An event is a blow to one process, a change that an operator asks
for, or both: a blow in the middle of a change. Invariants: an event has one victim at most; the schedule of a longer
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
    """What can be done to a deployment."""

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
        """`kill`, `stop` or `slow` of a blow; a change's own name."""
        return self.partition("-")[0]

    @property
    def piece(self) -> str:
        """What a blow hits: `shard`, `head`, `coordinator`, `gcs`; empty for a change."""
        return self.partition("-")[2]


BLOWS: Final = tuple(kind for kind in Kind if kind.piece)
CHANGES: Final = tuple(kind for kind in Kind if not kind.piece)
STRUCK_CHANGES: Final = (Kind.PUBLISH, Kind.ROLLBACK, Kind.REBALANCE)
"""Changes that a blow may come in the middle of. A rolling restart has a victim of its own at any time."""
STRUCK_SHARE: Final = 0.5
"""Of these changes."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a client may notice of a kind, with two copies or more of every table but one."""

    fails: bool
    """Requests may fail."""
    fills: bool
    """Answers may name features of the table with one copy, for which its default vector stands."""


def promise(kind: Kind, heads: int) -> Promise:
    """Return what a client may notice of a kind with so many heads: another head answers, where there is one."""
    heads_go = kind is Kind.RESTART or kind.piece == "head"
    shards_go = kind is Kind.RESTART or kind.piece == "shard"
    return Promise(fails=heads_go and heads < 2, fills=shards_go)


CALM_S: Final = 5.0
"""Before the first event: what latencies are compared with."""
END_S: Final = 5.0
"""Without new events at the end."""
GAP_S: Final = (3.0, 6.0)
"""From one event to the next, when the first is over by then."""
PAUSE_S: Final = (1.0, 5.0)
"""How long a victim is stopped, or slow."""
DELAY_S: Final = (0.1, 2.0)
"""From the beginning of a change to the blow in it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One blow or change."""

    kind: Kind
    pick: float
    """In [0, 1): which of its possible victims, versions, numbers of shards."""
    seconds: float = 0.0
    """How long a victim is stopped or slow."""


@dataclass(frozen=True, slots=True)
class Event:
    """A blow, a change, or a change with a blow in it; at least one of the two."""

    at_s: float
    """Since the load began; later when the event before it is not over by then."""
    change: Fault | None = None
    blow: Fault | None = None
    delay_s: float = 0.0
    """From the beginning of the change to the blow."""

    def __str__(self) -> str:
        parts = []
        if self.change is not None:
            parts.append(str(self.change.kind))
        if self.blow is not None:
            parts.append(f"{self.blow.kind} {self.blow.seconds:.1f} s" if self.blow.seconds else str(self.blow.kind))
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
    blows = [kind for kind in BLOWS if kind not in without]
    kinds = [kind for kind in Kind if kind not in without]
    at_s = CALM_S
    while kinds:
        rng.shuffle(kinds)
        for kind in kinds:
            change = _fault(rng, kind) if kind in CHANGES else None
            blow = _fault(rng, kind) if kind in BLOWS else None
            if kind in STRUCK_CHANGES and blows and rng.random() < STRUCK_SHARE:
                blow = _fault(rng, rng.choice(blows))
            both = change is not None and blow is not None
            yield Event(at_s, change, blow, rng.uniform(*DELAY_S) if both else 0.0)
            at_s += rng.uniform(*GAP_S)


def _fault(rng: random.Random, kind: Kind) -> Fault:
    return Fault(kind, rng.random(), rng.uniform(*PAUSE_S) if kind.verb in ("stop", "slow") else 0.0)
