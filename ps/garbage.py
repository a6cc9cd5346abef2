"""Settings of Python's garbage collector for a process that serves.

A full collection visits every object: Ray, numba or torch, and a loaded model have several hundred thousand, which
stops all requests for 150 ms. Requests trigger it many times a minute in a head, and changes do in a shard. Both leave
hardly any cycles behind, so loaded objects are frozen (`gc.freeze`), and the others are visited less often. A head
answers a seventh more requests of one candidate with it.

Frozen objects are never visited again, or each published version would stop requests as long. So nothing that is
released while serving may be part of a cycle; a version is not.
"""

from __future__ import annotations

import gc
import traceback
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""Number of new objects that triggers a collection of the young generation; Python's default is 700."""


def freeze_loaded() -> None:
    """Collect garbage made since the last call, then freeze every object that is left."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def forget_frames(error: BaseException) -> None:
    """Clear the variables of calls that an error, and the errors that it came of, came through and ended.

    Whoever is told of the error keeps it for a while. What was half loaded when it was raised must not live as long, or
    `freeze_loaded` freezes it.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            waiting += [each.__cause__, each.__context__]
