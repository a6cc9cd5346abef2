"""Shard and head as Ray runs them: one thin actor around the plain classes of `ps` and `inference`.

The plain classes are imported when an actor is made, in its own process: the process that brings a deployment up needs
neither torch nor the shards' kernels to name these actors, and a shard never loads torch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import ray

from ringpull.deploy.cluster.actor_spec import ActorSpec, coordinator_name
from ringpull.deploy.cluster.calls import RemoteProcess
from ringpull.deploy.cluster.exits import Exit
from ringpull.deploy.cluster.in_time import Clock, Ticket
from ringpull.deploy.cluster.late_process import LateProcess
from ringpull.deploy.cluster.logs import configure, silence
from ringpull.deploy.state import state_folder
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import RingpullError
from ringpull.ps.fence import Order
from ringpull.ps.niceness import in_nice_thread

if TYPE_CHECKING:
    from ringpull.inference.head.fenced import FencedHead
    from ringpull.ps.fenced import FencedShard
    from ringpull.router.control.operations import Operations

logger: Final = logging.getLogger(__name__)

CHECKED_ROWS: Final = "checked-rows"
"""File in which the shards of a node remember which rows were checked."""

START_NICE: Final = 10
"""How much a new shard gives way while it imports and loads what it runs: deploy/README.md, "Decisions"."""

PORTS_TIMEOUT_S: Final = 2.0

OPERATIONS_TIMEOUT_S: Final = 30.0
"""Longest wait of a head for the coordinator: every verb is short, but for the disk or bucket the state is saved to."""

VERBS_IN_TIME: Final = {"call": OPERATIONS_TIMEOUT_S}
"""Calls of the coordinator that are begun in time or not at all: the operator was told that they failed."""


class ProcessActor:
    """Object in a process of its own, run by Ray, whose methods are called by name.

    Which methods it has is the object's own business; `ringpull.deploy.cluster.calls.RemoteProcess` is the other end.
    Where Ray restarts the actor and the object cannot be made, it is waited for: see `LateProcess`.

    Args:
        called: Name of the member in messages, such as "shard 3".
        make: Makes the object; on a restart as often as it takes, in another thread.
        restarted: Whether Ray has restarted the actor.
    """

    def __init__(self, called: str, make: Callable[[], Any], *, restarted: bool) -> None:
        self._clock = Clock()
        self._late = LateProcess(called, make, restarted=restarted)

    @property
    def _process(self) -> Any:
        return self._late.get()

    def invoke(self, method: str, *args: Any) -> Any:
        """Call a method: one of this actor, or else one of the object."""
        return getattr(self if hasattr(self, method) else self._process, method)(*args)

    def ticket(self) -> Ticket:
        """Return a ticket for `invoke_in_time`."""
        return self._clock.ticket()

    def invoke_in_time(self, ticket: Ticket, within_s: float, method: str, *args: Any) -> Any:
        """Call a method as `invoke` does, with `within_s`: what is left of its time.

        Raises:
            Unavailable: Nothing is left of it; see `ringpull.deploy.cluster.in_time`.
        """
        left_s = self._clock.left_s(ticket, within_s)
        return getattr(self if hasattr(self, method) else self._process, method)(*args, within_s=left_s)

    def pid(self) -> int:
        """Return the process's id; a call that only asks whether it is up."""
        return os.getpid()

    def node_address(self) -> str:
        """Return the address by which other nodes reach this one."""
        return node_address()


class ShardActor(ProcessActor):
    """Shard of the ring, with its data plane: a `ShardProcess`, which coordinators call as a `ShardControl`.

    Args:
        shard: Its id.
        actor_spec: What the members of its deployment are made from.
    """

    def __init__(self, shard: int, actor_spec: ActorSpec) -> None:
        restarted = was_restarted()
        self._exit = Exit()
        configure(actor_spec.log, actor_spec.name, f"shard-{shard}", restarted=restarted)
        # What a shard had that has died nobody else may have: it is back as soon as it can be.
        nice = 0 if restarted else START_NICE
        super().__init__(f"shard {shard}", partial(_shard_process, shard, actor_spec, nice), restarted=restarted)

    def restart(self, order: Order, drain_s: float, *, within_s: float | None = None) -> None:
        """End this process once what is in flight is answered; Ray starts it anew.

        Args:
            order: Whose order it is, and which life of the process is meant.
            drain_s: Longest wait for what is in flight.
            within_s: Time left of the call, as every call in time is told. Unused: this one only begins the end.
        """
        self._process.check(order)
        self._exit.after(lambda: self._process.stop(grace_s=drain_s), within_s=drain_s)

    def leave(self, order: Order) -> None:
        """End this process for good; Ray does not start it anew."""
        self._process.check(order)
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]


