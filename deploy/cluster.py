"""A whole deployment: brought up in steps, watched, drained, and taken down again. The composition root.

    ports claimed -> Ray -> kernels compiled -> actors made side by side -> coordinator brings the versions live

Whatever fails or interrupts a step, everything before it is taken down. On a private Ray that is Ray itself; on a
joined one it is our actors, which are named `NAME/shard-0`, `NAME/head`, `NAME/coordinator` in namespace `ringpull`
and detached, so that they outlive the process that made them and `stop` finds them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final, Self

from deploy.config import LOCALHOST, ServeConfig
from deploy.kernels import warm_up
from deploy.progress import Progress
from deploy.ray_session import NAMESPACE, RaySession, has_gpu
from inference.ports import claim
from ps.errors import RingpullError, StartupError
from router.shard_map import ShardAddress

PING_TIMEOUT_S: Final = 30.0
"""A head that does not answer a ping for this long is taken for dead; a loaded one answers within milliseconds."""

KILL_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Actors:
    """Handles of one deployment's actors."""

    shards: Mapping[int, Any]
    head: Any
    coordinator: Any


class Cluster:
    """A deployment that serves. Made by `bring_up`; leaving its context takes it down, but for `leave_up`."""

    def __init__(
        self, config: ServeConfig, actors: _Actors, target: str, http: str, *, kills: ExitStack, cleanup: ExitStack
    ) -> None:
        """Use `Cluster.bring_up`."""
        self._config = config
        self._actors = actors
        """All of them, though only the head is asked: Ray ends an unnamed actor when the last handle to it is gone."""
        self._kills = kills
        self._cleanup = cleanup
        self.target = target
        """HOST:PORT where gRPC is reached."""
        self.http = http
        """HOST:PORT of HTTP."""

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
                _check_ports(config)
            session = RaySession(config.address, workers=config.shards + 2, ship_code=config.ship_code)
            with ThreadPoolExecutor(1, thread_name_prefix="kernels") as thread:
                warm = thread.submit(warm_up)
                with progress.step("started a private Ray" if config.private else f"joined Ray at {config.address}"):
                    cleanup.enter_context(session)
                # Actors start with the cache filled: each would otherwise compile the same kernels for itself.
                if not warm.done():
                    with progress.step("compiled kernels (once; cached from now on)"):
                        wait([warm])
                warm.result()
            kills = cleanup.enter_context(ExitStack())
            with progress.step(f"started {config.shards} shard{'s' * (config.shards > 1)}, head and coordinator"):
                actors = _make_actors(config, kills)
                addresses = _await_actors(config, actors)
            with progress.step(f"opened {', '.join(config.model_names)}"):
                target, http = _go_live(config, actors, addresses)
            return cls(config, actors, target, http, kills=kills, cleanup=cleanup.pop_all())

    def check(self) -> None:
        """Check that the head lives: without it nothing is served. Shards and the coordinator may be gone for a while.

        Raises:
            StartupError: It has died.
        """
        from deploy.actors import result

        try:
            result(self._actors.head.pid.remote(), timeout_s=PING_TIMEOUT_S)
        except TimeoutError as exc:
            raise StartupError(f"the head has not answered for {PING_TIMEOUT_S:g} s") from exc
        except RingpullError as exc:
            raise StartupError(f"the head is gone: {exc}") from exc

    def drain(self) -> None:
        """Have the head refuse new requests and answer those in flight, within the configured time."""
        drain(self._actors.head, self._config.drain_timeout_s)

    def leave_up(self) -> None:
        """Let the actors live on, on a joined Ray, when this context is left."""
        self._kills.pop_all()


def drain(head: Any, timeout_s: float) -> None:
    """Drain a head, given its handle; give up on one that is dead or does not answer in time."""
    from deploy.actors import result

    try:
        result(head.drain.remote(timeout_s), timeout_s=timeout_s + PING_TIMEOUT_S)
    except (StartupError, TimeoutError):
        return


def stop_joined(address: str, name: str, *, drain_timeout_s: float) -> int:
    """Drain and kill the actors of deployment `name` on a Ray cluster; return how many there were."""
    with RaySession(address):
        import ray

        named = _named_actors(name)
        if f"{name}/head" in named:
            drain(named[f"{name}/head"], drain_timeout_s)
        for handle in named.values():
            ray.kill(handle)
        _await_gone(name)
    return len(named)


