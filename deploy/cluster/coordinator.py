"""The coordinator as Ray runs it, and how it reaches shards and heads over Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import ActorSpec
from ringpull.deploy.cluster.actors import node_id
from ringpull.deploy.cluster.calls import NamedActor, find
from ringpull.deploy.cluster.logs import configure
from ringpull.deploy.cluster.members import await_up, end, make, make_shard, node_addresses, preferring
from ringpull.deploy.model_folders import find_version, rows_in
from ringpull.ps.errors import Unavailable
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.events import Member
from ringpull.router.control.moves import MovePlan
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import ChangeStatus, Control, DeploymentStatus, MemberState, Rebalance, Request
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.control.state_file import StateFile
from ringpull.router.shard_map import ShardMap

CALLS_AT_ONCE: Final = 64
"""Heads and operators ask side by side; each call is short, but for those that wait for a disk."""


class CoordinatorActor:
    """The coordinator of one deployment.

    Args:
        actor_spec: What its members are made from.
        state_dir: Folder or URL of its saved state.
        deployment: Tells this deployment from others that saved their state there.
    """

    def __init__(self, actor_spec: ActorSpec, state_dir: str, deployment: str) -> None:
        configure(actor_spec.log, actor_spec.name, "coordinator")
        self._process = CoordinatorProcess(
            StateFile(state_dir),
            MembersOverRay(actor_spec),
            deployment=deployment,
            settings=Settings(
                place=find_version,
                heads=actor_spec.heads,
                keep=actor_spec.keep,
                streamed=actor_spec.shard.data_dir is not None,
                rows_in=rows_in,
            ),
            # Ray starts the process anew, which goes on from what is saved.
            failed=lambda: os._exit(1),
        )

    def bring_up(self, spec: DeploymentSpec) -> ChangeStatus:
        return self._process.bring_up(spec)

    def submit(self, request: Request) -> ChangeStatus:
        control_store.check()
        return self._process.submit(request)

    def change(self) -> ChangeStatus:
        return self._process.change()

    def control(self, verb: Control) -> ChangeStatus:
        return self._process.control(verb)

    def plan(self, request: Rebalance) -> MovePlan:
        control_store.check()
        return self._process.plan(request)

    def status(self) -> DeploymentStatus:
        return self._process.status()

    def members(self) -> tuple[MemberState, ...]:
        return self._process.members()

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool) -> None:
        # It would go, and not come back.
        control_store.check()
        self._process.restart(member, incarnation, drain_s=drain_s, force=force)

    def map(self) -> ShardMap:
        return self._process.map()

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        return self._process.scrape_targets()

    def heads(self) -> dict[int, HeadHeartbeat]:
        return self._process.heads()

    def state(self) -> dict[str, Any]:
        return self._process.state()

    def pid(self) -> int:
        return os.getpid()


def make_coordinator(actor_spec: ActorSpec, state_dir: str, deployment: str) -> Any:
    """Start the coordinator's actor; return its handle.

    Raises:
        StartupError: As for `make`.
    """
    return make(
        actor_spec.coordinator_name,
        CoordinatorActor,
        actor_spec,
        state_dir,
        deployment,
        max_concurrency=CALLS_AT_ONCE,
        # A folder is there only on this node, unless it is shared.
        **preferring(node_id()),
    )


class MembersOverRay:
    """`router.control.controls.Members`: the actors of one deployment."""

    def __init__(self, actor_spec: ActorSpec) -> None:
        self._actor_spec = actor_spec
        self._shards: dict[int, ShardOverRay] = {}
        self._heads: dict[int, HeadOverRay] = {}
        self._starting: dict[str | None, threading.Lock] = {}

    def shard(self, shard: int) -> ShardOverRay:
        return self._shards.setdefault(shard, ShardOverRay(self._actor_spec.shard_name(shard)))

    def head(self, head: int) -> HeadOverRay:
        return self._heads.setdefault(head, HeadOverRay(self._actor_spec.head_name(head)))

    def nodes(self) -> dict[str, str]:
        return node_addresses()

    def start_shard(self, shard: int, node: str | None) -> None:
        # One after the other on a node: a process that starts up takes a processor from those that answer.
        with self._starting.setdefault(node, threading.Lock()):
            self._start_shard(shard, node)

    def _start_shard(self, shard: int, node: str | None) -> None:
        handle = make_shard(self._actor_spec, shard, node, found_ok=True)
        await_up(f"shard {shard}", handle.pid.remote(), self._actor_spec.start_timeout_s)

    def stop_shard(self, shard: int) -> None:
        name = self._actor_spec.shard_name(shard)
        with suppress(Unavailable):
            end({name: find(name)})


class ShardOverRay(NamedActor):
    """`router.control.controls.ShardControl`."""

    def heartbeat(self) -> ShardHeartbeat:
        heartbeat = self.call("heartbeat")
        assert isinstance(heartbeat, ShardHeartbeat)
        return heartbeat

    def prepare(self, placements: Sequence[VersionPlacement]) -> None:
        self.call("prepare", placements)

    def assign(self, epoch: int, served_ranges: Sequence[ServedRanges], versions: Collection[tuple[str, int]]) -> None:
        self.call("assign", epoch, served_ranges, versions)

    def throttle(self, bytes_per_s: float | None) -> None:
        self.call("throttle", bytes_per_s)

    def cancel(self) -> None:
        self.call("cancel")

    def restart(self, drain_s: float) -> None:
        self.call("restart", drain_s)


class HeadOverRay(NamedActor):
    """`router.control.controls.HeadControl`."""

    def heartbeat(self, lease_s: float) -> HeadHeartbeat:
        heartbeat = self.call("heartbeat", lease_s)
        assert isinstance(heartbeat, HeadHeartbeat)
        return heartbeat

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self.call("load", versions, shard_map)

    def route(self, shard_map: ShardMap, live: Mapping[str, int], versions: Collection[tuple[str, int]]) -> None:
        self.call("route", shard_map, live, versions)

    def restart(self, drain_s: float) -> None:
        self.call("restart", drain_s)
