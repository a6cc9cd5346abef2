"""Kernels compiled by numba, with its cache on disk wherever one can be kept.

numba keeps compiled code beside the module, or below the user's home, and refuses a kernel when neither can be written:
an installed package is read-only, and a container's user may have no home. Then the cache is in the user's own folder
below the temporary one. A home that others can write is none: code in it may be anybody's, as with HOME=/tmp in a
container. A kernel is compiled anew when any module changes that it is made from (`kernel_sources`). Where there is no
own folder either, or the cache cannot be read or written later on, kernels are
compiled for the process alone, and a line of the log says so. `NUMBA_CACHE_DIR` is obeyed before all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numba
from numba.core.caching import InTreeCacheLocator

from ringpull.ps.errors import StartupError
from ringpull.ps.kernel_sources import digest_of
from ringpull.ps.user_folder import check_path, user_folder

log = logging.getLogger(__name__)

FOLDER: Final = "numba"
"""Name of the cache in the folder of the user."""


def kernel(*, nogil: bool = True, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of a kernel that is kept in the cache.

    Args:
        nogil: Whether it releases the GIL. What takes less time than another thread's turn had better not.
        options: More options of `numba.njit`.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=nogil, **options)(function)
        if dispatcher is not function:  # which it is with NUMBA_DISABLE_JIT
            _keep(dispatcher)
        return dispatcher

    return compiled


def _keep(dispatcher: Any) -> None:
    """Give a kernel its cache."""
    for keep in _ways():
        try:
            keep(dispatcher)
        except (RuntimeError, OSError, StartupError) as exc:  # RuntimeError: numba has no place to write to
            why = str(exc)
        else:
            files = dispatcher._cache._cache_file
            files._source_stamp = (files._source_stamp, digest_of(dispatcher.py_func.__module__))
            dispatcher._cache = _Cache(dispatcher._cache)
            return
    _say_once(why)


def _ways() -> list[Callable[[Any], None]]:
    """Return what to try, in this order: numba's own way, but for a user without a home, and the user's own folder.

    For numba the home of such a user is the folder `~` of whatever folder the process works in, and the code in it
    whoever's.
    """
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    config: Any = numba.config
    at_home = bool(config.CACHE_DIR) or os.path.isabs(home)
    return [_keep_as_numba_does, _keep_in_own_folder] if at_home else [_keep_in_own_folder]


def _keep_as_numba_does(dispatcher: Any) -> None:
    before = dispatcher._cache
    dispatcher.enable_caching()
    config: Any = numba.config
    # Whoever can write beside the module can write the module; and who names a folder says that it is safe.
    if not config.CACHE_DIR and not isinstance(dispatcher._cache._impl.locator, InTreeCacheLocator):
        try:
            check_path(Path(dispatcher._cache.cache_path))
        except StartupError:
            dispatcher._cache = before  # nothing was loaded yet
            raise


def _keep_in_own_folder(dispatcher: Any) -> None:
    # Set for this kernel only: other code of this process, such as a user's own, keeps numba's way.
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(user_folder(FOLDER))
    try:
        dispatcher.enable_caching()
    finally:
        config.CACHE_DIR = before


_said: Final[set[str]] = set()


def _say_once(why: str) -> None:
    if not _said:
        _said.add(why)
        log.warning(
            "kernels are compiled anew by every process, which takes a minute each: %s; NUMBA_CACHE_DIR names a folder"
            " for them",
            why,
        )


class _Cache:
    """Cache of a kernel. It may be away, full or torn: then the kernel is compiled, and its caller sees nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled kernel for a signature; None if it cannot be read."""
        try:
            return self._cache.load_overload(signature, target)
        except Exception as exc:  # torn pickles raise almost anything
            _say_once(f"{self._cache.cache_path} cannot be read: {exc or type(exc).__name__}")
            with suppress(OSError):
                self._cache.flush()  # so that the next process finds it empty, and not torn
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel, if it can be written."""
        try:
            self._cache.save_overload(signature, compiled)
        except Exception as exc:  # what `load_overload` reads before it writes may be torn
            _say_once(f"{self._cache.cache_path} cannot be written: {exc or type(exc).__name__}")
