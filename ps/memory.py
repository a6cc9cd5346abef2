"""Memory of a process: how much it occupies, and how its allocator treats big buffers. For Linux with glibc."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Options of `mallopt`, from <malloc.h>."""
_REUSED_BYTES: Final = 32 << 20
"""The largest M_MMAP_THRESHOLD that glibc takes."""
_KEPT_BYTES: Final = 256 << 20


def process_memory(pid: int | None = None) -> dict[str, int]:
    """Return a process's memory in bytes, by the names of /proc/PID/smaps_rollup: Rss, Pss, Pss_Anon, Pss_File, ...

    Pss (proportional) counts a page shared by n processes as 1/n: the sum over shards is what their tables really take.
    The kernel goes through all pages for it, so this is not for every second.

    Args:
        pid: None: this process.

    Returns:
        An empty mapping where the kernel gives none: the process is gone or another user's, or this is not Linux.
    """
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return {}
    sizes = {}
    for line in text.splitlines()[1:]:  # the first line names the address range
        name, _, size = line.partition(":")
        sizes[name] = int(size.removesuffix("kB")) * 1024
    return sizes


def resident_bytes() -> int:
    """Return what this process has in memory, at once; pages that it shares count in full."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_freed_memory_back() -> None:
    """Give buffers that were freed back to the system: after something large that will not be repeated soon."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def reuse_freed_memory() -> None:
    """Have malloc keep freed buffers of up to 32 MB, up to 256 MB in all, instead of giving each back to the system.

    A pull's buffers are of a few 100 KB each and are freed a millisecond later; by default each is mapped, zeroed by
    the kernel and page-faulted in anew. What keeping them brings is in ps/wire/README.md, "Decisions".
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _REUSED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
