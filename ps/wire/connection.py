"""The caller's end of a connection: pipelined, to one shard, shared by any number of requests at once.

Invariants: every request gets exactly one outcome: its reply, the shard's error, DeadlineExceeded, or ConnectionLost
when the connection ends first. Requests may follow the hello at once, but nothing counts as a reply before the shard
has said who it is; a stranger is hung up on. A reply after its request gave up is dropped by its id; of a scan that
gave up before its deadline the shard is told. A connection that broke, or broke the protocol, stays closed: the next
request to that shard connects anew.
"""

from __future__ import annotations

import asyncio
import ssl
import time

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, ProtocolError, RingpullError, Stranger, Unavailable
from ringpull.ps.tls import LiveTls
from ringpull.ps.top_k_messages import TopKRequest
from ringpull.ps.wire.codec import (
    CONNECTION_ID,
    decode_hello,
    decode_reply,
    encode_cancel,
    encode_hello,
    encode_request,
    max_reply_bytes,
)
from ringpull.ps.wire.error_codes import error_of
from ringpull.ps.wire.frames import REPLIES, REPLY_LIMITS, Frame, Kind, Limits, Prelude, Refusal
from ringpull.ps.wire.messages import ANYONE, ErrorReply, Hello, Reply, Request
from ringpull.ps.wire.protocol import FrameProtocol
from ringpull.ps.wire.tls_layer import reason_of, shake_hands

CONNECT_TIMEOUT_S = 5.0


