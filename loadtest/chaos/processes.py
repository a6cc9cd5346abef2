"""The processes of the deployment under test, as seen from outside: what they listen on, what they take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import psutil

from ringpull.loadtest.deployment import Deployment

MEASURED: Final = ("shard", "head", "coordinator")
YIELDED_STEPS: Final = 5
"""Steps of niceness: about a third of the processor time where both want it."""
MAX_NICENESS: Final = 19


def listening(processes: Iterable[psutil.Process], port: int) -> int:
    """Return how many of the processes listen on a TCP port."""
    return sum(1 for process in processes if port in _ports(process))


def lower_priority(processes: Iterable[psutil.Process]) -> None:
    """Let this program go before the processes from now on: what is overloaded would starve whoever overloads it."""
    for process in processes:
        for thread in process.threads():  # niceness is a thread's; new ones inherit it
            with suppress(ProcessLookupError):
                niceness = os.getpriority(os.PRIO_PROCESS, thread.id)
                os.setpriority(os.PRIO_PROCESS, thread.id, min(niceness + YIELDED_STEPS, MAX_NICENESS))


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that the processes of one role take, each on average."""

    processes: int
    pss_bytes: float
    """Proportional set size: a page that n processes share counts 1/n."""
    descriptors: float

    @classmethod
    def of(cls, processes: Iterable[psutil.Process]) -> Usage:
        """Measure processes; those that end meanwhile are left out."""
        measured = []
        for process in processes:
            with suppress(psutil.Error):
                measured.append((process.memory_full_info().pss, process.num_fds()))
        if not measured:
            return cls(0, 0.0, 0.0)
        return cls(len(measured), fmean(pss for pss, _ in measured), fmean(fds for _, fds in measured))


def usage(ours: Deployment) -> dict[str, Usage]:
    """Return what the processes of a deployment take, by role."""
    return {role: Usage.of(ours.running(role)) for role in MEASURED}


def _ports(process: psutil.Process) -> Iterator[int]:
    with suppress(psutil.Error):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                yield connection.laddr.port
