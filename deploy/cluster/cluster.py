"""A whole deployment: brought up in steps, watched, drained, and taken down again. The composition root.

    ports claimed -> Ray -> kernels compiled -> actors made side by side -> coordinator brings the versions live

Whatever fails or interrupts a step, everything before it is taken down: on a private Ray that is Ray itself, on a
joined one it is our actors (`deploy.cluster.members`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket
from typing import Any, Final, Self

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.compiling import CompiledApart
from ringpull.deploy.cluster.ray_session import RaySession, has_gpu
from ringpull.deploy.cluster.staff import ShardSettings, Staff, gpus_wanted
from ringpull.deploy.config import LOCALHOST, ServeConfig
from ringpull.deploy.view.progress import Progress
from ringpull.inference.head.api.ports import claim
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.byte_size import size
from ringpull.ps.errors import StartupError, Unavailable
from ringpull.router.control.controls import LEASE_S
from ringpull.router.control.facts import HeadPulse
from ringpull.router.control.operations import ChangeStatus
from ringpull.router.control.world import first_world

POLL_S: Final = 0.02

PING_TIMEOUT_S: Final = 10.0

HEAD_GONE_S: Final = 60.0
"""Heads that have not answered for this long are taken for gone. Ray restarts a dead one within seconds, though it then
has to load its versions again; a loaded one answers within milliseconds."""


FREE_PORTS: Final = range(20_000, 32_000)
"""Where a port that may be any is taken from: below those that the kernel gives to outgoing connections (ip(7)), which
would take it before the head is up or while it is restarted, and above those of Ray's workers."""

PORT_TRIES: Final = 20

EVERY_INTERFACE: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class _Actors:
    """Handles of one deployment's actors, as they were made."""

    shards: Mapping[int, Any]
    heads: Mapping[int, Any]
    coordinator: Any


class Cluster:
    """A deployment that serves. Made by `bring_up`; leaving its context takes it down, but for `leave_up`."""

    def __init__(
        self,
        config: ServeConfig,
        actors: _Actors,
        target: str,
        http: str,
        *,
        ray_folder: Path | None,
        kills: ExitStack,
        cleanup: ExitStack,
    ) -> None:
        """Use `Cluster.bring_up`."""
        self._config = config
        self.joined = None if config.private else control_store.address()
        """HOST:PORT of the Ray that was joined, whatever `--address` called it; None with a private one."""
        self._actors = actors
        self._kills = kills
        self._cleanup = cleanup
        self._answered_s = time.monotonic()
        self.target = target
        """HOST:PORT where gRPC is reached."""
        self.http = http
        """HOST:PORT of HTTP."""
        self.ray_folder = ray_folder
        """Where a private Ray keeps its files; removed with it, but not by a process that is killed."""

    def __repr__(self) -> str:
        return f"<Cluster {self.target} shards={self._config.shards} {' '.join(self._config.model_names)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    @classmethod
    def bring_up(cls, config: ServeConfig, progress: Progress) -> Self:
        """Bring everything up and return when predictions work.

        Raises:
            StartupError: A port is in use, Ray is not there or lacks something, or an actor died; nothing is left
                running.
            CorruptData: A version's files are damaged; nothing is left running.
        """
        with ExitStack() as cleanup:
            if config.private:
                config = replace(config, head=_choose_ports(config))
            session = RaySession(config.address, workers=config.shards + config.heads + 1, ship_code=config.ship_code)
            with CompiledApart() as kernels:
                with progress.step("started a private Ray" if config.private else f"joined Ray at {config.address}"):
                    cleanup.enter_context(session)
                # Actors start with the cache filled: each would otherwise compile the same kernels for itself.
                with nullcontext() if kernels.done else progress.step("compiled kernels (once; cached from now on)"):
                    kernels.wait()
            kills = cleanup.enter_context(ExitStack())
            who = f"{_counted(config.shards, 'shard')}, {_counted(config.heads, 'head')} and coordinator"
            with progress.step(f"started {who}"):
                actors = _make_actors(config, kills)
            with progress.step(f"opened {', '.join(config.model_names)}") as say:
                target, http = _go_live(config, actors, say)
            return cls(config, actors, target, http, ray_folder=session.folder, kills=kills, cleanup=cleanup.pop_all())

    def check(self) -> str:
        """Check that a head answers. One that has died is restarted by Ray, and so are shards and the coordinator.

        Returns:
            What an operator should know; empty when all is well.

        Raises:
            StartupError: None has answered for `HEAD_GONE_S`, or none can come back.
        """
        from ringpull.deploy.cluster.calls import ActorGone, result

        gone = []
        calls = {number: handle.pid.remote() for number, handle in self._actors.heads.items()}
        for number, call in calls.items():
            try:
                result(call, timeout_s=PING_TIMEOUT_S)
            except (ActorGone, StartupError) as exc:
                gone.append(f"head {number} is gone: {exc}")
            except (TimeoutError, Unavailable):
                continue
            else:
                self._answered_s = time.monotonic()
        if len(gone) == len(calls):
            raise StartupError("; ".join(gone))
        if time.monotonic() - self._answered_s > HEAD_GONE_S:
            raise StartupError(f"no head has answered for {HEAD_GONE_S:g} s")
        if control_store.is_there():
            return ""
        ends = f"{control_store.away_text()} s" if self._config.private else f"the time of {control_store.AWAY}"
        return (
            "Ray's control store (GCS) is gone: predictions go on, but nothing that dies comes back until it does;"
            f" {ends} after it went Ray ends everything"
        )

    def drain(self) -> None:
        """Have the heads refuse new requests and answer those in flight, within the configured time."""
        drain(self._actors.heads.values(), self._config.drain_timeout_s)

    def leave_up(self) -> None:
        """Let the actors live on, on a joined Ray, when this context is left."""
        self._kills.pop_all()