class Connection(FrameProtocol):
    """A connection to a shard; make one with `Connection.connect`. Not thread-safe: belongs to one event loop."""

    def __init__(self, address: str, limits: Limits = REPLY_LIMITS, *, hello: Hello = ANYONE) -> None:
        super().__init__(REPLIES, limits, self._was_asked_for)
        self._address = address
        self._hello = hello
        self._greeted = False
        """Whether it is a shard that answers, and the one meant."""
        self._waiting: dict[int, tuple[Request, asyncio.Future[Reply]]] = {}
        self._last_id = CONNECTION_ID
        self._lost: ConnectionLost | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        hello: Hello = ANYONE,
        timeout_s: float = CONNECT_TIMEOUT_S,
        tls: LiveTls | None = None,
    ) -> Connection:
        """Open a connection to the shard that listens at `host`:`port`.

        It is usable at once: if it is not the shard meant, the first request raises `Stranger`.

        Args:
            hello: Which shard is meant.
            tls: What both ends show each other; None: nothing, in plain text.

        Raises:
            Unavailable: Nothing answers there within `timeout_s`, or in another way: with TLS or without, or of another
                deployment.
        """
        address = f"{host}:{port}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                if tls is not None:
                    return await cls._connect_over(tls, host, port, hello)
                _, connection = await loop.create_connection(lambda: cls(address, hello=hello), host, port)
        except TimeoutError as exc:
            raise Unavailable(f"no shard answered at {address} within {timeout_s:g} s") from exc
        except OSError as exc:
            raise Unavailable(f"no shard can be reached at {address}: {exc}") from exc
        return connection

    @classmethod
    async def _connect_over(cls, tls: LiveTls, host: str, port: int, hello: Hello) -> Connection:
        address = f"{host}:{port}"
        while True:
            connection, context = cls(address, hello=hello), tls.members.client
            try:
                await shake_hands(connection, context, host, port)
            except (ssl.SSLError, Unavailable) as exc:
                # Files may have changed between this end's look at them and the other's, which comes later.
                if tls.members.client is context:
                    raise Unavailable(f"no shard can be reached at {address} over TLS: {reason_of(exc)}") from exc
            else:
                return connection

    def __repr__(self) -> str:
        state = f"closed: {self._lost}" if self._lost else f"{len(self._waiting)} in flight"
        return f"<Connection {self._address} {state}>"

    @property
    def closed(self) -> bool:
        """Whether every further request would raise ConnectionLost."""
        return self._lost is not None

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._waiting)

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        """Send one request and return its reply, never an `ErrorReply`: that is raised.

        Args:
            message: Its arrays must not change until this returns or raises.
            deadline_s: Absolute, `time.monotonic()` seconds; the time left travels with the request.

        Raises:
            DeadlineExceeded: No reply in time.
            Stranger: It is not the shard that was meant.
            ConnectionLost: The connection ended first. The shard may or may not have seen the request.
            LimitExceeded: The message is larger than a shard accepts.
            RingpullError: The error the shard answered with, in its own class.
        """
        if not self._writable.is_set():
            await self._until_writable(deadline_s)
        if self._lost is not None:
            raise self._lost_error()
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded(f"no time was left to ask the shard at {self._address}")
        self._last_id = request_id = self._last_id + 1
        pieces = encode_request(message, request_id, max(1, int(remaining_s * 1e6)))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting[request_id] = (message, future)
        timer = loop.call_later(remaining_s, self._expire, request_id)
        try:
            self.send(pieces)
            reply = await future
        finally:
            timer.cancel()
            if self._waiting.pop(request_id, None) is not None and isinstance(message, TopKRequest):
                # Its caller gave up, as a hedge that lost does; the shard would look at rows until the deadline.
                self.send(encode_cancel(request_id))
        if isinstance(reply, ErrorReply):
            raise error_of(reply)
        return reply

    async def close(self) -> None:
        """Close the connection; requests in flight raise ConnectionLost. Returns when the socket is closed."""
        self._end(ConnectionLost(f"the connection to the shard at {self._address} was closed by its owner"))
        await asyncio.shield(self._ended)

    # -- from the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(encode_hello(self._hello))

    def frame_received(self, frame: Frame) -> None:
        if frame.request_id == CONNECTION_ID and frame.kind is Kind.ERROR:
            raise self._given_up(frame)
        if not self._greeted:
            self._greet(frame)
            return
        if frame.request_id == CONNECTION_ID:
            raise ProtocolError(f"the shard at {self._address} sent a {frame.kind.name}, a reply to no request")
        if frame.request_id > self._last_id:
            raise self._never_sent(frame.request_id)
        request, future = self._waiting.pop(frame.request_id, (None, None))
        if future is None:
            return  # its request gave up: timed out or cancelled
        try:
            reply = decode_reply(frame, request)
        except ProtocolError as error:
            _fail(future, error)
            raise
        if not future.done():
            future.set_result(reply)

    def _was_asked_for(self, prelude: Prelude, more: int) -> bool:
        """See `ringpull.ps.wire.frames.Room`: no more is kept of a reply than its request can have asked for.

        Raises:
            ProtocolError: The shard sends more than that.
        """
        request, _ = self._waiting.get(prelude.request_id, (None, None))
        if request is None:
            return False  # Its request gave up, or was never sent: `frame_refused` says which.
        if prelude.payload_bytes > (limit := max_reply_bytes(request)):
            raise ProtocolError(
                f"the shard at {self._address} sends {prelude.payload_bytes} bytes in reply to request"
                f" {prelude.request_id}, which asked for {limit} at most"
            )
        return True

    def frame_refused(self, refusal: Refusal) -> None:
        prelude = refusal.prelude
        if not self._greeted or prelude.request_id == CONNECTION_ID:
            raise ProtocolError(
                f"the shard at {self._address} sent a {prelude.kind.name} of {prelude.payload_bytes} bytes,"
                " a reply to no request"
            )
        if prelude.request_id > self._last_id:
            raise self._never_sent(prelude.request_id)

    def _never_sent(self, request_id: int) -> ProtocolError:
        return ProtocolError(f"the shard at {self._address} answered request {request_id}: never sent")

    def poisoned(self, error: ConnectionLost) -> None:
        if not self._greeted and not isinstance(error, Stranger):
            error = Stranger(f"who listens at {self._address} is no shard of this build: {error}")
        self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        where = "in the middle of a reply" if self._decoder.mid_frame else "between replies"
        if not self._greeted:
            where = "before it said who it is"
        reason = f": {exc}" if exc else ""
        self._end(ConnectionLost(f"the shard at {self._address} closed the connection {where}{reason}"))
        if not self._ended.done():
            self._ended.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- who it is ----------------------------------------------------------------------------------------------------

    def _greet(self, frame: Frame) -> None:
        who = decode_hello(frame, Kind.HELLO_REPLY)
        if not self._hello.fits(who):
            raise Stranger(f"who listens at {self._address} is {who}; {self._hello} was meant")
        self._greeted = True

    def _given_up(self, frame: Frame) -> ConnectionLost:
        """Return why the peer ends this connection, as it says."""
        reply = decode_reply(frame)
        error = error_of(reply) if isinstance(reply, ErrorReply) else None
        if isinstance(error, Stranger):
            return Stranger(f"who listens at {self._address} hung up: {error}")
        self._greeted = True  # It speaks this protocol: whatever ends here, it is no stranger.
        return ProtocolError(f"the shard at {self._address} gave this connection up: {error}")

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _expire(self, request_id: int) -> None:
        _, future = self._waiting.pop(request_id, (None, None))
        if future is not None:
            _fail(future, DeadlineExceeded(f"the shard at {self._address} did not answer in time"))

    async def _until_writable(self, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                await self._writable.wait()
        except TimeoutError as exc:
            raise DeadlineExceeded(f"the shard at {self._address} took no bytes until the deadline") from exc

    def _lost_error(self) -> ConnectionLost:
        """Return a new error for this request: one exception object raised in many tasks would mix their tracebacks."""
        return type(self._lost)(str(self._lost)) if self._lost else ConnectionLost(self._address)

    def _end(self, error: ConnectionLost) -> None:
        """Close, once, and fail all that is in flight; later causes are consequences and are not kept."""
        if self._lost is not None:
            return
        self._lost = error
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            _fail(future, self._lost_error())
        self._writable.set()
        if self._transport is not None:
            # Not close(): requests that no task waits for any more need not be flushed to a peer that may be stuck.
            self._transport.abort()


def _fail(future: asyncio.Future[Reply], error: RingpullError) -> None:
    if not future.done():
        future.set_exception(error)
