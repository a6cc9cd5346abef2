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

from ringpull.deploy.cluster.actor_spec import ActorSpec
from ringpull.deploy.cluster.calls import NamedActor
from ringpull.deploy.cluster.exits import Exit
from ringpull.deploy.cluster.logs import configure
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import RingpullError
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.shard_map import ShardMap

if TYPE_CHECKING:
    from ringpull.ps.heartbeat import ShardHeartbeat
    from ringpull.router.control.observed import HeadHeartbeat

PORTS_TIMEOUT_S: Final = 2.0


class ShardActor:
    """One shard of the ring, with its data plane.

    Args:
        shard: Its id.
        actor_spec: Of its deployment.
    """

    def __init__(self, shard: int, actor_spec: ActorSpec) -> None:
        from ringpull.deploy.cluster.kernels import warm_up
        from ringpull.ps.process import ShardProcess

        settings = actor_spec.shard
        # The cache on disk is filled; loading from it takes a moment, which the first request should not wait for.
        warm_up()
        # Only now: what warms up is no shard of this deployment, and not to be told of.
        configure(actor_spec.log, actor_spec.name, f"shard-{shard}")
        self._exit = Exit()
        self._process = ShardProcess(
            shard,
            actor_spec.shard_host or node_address(),
            settings.threads,
            node=node_id(),
            data_dir=None if settings.data_dir is None else Path(settings.data_dir),
            data_limit_bytes=settings.data_limit_bytes,
            prefault=settings.prefault,
            verify=settings.verify,
            metrics=settings.metrics,
            intake=settings.intake,
        )

    def heartbeat(self) -> ShardHeartbeat:
        return self._process.heartbeat()

    def prepare(self, placements: Sequence[VersionPlacement]) -> None:
        self._process.prepare(placements)

    def assign(self, epoch: int, served_ranges: Sequence[ServedRanges], versions: Collection[tuple[str, int]]) -> None:
        self._process.assign(epoch, served_ranges, versions)

    def throttle(self, bytes_per_s: float | None) -> None:
        self._process.throttle(bytes_per_s)

    def cancel(self) -> None:
        self._process.cancel()

    def restart(self, drain_s: float) -> None:
        self._exit.after(lambda: self._process.stop(grace_s=drain_s), within_s=drain_s)

    def pid(self) -> int:
        return os.getpid()


class HeadActor:
    """One inference head: gRPC and HTTP.

    Args:
        head: Its number.
        actor_spec: Of its deployment.
    """

    def __init__(self, head: int, actor_spec: ActorSpec) -> None:
        from ringpull.deploy.cluster.kernels import warm_up
        from ringpull.deploy.cluster.operations import OperationsOverRay
        from ringpull.inference.head.actor import HeadActor as HeadProcess

        warm_up()
        configure(actor_spec.log, actor_spec.name, f"head-{head}")
        self._exit = Exit()
        config = replace(actor_spec.head, host=actor_spec.head_host or node_address())
        data_dir = actor_spec.shard.data_dir
        self._process = HeadProcess(
            with_ports_before(config, head, actor_spec),
            OperationsOverRay(actor_spec.name),
            cache_dir=None if data_dir is None else Path(data_dir) / f"head-{head}",
        )

    def heartbeat(self, lease_s: float) -> HeadHeartbeat:
        return self._process.heartbeat(lease_s)

    def load(self, versions: Sequence[PlacedVersion], shard_map: ShardMap) -> None:
        self._process.load(versions, shard_map)

    def route(self, shard_map: ShardMap, live: Mapping[str, int], versions: Collection[tuple[str, int]]) -> None:
        self._process.route(shard_map, live, versions)

    def pid(self) -> int:
        return os.getpid()

    def node_address(self) -> str:
        return node_address()

    def drain(self, timeout_s: float) -> None:
        self._process.drain(timeout_s)

    def restart(self, drain_s: float) -> None:
        self._exit.after(lambda: self._process.drain(drain_s), within_s=drain_s)


def with_ports_before(config: HeadConfig, head: int, actor_spec: ActorSpec) -> HeadConfig:
    """Return the settings with the ports that a head had before it was restarted, where any would do."""
    if config.grpc_port and config.http_port:
        return config
    try:
        before = NamedActor(actor_spec.coordinator_name).call("heads", timeout_s=PORTS_TIMEOUT_S).get(head)
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
