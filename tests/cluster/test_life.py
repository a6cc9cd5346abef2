"""Detached serving, failures of a bring-up, and deaths afterwards, each on a private Ray."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import examples.half_plus_two
from ringpull.deploy.served import ServedRecord
from tests.cluster.conftest import RingpullRun, alive
from tests.cluster.models import write_model
from tests.cluster.watching import actors
from tests.deploy.folders import flip_byte

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "ranker")


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=True, text=True).stdout


def only_record(environment: dict[str, str]) -> ServedRecord:
    [path] = (Path(environment["RINGPULL_STATE_DIR"]) / "served").glob("*.json")
    fields = json.loads(path.read_text())
    return ServedRecord(**{**fields, "models": tuple(fields["models"])})


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_a_model_without_tables_is_detached_asked_with_curl_and_stopped(
    tmp_path: Path, ringpull: RingpullRun, environment: dict[str, str]
) -> None:
    """The command returns when predictions work; `stop` returns when nothing is left, however many heads there are.

    The model is the first example of TensorFlow Serving's documentation.
    """
    half_plus_two = examples.half_plus_two.export(tmp_path).parent
    given = ("--shards", 1, "--heads", "auto", "--detach", "--grpc-port", 0, "--http-port", 0)
    ran = ringpull("serve", half_plus_two, *given)
    assert ran.returncode == 0, ran.stderr
    [heads] = re.findall(r"^--heads auto: (\d) head", ran.stderr, re.MULTILINE)
    record = only_record(environment)
    assert ran.stdout == f"{record.ready_line}\n"
    assert record.log is not None
    process = record.process()
    assert process is not None
    everything = [process, *process.children(recursive=True)]
    assert len(actors(process, "Head")) == int(heads)
    try:
        url = f"http://{record.http}/v1/models/half_plus_two"
        assert curl("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", f"{url}:predict") == (
            '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
        )
        assert json.loads(curl(url))["model_version_status"][0]["state"] == "AVAILABLE"
    finally:
        stopped = ringpull("stop", "--target", record.target)
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped {record.target}\n")
    assert alive(everything) == []
    assert ringpull("stop").returncode == 1, "there is nothing to stop any more"


def test_a_killed_serve_leaves_no_files(model: Path, ringpull: RingpullRun, environment: dict[str, str]) -> None:
    """Its Ray ends with it, here without the minute that its agents take; the next command removes what was on disk."""
    ran = ringpull("serve", model, "--detach", "--grpc-port", 0, "--http-port", 0)
    assert ran.returncode == 0, ran.stderr
    record = only_record(environment)
    process = record.process()
    assert process is not None
    below = process.children(recursive=True)
    for each in (process, *below):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    assert alive(below) == []
    assert record.ray_folder is not None
    folder = Path(record.ray_folder)
    assert folder.is_dir()
    assert ringpull("stop").returncode == 1, "nothing is served any more"
    assert not folder.exists()


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "detached"])
def test_a_port_in_use_is_one_clear_line(model: Path, ringpull: RingpullRun, detach: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        ran = ringpull("serve", model, "--grpc-port", port, "--http-port", 0, *detach)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"error: grpc port {port} on 127.0.0.1 cannot be used" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_damaged_data_fails_the_bring_up_and_leaves_nothing(tmp_path: Path, ringpull: RingpullRun) -> None:
    """A shard's error comes out as it is, with the file's name, and Ray is gone."""
    model = write_model(tmp_path / "ranker")
    positions = model / "1" / "user" / "positions"
    flip_byte(positions)
    ran = ringpull("serve", model, "--grpc-port", 0, "--http-port", 0)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[-1].startswith(f"error: shard 0: {positions}: ")
    assert "Traceback" not in ran.stderr


def test_an_interrupted_bring_up_ends_at_once_and_leaves_nothing(model: Path, environment: dict[str, str]) -> None:
    """The signal comes while `serve` waits in Ray for its actors."""
    command = [sys.executable, "-m", "ringpull", "serve", str(model), "--grpc-port", "0", "--http-port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "started a private Ray" not in process.stderr.readline():
            assert process.poll() is None
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait() == 143, said
        assert process.stdout.read() == ""
    assert said.splitlines()[-1] == "interrupted by SIGTERM"
    assert "Traceback" not in said
    assert alive(below) == []
