"""`ringpull` as a user runs it: commands in processes of their own, each test with a state folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.deploy.cluster.ray_session import CODE_ROOT

RingpullRun = Callable[..., subprocess.CompletedProcess[str]]
StatusOf = Callable[[str], dict[str, Any]]


class Serving(NamedTuple):
    """A foreground `ringpull serve` in a session of its own, ready."""

    process: subprocess.Popen[str]
    ready: dict[str, str]
    """`name=value` of the ready line."""
    log: Path
    """What it says on standard error."""

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Signal the whole process group, as a terminal does, and return the exit status."""
        os.killpg(self.process.pid, signum)
        return self.process.wait()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every command: a state folder, the packages of this checkout, wide tables."""
    state = tmp_path_factory.mktemp("state")
    return {**os.environ, "RINGPULL_STATE_DIR": str(state), "PYTHONPATH": str(CODE_ROOT), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def ringpull(environment: dict[str, str]) -> RingpullRun:
    """Run a command to its end."""

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ringpull", *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.fixture(scope="module")
def status_of(environment: dict[str, str]) -> StatusOf:
    """Return what `status --json` says of a target, or nothing where it fails.

    The command runs in this process: what tests ask again and again must not cost a core that others wait for.
    """

    def ask(target: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["status", "--json", "--target", target], env=environment)
        found: dict[str, Any] = json.loads(done.stdout) if done.exit_code == 0 else {}
        return found

    return ask


@pytest.fixture(scope="module")
def serve(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Serving]]:
    """Start a foreground `serve` on free ports and wait for its ready line; whatever is left at the end is killed.

    As if shards were on machines of their own: with local reads what is done to them here would not be felt by heads.
    """
    started: list[subprocess.Popen[str]] = []
    logs = tmp_path_factory.mktemp("log")

    def start(*arguments: object) -> Serving:
        log = logs / f"stderr-{len(started)}"
        reads = () if "--local-reads" in arguments else ("--local-reads", "off")
        ports = ("--http-port", "0") if "--grpc-port" in arguments else ("--grpc-port", "0", "--http-port", "0")
        command = [sys.executable, "-m", "ringpull", "serve", *map(str, arguments), *reads, *ports]
        with log.open("w") as sink:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=environment,
                start_new_session=True,
            )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ringpull ready "), f"not ready: {line!r}\n{log.read_text()}"
        return Serving(process, dict(word.split("=", 1) for word in line.split()[2:]), log)

    yield start
    for process in started:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for each in below:
            each.kill()
        process.communicate()


def alive(processes: list[psutil.Process]) -> list[str]:
    """The names of those that still run, after a moment to end."""
    _, left = psutil.wait_procs(processes, timeout=30)  # half of what Ray's agents take that are left to themselves
    return [" ".join(process.cmdline())[:100] for process in left]
