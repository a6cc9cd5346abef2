"""Maps of files that keep no descriptor: tables by the hundred stay within any `ulimit -n`.

`mmap.mmap` of a file keeps a copy of the file's descriptor for as long as the map lives (before Python 3.13 it has to).
So anonymous memory is mapped, whose object unmaps it at its end, and the file is laid over it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import lru_cache
from typing import Any, Final

import numpy as np

_MAP_FIXED: Final = 0x10
"""Lay the map where the address says, over what is mapped there: <asm-generic/mman-common.h>, and macOS."""

_NEVER_UNMAPPED: Final[list[mmap.mmap]] = []
"""Objects whose addresses may be another's by now."""


def mapped(descriptor: int, size_bytes: int) -> mmap.mmap:
    """Return a read-only, shared map of the first bytes of an open file; the file may be closed afterwards.

    Args:
        size_bytes: Above 0, and no more than the file has.

    Raises:
        OSError: It cannot be mapped.
    """
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    found = _libc_mmap()(address, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    if found != address:  # MAP_FAILED
        code = ctypes.get_errno()
        # The kernel may have taken away what lay there, and lay another's map there next, which is not our object's to
        # unmap at its end.
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        if _libc_mmap()(address, size_bytes, mmap.PROT_READ, anonymous, -1, 0) != address:
            _NEVER_UNMAPPED.append(mapping)
        raise OSError(code, os.strerror(code))
    return mapping


@lru_cache(maxsize=1)
def _libc_mmap() -> Any:
    """Return the C library's `mmap`, which Python only calls together with a copy of the descriptor."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,  # off_t, 64 bits where addresses are
    ]
    return function
