"""Handshakes of TLS at a server: those under way, which have a limit of their own, and those that came to nothing.

Whoever shakes hands may be anybody, so that no connection ever makes room for one, and none counts as a connection.
When there are too many, the oldest is ended of the address that has most: a member gets through beside strangers that
only connect. What a handshake costs is bounded, too: its steps take turns (`ringpull.ps.wire.turns`).
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from typing import Final

from ringpull.ps.errors import Unavailable
from ringpull.ps.wire.tls_layer import PLAIN, Inner, TlsLayer, reason_of
from ringpull.ps.wire.turns import Turns

HANDSHAKE_S: Final = 10.0
"""Time for a handshake; a caller gives up after half of it."""

MAX_HANDSHAKES: Final = 256
"""Handshakes of a shard at a time."""
SHARE: Final = 1 / 4
"""Part of a shard's event loop that they take at most."""

LOG_INTERVAL_S: Final = 60.0
"""Time between two lines about peers that were refused: strangers do not fill a log."""

_LOG: Final = logging.getLogger(__name__)


class Handshakes:
    """Accepts connections over TLS for a server; watches how they begin. Owned by the server's event loop."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        *,
        limit: int | None = None,
        share: float = SHARE,
        plain_answer: bytes,
        timeout_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with none.

        Args:
            context: Returns that of the next connection, once its peer has said something.
            share: Part of the loop's time that handshakes take at most, beyond a burst.
            limit: Upper bound on handshakes at a time; None: whoever accepts connections has one.
            plain_answer: Bytes for a peer that does not speak TLS: why it is hung up on, as it understands it.
        """
        self._context = context
        self._plain_answer = plain_answer
        self._limit = limit
        self._timeout_s = HANDSHAKE_S if timeout_s is None else timeout_s
        self._clock = clock
        self._pending: dict[str, dict[TlsLayer, None]] = {}
        """Those under way, by address, in order of arrival."""
        self._turns = Turns(share)
        self._addresses: dict[TlsLayer, str] = {}
        """Address of each of them."""
        self._ended: dict[TlsLayer, Callable[[], None]] = {}
        self._log_from_s = -LOG_INTERVAL_S
        self._unsaid = 0
        self.refused = 0
        """Number of those that came to nothing."""

    def __len__(self) -> int:
        return len(self._addresses)

    def over(self, inner: Inner, ended: Callable[[], None] | None = None) -> TlsLayer:
        """Return the protocol of a socket that is accepted, below the protocol of its connection.

        Args:
            ended: Called when the socket is closed, also where the protocol never heard of it.
        """
        layer = TlsLayer(inner, self._context, server_side=True, watcher=self, timeout_s=self._timeout_s)
        if ended is not None:
            self._ended[layer] = ended
        return layer

    def close(self) -> None:
        """Hang up on whoever is not done."""
        for layer in tuple(self._addresses):
            layer.socket.abort()

    # -- from the layers -----------------------------------------------------------------------------------------------

    def begun(self, layer: TlsLayer) -> None:
        """Count a socket; where there are too many, end another."""
        if self._limit is not None and len(self) >= self._limit:
            most = max(self._pending.values(), key=len)
            oldest = next(iter(most))
            self._forget(oldest)
            oldest.drop(Unavailable(f"it had not shaken hands when {self._limit} others began to"))
        address = _address_of(layer)
        self._addresses[layer] = address
        self._pending.setdefault(address, {})[layer] = None

    def asks(self, layer: TlsLayer) -> None:
        """Shake hands with a peer that has said something, when its turn comes; meanwhile it cannot say more."""
        layer.socket.pause_reading()
        self._turns.ask(layer, self._addresses.get(layer, ""), lambda: self._shake_hands(layer))

    def shaken(self, layer: TlsLayer, error: Exception | None) -> None:
        """Let a connection begin, or count why it does not."""
        if error is None:
            self._forget(layer)
            return
        reason = reason_of(error)
        if reason == PLAIN and not layer.socket.is_closing():
            layer.socket.write(self._plain_answer)
        self._refuse(layer, reason)

    def ended(self, layer: TlsLayer) -> None:
        """Forget a socket."""
        self._turns.forget(layer)
        self._forget(layer)
        if (tell := self._ended.pop(layer, None)) is not None:
            tell()

    def _shake_hands(self, layer: TlsLayer) -> None:
        if layer.socket.is_closing():
            return
        layer.shake_hands()
        if layer.reading and not layer.socket.is_closing():
            layer.socket.resume_reading()

    def _forget(self, layer: TlsLayer) -> None:
        address = self._addresses.pop(layer, None)
        if address is not None:
            del self._pending[address][layer]
            if not self._pending[address]:
                del self._pending[address]

    def _refuse(self, layer: TlsLayer, reason: str) -> None:
        self.refused += 1
        self._unsaid += 1
        if self._clock() < self._log_from_s + LOG_INTERVAL_S:
            return
        others = f", {self._unsaid - 1} more since the last such line" if self._unsaid > 1 else ""
        _LOG.warning("refused a connection from %s: %s%s", _address_of(layer) or "somebody", reason, others)
        self._log_from_s, self._unsaid = self._clock(), 0


def _address_of(layer: TlsLayer) -> str:
    peer = layer.socket.get_extra_info("peername")
    return str(peer[0]) if peer else ""
