"""Cluster: a deployment from bring-up, through health checks and draining, to tear-down.

    ports claimed -> state folder taken over -> Ray -> kernels compiled -> actors started in parallel -> versions live

A Ray that is joined comes before the folder.

If a step fails or is interrupted, everything before it is taken down: a private Ray itself, on a joined Ray our actors
(`ringpull.deploy.cluster.members`).
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ringpull.deploy import doors
from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import ActorSpec, ShardSettings, coordinator_name, gpus_wanted
from ringpull.deploy.cluster.kernel_compilation import KernelCompilation
from ringpull.deploy.cluster.ray_session import RaySession, has_gpu
from ringpull.deploy.cluster.shard_warnings import shard_warnings
from ringpull.deploy.cluster.state_folder import OwnedStateFolder, owner_of
from ringpull.deploy.config import LOCALHOST, ServeConfig
from ringpull.deploy.head_count import circumstances, gpu_here, head_count
from ringpull.deploy.view.console import say, warn
from ringpull.deploy.view.progress import Progress
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.ports import EVERY_INTERFACE, claim
from ringpull.inference.head.leadership import CONSEQUENCE, LeaderView
from ringpull.ps.errors import RingpullError, StartupError, Unavailable
from ringpull.ps.text.byte_size import size
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import ChangeStatus, GetChange
from ringpull.router.control.state_store import Owner

POLL_S: Final = 0.02

PING_TIMEOUT_S: Final = 10.0

RELEASE_TIMEOUT_S: Final = 20.0
"""Longest wait for a coordinator that is to release the folder of its state."""

END_PUSHES_S: Final = 5.0
"""Longest wait for shards that are to take no pushes any more: a group, or a step of a fold, is a fraction of it."""

FIND_S: Final = 5.0
"""Longest wait for Ray to say which actors there are, where it is only asked for the sake of `end_pushes`."""

HEAD_GONE_S: Final = 60.0
"""Time without an answer after which heads count as gone. Ray restarts a dead one within seconds, though it then has to
load its versions again; a loaded one answers within milliseconds."""

FREE_PORTS: Final = range(20_000, 32_000)
"""Range that unspecified ports are chosen from: below the ephemeral ports of the kernel (ip(7)), or an outgoing
connection might take one before the head is up or while it restarts, and above the ports of Ray's workers."""

PORT_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class _Actors:
    """Handles of one deployment's actors."""

    shards: Mapping[int, Any]
    heads: Mapping[int, Any]
    coordinator: Any


class _Addresses(NamedTuple):
    """Addresses of the first head."""

    grpc: str
    http: str
    admin: str


