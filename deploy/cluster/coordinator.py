"""The coordinator as Ray runs it, and how it reaches shards and heads over Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actors import node_id
from ringpull.deploy.cluster.calls import NamedActor, find
from ringpull.deploy.cluster.logs import configure
from ringpull.deploy.cluster.members import await_up, end, make, make_shard, node_addresses, preferring
from ringpull.deploy.cluster.staff import Staff
from ringpull.deploy.model_folders import find_version, rows_in
from ringpull.ps.errors import Unavailable
from ringpull.ps.holding import Ownership, VersionHolding
from ringpull.ps.pulse import ShardPulse
from ringpull.router.control.actor import CoordinatorActor, Settings
from ringpull.router.control.events import Member
from ringpull.router.control.facts import HeadPulse
from ringpull.router.control.moves import MovePlan
from ringpull.router.control.operations import ChangeStatus, Control, Facts, MemberState, Rebalance, Request
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.control.state_file import StateFile
from ringpull.router.control.world import PlacedVersion, World
from ringpull.router.shard_map import ShardMap

CALLS_AT_ONCE: Final = 64
"""Heads and operators ask side by side; each call is short, but for those that wait for a disk."""


class Coordinator:
    """The coordinator of one deployment.

    Args:
        staff: What its members are made from.
        state_dir: Folder or URL of its saved state.
        deployment: Tells this deployment from others that saved their state there.
    """

    def __init__(self, staff: Staff, state_dir: str, deployment: str) -> None:
        configure(staff.log, staff.name, "coordinator")
        self._actor = CoordinatorActor(
            StateFile(state_dir),
            MembersOverRay(staff),
            deployment=deployment,
            settings=Settings(
                place=find_version,
                heads=staff.heads,
                keep=staff.keep,
                streamed=staff.shard.data_dir is not None,
                rows_in=rows_in,
            ),
            # Ray starts the process anew, which goes on from what is saved.
            failed=lambda: os._exit(1),
        )

    def bring_up(self, world: World) -> ChangeStatus:
        return self._actor.bring_up(world)

    def submit(self, request: Request) -> ChangeStatus:
        control_store.check()
        return self._actor.submit(request)

    def change(self) -> ChangeStatus:
        return self._actor.change()

    def control(self, verb: Control) -> ChangeStatus:
        return self._actor.control(verb)

    def plan(self, request: Rebalance) -> MovePlan:
        control_store.check()
        return self._actor.plan(request)

    def facts(self) -> Facts:
        return self._actor.facts()

    def members(self) -> tuple[MemberState, ...]:
        return self._actor.members()

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool) -> None:
        # It would go, and not come back.
        control_store.check()
        self._actor.restart(member, incarnation, drain_s=drain_s, force=force)

    def map(self) -> ShardMap:
        return self._actor.map()

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        return self._actor.scrape_targets()

    def heads(self) -> dict[int, HeadPulse]:
        return self._actor.heads()

    def state(self) -> dict[str, Any]:
        return self._actor.state()

    def pid(self) -> int:
        return os.getpid()


def make_coordinator(staff: Staff, state_dir: str, deployment: str) -> Any:
    """Start the coordinator's actor; return its handle.

    Raises:
        StartupError: As for `make`.
    """
    return make(
        staff.coordinator_name,
        Coordinator,
        staff,
        state_dir,
        deployment,
        max_concurrency=CALLS_AT_ONCE,
        # A folder is there only on this node, unless it is shared.
        **preferring(node_id()),
    )


class MembersOverRay:
    """`router.control.controls.Members`: the actors of one deployment."""

    def __init__(self, staff: Staff) -> None:
        self._staff = staff
        self._shards: dict[int, ShardOverRay] = {}
        self._heads: dict[int, HeadOverRay] = {}
        self._starting: dict[str | None, threading.Lock] = {}

    def shard(self, shard: int) -> ShardOverRay:
        return self._shards.setdefault(shard, ShardOverRay(self._staff.shard_name(shard)))

    def head(self, head: int) -> HeadOverRay:
        return self._heads.setdefault(head, HeadOverRay(self._staff.head_name(head)))

    def nodes(self) -> dict[str, str]:
        return node_addresses()

    def start_shard(self, shard: int, node: str | None) -> None:
        # One after the other on a node: a process that starts up takes a processor from those that answer.
        with self._starting.setdefault(node, threading.Lock()):
            self._start_shard(shard, node)

    def _start_shard(self, shard: int, node: str | None) -> None:
        handle = make_shard(self._staff, shard, node, found_ok=True)
        await_up(f"shard {shard}", handle.pid.remote(), self._staff.start_timeout_s)

    def stop_shard(self, shard: int) -> None:
        name = self._staff.shard_name(shard)
        with suppress(Unavailable):
            end({name: find(name)})


class ShardOverRay(NamedActor):
    """`router.control.controls.ShardControl`."""

    def pulse(self) -> ShardPulse:
        pulse = self.call("pulse")
        assert isinstance(pulse, ShardPulse)
        return pulse

    def prepare(self, holdings: Sequence[VersionHolding]) -> None:
        self.call("prepare", holdings)

    def assign(self, epoch: int, ownerships: Sequence[Ownership], versions: Collection[tuple[str, int]]) -> None:
        self.call("assign", epoch, ownerships, versions)

    def throttle(self, bytes_per_s: float | None) -> None:
        self.call("throttle", bytes_per_s)

    def cancel(self) -> None:
        self.call("cancel")

    def restart(self, drain_s: float) -> None:
        self.call("restart", drain_s)


class HeadOverRay(NamedActor):
    """`router.control.controls.HeadControl`."""

    def pulse(self, lease_s: float) -> HeadPulse:
        pulse = self.call("pulse", lease_s)
        assert isinstance(pulse, HeadPulse)
        return pulse

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self.call("load", versions, shard_map)

    def route(self, shard_map: ShardMap, live: Mapping[str, int], versions: Collection[tuple[str, int]]) -> None:
        self.call("route", shard_map, live, versions)

    def restart(self, drain_s: float) -> None:
        self.call("restart", drain_s)