class HeadActor(ProcessActor):
    """Inference head, gRPC and HTTP: a `HeadProcess`, which coordinators call as a `HeadControl`.

    Args:
        head: Its number.
        actor_spec: What the members of its deployment are made from.
    """

    def __init__(self, head: int, actor_spec: ActorSpec) -> None:
        restarted = was_restarted()
        self._exit = Exit()
        self._longest_s = actor_spec.head.max_timeout_s
        configure(actor_spec.log, actor_spec.name, f"head-{head}", restarted=restarted)
        super().__init__(f"head {head}", partial(_head_process, head, actor_spec, self._replaced), restarted=restarted)

    def restart(self, order: Order, drain_s: float, *, within_s: float | None = None) -> None:
        """End this process once what is in flight is answered; Ray starts it anew.

        Args:
            order: Whose order it is, and which life of the process is meant.
            drain_s: Longest wait for what is in flight.
            within_s: Time left of the call, as every call in time is told. Unused: this one only begins the end.
        """
        self._process.check(order)
        self._exit.after(lambda: self._process.drain(drain_s), within_s=drain_s)

    def _replaced(self, reason: str) -> None:
        """End this process as well: the actor has another one by now, which shares its ports."""
        self._exit.after(lambda: self._process.drain(self._longest_s), within_s=self._longest_s)


def _warm_shard() -> None:
    """Import what a shard runs, and load its kernels.

    The cache on disk is filled; loading from it takes a moment, which the first request should not wait for.
    """
    from ringpull.deploy.cluster.kernels import warm_up

    with silence():
        warm_up()


def _start_resolver() -> None:
    """Start the threads in which names are looked up: those of the first look-up are there as long as the process."""

    async def look_up() -> None:
        with suppress(OSError):
            await asyncio.get_running_loop().getaddrinfo("localhost", 0)

    asyncio.run(look_up())


def _shard_process(shard: int, actor_spec: ActorSpec, nice: int) -> FencedShard:
    _start_resolver()
    # Most of a second of processor time, beside shards and heads of this machine that answer requests.
    in_nice_thread(_warm_shard, nice, name="start")
    from ringpull.inference.head.tokens.scrape_check import scrape_check
    from ringpull.ps.fenced import FencedShard
    from ringpull.ps.process import ShardProcess

    settings = actor_spec.shard
    process = ShardProcess(
        shard,
        actor_spec.shard_host or node_address(),
        settings.threads,
        node=node_id(),
        data_dir=None if settings.data_dir is None else Path(settings.data_dir),
        data_limit_bytes=settings.data_limit_bytes,
        prefault=settings.prefault,
        verify=settings.verify,
        checked=(state_folder() if settings.data_dir is None else Path(settings.data_dir)) / CHECKED_ROWS,
        scrub_bytes_per_s=settings.scrub_bytes_per_s,
        metrics=settings.metrics,
        admission=settings.admission,
        deployment=actor_spec.deployment,
        tls=settings.tls,
        live=settings.live,
        scrape_check=scrape_check(actor_spec.head.tokens),
    )
    return FencedShard(process, actor_spec.deployment)


def _head_process(head: int, actor_spec: ActorSpec, replaced: Callable[[str], None]) -> FencedHead:
    from ringpull.deploy.cluster.kernels import warm_up
    from ringpull.inference.head.fenced import FencedHead
    from ringpull.inference.head.process import HeadProcess

    with silence():
        warm_up()
    config = replace(actor_spec.head, host=actor_spec.head_host or node_address())
    data_dir = actor_spec.shard.data_dir
    process = HeadProcess(
        with_ports_before(config, head, actor_spec),
        operations_of(actor_spec.name),
        cache_dir=None if data_dir is None else Path(data_dir) / f"head-{head}",
        deployment=actor_spec.deployment,
        head=head,
        replaced=replaced,
        state=state_folder,
    )
    return FencedHead(process, actor_spec.deployment)


def operations_of(deployment: str) -> Operations:
    """Return the way to the coordinator of a deployment, given its name."""
    name = coordinator_name(deployment)
    return cast(
        "Operations",
        RemoteProcess(name, timeout_s=OPERATIONS_TIMEOUT_S, called="the coordinator", in_time=VERBS_IN_TIME),
    )


def with_ports_before(config: HeadConfig, head: int, actor_spec: ActorSpec) -> HeadConfig:
    """Return the settings with the ports that a head had before it was restarted, where any would do."""
    any_admin = config.admin_at is not None and not config.admin_port
    if config.grpc_port and config.http_port and not any_admin:
        return config
    try:
        before = RemoteProcess(actor_spec.coordinator_name, timeout_s=PORTS_TIMEOUT_S).heads().get(head)
    except RingpullError:
        return config  # It serves on other ports then, and is found by whoever asks where.
    if before is None or before.host != config.host or not before.grpc_port:
        return config
    _, _, port = before.admin.rpartition(":")
    admin_port = int(port) if any_admin and port.isdecimal() else config.admin_port
    return replace(config, grpc_port=before.grpc_port, http_port=before.http_port, admin_port=admin_port)


def was_restarted() -> bool:
    """Return whether an earlier process of this actor has ended, and Ray has started this one in its place.

    Ray's control store knows. If it does not say, this counts as a restart: what goes wrong is waited for then.
    """
    try:
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)
    except Exception as exc:
        logger.warning("Ray does not say whether this is a restart: %s", exc)
        return True


def node_address() -> str:
    """Return the address by which other nodes reach this one."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def node_id() -> str:
    """Return Ray's id of this node."""
    return str(ray.get_runtime_context().get_node_id())
