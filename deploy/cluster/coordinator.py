"""The coordinator as Ray runs it, and how it reaches shards and heads over Ray."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, cast

from ringpull.deploy.cluster import control_store
from ringpull.deploy.cluster.actor_spec import ActorSpec
from ringpull.deploy.cluster.actors import ProcessActor, node_id, was_restarted
from ringpull.deploy.cluster.calls import ActorGone, RemoteProcess, find, result
from ringpull.deploy.cluster.logs import configure
from ringpull.deploy.cluster.members import await_up, end, make, make_shard, node_addresses, preferring
from ringpull.deploy.model_folders import find_version, find_versions, loss_of, rows_below
from ringpull.ps.errors import Unavailable
from ringpull.ps.fence import Order
from ringpull.ps.live.settings import Durability
from ringpull.router.control.controls import HeadControl, ShardControl
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Owner, StateStore

CALLS_AT_ONCE: Final = 64
"""Heads and operators ask side by side; each call is short, but for those that wait for a disk."""


LEAVE_TIMEOUT_S: Final = 10.0
"""Longest wait for a shard that is to end itself, before it is killed."""

ANSWERS_S: Final = 1.0
"""Time for answers that are on their way, before the process ends."""

RESTART: Final = {"restart": 10.0}
"""Calls of members that are begun within so many seconds or not at all: an operator was told that they failed."""


class CoordinatorActor(ProcessActor):
    """The coordinator of one deployment: a `CoordinatorProcess`, which heads call as `Operations`.

    Args:
        actor_spec: What its members are made from.
        state_dir: Folder or URL of its saved state, where the deployment's first one is.
        owner: The deployment, as the owner of that.
    """

    def __init__(self, actor_spec: ActorSpec, state_dir: str, owner: Owner) -> None:
        restarted = was_restarted()
        configure(actor_spec.log, actor_spec.name, "coordinator", restarted=restarted)
        # One for all tries: it remembers for how long which file could not be read.
        store = cache(lambda: StateStore(open_files(state_dir)))
        make = partial(_coordinator_process, actor_spec, store, owner)
        super().__init__("the coordinator", make, restarted=restarted)


def _coordinator_process(actor_spec: ActorSpec, store: Callable[[], StateStore], owner: Owner) -> CoordinatorProcess:
    return CoordinatorProcess(
        store(),
        MembersOverRay(actor_spec),
        owner=owner,
        must_exist=True,
        settings=Settings(
            place=find_version,
            find=find_versions,
            heads=actor_spec.heads,
            keep=actor_spec.keep,
            streamed=actor_spec.shard.data_dir is not None,
            rows_in_memory=actor_spec.shard.live.durability is Durability.MEMORY,
            rows_below=rows_below,
            loss_of=loss_of,
            roots=actor_spec.roots,
            orphans_possible=actor_spec.joined,
            check_startable=control_store.check,
        ),
        failed=_end_process,
    )


def _end_process() -> None:
    """End this process. Ray starts it anew, and it goes on from what is saved.

    Not at once: an operator whose request was accepted as the term ended has an answer on its way.
    """
    time.sleep(ANSWERS_S)
    os._exit(1)


def make_coordinator(actor_spec: ActorSpec, state_dir: str, owner: Owner) -> Any:
    """Start the coordinator's actor; return its handle.

    Raises:
        StartupError: As for `make`.
    """
    return make(
        actor_spec.coordinator_name,
        CoordinatorActor,
        actor_spec,
        state_dir,
        owner,
        max_concurrency=CALLS_AT_ONCE,
        # A folder is there only on this node, unless it is shared.
        **preferring(node_id()),
    )


class MembersOverRay:
    """`ringpull.router.control.controls.Members`: the actors of one deployment."""

    def __init__(self, actor_spec: ActorSpec) -> None:
        self._actor_spec = actor_spec
        self._shards: dict[int, ShardControl] = {}
        self._heads: dict[int, HeadControl] = {}
        self._starting: dict[str, threading.Lock] = {}

    def shard(self, shard: int) -> ShardControl:
        name = self._actor_spec.shard_name(shard)
        return self._shards.setdefault(shard, cast("ShardControl", RemoteProcess(name, in_time=RESTART)))

    def head(self, head: int) -> HeadControl:
        name = self._actor_spec.head_name(head)
        return self._heads.setdefault(head, cast("HeadControl", RemoteProcess(name, in_time=RESTART)))

    def nodes(self) -> dict[str, str]:
        return node_addresses()

    def start_shard(self, shard: int, node: str | None) -> None:
        if node is None:
            # It is away, and so are perhaps all others of its node: side by side, since each is missed.
            self._start_shard(shard, node)
            return
        # New ones one after the other on a node: a process that starts up takes a processor from those that answer.
        with self._starting.setdefault(node, threading.Lock()):
            self._start_shard(shard, node)

    def _start_shard(self, shard: int, node: str | None) -> None:
        handle = make_shard(self._actor_spec, shard, node, found_ok=True)
        await_up(f"shard {shard}", handle.pid.remote(), self._actor_spec.start_timeout_s)

    def stop_shard(self, shard: int, order: Order) -> None:
        name = self._actor_spec.shard_name(shard)
        try:
            handle = find(name)
        except Unavailable:
            return
        if order.incarnation:
            # It ends itself, since it knows best whether this is an order of somebody who leads, and meant for it.
            with suppress(TimeoutError, ActorGone):
                result(handle.invoke.remote("leave", order), timeout_s=LEAVE_TIMEOUT_S)
        end({name: handle})