class Cluster:
    """Serving deployment, made by `bring_up`. Leaving its context takes it down, unless `leave_up` was called."""

    def __init__(
        self,
        config: ServeConfig,
        actors: _Actors,
        addresses: _Addresses,
        *,
        owned: OwnedStateFolder,
        ray_folder: Path | None,
        kills: ExitStack,
        cleanup: ExitStack,
    ) -> None:
        """Use `Cluster.bring_up`."""
        self._config = config
        self.joined = None if config.private else control_store.address()
        """Address (HOST:PORT) of the joined Ray, whatever `--address` called it; None with a private one."""
        self._actors = actors
        self._owned = owned
        self._kills = kills
        self._cleanup = cleanup
        self._answered_s = time.monotonic()
        self.target = addresses.grpc
        """Address of gRPC, HOST:PORT."""
        self.http = addresses.http
        """Address of HTTP, HOST:PORT."""
        self.admin = addresses.admin
        """Address of the operators' door of the first head, unix:/PATH or HOST:PORT; empty: it has none."""
        self.ray_folder = ray_folder
        """Folder of a private Ray's files. It is removed with Ray, but not if this process is killed."""

    def __repr__(self) -> str:
        return f"<Cluster {self.target} shards={self._config.shards} {' '.join(self._config.model_names)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, at: TracebackType | None
    ) -> None:
        self._cleanup.__exit__(kind, failure, at)

    @classmethod
    def bring_up(cls, config: ServeConfig, progress: Progress, made: Callable[[Path], None] | None = None) -> Self:
        """Bring everything up and return when predictions work.

        Args:
            made: Called with every folder that is made for this deployment and is left behind by a `serve` that is
                killed: that of a private Ray, and those of the operators' sockets.

        Raises:
            StartupError: A port is in use, Ray is not there or lacks resources, or an actor died; nothing is left
                running.
            CorruptData: A version's files are damaged; nothing is left running.
        """
        # Looked for only: Ray must not be loaded before its session has set the environment. And nothing may be begun
        # that needs it while it is not there.
        if find_spec("ray") is None:
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        if config.private:
            config = replace(config, head=_choose_ports(config))
            config = _choose_heads(config, gpu=gpu_here(os.environ))
        begin = _begin_privately if config.private else _begin_on_joined_ray
        with ExitStack() as cleanup:
            with KernelCompilation() as kernels:
                begun = begin(config, progress, made, cleanup)
                config = begun.config
                # Actors start after the cache is filled, or each would compile the same kernels.
                with nullcontext() if kernels.done else progress.step("compiled kernels (once; cached from now on)"):
                    unkept = kernels.wait()
                if unkept:
                    warn(unkept)
            kills = cleanup.enter_context(ExitStack())
            who = f"{_counted(config.shards, 'shard')}, {_counted(config.head_count, 'head')} and coordinator"
            with progress.step(f"started {who}"):
                actors = _make_actors(config, begun.owner, kills)
            with progress.step(f"opened {', '.join(config.model_names)}") as say:
                addresses = _go_live(config, actors, say)
            for warning in shard_warnings(actors.shards):
                warn(warning)
            return cls(
                config,
                actors,
                addresses,
                owned=begun.owned,
                ray_folder=begun.ray_folder,
                kills=kills,
                cleanup=cleanup.pop_all(),
            )

    def check(self) -> str:
        """Check that a head answers. Dead heads, shards and coordinators are restarted by Ray.

        Returns:
            A warning for the operator; empty when all is well.

        Raises:
            StartupError: No head has answered for `HEAD_GONE_S`, or none can come back.
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
        return "; ".join(filter(None, (self._without_control_store(), self._without_leader())))

    def _without_control_store(self) -> str:
        """Return a warning while Ray's control store is gone."""
        if control_store.is_there():
            return ""
        ends = (
            f"{control_store.reconnect_text()} s"
            if self._config.private
            else f"the time of {control_store.RECONNECT_VARIABLE}"
        )
        return (
            "Ray's control store (GCS) is gone: predictions go on, but nothing that dies comes back until it does;"
            f" {ends} after it went Ray ends everything"
        )

    def _without_leader(self) -> str:
        """Return a warning when no head that answers hears the coordinator."""
        from ringpull.deploy.cluster.calls import result

        views: list[LeaderView | None] = []
        for call in [handle.invoke.remote("leader") for handle in self._actors.heads.values()]:
            with suppress(StartupError, TimeoutError, Unavailable):
                views.append(result(call, timeout_s=PING_TIMEOUT_S))
        known = [view for view in views if view is not None]  # None of a head that nobody is to lead
        return "" if not known or any(view.leads for view in known) else f"nobody leads: {CONSEQUENCE}"

    def drain(self) -> None:
        """Have heads refuse new requests and answer those in flight, within the configured time; then end pushes."""
        drain(self._actors.heads.values(), self._config.drain_timeout_s)
        from ringpull.deploy.cluster.members import actors_in_time

        known = {f"{self._config.name}/shard-{i}": handle for i, handle in self._actors.shards.items()}
        with suppress(Unavailable):
            known |= actors_in_time(self._config.name, FIND_S)  # which has what the coordinator has made since
        end_pushes(known)

    def leave_up(self) -> None:
        """Let the actors live on, on a joined Ray, after this context is left. The state folder stays theirs."""
        self._kills.pop_all()
        self._owned.leave_to_coordinator()


def drain(heads: Iterable[Any], timeout_s: float) -> None:
    """Drain heads in parallel, given their handles, and ignore those that are dead or do not answer in time."""
    _await([head.invoke.remote("drain", timeout_s) for head in heads], timeout_s + PING_TIMEOUT_S)


def end_pushes(actors: Mapping[str, Any]) -> None:
    """Have the shards among actors take no pushes any more, in parallel, and ignore those that do not answer soon.

    They delete what is kept for a next fold: a process that is killed leaves it to the start after it, if there is one.
    """
    calls = [handle.invoke.remote("end_pushes") for name, handle in actors.items() if "/shard-" in name]
    _await(calls, END_PUSHES_S)


def _await(calls: Iterable[Any], timeout_s: float) -> None:
    """Wait until calls have ended, however they did, or time is up."""
    from ringpull.deploy.cluster.calls import result

    until_s = time.monotonic() + timeout_s
    for call in calls:
        with suppress(RingpullError, TimeoutError):
            result(call, timeout_s=max(0.0, until_s - time.monotonic()))


