"""A deployment of its own for a measurement: a model served by the real command, as its users start it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ringpull.loadtest.process import below, server

TITLES: Final = {
    "shard": "ray::Shard",
    "head": "ray::Head",
    "coordinator": "ray::Coordinator",
    "gcs": "gcs_server",
    "raylet": "raylet",
}
"""Beginning of a program's name by the role of its process; `gcs` and `raylet` are Ray's own."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A foreground `ringpull serve` that is ready."""

    target: str
    """HOST:PORT of its gRPC."""
    http: str
    """HOST:PORT of its HTTP."""
    process: psutil.Process
    records: Path = Path()
    """Its `RINGPULL_STATE_DIR`."""

    def running(self, *roles: str) -> list[psutil.Process]:
        """Return the processes of some roles; by default those that answer requests, heads and shards."""
        return [process for role in roles or ("head", "shard") for process in below(self.process, TITLES[role])]


@contextmanager
def deployed(folder: Path, shards: int, *options: str, prefix: Sequence[str] = ()) -> Iterator[Deployment]:
    """Serve a model folder on free ports, wait until predictions work, and take it down at the end.

    Its record is kept out of the user's own: `ringpull status` and `stop` would otherwise find it.

    Args:
        prefix: Words before its command line: a program that runs another one in its own place.
    """
    arguments = ("serve", str(folder), "--shards", str(shards), "--grpc-port", "0", "--http-port", "0", *options)
    with (
        tempfile.TemporaryDirectory(prefix="ringpull-bench-") as state,
        server(
            "ringpull",
            *arguments,
            ready="ringpull ready ",
            environment={"RINGPULL_STATE_DIR": state},
            prefix=prefix,
        ) as (said, process),
    ):
        addresses = dict(word.split("=", 1) for word in said.split())
        yield Deployment(addresses["grpc"], addresses["http"], process, Path(state))
