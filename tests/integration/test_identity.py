"""A version exported anew under its own number while it serves: a shard or a head that restarts never mixes contents.

The real coordinator, shards and head, in this process. Two models on two shards: whatever becomes of the one, the other
goes on.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ringpull import Client
from ringpull.deploy.model_folders import choose_versions, find_version, loss_of, rows_below
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.fenced import FencedHead
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.errors import InvalidInput, OtherContent, RingpullError, Unavailable
from ringpull.ps.fence import Order
from ringpull.ps.fenced import FencedShard
from ringpull.ps.process import ShardProcess
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.operations import GetChange, GetStatus, Publish, Rebalance, Rollback
from ringpull.router.control.process import CoordinatorProcess, Settings, Timing
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Owner, StateStore
from tests.cluster.models import score, write_model

pytestmark = [pytest.mark.net, pytest.mark.medium]

PATIENCE_S: Final = 600.0
USERS: Final = [3, 40, 500, 999]
EXPECTED: Final = np.array([score(user, ["drama"]) for user in USERS])


def until(what: str, condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"never: {what}"
        time.sleep(0.02)


class Members:
    """`ringpull.router.control.controls.Members`: plain processes in this one, which can be restarted."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._shards: dict[int, ShardProcess] = {}
        self._fenced: dict[int, FencedShard] = {}
        self._lock = threading.Lock()
        self._before: list[HeadProcess] = []
        self.start_head()

    def start_head(self) -> None:
        self.process = HeadProcess(HeadConfig(grpc_port=0, http_port=0, default_timeout_s=60))
        self._head = FencedHead(self.process)

    def shard(self, shard: int) -> FencedShard:
        with self._lock:
            if shard not in self._fenced:
                raise Unavailable(f"there is no shard {shard}")
            return self._fenced[shard]

    def head(self, head: int) -> FencedHead:
        return self._head

    def nodes(self) -> dict[str, str]:
        return {"here": "127.0.0.1"}

    def start_shard(self, shard: int, node: str | None) -> None:
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = ShardProcess(shard, node="here", data_dir=self._data_dir)
                self._fenced[shard] = FencedShard(self._shards[shard])

    def stop_shard(self, shard: int, order: Order | None = None) -> None:
        with self._lock:
            process, _ = self._shards.pop(shard, None), self._fenced.pop(shard, None)
        if process is not None:
            process.stop(grace_s=0)

    def restart_shard(self, shard: int) -> None:
        self.stop_shard(shard)
        self.start_shard(shard, None)

    def restart_head(self) -> None:
        self._before.append(self.process)  # Somebody may just be asking it: it ends with the rest.
        self.start_head()

    def stop(self) -> None:
        for head in (*self._before, self.process):
            head.drain(0)
        for shard in list(self._shards):
            self.stop_shard(shard)


class Deployment:
    """What is up, and answers held against the content that it was brought up with."""

    def __init__(self, members: Members, coordinator: CoordinatorProcess) -> None:
        self.members = members
        self.coordinator = coordinator
        self.refused: list[RingpullError] = []

    def answers(self, model: str, version: int | None = None) -> bool:
        """Ask; return whether there was an answer, which must be right."""
        heartbeat = self.members.process.heartbeat(10.0)
        if not heartbeat.grpc_port:
            return False
        features = {"user_id": USERS, "genres": [["drama"]] * len(USERS)}
        with Client(f"{heartbeat.host}:{heartbeat.grpc_port}", timeout_s=20, retries=0) as client:
            try:
                answer = client.predict(model, features, version=version)
            except RingpullError as exc:
                self.refused.append(exc)
                return False
        np.testing.assert_allclose(answer.outputs["score"], EXPECTED, rtol=1e-5)
        return True

    def ended(self) -> str:
        """Wait for the change to end; return its error."""
        until("the end of the change", lambda: not self.coordinator.call(GetChange()).under_way)
        return self.coordinator.call(GetChange()).error

    def warns(self, *words: str) -> bool:
        return any(all(word in each for word in words) for each in self.coordinator.call(GetStatus()).warnings)


@contextmanager
def deployed(models: list[Path], folder: Path, *, data_dir: Path | None) -> Iterator[Deployment]:
    members = Members(data_dir)
    (folder / "state").mkdir()
    coordinator = CoordinatorProcess(
        StateStore(open_files(str(folder / "state"))),
        members,
        owner=Owner("test"),
        settings=Settings(place=find_version, streamed=data_dir is not None, rows_below=rows_below, loss_of=loss_of),
        timing=Timing(heartbeat_s=0.05, files_s=0.1),
    )
    try:
        coordinator.bring_up(initial_spec(range(2), choose_versions(models)))
        deployment = Deployment(members, coordinator)
        assert deployment.ended() == ""
        yield deployment
    finally:
        coordinator.stop()
        members.stop()


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [write_model(tmp_path / "ranker"), write_model(tmp_path / "other")]


