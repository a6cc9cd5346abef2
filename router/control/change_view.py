"""Status of a change as operators see it: progress, bytes copied, and latencies before and during the change.

It is kept in memory only, and nothing is decided by it. Only the coordinator's thread uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.change import Change, Outcome, Phase
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Command, Prepare
from ringpull.router.control.missing_versions import version_names
from ringpull.router.control.observed import HeadHeartbeat, TableTraffic
from ringpull.router.control.operations import ChangeStatus, DeploymentStatus, Latency


class ChangeView:
    """Last heartbeat of every member, and the progress of the change under way or of the last one."""

    def __init__(self) -> None:
        self.shards: dict[int, ShardHeartbeat] = {}
        """Last heartbeat of each live shard."""
        self.heads: dict[int, HeadHeartbeat] = {}
        """Last heartbeat of each head."""
        self.trouble = ""
        """Last failure; empty once a command has succeeded after it."""
        self._id = 0
        self._before = Latency()
        self._prepares: dict[int, tuple[int, int, int, int]] = {}
        """Shard -> (bytes copied, bytes to copy, bytes checked, bytes to check) of its `prepare` for the change."""

    def sent(self, command: Command, change: Change | None) -> None:
        """Take note of a command that is sent."""
        self._follow(change)
        if isinstance(command, Prepare) and change is not None and change.id in command.specs:
            self._prepares[command.shard] = (0, 0, 0, 0)

    def shard(self, shard: int, heartbeat: ShardHeartbeat) -> None:
        """Take note of a shard's heartbeat."""
        self.shards[shard] = heartbeat
        if shard in self._prepares:
            self._prepares[shard] = (
                heartbeat.copied_bytes,
                heartbeat.bytes_to_copy,
                heartbeat.checked_bytes,
                heartbeat.bytes_to_check,
            )

    def head(self, head: int, heartbeat: HeadHeartbeat) -> None:
        """Take note of a head's heartbeat."""
        self.heads[head] = heartbeat

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of all members, each with its member before it."""
        members = [
            *((f"shard {shard}", heartbeat.warnings) for shard, heartbeat in sorted(self.shards.items())),
            *((f"head {head}", heartbeat.warnings) for head, heartbeat in sorted(self.heads.items())),
        ]
        return tuple(f"{member}: {warning}" for member, warnings in members for warning in warnings)

    def deployment(
        self, spec: DeploymentSpec, highest_live: Mapping[str, int], warnings: tuple[str, ...]
    ) -> DeploymentStatus:
        """Return the state of the deployment that serves.

        Args:
            spec: Spec that serves.
            highest_live: See `DeploymentStatus`.
            warnings: Warnings of the coordinator and of all members.
        """
        return DeploymentStatus(
            spec=spec,
            resident_bytes={shard: heartbeat.resident_bytes for shard, heartbeat in self.shards.items()},
            nodes={shard: heartbeat.node for shard, heartbeat in self.shards.items()},
            requests=sum(heartbeat.requests for heartbeat in self.heads.values()),
            traffic=traffic_of(self.heads.values()),
            warnings=warnings,
            highest_live=highest_live,
        )

    def status(self, machine: Coordinator) -> ChangeStatus:
        """Return the status of the change under way, or of the last one."""
        change, outcome = machine.state.change, machine.state.outcome
        self._follow(change)
        if change is None:
            return ChangeStatus() if outcome is None else self._ended(outcome)
        done, members = _progress(machine, change)
        status = ChangeStatus(
            id=change.id,
            kind=change.kind,
            subject=change.subject,
            phase=change.phase,
            paused=change.paused,
            members_done=done,
            members=members,
            before=self._before,
            now=worst(self.heads.values()),
            trouble=self.trouble,
        )
        return self._with_bytes(status)

    def _ended(self, outcome: Outcome) -> ChangeStatus:
        # Bytes and latencies are known only if this process saw the change itself, not an earlier coordinator.
        seen = outcome.id == self._id
        status = ChangeStatus(
            id=outcome.id,
            kind=outcome.kind,
            subject=outcome.subject,
            before=self._before if seen else Latency(),
            now=worst(self.heads.values()),
            error=outcome.error,
        )
        return self._with_bytes(status) if seen else status

    def _follow(self, change: Change | None) -> None:
        if change is not None and change.id != self._id:
            self._id = change.id
            self._before = worst(self.heads.values())
            self._prepares.clear()

    def _with_bytes(self, status: ChangeStatus) -> ChangeStatus:
        """Return the status with the bytes of all shards together."""
        copied, to_copy, checked, to_check = (
            sum(each) for each in zip((0, 0, 0, 0), *self._prepares.values(), strict=True)
        )
        return replace(
            status, copied_bytes=copied, bytes_to_copy=to_copy, checked_bytes=checked, bytes_to_check=to_check
        )


def worst(heads: Iterable[HeadHeartbeat]) -> Latency:
    """Return the highest latencies of several heads."""
    latencies = [(head.p50_ms, head.p99_ms) for head in heads]
    if not latencies:
        return Latency()
    return Latency(max(p50 for p50, _ in latencies), max(p99 for _, p99 in latencies))


def traffic_of(heads: Iterable[HeadHeartbeat]) -> dict[str, TableTraffic]:
    """Return the look-ups of all heads together, by `MODEL/TABLE`."""
    total: dict[str, TableTraffic] = {}
    for head in heads:
        for table, seen in head.traffic.items():
            before = total.get(table, TableTraffic(0, 0, 0))
            total[table] = TableTraffic(
                before.keys + seen.keys,
                before.bags + seen.bags,
                before.missing + seen.missing,
                before.here + seen.here,
            )
    return total


def _progress(machine: Coordinator, change: Change) -> tuple[int, int]:
    """Return how many members have completed the phase, and how many have to."""
    shards, heads = machine.shards, list(machine.heads.values())
    match change.phase:
        case Phase.PREPARING | Phase.CATCHING_UP:
            ready = [shard in shards and change.id in shards[shard].stored for shard in change.target.shards]
        case Phase.DUAL_OWNERSHIP:
            ready = [shard in shards and change.id in shards[shard].served for shard in change.target.shards]
        case Phase.LOADING:
            wanted = version_names(change.target.versions)
            ready = [wanted <= head.loaded | head.missing for head in heads]
        case Phase.ROUTING | Phase.DRAINING:
            ready = [head.routed >= machine.state.epoch and head.alone for head in heads]
        case Phase.CLEANUP:
            ready = [observed.served == observed.stored == {change.id} for observed in shards.values()]
            ready += [False for _ in machine.state.leaving - shards.keys()]
    return sum(ready), len(ready)
