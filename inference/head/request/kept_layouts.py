"""Layouts that a head remembers by their bytes, the least used forgotten first: reading one anew takes a millisecond.

They are bounded by number and by bytes, for what strangers send must not fill a head's memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

from ringpull.inference.head.request.received import Layout, check_count
from ringpull.inference.wire.packing import LAYOUTS_KEPT

KEPT_BYTES: Final = 16 << 20
"""Bytes of all layouts that are kept."""
LONGEST: Final = 1 << 20
"""Bytes of the longest one that is: 4,096 columns with names of 250 characters."""


class KeptLayouts:
    """Reads layouts, each once while it is kept. Any thread may ask."""

    def __init__(
        self, read: Callable[[bytes, int], Layout], *, kept_bytes: int = KEPT_BYTES, longest: int = LONGEST
    ) -> None:
        """Remember nothing yet.

        Args:
            read: Reads a layout of at most so many columns.
            kept_bytes: Bytes of all layouts that are kept.
            longest: Bytes of the longest one that is.
        """
        self._read = read
        self._kept_bytes = kept_bytes
        self._longest = longest
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def of(self, serialized: bytes, max_columns: int) -> Layout:
        """Return the layout that these bytes are; whatever `read` raises is not remembered.

        Raises:
            LimitExceeded: It has more than `max_columns`.
        """
        with self._lock:
            layout = self._layouts.get(serialized)
            if layout is not None:
                self._layouts.move_to_end(serialized)
        if layout is not None:
            check_count(len(layout.names), max_columns)
            return layout
        layout = self._read(serialized, max_columns)
        if len(serialized) <= self._longest:
            self._keep(serialized, layout)
        return layout

    def _keep(self, serialized: bytes, layout: Layout) -> None:
        with self._lock:
            if serialized not in self._layouts:
                self._bytes += len(serialized)
            self._layouts[serialized] = layout
            while self._bytes > self._kept_bytes or len(self._layouts) > LAYOUTS_KEPT:
                forgotten, _ = self._layouts.popitem(last=False)
                self._bytes -= len(forgotten)
