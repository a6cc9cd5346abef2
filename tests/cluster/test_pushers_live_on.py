"""Pushers that outlive what they push to, and processes that are forked from theirs: each push applies once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from ringpull import Client
from ringpull.loadtest.chaos.pushed_model import PUSHED, TABLE
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.pushed import KEYS, export, push, rows_of, shown
from tests.cluster.watching import actors, until
from tests.patience import PATIENCE_S
from tests.ports import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FORKED = """
import os, sys, traceback

import numpy as np

from ringpull import Client
from ringpull.loadtest.chaos.pushed_model import DIM, FEATURE, LOW, PUSHED, TABLE
from ringpull.ps.errors import RingpullError

def rows(number):
    return np.full((1, DIM), number, np.float32)

with Client(sys.argv[1], timeout_s=60) as client, client.pusher(PUSHED, writer="trainer") as pusher:
    pusher.push(TABLE, [1], rows(11))
    assert pusher.flush().rows == 1
    pusher.push(TABLE, [2], rows(12))  # on its way, perhaps, as the process forks
    child = os.fork()
    if not child:
        status = 1
        try:
            for refused in (lambda: pusher.push(TABLE, [1], rows(66)), pusher.flush):
                try:
                    refused()
                except RingpullError as exc:
                    assert "was forked; make one of another name in this process" in str(exc), exc
                else:
                    raise AssertionError("a forked pusher pushes")
            with Client(sys.argv[1], timeout_s=60) as own, own.pusher(PUSHED, writer="trainer-child") as mine:
                mine.push(TABLE, [3], rows(13))
                assert mine.flush().rows == 1
                assert own.push(PUSHED, TABLE, [4], rows(14)).rows == 1
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    pusher.push(TABLE, [5], rows(15))
    assert pusher.flush().rows == 2
    print(client.predict(PUSHED, {FEATURE: np.arange(1, 6)}).outputs[LOW].tolist())
"""


class Pushing:
    """Pushes numbers that count up to all keys, from entering this context to leaving it, when all are acknowledged."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.number = 100
        """The last number that was handed on."""
        self.acknowledged = 0
        self.rows = 0
        self.failed: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with Client(self.target, timeout_s=300) as client, client.pusher(PUSHED, writer="lives-on") as pusher:
                while not self._ending.is_set():
                    for _ in range(8):
                        self.number += 1
                        pusher.push(TABLE, KEYS, rows_of(self.number))
                    answer = pusher.flush()
                    self.rows += answer.rows
                    self.acknowledged = self.number
        except BaseException as exc:
            self.failed = exc

    def __enter__(self) -> Pushing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait until a push is acknowledged that was handed on from now on."""
        after = self.number
        until("another push is acknowledged", lambda: self.failed is not None or self.acknowledged > after)
        assert self.failed is None, self.failed


def test_a_pusher_goes_on_when_the_head_and_the_whole_server_come_back(
    tmp_path: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    folder = tmp_path / "models" / PUSHED
    export(folder, 1)
    folders = ("--data-dir", tmp_path / "rows", "--state-dir", tmp_path / "state")
    again = partial(serve, folder, "--shards", 2, "--grpc-port", free_port(), *folders)
    serving = again()
    target = serving.ready["grpc"]
    with Pushing(target) as pushing:
        pushing.goes_on()
        [head] = actors(psutil.Process(serving.process.pid), "Head")
        head.kill()
        pushing.goes_on()
        for shard in actors(psutil.Process(serving.process.pid), "Shard"):
            shard.kill()
        pushing.goes_on()
        ran = ringpull("stop", "--target", target)
        assert ran.returncode == 0, ran.stderr
        serving = again()
        pushing.goes_on()
    with Client(target, timeout_s=60) as client:
        assert set(shown(client)) == {float(pushing.acknowledged)}
        with client.pusher(PUSHED, writer="lives-on", number=1) as late:
            late.push(TABLE, KEYS, rows_of(1))
            answer = late.flush()  # as one that goes on from an old checkpoint
        assert (answer.rows, answer.repeated) == (0, len(KEYS))
        assert set(shown(client)) == {float(pushing.acknowledged)}
        push(client, 7)
        assert set(shown(client)) == {7.0}

    ran_trainer = subprocess.run(
        [sys.executable, "-c", FORKED, target], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (ran_trainer.returncode, ran_trainer.stdout) == (0, "[11.0, 12.0, 13.0, 14.0, 15.0]\n"), ran_trainer.stderr
    assert serving.end() == 0
