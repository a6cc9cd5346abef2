"""Ledger of the bytes that peers make a shard hold: of frames that are still coming, of requests, and of replies.

All three count together against one limit, over all connections, so that no peer fills the memory by sending half of
something, or by not reading what it asked for. An eighth of the limit is kept for requests that are complete: frames
that never end and replies that nobody reads hold up no pull that arrives whole. Whatever is larger than its limit is
let in while nothing else is held; the largest of the unread replies holds up no other.

What is slow is ended by its time (`Patience`), sooner while there is no room. So neither kind waits for the other.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from ringpull.ps.wire.frames import SMALL_BYTES

KEPT_SHARE: Final = 8
"""One part in so many of the limit is kept for requests that are complete."""

UNREAD_BYTES: Final = 16 << 20
"""Upper bound on replies of one connection that wait to be read while more are made for it: enough to keep it busy."""

REQUEST_BYTES: Final = 4096
"""Memory of one request besides its arrays, about: it limits how many are in flight over all connections."""

FREE_HEADER_BYTES: Final = 256
HEADER_WEIGHT: Final = 24
"""Memory of the values of a request, by the bytes of its header beyond the free ones: ten bytes make a look-up of 200.
What is no request weighs up to 72, but nothing of that is kept (`ringpull.ps.wire.frames`)."""


def overhead(header_bytes: int) -> int:
    """Return how much memory a request takes because its header is long."""
    return HEADER_WEIGHT * max(0, header_bytes - FREE_HEADER_BYTES)


@dataclass(frozen=True, slots=True)
class Patience:
    """Times after which a peer that is slow is ended."""

    hello_s: float = 10.0
    """Time in which it has to say whom it means."""
    idle_s: float = 10.0
    """Time that a frame takes to arrive, or replies to be read, besides what its bytes take."""
    short_s: float = 1.0
    """The same while there is no room for others."""
    bytes_per_s: float = 8 << 20
    """Least rate of a peer that is not slow."""
    check_s: float = 1.0
    """Time between two looks."""

    def is_over(self, took_s: float, moved: int, *, short: bool) -> bool:
        """Return whether a peer that moved so many bytes in this time is slow.

        Args:
            short: Whether there is no room for others.
        """
        return took_s > (self.short_s if short else self.idle_s) + moved / self.bytes_per_s


class Ledger:
    """Bytes held over all connections of a server. Its event loop owns it; threads call what says that they may."""

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self.receiving = 0
        """Memory of frames that are still coming, beyond `SMALL_BYTES` each."""
        self.requests = 0
        """Bytes of requests that wait or run."""
        self.unsent = 0
        """Bytes of replies that peers are slow to take."""
        self.handed = 0
        """Bytes of replies that were handed to transports, ever."""
        self.largest_unsent = 0
        """The most of these that one peer is slow to take, or less; 0: not known."""
        self.for_parts: Final = limit - limit // KEPT_SHARE
        """Limit of what is not complete and of what is not read."""
        self.unread_limit: Final = max(SMALL_BYTES, min(UNREAD_BYTES, limit // KEPT_SHARE))
        """Limit of what one connection has not read while more is made for it."""
        self._kept = limit // KEPT_SHARE
        self._replies_limit = max(SMALL_BYTES, self.for_parts)
        self._made = 0
        self._noting = threading.Lock()

    def __repr__(self) -> str:
        return f"<Ledger {self.receiving} receiving, {self.requests} in flight, {self.replies} unread of {self.limit}>"

    @property
    def replies(self) -> int:
        """Bytes of replies that were made and that peers have not taken."""
        return self.unsent + self._made - self.handed

    @property
    def held(self) -> int:
        """All bytes together."""
        return self.receiving + self.requests + self.replies

    @property
    def replies_full(self) -> bool:
        """Whether no more replies are to be made. The largest does not count: it is let in alone."""
        return self.unsent - self.largest_unsent + self._made - self.handed >= self._replies_limit

    @property
    def short(self) -> bool:
        """Whether little room is left."""
        return self.held >= self.for_parts

    def fits_part(self, more: int, own: int) -> bool:
        """Return whether a frame that has `own` bytes may get more before it is complete."""
        held = self.held
        parts = self.receiving + self.replies + more
        return held == own or (parts <= self.for_parts and held + more <= self.limit)

    def fits(self, size: int) -> bool:
        """Return whether a complete request of this size may be taken."""
        held = self.receiving + self.requests + self.unsent + self._made - self.handed
        return held == 0 or held + size <= self.limit or self.requests + size <= self._kept

    def made(self, reply: Replies, size: int) -> None:
        """Note a reply to a connection, before it is handed to that; from any thread."""
        with self._noting:
            self._made += size
            reply.made += size

    def take_part(self, more: int, own: int) -> bool:
        """Give more bytes to a frame that has `own`, if they fit, and return whether they do; from any thread."""
        with self._noting:
            if not self.fits_part(more, own):
                return False
            self.receiving += more
            return True

    def let_go(self, size: int) -> None:
        """Note that bytes of frames that were coming are not held as such any more; from any thread."""
        with self._noting:
            self.receiving -= size


class Replies:
    """Replies of one connection: made by threads, handed to its transport by the event loop."""

    __slots__ = ("handed", "made", "unsent")

    def __init__(self) -> None:
        self.made = 0
        """Bytes of replies that were made, ever."""
        self.handed = 0
        """Bytes of replies that were handed to the transport, ever."""
        self.unsent = 0
        """Bytes of these that the transport still has, because the peer is slow to take them."""

    @property
    def unread(self) -> int:
        """Bytes that were made and not taken."""
        return self.unsent + self.made - self.handed
