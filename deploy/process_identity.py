"""Process identity: which process is meant, told apart from every other one, here and elsewhere.

A process id alone names another process after a while, in another PID namespace, and on another host that has the same
home. So an identity also names the host, its boot, the namespaces, and the start of the process in clock ticks since
the boot: the kernel never changes that number, while every time that is derived from the wall clock moves with it.

Whether a process lives can be told only from where its id means the same; from elsewhere the answer is "unknown",
and whoever would remove or end something must take that for a living process.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

PROC: Final = Path("/proc")

_DEAD_STATES: Final = frozenset("ZXx")

_STATE_FIELD: Final = 3
_START_FIELD: Final = 22
"""Fields of `/proc/PID/stat` as proc(5) numbers them, from 1."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Process among all of them; plain values, so that it can be kept as JSON.

    Where the boot and the namespaces are known, they tell which host is meant and not its name, which may change while
    it serves.
    """

    host: str
    """Name of the host, or of its container, for people, and where nothing else tells it."""
    boot_id: str
    """The kernel's id of this boot; empty where there is none, and nothing is sure."""
    pid_namespace: str
    """Namespaces in which the id and the start mean something: of PIDs and of time; empty where there are none."""
    pid: int
    start_ticks: int
    """Start of the process in clock ticks since the boot; without /proc, in hundredths of a second of Unix time."""

    def alive(self) -> bool | None:
        """Return whether the process lives; None if that cannot be told from here. A zombie is dead."""
        here = own_identity()
        if self == here:
            return True
        if (self.boot_id, self.pid_namespace) != (here.boot_id, here.pid_namespace):
            return None
        if not self.boot_id and self.host != here.host:
            return None
        if not self.boot_id:
            return _seen_by_psutil(self)
        if not _proc_shows_own_namespace():
            return None
        found = _state_and_start(self.pid)
        if found is None:
            return _unlisted(self.pid)
        state, start_ticks = found
        return start_ticks == self.start_ticks and state not in _DEAD_STATES


def own_identity() -> ProcessIdentity:
    """Return the identity of this process."""
    host, boot_id, pid = socket.gethostname(), _text(PROC / "sys/kernel/random/boot_id"), os.getpid()
    found = _state_and_start("self")
    namespaces = " ".join(filter(None, (_link(PROC / "self/ns" / kind) for kind in ("pid", "time"))))
    if not boot_id or not namespaces or found is None:
        return ProcessIdentity(host, "", "", pid, _start_by_psutil(pid))
    return ProcessIdentity(host, boot_id, namespaces, pid, found[1])


def _state_and_start(pid: int | str) -> tuple[str, int] | None:
    """Return state and start of a process from its `stat`; None if it is not listed.

    The program's name, which is the second field and in parentheses, may hold spaces and parentheses itself.
    """
    text = _text(PROC / str(pid) / "stat")
    after_name = text.rpartition(")")[2].split()
    first = _STATE_FIELD  # the field that follows the name
    if len(after_name) <= _START_FIELD - first:
        return None
    return after_name[_STATE_FIELD - first], int(after_name[_START_FIELD - first])


def _proc_shows_own_namespace() -> bool:
    """Whether /proc lists processes by the ids of this namespace: one may be inherited from the namespace around it."""
    for line in _text(PROC / "self/status").splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) == 2  # one id for each namespace from that of /proc to that of the process
    return True


def _unlisted(pid: int) -> bool | None:
    """Return False if there is no process with the id; None if there is one that /proc hides, or will not say."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return None
    return None


def _seen_by_psutil(identity: ProcessIdentity) -> bool | None:
    """Return True for a process that surely lives; where there is no /proc, nothing says surely that it does not."""
    with suppress(psutil.Error):
        process = psutil.Process(identity.pid)
        same = round(process.create_time() * 100) == identity.start_ticks
        return True if same and process.status() != psutil.STATUS_ZOMBIE else None
    return None


def _start_by_psutil(pid: int) -> int:
    with suppress(psutil.Error):
        return round(psutil.Process(pid).create_time() * 100)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
