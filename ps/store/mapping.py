"""Maps of files that keep no descriptor: tables by the hundred stay within any `ulimit -n`.

`mmap.mmap` of a file keeps a copy of the file's descriptor for as long as the map lives (before Python 3.13 it has to).
So anonymous memory is mapped, whose object unmaps it at its end, and the file is laid over it. Where that memory begins
decides whether huge pages of the file are mapped as such: at multiples of their size only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MADV_POPULATE_READ: Final = 22
"""Linux 5.14, <asm-generic/mman-common.h>: fault pages in, many at a time; Python's mmap has no name for it yet."""

HUGE_PAGE_BYTES: Final = 2 << 20
"""Bytes of a huge page on x86-64, and on most machines of other kinds."""

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
    mapping = _reserved(size_bytes)
    _lay(mapping, _begin_of(mapping), descriptor, size_bytes)
    return mapping


def anonymous(size_bytes: int, *, huge_pages: bool = True) -> mmap.mmap:
    """Return memory of no file, whose pages are taken as they are written to.

    Args:
        huge_pages: Whether these are huge ones, where the kernel has them.

    Raises:
        OSError: There is none left.
    """
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages:
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def mapped_array(descriptor: int, size_bytes: int) -> NDArray[np.uint8]:
    """Return the first bytes of an open file, uint8 (size_bytes,), mapped where its huge pages can be mapped as such.

    Args:
        size_bytes: Above 0, and no more than the file has.

    Raises:
        OSError: It cannot be mapped.
    """
    if size_bytes < HUGE_PAGE_BYTES:
        return np.frombuffer(mapped(descriptor, size_bytes), np.uint8)
    # Addresses are reserved for one huge page more than there is. Linux 6.7 to 6.12 gave aligned ones unasked.
    mapping = _reserved(size_bytes + HUGE_PAGE_BYTES)
    begin = -_begin_of(mapping) % HUGE_PAGE_BYTES
    _lay(mapping, _begin_of(mapping) + begin, descriptor, size_bytes)
    return np.frombuffer(mapping, np.uint8, size_bytes, begin)


def advise(array: NDArray[Any], advice: int, begin: int = 0, size_bytes: int | None = None) -> None:
    """Tell the operating system how some bytes of a mapped array will be used; by default all.

    Args:
        array: All of what `mapped_array` returned, in whatever shape.
        advice: One of the `MADV_` numbers.
        begin: The first of these bytes, at a multiple of the size of a page.

    Raises:
        OSError: It knows no such advice.
    """
    mapping = _mapping_of(array)
    begin += array.__array_interface__["data"][0] - _begin_of(mapping)
    mapping.madvise(advice, begin, array.nbytes if size_bytes is None else size_bytes)


def watched(array: NDArray[Any]) -> weakref.ref[mmap.mmap]:
    """Return what is dead as soon as nobody in this process can read a file any more through its map.

    Args:
        array: What `mapped_array` returned, in whatever shape, or part of it; not empty.
    """
    return weakref.ref(_mapping_of(array))


def _mapping_of(array: NDArray[Any]) -> mmap.mmap:
    owner: Any = array
    while not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    return owner


def _reserved(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)


def _begin_of(mapping: mmap.mmap) -> int:
    begin: int = np.frombuffer(mapping, np.uint8).ctypes.data
    return begin


def _lay(mapping: mmap.mmap, address: int, descriptor: int, size_bytes: int) -> None:
    """Lay the first bytes of an open file over part of an anonymous map.

    Raises:
        OSError: It cannot be mapped.
    """
    found = _libc_mmap()(address, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    if found != address:  # MAP_FAILED
        code = ctypes.get_errno()
        # The kernel may have taken away what lay there, and lay another's map there next, which is not our object's to
        # unmap at its end.
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        if _libc_mmap()(address, size_bytes, mmap.PROT_READ, anonymous, -1, 0) != address:
            _NEVER_UNMAPPED.append(mapping)
        raise OSError(code, os.strerror(code))


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
