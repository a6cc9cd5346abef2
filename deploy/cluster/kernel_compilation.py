"""Kernel compilation in a process of its own, because the compiler cannot be interrupted but a process can be killed.

The compiled kernels are in numba's cache on disk, where every later process finds them. The process that brings a
deployment up needs neither the compiler nor the kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Final, Self

from ringpull.deploy.cluster.ray_session import CODE_ROOT
from ringpull.ps.errors import StartupError
from ringpull.ps.user_folder import temporary_folder

UNKEPT: Final = "kernels are compiled anew"
"""How the line begins by which a process says that it has no cache: see `ringpull.ps.compiled`."""


class KernelCompilation:
    """Compiling process, started on entering the context; leaving the context kills it if it still runs.

    Raises:
        StartupError: On entering: there is no temporary folder.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="ringpull-", dir=temporary_folder())
        path = os.pathsep.join([str(CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ringpull.deploy.cluster.kernels", self._folder.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C must reach only the waiting process, which then kills this one.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._folder.cleanup()

    @property
    def done(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait(self) -> str:
        """Wait until every kernel is in the cache, and return what the process has to say of it, if anything.

        Raises:
            StartupError: The process failed; the message is the last line of its output.
        """
        said = self._process.communicate()[1].decode(errors="replace").strip()
        if self._process.returncode != 0:
            reason = said.splitlines()[-1] if said else f"exit status {self._process.returncode}"
            raise StartupError(f"the kernels could not be compiled: {reason}")
        return next((line for line in said.splitlines() if line.startswith(UNKEPT)), "")
