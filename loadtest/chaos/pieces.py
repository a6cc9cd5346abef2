"""The processes of the deployment under test: found below its own `serve`, and never anywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import psutil

TITLES: Final = {"shard": "ray::Shard", "head": "ray::Head", "coordinator": "ray::Coordinator", "gcs": "gcs_server"}
"""Piece -> how the name of its program begins."""
MEASURED: Final = ("shard", "head", "coordinator")
GIVEN_WAY: Final = 5
"""Steps of niceness: about a third of the processor time where both want it."""
LEAST_URGENT: Final = 19


class Pieces:
    """Everything below one `serve`, by what it is. psutil signals no process id that has come into other hands."""

    def __init__(self, serve: psutil.Process) -> None:
        self._serve = serve

    def of(self, piece: str) -> list[psutil.Process]:
        """Return the living processes of a kind of piece, the oldest first."""
        found = []
        for process in self._serve.children(recursive=True):
            try:
                command = process.cmdline()
                if command and command[0].rpartition("/")[2].startswith(TITLES[piece]):
                    found.append((process.create_time(), process.pid, process))
            except psutil.Error:
                continue  # It ended while it was looked at.
        return [process for _, _, process in sorted(found, key=lambda each: each[:2])]

    def listening(self, piece: str, port: int) -> int:
        """Return how many of the pieces listen on a TCP port."""
        return sum(1 for process in self.of(piece) if port in _ports(process))

    def give_way(self) -> None:
        """Let this program go first from now on: what is overloaded would starve whoever overloads it."""
        for process in (*self.of("head"), *self.of("shard")):
            for thread in process.threads():  # niceness is a thread's; new ones inherit it
                with suppress(ProcessLookupError):
                    niceness = os.getpriority(os.PRIO_PROCESS, thread.id)
                    os.setpriority(os.PRIO_PROCESS, thread.id, min(niceness + GIVEN_WAY, LEAST_URGENT))

    def usage(self) -> dict[str, Usage]:
        """Return what the pieces take, by kind."""
        return {piece: Usage.of(self.of(piece)) for piece in MEASURED}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of one kind take, each on average."""

    processes: int
    pss_bytes: float
    """Proportional set size: a page that n processes share counts 1/n."""
    descriptors: float

    @classmethod
    def of(cls, processes: list[psutil.Process]) -> Usage:
        """Measure processes; those that end meanwhile are left out."""
        measured = []
        for process in processes:
            try:
                measured.append((process.memory_full_info().pss, process.num_fds()))
            except psutil.Error:
                continue
        if not measured:
            return cls(0, 0.0, 0.0)
        return cls(len(measured), fmean(pss for pss, _ in measured), fmean(fds for _, fds in measured))


def _ports(process: psutil.Process) -> Iterator[int]:
    try:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                yield connection.laddr.port
    except psutil.Error:
        return
