"""Small disks: of so few bytes that tests fill them, and larger or smaller when a test says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kib: int, *, held: bool = False) -> Iterator[Path]:
    """Disk of some KiB, mounted at a folder that is made. Where none can be mounted the test is skipped.

    Args:
        held: Whether files of it may be open or mapped to the end; otherwise that is an error.
    """
    folder.mkdir()
    try:
        mount(folder, kib)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", *(["-l"] if held else []), folder], check=True)


def resize(disk: Path, kib: int) -> None:
    """Make a disk larger or smaller."""
    mount(disk, kib, "remount")


def mount(folder: Path, kib: int, *options: str) -> None:
    """Mount a disk, or change it by further options."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={kib}k"]), "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
