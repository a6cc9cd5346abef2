"""A client that predicts without a pause, alone or in many threads, and holds every answer against what the model says;
and the processes below a `serve`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Self

import numpy as np
import psutil

from ringpull import Client, Prediction
from ringpull.inference.client.channels import DEFAULT_CHANNELS
from ringpull.inference.client.retry import DEFAULT_RETRIES
from ringpull.ps.errors import RingpullError
from tests.cluster.models import score

PATIENCE_S: Final = 600.0
"""Longest wait for something that has to come; only a broken build waits so long."""

USERS: Final = tuple(range(0, 1000, 7))
"""Spread over all slots."""


def until(what: str, condition: Callable[[], object]) -> None:
    """Wait for a condition that comes about by itself."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"never: {what}"
        time.sleep(0.02)


def actors(serve: psutil.Process, kind: str) -> list[psutil.Process]:
    """The processes below `serve` that are a `Shard`, `Head` or `Coordinator`, by when they started."""
    found = []
    for process in serve.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{kind}"):
                found.append((process.create_time(), process.pid, process))
        except psutil.Error:
            continue
    return [process for _, _, process in sorted(found, key=lambda each: each[:2])]


def gcs_of(processes: Iterable[psutil.Process]) -> psutil.Process:
    """Ray's control store among these."""
    [found] = [process for process in processes if process.name().startswith("gcs_server")]
    return found


class Watch:
    """Predicts from entering this context to leaving it.

    Args:
        target: HOST:PORT of a head.
        rows: Version -> rows of its user table: what it has to say of `USERS` follows from that.
        threads: That predict side by side.
        retries: Of the client; 0 shows every failure that there is.
        channels: Of the client.
        timeout_s: Deadline of each request.
    """

    def __init__(
        self,
        target: str,
        rows: Mapping[int, int] = MappingProxyType({1: 1000}),
        *,
        threads: int = 1,
        retries: int = DEFAULT_RETRIES,
        channels: int = DEFAULT_CHANNELS,
        timeout_s: float = 10.0,
    ) -> None:
        self._client = Client(target, timeout_s=timeout_s, retries=retries, channels=channels)
        self._expected = {
            version: np.array([score(user, ["drama"], rows=count) for user in USERS]) for version, count in rows.items()
        }
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self._counting = threading.Lock()
        self.right = 0
        """Answers that were whole and as expected."""
        self.wrong: list[object] = []
        self.failed: list[RingpullError] = []
        self.filled = 0
        """Answers in which defaults stood for rows that nobody had."""
        self.versions: set[int] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def goes_on(self, answers: int = 5) -> None:
        """Wait for some more right answers."""
        wanted = self.right + answers
        until("right answers", lambda: self.right >= wanted)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                answer = self._client.predict("ranker", {"user_id": USERS, "genres": [["drama"]] * len(USERS)})
            except RingpullError as exc:
                self.failed.append(exc)
                self._end.wait(0.01)
                continue
            with self._counting:
                self._count(answer)

    def _count(self, answer: Prediction) -> None:
        scores = answer.outputs["score"]
        self.versions.add(answer.version)
        if any(filled.reason == "unavailable" for filled in answer.filled):
            self.filled += 1
        elif np.allclose(scores, self._expected[answer.version], rtol=1e-5, atol=1e-5):
            self.right += 1
        else:
            self.wrong.append(scores)
