"""What is told of versions, made once for each: a thousand features in a hundred signatures take seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from ringpull.inference.head.aside import aside
from ringpull.inference.head.catalog import ServedVersion

BYTES_OF_INPUT: Final = 2_048
"""Bytes of JSON that take as long to read as an input of a signature to describe: some 50 us."""


class KeptTexts:
    """Texts about versions, for as long as those are there. Owned by the event loop."""

    def __init__(self, make: Callable[[ServedVersion], bytes]) -> None:
        """Keep nothing yet.

        Args:
            make: Function that makes the text of a version, in any thread.
        """
        self._make = make
        self._kept: WeakKeyDictionary[ServedVersion, bytes] = WeakKeyDictionary()

    async def of(self, served: ServedVersion) -> bytes:
        """Return the text of a version, made beside the event loop where that takes long."""
        kept = self._kept.get(served)
        if kept is None:
            signatures = 1 + len(served.loaded.manifest.outputs)
            work = BYTES_OF_INPUT * signatures * len(served.loaded.schema.features)
            kept = await aside(work, lambda: self._made(served))
        return kept

    def _made(self, served: ServedVersion) -> bytes:
        # Whoever waited for a turn meanwhile finds what the first has made.
        kept = self._kept.get(served)
        if kept is None:
            kept = self._kept[served] = self._make(served)
        return kept
