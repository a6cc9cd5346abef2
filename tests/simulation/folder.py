"""The folder of the coordinator's state, as `ringpull.router.control.state_files.StateFiles`, and what befalls one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ringpull.ps.errors import StartupError
from tests.simulation.kernel import Kernel, Killed, Process

T = TypeVar("T")

HANGS_S = 4.0
"""Time after which a folder that does not answer counts as away; what it was asked may be done later all the same."""

QUICK_S = (0.02, 0.1)
"""Longest time that an answer takes where it matters who is first: one of these."""


class Folder:
    """Files, by name, and how well they can be reached."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.files: dict[str, bytes] = {}
        self.away = False
        """Nothing can be listed, read or made."""
        self.full = False
        """Nothing can be made."""
        self.slow_s = 0.0
        """Longest time that an answer takes."""
        self.quick_s = kernel.random.choice(QUICK_S)
        self.contested = False
        """Whether several coordinators live, so that it matters what happens between two calls."""
        self.hanging = 0.0
        """Share of the calls that are not answered at all; what they ask is done later, or never."""
        self.hidden: dict[str, bytes] | None = None
        """What was in it while it is empty; None: it is not."""

    def damage(self, name: str) -> None:
        """Flip a bit in the middle of a file."""
        content = bytearray(self.files[name])
        content[len(content) // 2] ^= 1
        self.files[name] = bytes(content)

    def empty(self) -> None:
        """Have it look as if nothing had ever been there."""
        if self.hidden is None:
            self.hidden, self.files = self.files, {}

    def back(self) -> None:
        """Have it as it was; what was made meanwhile is hidden again."""
        if self.hidden is not None:
            self.files, self.hidden = self.hidden, None

    def mend(self) -> None:
        """Have it whole and near."""
        self.back()
        self.away = self.full = False
        self.slow_s = self.hanging = 0.0


class SimFiles:
    """The files as one process reaches them.

    Args:
        folder: The folder.
        process: Whose calls they are: a dead one's end where they are.
        watch: Called before (`saving`) and after (`saved`) a state is made.
    """

    beat_s = 2.0

    def __init__(self, folder: Folder, process: Process, watch: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._process = process
        self._watch = watch

    def __repr__(self) -> str:
        return "the folder"

    def names(self) -> list[str]:
        return self._call(lambda: list(self._folder.files))

    def read(self, name: str) -> bytes:
        def read() -> bytes:
            try:
                return self._folder.files[name]
            except KeyError:
                raise FileNotFoundError(name) from None

        return self._call(read)

    def create(self, name: str, content: bytes) -> None:
        def create() -> None:
            self._check_room()
            if name in self._folder.files:
                raise FileExistsError(name)
            self._folder.files[name] = content

        if not name.startswith("state-"):
            self._call(create)
            return
        self._watch("saving")
        self._call(create)
        self._watch("saved")

    def replace(self, name: str, content: bytes) -> None:
        def replace() -> None:
            self._check_room()
            self._folder.files[name] = content

        self._call(replace)

    def delete(self, name: str) -> None:
        self._call(lambda: self._folder.files.pop(name, None))

    def _check_room(self) -> None:
        if self._folder.full:
            raise OSError(28, "No space left on device")

    def _call(self, work: Callable[[], T]) -> T:
        folder, kernel = self._folder, self._folder.kernel

        def answer() -> T:
            if folder.away:
                raise OSError(5, "Input/output error")
            return work()

        if not self._process.alive:
            raise Killed
        if folder.hanging and kernel.random.random() < folder.hanging:
            if kernel.random.random() < 0.7:
                kernel.later(kernel.random.random() * 3 * HANGS_S, lambda: _quietly(answer))
            kernel.sleep(HANGS_S)
            raise StartupError(f"the folder has not answered for {HANGS_S:g} s")
        if not (folder.slow_s or folder.contested):
            return answer()
        longest_s = folder.slow_s or folder.quick_s
        kernel.sleep(kernel.random.random() * longest_s)
        answered = answer()
        kernel.sleep(kernel.random.random() * longest_s)
        return answered


def _quietly(work: Callable[[], object]) -> None:
    """Do what nobody waits for any more."""
    try:
        work()
    except OSError:
        return
