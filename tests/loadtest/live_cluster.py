"""A deployment that can change, in this process: the real coordinator, shards with data folders, and a head. No Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringpull.deploy.model_folders import choose_versions, find_version, rows_below
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.fenced import FencedHead
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.errors import Unavailable
from ringpull.ps.fence import Order
from ringpull.ps.fenced import FencedShard
from ringpull.ps.process import ShardProcess
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.operations import ChangeStatus, GetChange
from ringpull.router.control.process import CoordinatorProcess, Settings, Timing
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Owner, StateStore

GRACE_S = 5.0
POLL_S = 0.05


class LocalMembers:
    """`ringpull.router.control.controls.Members`: plain actors in this process."""

    def __init__(self, data_dir: Path, head: HeadProcess) -> None:
        self._data_dir = data_dir
        self._head = FencedHead(head)
        self._shards: dict[int, FencedShard] = {}
        self._lock = threading.Lock()

    def shard(self, shard: int) -> FencedShard:
        with self._lock:
            if shard not in self._shards:
                raise Unavailable(f"there is no shard {shard}")
            return self._shards[shard]

    def head(self, head: int) -> FencedHead:
        assert head == 0
        return self._head

    def nodes(self) -> Mapping[str, str]:
        return {"here": "127.0.0.1"}

    def start_shard(self, shard: int, node: str | None) -> None:
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = FencedShard(ShardProcess(shard, node="here", data_dir=self._data_dir))

    def stop_shard(self, shard: int, order: Order | None = None) -> None:
        with self._lock:
            actor = self._shards.pop(shard, None)
        if actor is not None:
            actor.stop(grace_s=GRACE_S)

    def stop(self) -> None:
        for shard in list(self._shards):
            self.stop_shard(shard)


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """What is up."""

    target: str
    coordinator: CoordinatorProcess
    """Has the verbs of `ringpull.router.control.operations.Operations`."""

    def wait(self, begun: ChangeStatus) -> ChangeStatus:
        """Return how a change ended."""
        pause = threading.Event()
        while (status := self.coordinator.call(GetChange())).under_way:
            pause.wait(POLL_S)
        assert status.id == begun.id
        assert not status.error, status.error
        return status


@contextmanager
def live_cluster(model_dir: Path, folder: Path, *, shards: int, replicas: list[str]) -> Iterator[LiveCluster]:
    """Bring a model up; take everything down at the end."""
    head = HeadProcess(HeadConfig(grpc_port=0, http_port=0, default_timeout_s=60))
    members = LocalMembers(folder / "data", head)
    (folder / "state").mkdir()
    coordinator = CoordinatorProcess(
        StateStore(open_files(str(folder / "state"))),
        members,
        owner=Owner("test"),
        settings=Settings(place=find_version, streamed=True, rows_below=rows_below),
        timing=Timing(heartbeat_s=POLL_S),
    )
    try:
        cluster = LiveCluster("", coordinator)
        cluster.wait(coordinator.bring_up(initial_spec(range(shards), choose_versions([model_dir], replicas))))
        heartbeat = head.heartbeat(10.0)
        yield LiveCluster(f"{heartbeat.host}:{heartbeat.grpc_port}", coordinator)
    finally:
        coordinator.stop()
        head.drain(GRACE_S)
        members.stop()
