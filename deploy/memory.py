"""How much memory a process of this machine really takes: its proportional set size, from the kernel."""

from __future__ import annotations

from pathlib import Path


def pss_bytes(pid: int) -> int | None:
    """Return the PSS of a process in bytes, or None where the kernel does not tell (gone, another user's, not Linux).

    A page mapped by n processes counts 1/n in each: shards of one machine share the tables' pages.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024  # The kernel tells kB.
    return None
