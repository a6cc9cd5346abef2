"""A head's life: what it opens, in which order, and what is left when it cannot start. No shard answers here."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.http.head_metrics import HeadMetrics
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.ps import allowance
from ringpull.ps.errors import CorruptData, StartupError, Unavailable
from ringpull.router.shard_map import ShardMap
from tests.inference.tiny import export_tiny
from tests.ports import free_port

pytestmark = pytest.mark.net


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = export_tiny(tmp_path_factory.mktemp("models"))
    # Nothing to check it by: no shard would answer.
    replace(Manifest.load(folder), samples=None).save(folder)
    return folder


@pytest.mark.medium
def test_head_serves_metadata_and_says_which_shard_is_dead(head: HeadProcess, nobody: ShardMap, version: Path):
    address = head.start(nobody, [str(version)])
    with Client(f"{address.host}:{address.grpc_port}", timeout_s=60, retries=0) as client:
        assert [model.name for model in client.models()] == ["tiny"]
        with pytest.raises(Unavailable, match="item"):
            client.predict("tiny", {"item": [1], "price": [2.0]})
        status = client.status()
    assert (status.epoch, status.requests, status.failed) == (4, 1, 1)
    assert [(shard.alive, bool(shard.error)) for shard in status.shards] == [(False, True)]
    assert "tiny/1" in repr(head)


@pytest.mark.medium
@pytest.mark.parametrize(("cores", "max_threads"), [(2.0, 2), (1.0, 0)])
def test_head_tells_how_many_threads_a_lone_request_may_have(
    nobody: ShardMap, version: Path, monkeypatch: pytest.MonkeyPatch, cores: float, max_threads: int
):
    monkeypatch.setattr(allowance, "cores", lambda: cores)
    head = HeadProcess(HeadConfig(device="cpu", dense_threads=None))
    try:
        address = head.start(nobody, [str(version)])
        with Client(f"{address.host}:{address.grpc_port}", timeout_s=60, retries=0) as client:
            [model] = client.models()
        assert (model.program.threads, model.program.max_threads) == (1, max_threads)
    finally:
        head.drain(timeout_s=0)


@pytest.mark.medium
def test_head_that_is_started_again_serves_on(head: HeadProcess, nobody: ShardMap, version: Path):
    assert head.start(nobody, [str(version)]) == head.start(nobody, [str(version)])


@pytest.mark.medium
def test_drained_head_closes_its_ports_and_draining_again_does_nothing(nobody: ShardMap, version: Path):
    config = HeadConfig(grpc_port=free_port(), http_port=free_port())
    for _ in range(2):  # the second takes the ports the first one left
        head = HeadProcess(config)
        address = head.start(nobody, [str(version)])
        assert (address.grpc_port, address.http_port) == (config.grpc_port, config.http_port)
        head.drain(timeout_s=60)
        head.drain(timeout_s=60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{address.http_port}/healthz")


def test_head_that_was_never_started_drains():
    HeadProcess(HeadConfig()).drain(timeout_s=0)


def test_port_in_use_leaves_the_other_port_free(nobody: ShardMap, version: Path):
    http_port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        head = HeadProcess(HeadConfig(grpc_port=taken, http_port=http_port))
        with pytest.raises(StartupError, match=f"grpc port {taken}"):
            head.start(nobody, [str(version)])
        socket.create_server(("127.0.0.1", http_port)).close()
        head.drain(timeout_s=0)


def test_versions_are_loaded_before_any_port_is_opened(nobody: ShardMap, version: Path, tmp_path: Path):
    (tmp_path / "1").mkdir()
    port = free_port()
    head = HeadProcess(HeadConfig(grpc_port=port))
    with pytest.raises(CorruptData, match="half-written"):
        head.start(nobody, [str(version), str(tmp_path / "1")])
    socket.create_server(("127.0.0.1", port)).close()
    head.drain(timeout_s=0)


@pytest.mark.medium
def test_what_could_not_listen_at_first_listens_when_it_is_told_again(
    nobody: ShardMap, version: Path, monkeypatch: pytest.MonkeyPatch
):
    """A head's own ports, opened and given up again, are not in its way. The coordinator tells it until it can."""
    real, failures = HeadMetrics.listen, [StartupError("metrics port 0 on 127.0.0.1 cannot be used")]

    def listen(*given: object) -> object:
        if failures:
            raise failures.pop()
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(HeadMetrics, "listen", listen)
    config = HeadConfig(grpc_port=free_port(), http_port=free_port())
    head = HeadProcess(config)
    try:
        with pytest.raises(StartupError, match="metrics port"):
            head.start(nobody, [str(version)])
        assert head.start(nobody, [str(version)])[1:3] == (config.grpc_port, config.http_port)
    finally:
        head.drain(timeout_s=0)
