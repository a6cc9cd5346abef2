"""Budget: how much memory the newer rows of a shard may take, all tables together."""

from __future__ import annotations

from threading import RLock

from ringpull.ps.errors import LimitExceeded
from ringpull.ps.store.newer.spares import Spares


class Budget:
    """Bytes that are taken before memory is, and given back once it is free again, from any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.held_bytes = 0
        """Bytes that its owner says it has beside: they are not there to be taken."""
        self.spares = Spares()
        """Memory that was given back and is kept: never more than could be taken."""
        # Memory is given back by whoever drops it last, perhaps in the midst of a `take` of the same thread.
        self._lock = RLock()

    @property
    def for_rows_bytes(self) -> int:
        """What can be taken where nothing is."""
        return max(0, self.limit_bytes - self.held_bytes)

    @property
    def left_bytes(self) -> int:
        """What can be taken."""
        return max(0, self.for_rows_bytes - self.used_bytes)

    def take(self, size: int) -> None:
        """Take so many bytes.

        Raises:
            LimitExceeded: There are fewer left. None were taken.
        """
        with self._lock:
            taken = self.used_bytes + self.held_bytes
            if taken + size > self.limit_bytes:
                raise LimitExceeded(
                    f"newer rows have {taken} bytes of memory, and {size} more would be over their limit of"
                    f" {self.limit_bytes}"
                )
            self.used_bytes += size
        self.shrink()

    def shrink(self) -> None:
        """Let go of spares that are old, or for which there is no room."""
        self.spares.shrink(self.left_bytes)

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self.used_bytes -= size
