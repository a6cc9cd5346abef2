"""Overviews: what the coordinator tells heads for whoever looks at the deployment. Only its thread uses them.

They are kept in memory alone. After a restart of the coordinator counts of heads that live are whole again with their
first heartbeats, and their last 15 minutes after half a minute; of lives that ended before, it has what a head that
lives was told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.head_counts import CountsOfHeads, Growing, HeadCounts
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Asker, ChangeStatus, HeadState, Overview


class Overviews:
    """Last heartbeats of heads, and the counts of all of their lives."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heads: dict[int, tuple[HeadHeartbeat, float]] = {}
        self._counts = CountsOfHeads()

    def __repr__(self) -> str:
        return f"<Overviews of {len(self._heads)} heads, {self._counts!r}>"

    def heard(self, head: int, heartbeat: HeadHeartbeat) -> None:
        """Take in a head's heartbeat, which is of now."""
        self._heads[head] = heartbeat, self._clock()
        self._counts.take(heartbeat.incarnation, heartbeat.counts)
        self._counts.keep_only(self._open_versions())

    def tell(
        self,
        asker: Asker,
        counts: HeadCounts,
        known: Mapping[str, Growing],
        *,
        state: CoordinatorState,
        change: ChangeStatus,
        warnings: tuple[str, ...],
    ) -> Overview:
        """Take in what a head counts and has heard, and return what there is to be seen: see `Operations.overview`.

        Args:
            state: State of the coordinator.
            change: Status of the change.
            warnings: Warnings of all members, and of the coordinator.
        """
        self._counts.take(asker.incarnation, counts)
        self._counts.take_known(known)
        specs = (state.spec, None if state.change is None else state.change.target)
        placed = [each for spec in specs if spec is not None for each in spec.versions]
        self._counts.keep_only(self._open_versions() | {(each.model, each.version) for each in placed})
        target = None if state.change is None else state.change.target.ring
        return Overview(
            change=change,
            next_ring=None if state.spec is None or target == state.spec.ring else target,
            heads=tuple(self._state(head) for head in sorted(self._heads)),
            warnings=warnings,
            counts=self._counts.gathered(asker.incarnation),
        )

    def _open_versions(self) -> set[tuple[str, int]]:
        return {version for heartbeat, _ in self._heads.values() for version in heartbeat.versions}

    def _state(self, head: int) -> HeadState:
        heartbeat, heard_s = self._heads[head]
        return HeadState(
            head=head,
            host=heartbeat.host,
            grpc_port=heartbeat.grpc_port,
            http_port=heartbeat.http_port,
            requests=heartbeat.requests,
            failed=heartbeat.failed,
            heard_s=self._clock() - heard_s,
        )
