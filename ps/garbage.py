"""Python's garbage collector in a process that serves.

A full collection walks every object there is: Ray, numba or torch, and a loaded model are some hundred thousand, which
stops all requests for 150 ms. The objects of requests bring it about many times a minute in a head, and those of a
change in a shard. Both leave hardly any cycles behind, so what is loaded is taken out of the collector's sight, and the
rest is looked at less often. (With it the head answers a seventh more requests of one candidate.)

What was spared once is never looked at again: a version that is published would otherwise stop requests as long. So
nothing that is let go of while serving may be part of a cycle; a version is not.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""Objects made and not freed before the collector looks at those; Python's own choice is 700."""


def freeze_loaded() -> None:
    """Collect what was made since the last time, then leave everything that is there now alone."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
