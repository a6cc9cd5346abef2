"""The three actors as Ray runs them: thin shells around the plain classes of `ps`, `inference` and `router`.

The plain classes are imported when an actor is made, in its own process: the process that brings a deployment up needs
neither torch nor the shards' kernels to name these shells, and a shard never loads torch.

Errors cross Ray as values: a `RingpullError` raised in an actor arrives wrapped in Ray's own, with a stack of both
sides as its message; `result` unwraps it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from inference.config import HeadConfig
from ps.errors import RingpullError, StartupError
from router.coordinator import PlacedVersion
from router.shard_map import ShardAddress, ShardMap

if TYPE_CHECKING:
    from inference.head import HeadAddress


@dataclass(frozen=True, slots=True)
class OpenHow:
    """What shards do with a table before it goes live."""

    prefault: bool
    """Touch every page."""
    verify: bool
    """Check every row's checksum."""


class Shard:
    """One shard of the ring, with its data plane.

    Args:
        shard: Its id.
        host: Where its data plane listens; None: this node's address.
        threads: Look-up threads.
    """

    def __init__(self, shard: int, host: str | None, threads: int) -> None:
        from deploy.kernels import warm_up
        from ps.actor import ShardActor

        # The cache on disk is filled; loading from it takes a moment, which the first request should not wait for.
        warm_up()
        self._shard = shard
        self._actor = ShardActor(shard, host or _node_address(), threads)

    def address(self) -> ShardAddress:
        return ShardAddress(self._shard, *self._actor.address())

    def open(self, version: PlacedVersion, how: OpenHow) -> None:
        folders = {name: Path(table.folder) for name, table in version.tables.items()}
        self._actor.open(version.model, version.version, folders, prefault=how.prefault, verify=how.verify)

    def assign(self, shard_map: ShardMap) -> None:
        self._actor.assign(shard_map.epoch, shard_map.ring, shard_map.replicas)


class Head:
    """The inference head: gRPC and HTTP.

    Args:
        config: Its settings.
        host: Interface to listen on; None: this node's address.
    """

    def __init__(self, config: HeadConfig, host: str | None) -> None:
        from deploy.kernels import warm_up
        from inference.actor import HeadActor

        warm_up()
        self._actor = HeadActor(replace(config, host=host or _node_address()))
        self._address: HeadAddress | None = None

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str]) -> None:
        self._address = self._actor.start(shard_map, version_dirs)

    def address(self) -> HeadAddress:
        if self._address is None:
            raise StartupError("the head does not listen yet")
        return self._address

    def pid(self) -> int:
        return self._actor.pid()

    def drain(self, timeout_s: float) -> None:
        self._actor.drain(timeout_s)


class Coordinator:
    """The coordinator, over the handles of the other actors.

    Args:
        state_dir: Folder of its saved state.
        shards: Handles of the `Shard` actors, by id.
        head: Handle of the `Head` actor.
        how: How shards open tables.
    """

    def __init__(self, state_dir: str, shards: Mapping[int, Any], head: Any, how: OpenHow) -> None:
        from router.actor import CoordinatorActor

        controls = {shard: _ShardOverRay(handle, how) for shard, handle in shards.items()}
        self._actor = CoordinatorActor(state_dir, controls, _HeadOverRay(head))

    def bring_up(self, addresses: Sequence[ShardAddress], versions: Sequence[PlacedVersion]) -> ShardMap:
        return self._actor.bring_up(addresses, versions)

    def state(self) -> dict[str, Any]:
        return self._actor.state()


class _ShardOverRay:
    """`router.actor.ShardControl` over a handle."""

    def __init__(self, handle: Any, how: OpenHow) -> None:
        self._handle = handle
        self._how = how

    def open(self, version: PlacedVersion) -> None:
        result(self._handle.open.remote(version, self._how))

    def assign(self, shard_map: ShardMap) -> None:
        result(self._handle.assign.remote(shard_map))


class _HeadOverRay:
    """`router.actor.HeadControl` over a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def start(self, shard_map: ShardMap, version_dirs: Sequence[str]) -> None:
        result(self._handle.start.remote(shard_map, list(version_dirs)))


def _node_address() -> str:
    """Return the address by which other nodes reach this one."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def result(reference: Any, *, timeout_s: float | None = None) -> Any:
    """Return what an actor's call returned.

    Raises:
        RingpullError: The call raised it.
        StartupError: The actor died, or failed with an error that is not one of ours.
        TimeoutError: No answer within `timeout_s` seconds.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as exc:
        raise TimeoutError from exc
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, RingpullError):
            raise exc.cause from exc
        raise StartupError(f"an actor failed: {type(exc.cause).__name__}: {exc.cause}") from exc
    except ray.exceptions.ActorDiedError as exc:
        raise StartupError(f"an actor died: {_reason(exc)}") from exc
    except ray.exceptions.RayError as exc:
        raise StartupError(f"Ray failed: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    """Return the last line of Ray's message: above it are the stacks."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
