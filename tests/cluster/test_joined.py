"""A deployment on a Ray cluster that was there before, and is there afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.conftest import RingpullRun
from tests.cluster.models import score, write_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SOMEBODY_ELSES_RAY = """
import ray, sys
options = {"include_dashboard": False, "num_cpus": 2, "object_store_memory": 80 << 20, "log_to_driver": False}
context = ray.init(address="local", **options)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    """A Ray cluster that lives until this module is done; without authentication, as `ray start` makes it."""
    environment["RAY_AUTH_MODE"] = "disabled"
    # As our cluster configs have it. At Ray's own 15, whatever else runs on this machine leaves nothing to the actors.
    environment["RAY_worker_niceness"] = "0"
    process = subprocess.Popen(
        [sys.executable, "-c", SOMEBODY_ELSES_RAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("")
    assert process.returncode == 0


def test_detached_on_a_joined_ray(
    address: str, tmp_path: Path, ringpull: RingpullRun, environment: dict[str, str]
) -> None:
    """No process stays here; actors live there under their names, until `stop` finds and ends them.

    They are told by the address of their node, though the head listens on every interface of it. Then the folder of the
    coordinator's state, which was made up for them, is gone too.
    """
    coordinators = Path(environment["RINGPULL_STATE_DIR"]) / "coordinators"
    model = write_model(tmp_path / "ranker")
    ports = ("--grpc-port", 0, "--http-port", 0)
    given = ("--address", address, "--host", "0.0.0.0", "--shards", 2, "--heads", "auto", "--detach")
    served = ringpull("serve", model, *given, *ports)
    assert served.returncode == 0, served.stderr
    assert "--heads auto: 1 head, as more on a joined Ray need a --grpc-port and" in served.stderr
    try:
        assert f" grpc={address.partition(':')[0]}:" in served.stdout
        predicted = ringpull("predict", "ranker", "--features", "user_id=7,genres=drama", "--json")
        assert json.loads(predicted.stdout)["outputs"]["score"] == pytest.approx([score(7, ["drama"])])

        assert len(list(coordinators.iterdir())) == 1
        again = ringpull("serve", model, "--address", address, *ports)
        assert again.returncode == 1
        assert "4 actors of a deployment named ringpull are on" in again.stderr
    finally:
        stopped = ringpull("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert list(coordinators.iterdir()) == []
    gone = ringpull("stop", "--address", address)
    assert gone.returncode == 1
    assert "there is no deployment named ringpull" in gone.stderr


def test_of_two_at_once_only_one_has_the_name(address: str, tmp_path: Path, ringpull: RingpullRun) -> None:
    """The other says so in one line, and takes nothing of the first one down."""
    model = write_model(tmp_path / "ranker")
    serve = partial(
        ringpull,
        "serve",
        model,
        "--address",
        address,
        "--detach",
        "--grpc-port",
        0,
        "--http-port",
        0,
        "--name",
        "twice",
    )
    try:
        with ThreadPoolExecutor(2) as threads:
            ran = [each.result() for each in [threads.submit(serve) for _ in range(2)]]
        assert sorted(each.returncode for each in ran) == [0, 1]
        [refused] = [each for each in ran if each.returncode == 1]
        assert "Traceback" not in refused.stderr
        assert "twice" in refused.stderr.splitlines()[-1]
        assert refused.stderr.splitlines()[-1].startswith("error: ")
        predicted = ringpull("predict", "ranker", "--features", "user_id=7,genres=drama", "--json")
        assert json.loads(predicted.stdout)["outputs"]["score"] == pytest.approx([score(7, ["drama"])])
    finally:
        stopped = ringpull("stop", "--address", address, "--name", "twice")
    assert stopped.returncode == 0, stopped.stderr


def test_an_address_where_no_ray_is(tmp_path: Path, ringpull: RingpullRun) -> None:
    model = write_model(tmp_path / "ranker")
    ran = ringpull("serve", model, "--address", "127.0.0.1:1")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "error: Ray at 127.0.0.1:1 cannot be joined" in ran.stderr.splitlines()[-1]
