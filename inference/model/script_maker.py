"""Scripts of dense programs, made in a process of their own: reading and tracing a program of a thousand inputs is
seconds of Python, some of it in single calls that keep the interpreter's lock for a quarter of a second, in which a
head that serves would answer nobody.

The process (`ringpull.ps.elsewhere`) reads the version's program, checks it as a head does, makes its script, holds
that against the program, and writes it, which a head reads in milliseconds, without Python. It shares nothing but a
file without a name, so nothing lies about when either is killed. Where anything at all goes wrong, the head loads the
program itself, and says what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ringpull.inference.model.manifest import Manifest
from ringpull.ps.elsewhere import Elsewhere
from ringpull.ps.errors import Unavailable

MIN_GRAPH_BYTES: Final = 128 << 10
"""Size of a program's graph from which a process of its own pays: some 250 inputs. It takes 3 to 4 s of processor time
to start, and a program of 100 inputs is loaded in less than half a second, with the lock kept for 8 ms at most."""

LONGEST_S: Final = 300.0
"""Time after which the process is ended: ten times what the largest programs take."""

NICENESS: Final = 5
"""Niceness of the process: requests go before. With 10, a publish beside full cores took a minute and a half."""


class ScriptInput(NamedTuple):
    """One input of a script."""

    dtype: str
    """Type of its numbers, by torch's name."""
    sizes: tuple[int, ...]
    """Sizes of a row."""


class MadeScript(NamedTuple):
    """A script as the process wrote it."""

    path: str
    """File of it, while the context lasts."""
    inputs: tuple[ScriptInput, ...]


class ScriptMaker:
    """Makes scripts, one at a time. All methods may be called from any thread."""

    def __init__(self, min_graph_bytes: int = MIN_GRAPH_BYTES) -> None:
        """Prepare to start processes.

        Args:
            min_graph_bytes: Size of the smallest graph that is asked for.
        """
        self.min_graph_bytes: Final = min_graph_bytes
        self._elsewhere = Elsewhere("script", "head", niceness=NICENESS, longest_s=LONGEST_S)

    def __repr__(self) -> str:
        return f"<ScriptMaker {self._elsewhere!r}>"

    @contextmanager
    def make(self, version_dir: Path, manifest: Manifest, *, short: bool) -> Iterator[MadeScript]:
        """Make the script of a version's program for the CPU.

        Args:
            short: Whether it is to run in bfloat16.

        Raises:
            Unavailable: There is none, for a reason that may be the program's.
            DeadlineExceeded: It took longer than `LONGEST_S`.
        """
        if not hasattr(os, "memfd_create"):
            raise Unavailable("this system has no files without a name")
        with os.fdopen(os.memfd_create("ringpull-script", os.MFD_CLOEXEC), "rb") as file:
            path = f"/proc/self/fd/{file.fileno()}"
            write = partial(_write, version_dir, manifest, short, path)
            yield MadeScript(path, tuple(self._elsewhere.run(write, wait=True, files=[file.fileno()])))

    def stop(self) -> None:
        """End what runs; no process is started afterwards."""
        self._elsewhere.stop()


def _write(version_dir: Path, manifest: Manifest, short: bool, path: str) -> list[ScriptInput]:
    # Not before there is a thread that ends the process with its head: torch takes seconds.
    from ringpull.inference.model.torch_program import write_script

    try:
        return write_script(version_dir, manifest, short, path)
    except Exception as exc:  # of any root: the head finds out what it is
        raise Unavailable(f"{type(exc).__name__}: {exc}") from exc
