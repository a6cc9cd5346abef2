"""Shard and head as Ray runs them: thin shells around the plain classes of `ps` and `inference`.

The plain classes are imported when an actor is made, in its own process: the process that brings a deployment up needs
neither torch nor the shards' kernels to name these shells, and a shard never loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ray

from ringpull.deploy.cluster.calls import NamedActor
from ringpull.deploy.cluster.exits import Exit
from ringpull.deploy.cluster.logs import configure
from ringpull.deploy.cluster.staff import Staff
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import RingpullError
from ringpull.ps.holding import Ownership, VersionHolding
from ringpull.router.control.world import PlacedVersion
from ringpull.router.shard_map import ShardMap

if TYPE_CHECKING:
    from ringpull.ps.pulse import ShardPulse
    from ringpull.router.control.facts import HeadPulse

PORTS_TIMEOUT_S: Final = 2.0


class Shard:
    """One shard of the ring, with its data plane.

    Args:
        shard: Its id.
        staff: Of its deployment.
    """

    def __init__(self, shard: int, staff: Staff) -> None:
        from ringpull.deploy.cluster.kernels import warm_up
        from ringpull.ps.actor import ShardActor

        settings = staff.shard
        # The cache on disk is filled; loading from it takes a moment, which the first request should not wait for.
        warm_up()
        # Only now: what warms up is no shard of this deployment, and not to be told of.
        configure(staff.log, staff.name, f"shard-{shard}")
        self._exit = Exit()
        self._actor = ShardActor(
            shard,
            staff.shard_host or node_address(),
            settings.threads,
            node=node_id(),
            data_dir=None if settings.data_dir is None else Path(settings.data_dir),
            data_limit_bytes=settings.data_limit_bytes,
            prefault=settings.prefault,
            verify=settings.verify,
            metrics=settings.metrics,
            intake=settings.intake,
        )

    def pulse(self) -> ShardPulse:
        return self._actor.pulse()

    def prepare(self, holdings: Sequence[VersionHolding]) -> None:
        self._actor.prepare(holdings)

    def assign(self, epoch: int, ownerships: Sequence[Ownership], versions: Collection[tuple[str, int]]) -> None:
        self._actor.assign(epoch, ownerships, versions)

    def throttle(self, bytes_per_s: float | None) -> None:
        self._actor.throttle(bytes_per_s)

    def cancel(self) -> None:
        self._actor.cancel()

    def restart(self, drain_s: float) -> None:
        self._exit.after(lambda: self._actor.stop(grace_s=drain_s), within_s=drain_s)

    def pid(self) -> int:
        return os.getpid()


class Head:
    """One inference head: gRPC and HTTP.

    Args:
        head: Its number.
        staff: Of its deployment.
    """

    def __init__(self, head: int, staff: Staff) -> None:
        from ringpull.deploy.cluster.kernels import warm_up
        from ringpull.deploy.cluster.operations import OperationsOverRay
        from ringpull.inference.head.process import HeadProcess

        warm_up()
        configure(staff.log, staff.name, f"head-{head}")
        self._exit = Exit()
        config = replace(staff.head, host=staff.head_host or node_address())
        data_dir = staff.shard.data_dir
        self._actor = HeadProcess(
            with_ports_before(config, head, staff),
            OperationsOverRay(staff.name),
            cache_dir=None if data_dir is None else Path(data_dir) / f"head-{head}",
        )

    def pulse(self, lease_s: float) -> HeadPulse:
        return self._actor.pulse(lease_s)

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self._actor.load(versions, shard_map)

    def route(self, shard_map: ShardMap, live: Mapping[str, int], versions: Collection[tuple[str, int]]) -> None:
        self._actor.route(shard_map, live, versions)

    def pid(self) -> int:
        return os.getpid()

    def node_address(self) -> str:
        return node_address()

    def drain(self, timeout_s: float) -> None:
        self._actor.drain(timeout_s)

    def restart(self, drain_s: float) -> None:
        self._exit.after(lambda: self._actor.drain(drain_s), within_s=drain_s)


def with_ports_before(config: HeadConfig, head: int, staff: Staff) -> HeadConfig:
    """Return the settings with the ports that a head had before it was restarted, where any would do."""
    if config.grpc_port and config.http_port:
        return config
    try:
        before = NamedActor(staff.coordinator_name).call("heads", timeout_s=PORTS_TIMEOUT_S).get(head)
    except (RingpullError, TimeoutError):
        return config  # It serves on other ports then, and is found by whoever asks where.
    if before is None or before.host != config.host or not before.grpc_port:
        return config
    return replace(config, grpc_port=before.grpc_port, http_port=before.http_port)


def node_address() -> str:
    """Return the address by which other nodes reach this one."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def node_id() -> str:
    """Return Ray's id of this node."""
    return str(ray.get_runtime_context().get_node_id())
