"""Pieces of work side by side, a few at a time, and what comes of them in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS: Final = 4
"""Pieces that are worked on at a time, if there are as many processors."""


def side_by_side(pieces: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """Yield what comes of each piece; no more than a few of them are ahead of whoever takes it."""
    threads = min(_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ringpull-delta") as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()
