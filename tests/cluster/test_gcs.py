"""Ray's control store (GCS) with its state in Redis: it dies, comes back, and all that dies after it comes back too."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import psutil
import pytest

from ringpull.deploy.cluster import control_store
from tests.cluster.conftest import RingpullRun
from tests.cluster.models import write_model
from tests.cluster.watching import Watch, gcs_of, until
from tests.ports import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS: Final = {1: 1000, 2: 500}
"""Version -> rows of its user table: every answer tells which version it is from."""

MARK: Final = "RINGPULL_TEST_RAY"
"""In the environment of every process of a Ray that a test started: it leaves its parent."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder whose path is short: Ray puts sockets deep below it."""
    folder = Path(tempfile.mkdtemp(prefix="rp-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_address(scratch: Path) -> Iterator[str]:
    """A throwaway Redis on loopback."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on this machine")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(scratch)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return True
        return False

    until("Redis listens", listens)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


class StartedRay:
    """What `ray start --head` has started, with its state in Redis."""

    def __init__(self, environment: dict[str, str], redis_address: str, folder: Path) -> None:
        self._mark = uuid4().hex
        self.address = f"127.0.0.1:{free_port()}"
        # Of everything on this Ray; `ray start` leaves, and what it started has no parent that could be asked for it.
        environment.update({MARK: self._mark, "RAY_AUTH_MODE": "disabled", control_store.RECONNECT_VARIABLE: "600"})
        self._environment = {**environment, "RAY_REDIS_ADDRESS": redis_address}
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
            *("--port", self.address.partition(":")[2], "--node-ip-address", "127.0.0.1", "--num-cpus", "4"),
            *("--object-store-memory", str(80 << 20), "--include-dashboard=false", "--disable-usage-stats"),
            *("--temp-dir", str(folder / "ray")),
        ]
        self._restarted: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """As on a machine that boots: the same command, again and again."""
        ran = subprocess.run(self._command, env=self._environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def actors(self, kind: str) -> set[int]:
        found = set()
        for process in self.processes():
            with suppress(psutil.Error):
                if process.cmdline()[0].startswith(f"ray::{kind}"):
                    found.add(process.pid)
        return found

    def kill_gcs(self) -> Callable[[], None]:
        """kill -9 of the control store; return what starts it again, as whoever watches over that process does."""
        gcs = gcs_of(self.processes())
        command, environment = gcs.cmdline(), gcs.environ()
        gcs.kill()

        def again() -> None:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tempfile.gettempdir(),
            )
            self._restarted.append(process)

        return again

    def end(self) -> None:
        """kill -9 of everything."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        for restarted in self._restarted:
            restarted.wait()
        until("all of Ray is gone", lambda: not self.processes())


@pytest.fixture
def started_ray(environment: dict[str, str], redis_address: str, scratch: Path) -> Iterator[StartedRay]:
    before = dict(environment)
    started = None
    try:
        started = StartedRay(environment, redis_address, scratch)
        yield started
    finally:
        if started is not None:
            started.end()
        environment.clear()
        environment.update(before)


@pytest.fixture
def target(tmp_path: Path, started_ray: StartedRay, ringpull: RingpullRun) -> Iterator[str]:
    """Of a deployment on that Ray: two shards, two copies of everything."""
    model = write_model(tmp_path / "ranker", 1, rows=ROWS[1], user_replicas=2)
    where = ("--address", started_ray.address, "--host", "127.0.0.1")
    ports = ("--grpc-port", free_port(), "--http-port", free_port())
    ran = ringpull("serve", model, *where, *ports, "--shards", 2, "--replicas", "genre=all", "--detach")
    assert ran.returncode == 0, ran.stderr
    target = f"127.0.0.1:{ports[1]}"
    yield target
    stopped = ringpull("stop", "--target", target)
    assert stopped.returncode == 0, stopped.stderr


@pytest.mark.slow
def test_a_control_store_that_is_started_again_knows_everything(
    tmp_path: Path, started_ray: StartedRay, target: str, ringpull: RingpullRun
) -> None:
    """While it is away predictions go on; then a version is published, a killed shard comes back, all are restarted."""
    with Watch(target, ROWS, retries=0) as watch:
        watch.goes_on()
        start_gcs = started_ray.kill_gcs()
        watch.goes_on()
        start_gcs()
        begin_s = time.monotonic()
        write_model(tmp_path / "ranker", 2, rows=ROWS[2], user_replicas=2)
        until("it is published", lambda: ringpull("publish", "ranker/2", "--target", target).returncode == 0)
        until("version 2 is live", lambda: 2 in watch.versions)
        print(f"published {time.monotonic() - begin_s:.1f} s after the control store was started again")

        before = started_ray.actors("Shard")
        psutil.Process(min(before)).kill()
        until("two shards", lambda: len(started_ray.actors("Shard") - before) == 1)
        restarted = ringpull("restart", "--rolling", "--shards", "--target", target)
        assert restarted.returncode == 0, restarted.stderr
        assert not before & started_ray.actors("Shard")
        watch.goes_on()
    assert (watch.wrong, watch.failed, watch.filled) == ([], [], 0)


@pytest.mark.slow
def test_all_of_ray_is_killed_and_started_again_and_the_deployment_is_back(
    started_ray: StartedRay, target: str
) -> None:
    """On the same ports, by nobody's doing: Ray starts the actors, the coordinator reads its state."""
    with Watch(target, ROWS) as watch:
        watch.goes_on()
        started_ray.end()
        begin_s = time.monotonic()
        started_ray.start()
        started_s = time.monotonic()
        watch.goes_on()
        until("two shards", lambda: len(started_ray.actors("Shard")) == 2)
        watch.goes_on()
    up_s, back_s = started_s - begin_s, time.monotonic() - started_s
    print(f"Ray was up again after {up_s:.1f} s, all of the deployment {back_s:.1f} s later")
    assert watch.wrong == []
