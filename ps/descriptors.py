"""The descriptors of this process: what connections and files have to share (`ulimit -n`)."""

from __future__ import annotations

import errno
import resource
from typing import Final

MAX_OPEN: Final = 1 << 20
"""Descriptors of a process without a limit of its own: Linux's."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of `accept` that say that the process, or the machine, has none left."""


def part_of_descriptors(part: float, at_most: int) -> int:
    """Return `at_most`, or less where that would be more than this part of the descriptors; 1 or more."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        descriptors = MAX_OPEN
    return max(1, min(at_most, int(part * descriptors)))
