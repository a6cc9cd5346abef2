"""Threads of processes as the kernel counts them: how long each ran, and how long it was ready and had no core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

PROC: Final = Path("/proc")
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


def threads_of(processes: Iterable[psutil.Process], proc: Path = PROC) -> Threads | None:
    """Return the threads of processes, by the ids of process and thread; None: this kernel does not count."""
    found = {}
    for process in processes:
        for task in (proc / f"{process.pid}/task").iterdir():
            try:
                ran, waited, turns = (task / "schedstat").read_text("ascii").split()
                name = (task / "comm").read_text("utf-8", errors="replace").strip()
            except ProcessLookupError:
                continue  # it has ended meanwhile
            except OSError:
                if task.exists():
                    return None
                continue
            found[process.pid, int(task.name)] = Thread(name, int(ran) / 1e9, int(waited) / 1e9, int(turns))
    # A kernel that is built to count, and told not to, says zero of every thread.
    return None if found and not any(each.turns for each in found.values()) else found


def waited_between_s(before: Threads | None, now: Threads | None) -> float | None:
    """Return how long threads were ready and had no core meanwhile; None: nobody counted."""
    if before is None or now is None:
        return None
    return sum(each.waited_s for each in since(before, now))


def since(before: Threads, now: Threads) -> list[Thread]:
    """Return what threads did meanwhile, the busiest first."""
    none = Thread("", 0.0, 0.0, 0)
    spent = [
        Thread(each.name, each.ran_s - was.ran_s, each.waited_s - was.waited_s, each.turns - was.turns)
        for key, each in now.items()
        for was in (before.get(key, none),)
    ]
    return sorted(spent, key=lambda each: -each.ran_s)
