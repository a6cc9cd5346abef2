"""Allowance of this process: the cores and the memory that it may use, by its affinity and its control groups.

And what of the cores is idle at the moment, which is for who would use one for a millisecond.

A container has fewer than its machine: a quota of processor time and a limit of memory, in its own control group or in
one above it. Both kinds of the kernel's interface are read, one hierarchy (v2) and one for each controller (v1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")


def cores(root: Path = ROOT) -> float:
    """Return the cores that this process may keep busy; a quota may have parts of one.

    Args:
        root: Folder that `proc` and `sys` are in.
    """
    found = float(len(os.sched_getaffinity(0)))
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            found = min(found, _quota(group))
    return found


def idle_cores(allowed: float, root: Path = ROOT) -> int:
    """Return how many of the cores that this process may keep busy are idle for sure, right now.

    The kernel counts the tasks that run or are ready to, on all cores of the machine, and who asks is one of them. What
    is left of this process's cores has nothing to do, whoever is beside it. Where it has a few cores of a larger
    machine, tasks on the others count too, and none is idle for sure while there are as many. It takes 10 us.

    Args:
        allowed: What `cores` returned, which takes longer: cores may be idle that a quota leaves no time for.
        root: Folder that `proc` is in.

    Returns:
        0 where the system does not tell.
    """
    try:
        file = os.open(root / "proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            running = int(os.read(file, 128).split()[3].partition(b"/")[0])
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):
        return 0
    # Who asks is running: a system that counts nobody does not count.
    return max(0, min(len(os.sched_getaffinity(0)), int(allowed)) - running) if running > 0 else 0


def memory_bytes(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process may still take without any being written to a swap.

    Args:
        root: Folder that `proc` and `sys` are in.
    """
    lines = _text(root / "proc/meminfo").splitlines()
    found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    for group in _groups(root, "memory"):
        with suppress(OSError, ValueError):
            found = min(found, _left_bytes(group))
    return max(found, 0)


def _text(file: Path) -> str:
    # A group may have any name.
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of a controller's groups that this process is in, from its own up to the first one.

    In a container the way that the kernel tells may not be there: what is mounted begins with its own group.
    """
    try:
        lines = _text(root / "proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, way = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")  # of v1 a link, where it is one of several
        own = top / way.strip("/")
        yield from (each for each in (own, *own.parents) if each == top or top in each.parents)


def _quota(group: Path) -> float:
    """Return the cores of a group's quota.

    Raises:
        OSError: There are no such files.
        ValueError: There is no quota.
    """
    with suppress(FileNotFoundError):
        quota, period = _text(group / "cpu.max").split()
        return int(quota) / int(period)  # which refuses `max`
    quota_us = int(_text(group / "cpu.cfs_quota_us"))
    if quota_us < 0:
        raise ValueError(quota_us)
    return quota_us / int(_text(group / "cpu.cfs_period_us"))


def _left_bytes(group: Path) -> int:
    """Return what a group may still take; pages of files that it has not used lately can be had back.

    Raises:
        OSError: There are no such files.
        ValueError: There is no limit.
    """
    try:
        limit, used, kept = _text(group / "memory.max"), "memory.current", "inactive_file"
    except FileNotFoundError:
        limit, kept = _text(group / "memory.limit_in_bytes"), "total_inactive_file"
        used = "memory.usage_in_bytes"
    stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    return int(limit) - int(_text(group / used)) + int(stat.get(kept, 0))
