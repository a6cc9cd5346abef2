"""TLS between a socket's transport and the protocol of a connection, on either end and on any event loop.

Of our own rather than asyncio's, which tells a protocol of a connection only once hands are shaken: a shard counts
those that never do, says why it took none, and answers a peer that speaks no TLS in a way that it understands. Bytes
are decrypted straight into the protocol's buffer, and encrypted as the socket takes them: what a peer does not read
stays as it was given, in the arrays of the reply, and is never twice in memory.

Invariants: the protocol hears of a connection when hands are shaken, and of its end only then; nothing is taken from
the socket while the protocol does not read; after the first error, or the end of what is sent, nothing is taken in.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from ringpull.ps.errors import Unavailable

CHUNK_BYTES: Final = 256 * 1024
"""Bytes that are encrypted between two looks at whether the socket takes more."""

RECORDS: Final = (0x15, 0x16)
"""First byte of whatever a peer may begin with in TLS: an alert, or a handshake."""

LINGER_S: Final = 1.0
"""Time that a refused peer has to read why: closing at once with unread bytes would reset the connection."""

PLAIN: Final = "it does not speak TLS"

REASONS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the CA of the certificate shown to it",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the certificate shown to it has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take the certificate shown to it",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take the certificate shown to it",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it says that the certificate shown to it is not for this purpose",
    "WRONG_VERSION_NUMBER": PLAIN,
}


Inner = asyncio.Protocol | asyncio.BufferedProtocol
"""Protocol of a connection, above."""


class Watcher(Protocol):
    """Who wants to know how handshakes go."""

    def begun(self, layer: TlsLayer) -> None:
        """Hear that there is a socket."""
        ...

    def shaken(self, layer: TlsLayer, error: Exception | None) -> None:
        """Hear that hands are shaken, before the protocol does, or why they never will be. Once."""
        ...

    def ended(self, layer: TlsLayer) -> None:
        """Hear that the socket is closed."""
        ...


def reason_of(error: Exception | None) -> str:
    """Return why a connection over TLS failed, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not taken: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return REASONS.get(error.reason or "") or (error.reason or str(error)).replace("_", " ").lower()
    return str(error) if error else "it hung up during the TLS handshake"


