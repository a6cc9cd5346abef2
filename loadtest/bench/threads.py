"""Threads of processes as the kernel counts them: how long each ran, and how long it was ready and had no core."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

Threads = Mapping[tuple[int, int], "Thread"]


@dataclass(frozen=True, slots=True)
class Thread:
    """What the kernel says of a thread so far."""

    name: str
    ran_s: float
    waited_s: float
    """Time that it was ready and had no core."""
    turns: int
    """Times that it was given one."""


def threads_of(processes: Iterable[psutil.Process]) -> Threads:
    """Return the threads of processes, by the ids of process and thread."""
    found = {}
    for process in processes:
        folder = Path(f"/proc/{process.pid}/task")
        for task in os.listdir(folder):
            with suppress(OSError):  # it has ended meanwhile
                ran, waited, turns = (folder / task / "schedstat").read_text("ascii").split()
                name = (folder / task / "comm").read_text("utf-8", errors="replace").strip()
                found[process.pid, int(task)] = Thread(name, int(ran) / 1e9, int(waited) / 1e9, int(turns))
    return found


def since(before: Threads, now: Threads) -> list[Thread]:
    """Return what threads did meanwhile, the busiest first."""
    none = Thread("", 0.0, 0.0, 0)
    spent = [
        Thread(each.name, each.ran_s - was.ran_s, each.waited_s - was.waited_s, each.turns - was.turns)
        for key, each in now.items()
        for was in (before.get(key, none),)
    ]
    return sorted(spent, key=lambda each: -each.ran_s)