def drain(heads: Iterable[Any], timeout_s: float) -> None:
    """Drain heads side by side, given their handles; give up on those that are dead or do not answer in time."""
    from ringpull.deploy.cluster.calls import result

    until_s = time.monotonic() + timeout_s + PING_TIMEOUT_S
    for call in [head.drain.remote(timeout_s) for head in heads]:
        try:
            result(call, timeout_s=max(0.0, until_s - time.monotonic()))
        except (StartupError, Unavailable, TimeoutError):
            continue


def stop_joined(address: str, name: str, *, drain_timeout_s: float) -> tuple[int, str]:
    """Drain and kill the actors of deployment `name` on a Ray cluster.

    Returns:
        How many there were, and the cluster's address as records have it (`Cluster.joined`).

    Raises:
        NoRay: Nobody listens at that address.
        StartupError: The cluster cannot be joined, or some of the actors live on.
    """
    with RaySession(address):
        from ringpull.deploy.cluster.members import actors_of, end

        named = actors_of(name)
        drain([handle for full_name, handle in named.items() if "/head-" in full_name], drain_timeout_s)
        # Once more: the coordinator may have started a shard meanwhile.
        named |= actors_of(name)
        end(named)
        return len(named), control_store.address()


def _choose_ports(config: ServeConfig) -> HeadConfig:
    """Fail on a port in use before anything is started, and put numbers in the place of zeros.

    The heads claim them for good. They are chosen here so that all heads have the same ones, and have them again after
    a restart.
    """
    host = config.host or LOCALHOST
    with (
        closing(_claim("grpc", host, config.head.grpc_port)) as grpc,
        closing(_claim("http", host, config.head.http_port)) as http,
    ):
        return replace(config.head, grpc_port=grpc.getsockname()[1], http_port=http.getsockname()[1])


def _claim(what: str, host: str, port: int) -> socket:
    if port:
        return claim(what, host, port)
    for _ in range(PORT_TRIES - 1):
        with suppress(StartupError):
            return claim(what, host, secrets.choice(FREE_PORTS))
    return claim(what, host, secrets.choice(FREE_PORTS))