class TlsLayer(asyncio.Protocol):
    """One end of a connection: the protocol of the socket's transport."""

    def __init__(
        self,
        inner: Inner,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        watcher: Watcher,
        timeout_s: float | None = None,
    ) -> None:
        """Wait for a socket.

        Args:
            inner: The protocol above.
            timeout_s: Time for the handshake; None: no limit.
        """
        self._inner = inner
        self._buffered = inner if isinstance(inner, asyncio.BufferedProtocol) else None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._server_side = server_side
        self._watcher = watcher
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.socket: asyncio.Transport
        """Transport below, once there is a connection."""
        self._is_shaken = False
        self._outcome_known = False
        self._told = False
        """Whether the protocol knows of the connection."""
        self._said_something = False
        self._error: Exception | None = None
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self._stuck = False
        """Whether the socket takes no more for now."""
        self.reading = True
        self._sending_soon = False
        self._pausing = False
        """Whether the protocol knows of it."""
        self._ending = ""
        """What follows when all is sent: nothing, `eof` or `close`."""
        self._said_goodbye = False
        self._deaf = False
        """Whether what still comes is thrown away."""

    @property
    def closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._ending == "close" or self._error is not None or self.socket.is_closing()

    # -- from the socket's transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket = cast(asyncio.Transport, transport)
        if self._timeout_s is not None:
            self._timer = self._loop.call_later(self._timeout_s, self._too_late)
        self._watcher.begun(self)
        if not self.socket.is_closing():
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if not self._said_something:
            self._said_something = True
            if data[0] not in RECORDS:
                self.fail(Unavailable(PLAIN))
                return
        self._incoming.write(data)
        if not self._is_shaken:
            self._shake_hands()
        if self._told:
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        error = self._error or exc
        if self._told:
            self._inner.connection_lost(Unavailable(reason_of(error)) if isinstance(error, ssl.SSLError) else error)
        else:
            self._tell(error or Unavailable(reason_of(None)))
        self._watcher.ended(self)

    def pause_writing(self) -> None:
        self._stuck = True
        if self._told and not self._pausing:
            self._pausing = True
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stuck = False
        self._send()
        if self._pausing and not self._stuck:
            self._pausing = False
            self._inner.resume_writing()

    # -- from the protocol above, through its transport ----------------------------------------------------------------

    def write(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send these bytes, now or as the socket takes them."""
        if self._ending or self.closing:
            return
        for piece in pieces:
            view = memoryview(piece).cast("B")
            if view.nbytes:
                self._unsent.append(view)
                self.unsent_bytes += view.nbytes
        if not self._sending_soon:
            self._send()

    def end(self, how: str) -> None:
        """Send what is left, then an end: `eof`, after which the socket stays, or `close`."""
        if self._ending != "close":
            self._ending, self._deaf = how, True
            if not self._sending_soon:
                self._send()

    def read_on(self, reading: bool) -> None:
        """Take bytes from the socket, or leave them there."""
        if reading == self.reading:
            return
        self.reading = reading
        if reading:
            self.socket.resume_reading()
            self._loop.call_soon(self._read)  # what came before the pause, and is not decrypted yet
        else:
            self.socket.pause_reading()

    # -- hands ---------------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as exc:
            self.fail(exc)
            return
        self._flush()
        self._is_shaken = True
        self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        """Say how the handshake went, once."""
        if self._timer is not None:
            self._timer.cancel()
        if self._outcome_known:
            return
        self._outcome_known = True
        self._watcher.shaken(self, error)
        if error is None:
            self._told = True
            self._inner.connection_made(TlsTransport(self))

    def _too_late(self) -> None:
        self.fail(Unavailable(f"no TLS handshake within {self._timeout_s:g} s"))

    def fail(self, error: Exception) -> None:
        """End it; the peer hears the reason where TLS has a word for it."""
        if self._error is not None:
            return
        self._error, self._deaf = error, True
        self._unsent.clear()
        self.unsent_bytes = 0
        self._flush()
        if not self._told:
            self._tell(error)
        if self._server_side and not self.socket.is_closing():
            self.socket.write_eof()
            self._loop.call_later(LINGER_S, self.socket.abort)
        else:
            self.socket.abort()

    def drop(self, error: Exception) -> None:
        """End it at once, before hands are shaken, because there is no room for it."""
        if self._error is None:
            self._error, self._deaf = error, True
        self.socket.abort()

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Decrypt what has come, while the protocol takes it."""
        tls, inner = self.tls, self._buffered
        try:
            # Looked at first: to be told by an exception that there is nothing costs as much as to decrypt a record.
            while (self._incoming.pending or tls.pending()) and self.reading and not self._deaf:
                if inner is None:
                    came = tls.read(CHUNK_BYTES)
                    if came:
                        cast(asyncio.Protocol, self._inner).data_received(came)
                        continue
                else:
                    buffer = cast(bytearray, inner.get_buffer(-1))
                    size = cast(int, tls.read(len(buffer), buffer))
                    if size:
                        inner.buffer_updated(size)
                        continue
                self._deaf = True  # the peer has said that nothing follows
                self.socket.close()
                return
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self.fail(exc)
            return
        self._flush()

    def _send(self) -> None:
        """Encrypt what is to be sent, while the socket takes it."""
        unsent, tls, chunk = self._unsent, self.tls, 0
        try:
            while unsent and not self._stuck:
                view = unsent[0]
                size = tls.write(view[: CHUNK_BYTES - chunk])
                self.unsent_bytes -= size
                chunk += size
                if size < view.nbytes:
                    unsent[0] = view[size:]
                else:
                    unsent.popleft()
                if chunk >= CHUNK_BYTES:
                    chunk = 0
                    self._flush()
                    if self.socket.get_write_buffer_size() >= CHUNK_BYTES and not self._stuck:
                        # uvloop gives it to the socket, and says whether it is stuck, when this turn of the loop ends.
                        self._send_soon()
                        return
        except ssl.SSLError as exc:
            self.fail(exc)
            return
        self._flush()
        if self._ending and not unsent:
            self._say_goodbye()

    def _send_soon(self) -> None:
        if not self._sending_soon:
            self._sending_soon = True
            self._loop.call_soon(self._send_now)

    def _send_now(self) -> None:
        self._sending_soon = False
        self._send()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.socket.is_closing():
            self.socket.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            with suppress(ssl.SSLError):  # It would wait for the peer's own goodbye, which nobody else does.
                self.tls.unwrap()
            self._flush()
        if self._ending == "close":
            self.socket.close()
        elif not self.socket.is_closing():
            self.socket.write_eof()


async def shake_hands(inner: Inner, context: ssl.SSLContext, host: str, port: int) -> None:
    """Connect a protocol to a server over TLS, within the time that the caller has for it.

    Raises:
        OSError: The server cannot be reached. `ssl.SSLError` is one: hands cannot be shaken.
        Unavailable: The same, for a reason that TLS has no error for.
    """
    loop = asyncio.get_running_loop()
    waiter = _Waiter(loop.create_future())
    transport, _ = await loop.create_connection(lambda: TlsLayer(inner, context, watcher=waiter), host, port)
    try:
        await waiter.done
    except BaseException:
        transport.abort()
        raise


class _Waiter:
    """Watcher of one handshake, at the end that connects."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # who gave up does not ask

    def begun(self, layer: TlsLayer) -> None:
        pass

    def shaken(self, layer: TlsLayer, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)

    def ended(self, layer: TlsLayer) -> None:
        pass


class TlsTransport(asyncio.Transport):
    """The transport that the protocol above sees."""

    def __init__(self, layer: TlsLayer) -> None:
        super().__init__()
        self._layer = layer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._layer.tls
        if name == "sslcontext":
            return self._layer.tls.context
        return self._layer.socket.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._layer.closing

    def is_reading(self) -> bool:
        return self._layer.reading

    def pause_reading(self) -> None:
        self._layer.read_on(False)

    def resume_reading(self) -> None:
        self._layer.read_on(True)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._layer.write([data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self._layer.write(list_of_data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._layer.end("eof")

    def close(self) -> None:
        self._layer.end("close")

    def abort(self) -> None:
        self._layer.socket.abort()

    def get_write_buffer_size(self) -> int:
        return self._layer.unsent_bytes + self._layer.socket.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._layer.socket.set_write_buffer_limits(high, low)