def _check_ports(config: ServeConfig) -> None:
    """Fail on a port in use before anything is started; the head claims them for good."""
    for what, port in (("grpc", config.head.grpc_port), ("http", config.head.http_port)):
        with closing(claim(what, config.host or LOCALHOST, port)):
            pass


def _make_actors(config: ServeConfig, kills: ExitStack) -> _Actors:
    # Only now: Ray must not be loaded before its session has set the environment.
    import ray

    from deploy import actors as shells

    if not config.private and (taken := _named_actors(config.name)):
        raise StartupError(
            f"{len(taken)} actors of a deployment named {config.name} are on {config.address} already;"
            f" `ringpull stop --address {config.address} --name {config.name}` ends it, or choose another --name"
        )

    def make(role: str, shell: type, *args: Any, **resources: Any) -> Any:
        options = {"num_cpus": 0, **resources}
        if not config.private:
            options |= {"name": f"{config.name}/{role}", "lifetime": "detached"}
        handle: Any = ray.remote(shell).options(**options).remote(*args)
        if not config.private:
            # A private Ray takes its actors with it.
            kills.callback(ray.kill, handle)
        return handle

    host = LOCALHOST if config.private else None
    shards = {i: make(f"shard-{i}", shells.Shard, i, host, config.shard_threads) for i in range(config.shards)}
    # Ray hides GPUs from actors that ask for none.
    gpus = 1 if config.head.device != "cpu" and has_gpu() else 0
    head = make("head", shells.Head, config.head, config.host or host, num_gpus=gpus)
    how = shells.OpenHow(prefault=config.prefault, verify=config.verify)
    coordinator = make("coordinator", shells.Coordinator, str(config.state_dir), shards, head, how)
    return _Actors(shards, head, coordinator)


def _await_actors(config: ServeConfig, actors: _Actors) -> list[ShardAddress]:
    """Wait until every actor runs; return where the shards listen.

    Raises:
        StartupError: One could not be made, or is not up in time; the message names it.
    """
    from deploy.actors import result

    until_s = time.monotonic() + config.start_timeout_s
    calls = {f"shard {i}": handle.address.remote() for i, handle in actors.shards.items()}
    calls |= {"head": actors.head.pid.remote(), "coordinator": actors.coordinator.state.remote()}
    answers = {}
    for who, call in calls.items():
        try:
            answers[who] = result(call, timeout_s=max(0.0, until_s - time.monotonic()))
        except TimeoutError as exc:
            raise StartupError(f"the {who} is not up after {config.start_timeout_s:g} s; {_resources()}") from exc
        except StartupError as exc:
            raise StartupError(f"the {who} did not start: {exc}") from exc
    return [answers[f"shard {i}"] for i in actors.shards]


def _go_live(config: ServeConfig, actors: _Actors, addresses: Sequence[ShardAddress]) -> tuple[str, str]:
    from deploy.actors import result

    result(actors.coordinator.bring_up.remote(addresses, config.versions))
    bound = result(actors.head.address.remote())
    # An address to listen on is not always one to connect to.
    host = LOCALHOST if bound.host in ("0.0.0.0", "::") else bound.host
    return f"{host}:{bound.grpc_port}", f"{host}:{bound.http_port}"


def _resources() -> str:
    import ray

    free, all_there_is = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"Ray has {_told(free)} free of {_told(all_there_is)}"


def _told(resources: Mapping[str, float]) -> str:
    known = [f"{resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")]
    return ", ".join([*known, f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"])


def _named_actors(name: str) -> dict[str, Any]:
    """Return the handles of a deployment's actors on the Ray that is joined, by name."""
    import ray

    names = [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(f"{name}/")
    ]
    found = {}
    for full_name in sorted(names):
        try:
            found[full_name] = ray.get_actor(full_name, namespace=NAMESPACE)
        except ValueError:
            continue  # It died between the listing and now.
    return found


def _await_gone(name: str) -> None:
    until_s = time.monotonic() + KILL_TIMEOUT_S
    while left := _named_actors(name):
        if time.monotonic() > until_s:
            raise StartupError(f"{', '.join(left)} still live {KILL_TIMEOUT_S:g} s after they were killed")
        time.sleep(0.05)
