"""What operators are shown of a change: how far it is, what was copied, and what clients feel meanwhile.

Volatile, and only looked at: nothing here decides anything. Everything is noted and read by the coordinator's thread.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.change import Change, Outcome, Phase
from ringpull.router.control.coordinator import Coordinator, version_names
from ringpull.router.control.events import Command, Prepare
from ringpull.router.control.observed import HeadHeartbeat, TableTraffic
from ringpull.router.control.operations import ChangeStatus, Latency


class ChangeView:
    """Keeps the last heartbeat of every member, and what belongs to the change under way or the last one."""

    def __init__(self) -> None:
        self.shards: dict[int, ShardHeartbeat] = {}
        """The last answer of each shard that lives."""
        self.heads: dict[int, HeadHeartbeat] = {}
        """The last answer of each head."""
        self.trouble = ""
        """What failed last; empty since something worked again."""
        self._id = 0
        self._before = Latency()
        self._copies: dict[int, tuple[int, int]] = {}
        """Shard -> (copied, to copy) of what it prepared for the change."""

    def sent(self, command: Command, change: Change | None) -> None:
        """Note a command that goes out."""
        self._follow(change)
        if isinstance(command, Prepare) and change is not None and change.id in command.specs:
            self._copies[command.shard] = (0, 0)

    def shard(self, shard: int, heartbeat: ShardHeartbeat) -> None:
        """Note what a shard has answered."""
        self.shards[shard] = heartbeat
        if shard in self._copies:
            self._copies[shard] = (heartbeat.copied_bytes, heartbeat.bytes_to_copy)

    def head(self, head: int, heartbeat: HeadHeartbeat) -> None:
        """Note what a head has answered."""
        self.heads[head] = heartbeat

    def status(self, machine: Coordinator) -> ChangeStatus:
        """Return what there is to say."""
        change, outcome = machine.state.change, machine.state.outcome
        self._follow(change)
        if change is None:
            return ChangeStatus() if outcome is None else self._ended(outcome)
        done, members = _progress(machine, change)
        return ChangeStatus(
            id=change.id,
            kind=change.kind,
            subject=change.subject,
            phase=change.phase,
            paused=change.paused,
            members_done=done,
            members=members,
            copied_bytes=self._copied(),
            bytes_to_copy=self._to_copy(),
            before=self._before,
            now=worst(self.heads.values()),
            trouble=self.trouble,
        )

    def _ended(self, outcome: Outcome) -> ChangeStatus:
        # What was copied is known when this coordinator saw the change to its end.
        seen = outcome.id == self._id
        return ChangeStatus(
            id=outcome.id,
            kind=outcome.kind,
            subject=outcome.subject,
            copied_bytes=self._copied() if seen else 0,
            bytes_to_copy=self._to_copy() if seen else 0,
            before=self._before if seen else Latency(),
            now=worst(self.heads.values()),
            error=outcome.error,
        )

    def _follow(self, change: Change | None) -> None:
        if change is not None and change.id != self._id:
            self._id = change.id
            self._before = worst(self.heads.values())
            self._copies.clear()

    def _copied(self) -> int:
        return sum(copied for copied, _ in self._copies.values())

    def _to_copy(self) -> int:
        return sum(to_copy for _, to_copy in self._copies.values())


def worst(heads: Iterable[HeadHeartbeat]) -> Latency:
    """Return the slowest of what several heads measured."""
    latencies = [(head.p50_ms, head.p99_ms) for head in heads]
    if not latencies:
        return Latency()
    return Latency(max(p50 for p50, _ in latencies), max(p99 for _, p99 in latencies))


def traffic_of(heads: Iterable[HeadHeartbeat]) -> dict[str, TableTraffic]:
    """Return what all heads together have looked up, by `MODEL/TABLE`."""
    total: dict[str, TableTraffic] = {}
    for head in heads:
        for table, seen in head.traffic.items():
            before = total.get(table, TableTraffic(0, 0, 0))
            total[table] = TableTraffic(before.keys + seen.keys, before.bags + seen.bags, before.missing + seen.missing)
    return total


def _progress(machine: Coordinator, change: Change) -> tuple[int, int]:
    """Return how many members have done what the phase wants, of how many."""
    shards, heads = machine.shards, list(machine.heads.values())
    match change.phase:
        case Phase.PREPARING | Phase.CATCHING_UP:
            ready = [shard in shards and change.id in shards[shard].stored for shard in change.target.shards]
        case Phase.DUAL_OWNERSHIP:
            ready = [shard in shards and change.id in shards[shard].served for shard in change.target.shards]
        case Phase.LOADING:
            wanted = version_names(change.target.versions)
            ready = [wanted <= head.loaded for head in heads]
        case Phase.ROUTING | Phase.DRAINING:
            ready = [head.routed >= machine.state.epoch for head in heads]
        case Phase.CLEANUP:
            ready = [observed.served == observed.stored == {change.id} for observed in shards.values()]
            ready += [False for _ in machine.state.leaving - shards.keys()]
    return sum(ready), len(ready)
