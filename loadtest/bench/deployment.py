"""What the benches measure of ours: a model served by the real command, as its users start it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ringpull.inference.client.stubs import PREDICT
from ringpull.loadtest.bench.process import server

PREDICT_METHOD = PREDICT.path


@dataclass(frozen=True, slots=True)
class Deployment:
    """A foreground `ringpull serve` that is ready."""

    target: str
    """HOST:PORT of its gRPC."""
    http: str
    """HOST:PORT of its HTTP."""
    process: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer requests: head and shards; not Ray's own, nor the coordinator."""
        return self._running("ray::Head", "ray::Shard")

    def heads(self) -> list[psutil.Process]:
        """Return the processes of heads."""
        return self._running("ray::Head")

    def _running(self, *actors: str) -> list[psutil.Process]:
        below = self.process.children(recursive=True)
        return [process for process in below if next(iter(process.cmdline()), "").startswith(actors)]


@contextmanager
def deployed(folder: Path, shards: int, *options: str) -> Iterator[Deployment]:
    """Serve a model folder on free ports, wait until predictions work, and take it down at the end.

    Its record is kept out of the user's own: `ringpull status` and `stop` would otherwise find the bench.
    """
    arguments = ("serve", str(folder), "--shards", str(shards), "--grpc-port", "0", "--http-port", "0", *options)
    with (
        tempfile.TemporaryDirectory(prefix="ringpull-bench-") as state,
        server("ringpull", *arguments, ready="ringpull ready ", environment={"RINGPULL_STATE_DIR": state}) as (
            said,
            process,
        ),
    ):
        told = dict(word.split("=", 1) for word in said.split())
        yield Deployment(told["grpc"], told["http"], process)
