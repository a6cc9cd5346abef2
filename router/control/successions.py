"""Successions: which process of a head is the present one, and when those before it serve no more.

A node that Ray takes for dead may only be cut off: its actors are started elsewhere, and the old processes live on. An
orphan of a head shares the port with its successor, and nobody leads it. It asks for the map once its lease nears its
end. When its successor serves it is told that it was replaced, upon which it stops. So a change waits for the time that
this takes, where there can be orphans: `ObservedHead.alone`.

Who of two is the orphan, Ray knows: heartbeats reach only the present process. One that asks is taken for
replaced when another one, which serves, has answered a heartbeat since it first asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ringpull.ps.errors import Replaced
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.events import HeadAlone, HeadExpired, HeadSeen
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Asker

STOP_S: Final = 3.0
"""Time in which an orphan whose lease is over asks twice for the map, once a second, and stops when it is told."""


@dataclass(slots=True)
class _Head:
    heard_s: float
    """Time at which it was last heard, or before that at which the term began."""
    served_s: float = float("-inf")
    """Time at which it last answered a heartbeat while it served."""
    incarnation: str = ""
    """Its present process; empty: none has answered yet."""
    expired: bool = False
    alone_s: float | None = None
    """Time from which on those before it serve no more; None: they do not."""
    orphans: dict[str, float] = field(default_factory=dict)
    """Other processes of its number that have asked, unless it is they who are to come -> when first."""


class Successions:
    """Successions of one term. `check` may be called from any thread, the others from the leader's.

    Args:
        state: State that the term goes on from.
        lease_s: Time for which a head that was heard counts on being led.
        clock: Returns seconds since any origin.
        orphans: Whether an earlier process of a head can live on beside the one that Ray knows.
    """

    def __init__(self, state: CoordinatorState, lease_s: float, clock: Callable[[], float], *, orphans: bool) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._orphans = orphans
        self._served = state.spec is not None
        self._lock = threading.Lock()
        self._heads = {head: _Head(clock()) for head in state.heads}

    def __repr__(self) -> str:
        return f"<Successions {self._heads}>"

    def seen(self, head: int, heartbeat: HeadHeartbeat, *, ended: bool) -> HeadSeen:
        """Take in the heartbeat of a head that obeys; return what it means to the machine.

        Args:
            ended: Whether the process before it is known to have ended.
        """
        with self._lock:
            known, now_s, incarnation = self._heads[head], self._clock(), heartbeat.incarnation
            if known.incarnation != incarnation:
                if self._orphans and not ended and (known.incarnation or self._served):
                    known.alone_s = max(known.alone_s or 0.0, known.heard_s + self._lease_s, now_s) + STOP_S
                known.incarnation, known.served_s = incarnation, float("-inf")
            known.heard_s, known.expired = now_s, False
            if heartbeat.grpc_port:  # It serves.
                known.served_s = now_s
            elif known.alone_s is not None:
                known.alone_s = max(known.alone_s, now_s + STOP_S)
            return HeadSeen(head, incarnation, alone=known.alone_s is None)

    def check(self, asker: Asker) -> None:
        """Check that a head that asks for the map is not one that was replaced.

        Raises:
            Replaced: It was.
        """
        with self._lock:
            known, now_s = self._heads.get(asker.head), self._clock()
            if known is None or not self._orphans:
                return
            if known.incarnation in ("", asker.incarnation):
                # It serves, and the answer is a lease, though it answers nobody: a change has to wait for it.
                known.heard_s = now_s
                return
            if known.served_s <= known.orphans.setdefault(asker.incarnation, now_s):
                if known.alone_s is not None:
                    known.alone_s = max(known.alone_s, now_s + STOP_S)
                return
            del known.orphans[asker.incarnation]
            raise Replaced(
                f"head {asker.head} has been replaced: its process is {known.incarnation} by now, not"
                f" {asker.incarnation}"
            )

    def due(self) -> list[HeadExpired | HeadAlone]:
        """Return what the clock says that was not said yet."""
        events: list[HeadExpired | HeadAlone] = []
        with self._lock:
            now_s = self._clock()
            for head, known in self._heads.items():
                if not known.expired and now_s - known.heard_s > self._lease_s:
                    known.expired = True
                    events.append(HeadExpired(head))
                if known.alone_s is not None and now_s >= known.alone_s:
                    known.alone_s = None
                    events.append(HeadAlone(head))
        return events