def export_anew(model: Path, aside: Path) -> None:
    """Delete version 1 and export it once more, with other rows; what was there is kept aside."""
    (model / "1").rename(aside)
    write_model(model, factor=2.0)


def test_without_copies_a_restarted_shard_refuses_until_the_right_files_are_back(
    models: list[Path], tmp_path: Path
) -> None:
    with deployed(models, tmp_path, data_dir=None) as deployment:
        assert deployment.answers("ranker")
        export_anew(models[0], tmp_path / "right")
        until("a warning", lambda: deployment.warns("ranker/1 serves on", "export under a new number"))
        assert deployment.answers("ranker"), "what is open is as it was"
        deployment.members.restart_shard(0)
        until("a warning", lambda: deployment.warns("shard 0", "ranker/1 is not served", "export under a new number"))
        until("the other model", lambda: deployment.answers("other"))
        for _ in range(30):
            deployment.answers("ranker")
            assert deployment.answers("other")
        assert type(deployment.refused[-1]) is Unavailable
        assert "export under a new number" in str(deployment.refused[-1])
        with pytest.raises(OtherContent, match="export under a new number"):
            deployment.coordinator.call(Publish(model="ranker", version=1))
        shutil.rmtree(models[0] / "1")
        (tmp_path / "right").rename(models[0] / "1")
        until("all is well", lambda: deployment.answers("ranker"))
        until("no warning", lambda: not deployment.coordinator.call(GetStatus()).warnings)


def test_with_copies_a_restarted_shard_goes_on_and_needs_no_file(models: list[Path], tmp_path: Path) -> None:
    with deployed(models, tmp_path, data_dir=tmp_path / "data") as deployment:
        export_anew(models[0], tmp_path / "right")
        for shard in (0, 1):
            deployment.members.restart_shard(shard)
            until("all is well", lambda: deployment.answers("ranker") and deployment.answers("other"))
        # A new shard has its rows from the others, not from the files.
        deployment.coordinator.call(Rebalance(shards=3))
        assert deployment.ended() == ""
        for _ in range(10):
            assert deployment.answers("ranker")


def test_a_restarted_head_serves_the_other_model_and_the_way_out_is_another_number(
    models: list[Path], tmp_path: Path
) -> None:
    with deployed(models, tmp_path, data_dir=None) as deployment:
        export_anew(models[0], tmp_path / "right")
        # So that its dense program is another one too: what a head reads, and not only what shards do.
        schema = models[0] / "1" / "manifest.json"
        schema.write_text(schema.read_text() + "\n")
        deployment.members.restart_head()
        until("the other model", lambda: deployment.answers("other"))
        assert not deployment.answers("ranker")
        assert "ranker/1 is not served by this head" in str(deployment.refused[-1])
        assert deployment.warns("head 0", "ranker/1 is not served", "export under a new number")
        write_model(models[0], 2)
        deployment.coordinator.call(Publish(model="ranker", version=2))
        assert deployment.ended() == ""
        assert deployment.answers("ranker")
        until("it is let go", lambda: deployment.warns("ranker/1 was let go", "other content"))
        with pytest.raises(InvalidInput, match="ranker/1 was let go"):
            deployment.coordinator.call(Rollback(model="ranker"))
        until("no trace", lambda: not deployment.warns("is not served"))


@pytest.mark.parametrize("copies", [False, True])
def test_without_the_folder_of_a_kept_version_everything_goes_on(
    models: list[Path], tmp_path: Path, copies: bool
) -> None:
    with deployed(models, tmp_path, data_dir=tmp_path / "data" if copies else None) as deployment:
        for number in (2, 3):
            write_model(models[0], number)
        deployment.coordinator.call(Publish(model="ranker", version=2))
        assert deployment.ended() == ""
        assert deployment.answers("ranker", 1)
        shutil.rmtree(models[0] / "1")
        deployment.members.restart_shard(1)
        deployment.coordinator.call(Rebalance(shards=3))
        assert deployment.ended() == ""
        assert deployment.warns("ranker/1 was let go", "removed")
        deployment.members.restart_head()
        until("all is well", lambda: deployment.answers("ranker"))
        deployment.coordinator.call(Publish(model="ranker", version=3))
        assert deployment.ended() == ""
        assert deployment.answers("ranker", 2)
        assert deployment.answers("ranker", 3)