def stop_joined(address: str, name: str, *, drain_timeout_s: float) -> tuple[int, str]:
    """Drain and kill the actors of deployment `name` on a Ray cluster.

    Returns:
        The number of actors, and the cluster's address in the form of `Cluster.joined`.

    Raises:
        NoRay: Nothing listens at that address.
        StartupError: The cluster cannot be joined, or some of the actors live on.
        Unavailable: Ray's control store does not say which there are, or whether they have ended.
    """
    with RaySession(address):
        from ringpull.deploy.cluster.calls import RemoteProcess
        from ringpull.deploy.cluster.members import actors_in_time, end, in_time

        named = actors_in_time(name)
        coordinator, leads = RemoteProcess(coordinator_name(name), timeout_s=RELEASE_TIMEOUT_S), True
        with suppress(Unavailable, StartupError):  # It would make anew what is ended.
            in_time(coordinator.stop, "that the coordinator stops", FIND_S + RELEASE_TIMEOUT_S)
            leads = False
        drain([handle for full_name, handle in named.items() if "/head-" in full_name], drain_timeout_s)
        # Listed once more, because the coordinator may have started a shard meanwhile.
        named |= actors_in_time(name)
        end_pushes(named)
        if not leads:
            end({full_name: handle for full_name, handle in named.items() if full_name != coordinator_name(name)})
            # By the coordinator, since the folder may be one of its machine, and only now that nothing else is left.
            with suppress(Unavailable, StartupError):
                in_time(coordinator.release, "that it lets the folder go", FIND_S + RELEASE_TIMEOUT_S)
        end(named)
        return len(named), control_store.address()


class _Begun(NamedTuple):
    """Beginnings of a deployment, before its actors: a Ray, and its state folder."""

    config: ServeConfig
    """Its settings, with a number of heads."""
    owner: Owner
    owned: OwnedStateFolder
    ray_folder: Path | None
    """Folder of a private Ray."""


def _begin_privately(
    config: ServeConfig, progress: Progress, made: Callable[[Path], None] | None, cleanup: ExitStack
) -> _Begun:
    """Take the state folder over, then start a Ray for this deployment alone."""
    owner = owner_of(secrets.token_hex(8), config.name, ray=None)
    for folder in doors.folders(owner.deployment):
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        if made is not None:
            made(folder)
    owned = cleanup.enter_context(_take_state_folder(config, owner, progress))
    session = RaySession(None, workers=config.shards + config.head_count + 1, made=made)
    with progress.step("started a private Ray"):
        cleanup.enter_context(session)
    return _Begun(config, owner, owned, session.folder)


def _begin_on_joined_ray(
    config: ServeConfig, progress: Progress, _made: Callable[[Path], None] | None, cleanup: ExitStack
) -> _Begun:
    """Join Ray, then take the state folder over."""
    # First: whoever wants the folder later has to know where to ask whether this deployment lives.
    with progress.step(f"joined Ray at {config.address}"):
        cleanup.enter_context(RaySession(config.address, ship_code=config.ship_code))
    config = _choose_heads(config, gpu=has_gpu())
    owner = owner_of(secrets.token_hex(8), config.name, ray=control_store.address())
    return _Begun(config, owner, cleanup.enter_context(_take_state_folder(config, owner, progress)), None)


def _take_state_folder(config: ServeConfig, owner: Owner, progress: Progress) -> OwnedStateFolder:
    with progress.step("took the state folder over") as say:
        return OwnedStateFolder.take(
            config.state_dir,
            owner,
            heads=config.head_count,
            say=say,
            warn=warn,
            rows_in_memory=config.rows_in_memory,
        )


def _choose_ports(config: ServeConfig) -> HeadConfig:
    """Replace ports of 0 by free ones, and fail on ports in use before anything is started.

    They are chosen here rather than in the heads so that all heads have the same ports, and keep them in a restart.
    """
    host = config.host or LOCALHOST
    with (
        closing(_claim("grpc", host, config.head.grpc_port)) as grpc,
        closing(_claim("http", host, config.head.http_port)) as http,
    ):
        head = replace(config.head, grpc_port=grpc.getsockname()[1], http_port=http.getsockname()[1])
        if config.head.admin_at is None:
            return head
        with closing(_claim("admin", *config.head.admin_at)) as admin:
            return replace(head, admin_port=admin.getsockname()[1])


def _choose_heads(config: ServeConfig, *, gpu: bool) -> ServeConfig:
    """Replace a number of heads that is to be chosen by one that pays off here, and have them share their ports.

    Args:
        gpu: Whether there is a GPU for heads that ask for one.
    """
    because = ""
    if config.heads is None:
        chosen = head_count(circumstances(config, gpu=gpu))
        because = f"--heads auto: {_counted(chosen.heads, 'head')}, {chosen.because}"
        say(because)
        config = replace(config, heads=chosen.heads)
    return replace(config, head=replace(config.head, share_port=config.head_count > 1, heads_because=because))


