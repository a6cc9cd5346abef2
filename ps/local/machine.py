"""Identity of the machine, as far as files are concerned: of the running kernel, whose page cache they share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@cache
def machine_id() -> str:
    """Return the kernel's id of this boot; empty where there is none, and no two processes are known to share files.

    Containers of one machine have the same one and other file systems: whether a path means the same file to two
    processes is told by its stamp, not by this. Of two virtual machines that were copied while they ran it may be the
    same, too; then a file is read by its own machine's kernel, with the content that it should have all the same.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
