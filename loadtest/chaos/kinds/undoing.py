"""What every fault is undone by: contexts that put things back whatever ends them, an interrupt of the run included.

They do nothing that waits, so that they end at once also where a task was cancelled.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

UNDO_TRIES: Final = 100


@contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """Stop processes, and never leave them stopped; psutil signals no id that has come into other hands."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def away(folder: Path) -> Iterator[list[Path]]:
    """Rename a folder away, and back at the end.

    Yields:
        A list that has, after the end, where that lies which somebody has made in the folder's place meanwhile.
    """
    mark = secrets.token_hex(4)
    hidden = folder.with_name(f".{folder.name}.away-{mark}")
    in_its_place: list[Path] = []
    folder.rename(hidden)
    try:
        yield in_its_place
    finally:
        for number in range(UNDO_TRIES):  # somebody may make it again between the two steps
            if folder.exists():
                made = folder.with_name(f".{folder.name}.made-{mark}-{number}")
                folder.rename(made)
                in_its_place.append(made)
            with suppress(OSError):
                hidden.rename(folder)
                break
        else:
            hidden.rename(folder)


@contextmanager
def replaced(folder: Path, other: Path) -> Iterator[None]:
    """Put another folder in the place of one, and both back at the end."""
    with away(folder):
        other.rename(folder)
        try:
            yield
        finally:
            folder.rename(other)


def exchange(folder: Path, other: Path) -> None:
    """Have two folders change places, for good."""
    between = folder.with_name(f".{folder.name}.between-{secrets.token_hex(4)}")
    folder.rename(between)
    other.rename(folder)
    between.rename(other)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the disk that a folder is on, which must be a small one, to its last byte."""
    filler = folder / f"filler-{secrets.token_hex(4)}"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):  # the disk is full
                    while file.write(bytes(size)):
                        pass
        yield
    finally:
        filler.unlink(missing_ok=True)