def _staff(config: ServeConfig) -> Staff:
    host = LOCALHOST if config.private else None
    return Staff(
        name=config.name,
        shard_host=host,
        head_host=config.host or host,
        shard=ShardSettings(
            threads=config.shard_threads,
            prefault=config.prefault,
            verify=config.verify,
            data_dir=None if config.data_dir is None else str(config.data_dir),
            data_limit_bytes=config.data_limit_bytes,
            metrics=config.head.metrics,
            intake=config.shard_intake,
        ),
        head=config.head,
        heads=config.heads,
        # Ray hides GPUs from actors that ask for none.
        gpus=gpus_wanted(config.head.device, config.heads) if has_gpu() else 0.0,
        keep=config.keep,
        start_timeout_s=config.start_timeout_s,
        log=config.log,
    )


def _make_actors(config: ServeConfig, kills: ExitStack) -> _Actors:
    """Make all actors side by side, and wait until they are up.

    Raises:
        StartupError: A deployment of that name is there, or an actor could not be made or is not up in time.
    """
    # Only now: Ray must not be loaded before its session has set the environment.
    from ringpull.deploy.cluster.actors import node_id
    from ringpull.deploy.cluster.coordinator import make_coordinator
    from ringpull.deploy.cluster.members import actors_of, await_up, end, make_head, make_shard, node_addresses

    if taken := actors_of(config.name):
        raise StartupError(
            f"{len(taken)} actors of a deployment named {config.name} are on {config.address} already;"
            f" `ringpull stop --address {config.address} --name {config.name}` ends it, or choose another --name"
        )
    staff = _staff(config)
    # The coordinator first: its name can be had once, so of two deployments of one name only one goes further.
    coordinator = make_coordinator(staff, config.state_dir, secrets.token_hex(8))
    if not config.private:
        # By name: the coordinator may have started others meanwhile. A private Ray takes its actors with it.
        kills.callback(lambda: end(actors_of(config.name)))
    nodes = list(node_addresses())
    shards = {i: make_shard(staff, i, nodes[i % len(nodes)]) for i in range(config.shards)}
    heads = {i: make_head(staff, i, node_id()) for i in range(config.heads)}
    until_s = time.monotonic() + config.start_timeout_s
    calls = {"coordinator": coordinator.pid.remote()}
    calls |= {f"shard {i}": handle.pid.remote() for i, handle in shards.items()}
    calls |= {f"head {i}": handle.pid.remote() for i, handle in heads.items()}
    for who, call in calls.items():
        try:
            await_up(who, call, config.start_timeout_s, until_s=until_s)
        except Unavailable as exc:
            raise StartupError(f"the {who} did not start: {exc}") from exc
    return _Actors(shards, heads, coordinator)


def _go_live(config: ServeConfig, actors: _Actors, say: Callable[[str], None]) -> tuple[str, str]:
    """Have the coordinator bring the versions live; return where gRPC and HTTP are reached.

    Args:
        say: Is told how much was copied.

    Raises:
        StartupError: The coordinator gave it up, or has been failing for as long as starting may take.
    """
    from ringpull.deploy.cluster.calls import result

    world = first_world(range(config.shards), config.versions)
    status: ChangeStatus = result(actors.coordinator.bring_up.remote(world))
    well_s = time.monotonic()
    while status.under_way:
        time.sleep(POLL_S)
        status = result(actors.coordinator.change.remote())
        if status.bytes_to_copy:
            say(f"{size(status.copied_bytes)} of {size(status.bytes_to_copy)} copied")
        if not status.trouble:
            well_s = time.monotonic()
        elif time.monotonic() - well_s > config.start_timeout_s:
            raise StartupError(f"not up after {config.start_timeout_s:g} s of trying again: {status.trouble}")
    if status.error:
        raise StartupError(status.error)
    bound: HeadPulse = result(actors.heads[0].pulse.remote(LEASE_S))
    host = bound.host
    if host in EVERY_INTERFACE:  # an address to listen on, but not to connect to
        host = LOCALHOST if config.private else result(actors.heads[0].node_address.remote())
    return f"{host}:{bound.grpc_port}", f"{host}:{bound.http_port}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
