"""The shards and heads of one deployment as Ray's actors: made, found by name, ended.

All actors are detached, and Ray restarts them for as long as it lives itself: on a joined Ray they outlive the process
that made them, on a private one they end with it. One that was restarted has its name, its handle and what it was made
with, and nothing else: what it is to hold and to serve, the coordinator tells it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import NAMESPACE, ActorSpec
from ringpull.deploy.cluster.actors import HeadActor, ShardActor
from ringpull.deploy.cluster.calls import find, result
from ringpull.ps.errors import RingpullError, StartupError, Unavailable
from ringpull.ps.thread_call import Hangs, begun, outcome

T = TypeVar("T")

CALLS_AT_ONCE: Final = 8
"""Calls that a shard or head runs side by side: a heartbeat must not wait behind a `prepare`, nor a `cancel`."""

POLL_S: Final = 0.05

KILL_TIMEOUT_S: Final = 20.0

FIND_TIMEOUT_S: Final = 30.0
"""Longest wait for Ray to say which actors there are, which takes it milliseconds."""

ANY_MEMORY_BYTES: Final = 1
"""Memory that an actor asks for, so that Ray looks where to place it: every node has it, and nobody misses it."""


def make(name: str, actor_class: type, *args: Any, **options: Any) -> Any:
    """Start a named actor and return its handle; it may not be up yet.

    Raises:
        StartupError: Somebody has made one of that name, or Ray refuses it.
    """
    try:
        return (
            ray.remote(actor_class)
            .options(name=name, namespace=NAMESPACE, lifetime="detached", max_restarts=-1, num_cpus=0, **options)
            .remote(*args)
        )
    except ValueError as exc:  # Ray's ActorAlreadyExistsError is one
        raise StartupError(f"actor {name} cannot be made: {exc}") from exc
    except ray.exceptions.RayError as exc:
        raise StartupError(f"actor {name} cannot be made: {exc}") from exc


def make_shard(actor_spec: ActorSpec, shard: int, node: str | None = None, *, found_ok: bool = False) -> Any:
    """Start a shard's actor; return its handle.

    Args:
        node: Ray's id of the node it is to be on; None: spread over all.
        found_ok: One that is there already is as good.

    Raises:
        StartupError: As for `make`.
    """
    # Hard: it is restarted where it was, beside its own copies, and nowhere else. If the node is gone it is dead, and
    # the coordinator makes another one elsewhere.
    where: Any = "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=False)
    return make(
        actor_spec.shard_name(shard),
        ShardActor,
        shard,
        actor_spec,
        scheduling_strategy=where,
        max_concurrency=CALLS_AT_ONCE,
        get_if_exists=found_ok,
    )


def make_head(actor_spec: ActorSpec, head: int, node: str) -> Any:
    """Start a head's actor; return its handle.

    Args:
        node: Ray's id of the node it prefers. One that asks for a GPU goes where Ray has one.

    Raises:
        StartupError: As for `make`.
    """
    where = {"num_gpus": actor_spec.gpus} if actor_spec.gpus else preferring(node)
    return make(actor_spec.head_name(head), HeadActor, head, actor_spec, max_concurrency=CALLS_AT_ONCE, **where)


def preferring(node: str) -> dict[str, Any]:
    """Return the options of an actor that is started and restarted on a node for as long as that node is there.

    Ray places an actor that asks for nothing at random, whatever it prefers (`GetBestSchedulableNode`, 2.60).
    """
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True), "memory": ANY_MEMORY_BYTES}


def actors_of(deployment: str) -> dict[str, Any]:
    """Return the handles of a deployment's actors, by name."""
    names = [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(f"{deployment}/")
    ]
    found = {}
    for name in sorted(names):
        try:
            found[name] = find(name)
        except Unavailable:
            continue  # It died between the listing and now.
    return found


def actors_in_time(deployment: str, timeout_s: float | None = None) -> dict[str, Any]:
    """Return the handles of a deployment's actors, by name.

    Args:
        timeout_s: Longest wait; None: `FIND_TIMEOUT_S`.

    Raises:
        Unavailable: Ray's control store is gone, fails, or has not said which in time.
    """
    limit_s = FIND_TIMEOUT_S if timeout_s is None else timeout_s
    return in_time(lambda: actors_of(deployment), f"which actors {deployment} has", limit_s)


def in_time(ask: Callable[[], T], what: str, timeout_s: float) -> T:
    """Return what is asked of Ray's control store, or of an actor that is found by it.

    Where that accepts connections and answers nothing, Ray blocks, and no limit of its own ends that. A thread can be
    left to it.

    Args:
        what: What it is asked, for the message.

    Raises:
        Unavailable: It is gone, fails, or has not answered in time.
    """

    def checked() -> T:
        control_store.check()
        return ask()

    try:
        return outcome(begun(checked, name="control store"), timeout_s)
    except RingpullError:
        raise
    except Hangs as exc:
        raise Unavailable(
            f"Ray's control store (GCS) has not said within {timeout_s:g} s {what}: it hangs; end that Ray, or wait"
            " until it answers again"
        ) from exc
    except Exception as exc:  # Ray's own, and whatever its client raises while the control store dies
        raise Unavailable(f"Ray's control store (GCS) does not say {what}: {type(exc).__name__}: {exc}") from exc


def end(handles: Mapping[str, Any]) -> None:
    """Kill actors for good, side by side, and wait until their names are free.

    Raises:
        StartupError: Some live on.
        Unavailable: Whether they do, Ray's control store does not say.
    """
    in_time(lambda: _end(handles), "that what was killed has ended", 2 * KILL_TIMEOUT_S)


def _end(handles: Mapping[str, Any]) -> None:
    # The coordinator first: it would make the others anew.
    for name in sorted(handles, key=lambda name: not name.endswith("/coordinator")):
        ray.kill(handles[name])
    until_s = time.monotonic() + KILL_TIMEOUT_S
    left = dict(handles)
    while left := {name: handle for name, handle in left.items() if _is_named(name)}:
        if time.monotonic() > until_s:
            raise StartupError(f"{', '.join(left)} still live {KILL_TIMEOUT_S:g} s after they were killed")
        time.sleep(POLL_S)


def _is_named(name: str) -> bool:
    try:
        find(name)
    except Unavailable:
        return False
    return True


def node_addresses() -> dict[str, str]:
    """Return the nodes that live, in a fixed order: Ray's id -> address."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in sorted(nodes, key=_node_id) if node["Alive"]}


def _node_id(node: Mapping[str, Any]) -> str:
    return str(node["NodeID"])


def resources() -> str:
    """Return what Ray has, for errors about actors that do not come up."""
    free, all_there_is = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"Ray has {_text(free)} free of {_text(all_there_is)}"


def _text(resources: Mapping[str, float]) -> str:
    known = [f"{resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")]
    return ", ".join([*known, f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"])


def await_up(who: str, call: Any, timeout_s: float, *, until_s: float | None = None) -> None:
    """Wait for an actor's first answer.

    Args:
        timeout_s: Longest wait, for the message.
        until_s: When it ends, `time.monotonic()` seconds; None: `timeout_s` from now.

    Raises:
        Unavailable: It has died; Ray restarts it, or it was ended.
        StartupError: It could not be made, or is not up in time; the message names it and what Ray has.
    """
    left_s = timeout_s if until_s is None else max(0.0, until_s - time.monotonic())
    try:
        result(call, timeout_s=left_s)
    except TimeoutError as exc:
        raise StartupError(f"the {who} is not up after {timeout_s:g} s; {resources()}") from exc
    except StartupError as exc:
        raise StartupError(f"the {who} did not start: {exc}") from exc