def _claim(what: str, host: str, port: int) -> socket:
    if port:
        return claim(what, host, port)
    for _ in range(PORT_TRIES - 1):
        with suppress(StartupError):
            return claim(what, host, secrets.choice(FREE_PORTS))
    return claim(what, host, secrets.choice(FREE_PORTS))


def _actor_spec(config: ServeConfig, deployment: str) -> ActorSpec:
    host = LOCALHOST if config.private else None
    return ActorSpec(
        name=config.name,
        deployment=deployment,
        shard_host=host,
        head_host=config.host or host,
        shard=ShardSettings(
            threads=config.shard_threads,
            prefault=config.prefault,
            verify=config.verify,
            data_dir=None if config.data_dir is None else str(config.data_dir),
            data_limit_bytes=config.data_limit_bytes,
            metrics=config.head.metrics,
            admission=config.shard_admission,
            scrub_bytes_per_s=config.scrub_bytes_per_s,
            tls=config.head.tls,
            live=config.live,
        ),
        head=config.head,
        heads=config.head_count,
        # Ray hides GPUs from actors that ask for none.
        gpus=gpus_wanted(config.head.device, config.head_count) if has_gpu() else 0.0,
        keep=config.keep,
        roots=config.roots,
        start_timeout_s=config.start_timeout_s,
        joined=not config.private,
        log=config.log,
    )


def _make_actors(config: ServeConfig, owner: Owner, kills: ExitStack) -> _Actors:
    """Start all actors in parallel, and wait until they are up.

    Raises:
        StartupError: A deployment of that name exists, or an actor could not be started or is not up in time.
    """
    # Imported here, because Ray must not be loaded before its session has set the environment.
    from ringpull.deploy.cluster.actors import node_id
    from ringpull.deploy.cluster.coordinator import make_coordinator
    from ringpull.deploy.cluster.members import actors_in_time, await_up, end, make_head, make_shard, node_addresses

    if taken := actors_in_time(config.name):
        raise StartupError(
            f"{len(taken)} actors of a deployment named {config.name} are on {config.address} already;"
            f" `ringpull stop --address {config.address} --name {config.name}` ends it, or choose another --name"
        )
    actor_spec = _actor_spec(config, owner.deployment)
    # The coordinator comes first: its name is unique, so of two deployments with one name only one gets further.
    coordinator = make_coordinator(actor_spec, config.state_dir, owner)
    if not config.private:
        # Found by name, because the coordinator may have started more. A private Ray takes its actors with it.
        kills.callback(lambda: end(actors_in_time(config.name)))
    nodes = list(node_addresses())
    shards = {i: make_shard(actor_spec, i, nodes[i % len(nodes)]) for i in range(config.shards)}
    heads = {i: make_head(actor_spec, i, node_id()) for i in range(config.head_count)}
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


def _go_live(config: ServeConfig, actors: _Actors, say: Callable[[str], None]) -> _Addresses:
    """Make the coordinator bring the versions live; return where the first head serves.

    Args:
        say: Called with the progress of copying.

    Raises:
        StartupError: The coordinator aborted the bring-up, or has been failing for `start_timeout_s`.
    """
    from ringpull.deploy.cluster.calls import result

    spec = initial_spec(range(config.shards), config.versions)
    status: ChangeStatus = result(actors.coordinator.invoke.remote("bring_up", spec))
    last_ok_s = time.monotonic()
    while status.under_way:
        time.sleep(POLL_S)
        status = result(actors.coordinator.invoke.remote("call", GetChange()))
        if status.bytes_to_copy:
            say(f"{size(status.copied_bytes)} of {size(status.bytes_to_copy)} copied")
        if not status.trouble:
            last_ok_s = time.monotonic()
        elif time.monotonic() - last_ok_s > config.start_timeout_s:
            raise StartupError(f"not up after {config.start_timeout_s:g} s of trying again: {status.trouble}")
    if status.error:
        models = {version.model for version in config.versions}
        others = "; nothing serves: serve the others without what is refused" if len(models) > 1 else ""
        raise StartupError(status.error + others)
    bound: HeadHeartbeat = result(actors.heads[0].invoke.remote("heartbeat"))
    host = bound.host
    if host in EVERY_INTERFACE:  # It can be listened on, but not connected to.
        host = LOCALHOST if config.private else result(actors.heads[0].node_address.remote())
    return _Addresses(f"{host}:{bound.grpc_port}", f"{host}:{bound.http_port}", bound.admin)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
