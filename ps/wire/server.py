"""The shard's end of connections: accepts them, runs verbs off the event loop, answers in the order they finish.

Invariants: a look-up never runs on the event loop (a page fault would stall every connection); a request whose time is
up is answered without work, and one that would wait beyond its time is refused at once (`ringpull.ps.wire.admission`);
a connection that means another shard, or sends nonsense, gets the reason and is ended, and no other connection notices;
a peer that sends faster than it is served, or does not read its replies, is not read from meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from ringpull.ps.errors import (
    DeadlineExceeded,
    LimitExceeded,
    RingpullError,
    StartupError,
    Stranger,
    Unavailable,
)
from ringpull.ps.service_rate import Work
from ringpull.ps.tls import LiveTls
from ringpull.ps.wire.admission import Admission, AdmissionLimits
from ringpull.ps.wire.codec import CONNECTION_ID, decode_hello, decode_request, encode_hello, encode_reply
from ringpull.ps.wire.error_codes import error_reply
from ringpull.ps.wire.frames import REPLY_LIMITS, REQUEST_LIMITS, REQUESTS, Frame, Kind, Limits
from ringpull.ps.wire.handshakes import Handshakes
from ringpull.ps.wire.messages import (
    ANYONE,
    DescribeReply,
    DescribeRequest,
    ErrorReply,
    Hello,
    PullReply,
    PullRequest,
    RangePullReply,
    RangePullRequest,
    Reply,
    Request,
    ShardStatistics,
    StatisticsRequest,
)
from ringpull.ps.wire.protocol import FrameProtocol
from ringpull.ps.wire.tally import ServerTally

MAX_IN_FLIGHT = 1024
"""Upper bound on requests of one connection that wait or run at a time."""
MAX_IN_FLIGHT_BYTES = 64 << 20
"""Upper bound on the payload of the requests of one connection that wait or run; a larger one is taken alone."""

LINGER_S = 1.0
"""Time a poisoned connection is kept to let its reason arrive: closing at once with unread bytes would reset it."""

Pieces = list[bytes | memoryview]


class Verbs(Protocol):
    """The verbs that a server serves; `ringpull.ps.shard.Shard` has them. Called from several threads at once."""

    def pull(self, request: PullRequest) -> PullReply: ...
    def range_pull(self, request: RangePullRequest) -> RangePullReply: ...
    def statistics(self) -> ShardStatistics: ...
    def describe(self, request: DescribeRequest) -> DescribeReply: ...


class Threads(Protocol):
    """Runs functions in other threads, first come first served: a `LookupThreads`, or any executor."""

    def submit(self, function: Callable[..., None], /, *args: object) -> object: ...


class ShardServer:
    """A TCP server of one shard's verbs. All methods belong to one event loop; the verbs run in `threads`.

    Streams of ranges have threads of their own, if given: a pull does not wait for a MiB to be read and checked.
    `hello` says who it is: callers that mean another are hung up on.
    """

    def __init__(
        self,
        shard: Verbs,
        threads: Threads,
        *,
        hello: Hello = ANYONE,
        streams: Threads | None = None,
        request_limits: Limits = REQUEST_LIMITS,
        reply_limits: Limits = REPLY_LIMITS,
        admission_limits: AdmissionLimits | None = None,
        tally: ServerTally | None = None,
        tls: LiveTls | None = None,
    ) -> None:
        self.hello: Final = hello
        self._shard = shard
        self._tally = tally
        self._admission = Admission(admission_limits or AdmissionLimits())
        self._handshakes = None if tls is None else self._new_handshakes(tls)
        self._threads = threads
        self._streams = threads if streams is None else streams
        self._request_limits = request_limits
        self._reply_limits = reply_limits
        self._server: asyncio.Server | None = None
        self._connections: set[_ServedConnection] = set()
        self._answered: deque[_Answer] = deque()
        self._flush_scheduled = False
        self._closing = False
        self._address = ""

    def __repr__(self) -> str:
        return f"<ShardServer {self._address} {len(self._connections)} connections, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Requests taken in and not answered."""
        return sum(connection.in_flight for connection in tuple(self._connections))

    @property
    def pulls_in_flight(self) -> bool:
        """Whether a pull waits or runs; from any thread."""
        return not self._admission.idle

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    @property
    def handshakes_refused(self) -> int:
        """Connections over TLS that came to nothing: of strangers, or in plain text."""
        return 0 if self._handshakes is None else self._handshakes.refused

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, and return the address. Port 0 takes any free one.

        Raises:
            StartupError: The address cannot be listened on; names it.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await self._loop.create_server(self._accept, host, port)
        except OSError as exc:
            raise StartupError(f"a shard cannot listen on {host}:{port}: {exc}") from exc
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        self._address = f"{bound[0]}:{bound[1]}"
        return bound

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting and reading, answer what is in flight for up to `grace_s`, then close every connection."""
        if self._server is None:
            return
        self._closing = True
        self._server.close()
        if self._handshakes is not None:
            self._handshakes.close()
        ends = [connection.drain() for connection in self._connections]
        if ends:
            await asyncio.wait(ends, timeout=grace_s)
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.wait(ends)
        await self._server.wait_closed()

    # -- on the event loop --------------------------------------------------------------------------------------------

    def _new_handshakes(self, tls: LiveTls) -> Handshakes:
        # For a head or a shard without TLS, which understands it.
        said = error_reply(Stranger("this shard speaks TLS only, with certificates (--tls-cert)"))
        return Handshakes(
            lambda: tls.members.server,
            self._admission.limits.max_connections,
            lambda: len(self._connections),
            plain_answer=b"".join(encode_reply(said, CONNECTION_ID)),
        )

    def _accept(self) -> asyncio.BaseProtocol:
        connection = _ServedConnection(self, self._request_limits)
        return connection if self._handshakes is None else self._handshakes.over(connection)

    def joined(self, connection: _ServedConnection) -> None:
        self._connections.add(connection)
        limit = self._admission.limits.max_connections
        if self._closing:  # it was in the kernel's queue when listening ended
            connection.abort()
        elif len(self._connections) + len(self._handshakes or ()) > limit:
            connection.give_up(LimitExceeded(f"this shard has {limit} connections, which is max_connections"))

    def left(self, connection: _ServedConnection) -> None:
        self._connections.discard(connection)

    def submit(
        self, connection: _ServedConnection, request_id: int, request: Request, deadline_s: float, size: int
    ) -> None:
        """Have a thread answer `request`; the answer goes back through `connection.answered`.

        Raises:
            Unavailable: There is too much to do.
        """
        if isinstance(request, StatisticsRequest):
            # Here and now: routers ask for them to learn whether a slow shard is alive, however busy it is.
            self._work(connection, request_id, request, deadline_s, size, None, time.monotonic())
            return
        work = self._admission.begin(size, deadline_s) if isinstance(request, PullRequest) else None
        threads = self._streams if isinstance(request, RangePullRequest) else self._threads
        threads.submit(self._work, connection, request_id, request, deadline_s, size, work, time.monotonic())

    def refused(self, request: Request, size: int, error: RingpullError) -> ErrorReply:
        """Return what a request gets that was not taken, and count it."""
        reply = error_reply(error)
        if self._tally is not None:
            self._tally.refused(request, reply, received_bytes=size)
        return reply

    def _flush(self) -> None:
        # Cleared before the queue is read: an answer that comes later schedules another flush.
        self._flush_scheduled = False
        while self._answered:
            answer = self._answered.popleft()
            answer.connection.answered(answer.pieces, answer.size)
            if answer.work is not None:
                self._admission.end(answer.work, answer.size, served=isinstance(answer.reply, PullReply))
            if self._tally is not None:
                self._tally.answered(
                    answer.request,
                    answer.reply,
                    queue_s=answer.queue_s,
                    took_s=answer.took_s,
                    received_bytes=answer.size,
                    sent_bytes=sum(map(len, answer.pieces)),
                )

    # -- in one of the threads ------------------------------------------------------------------------------------

    def _work(
        self,
        connection: _ServedConnection,
        request_id: int,
        request: Request,
        deadline_s: float,
        size: int,
        work: Work | None,
        received_s: float,
    ) -> None:
        reply: Reply
        began_s = time.monotonic()
        try:
            reply = self._answer(request, deadline_s)
        except Exception as error:  # whatever it is, the caller must hear of it
            reply = error_reply(error)
        took_s = time.monotonic() - began_s
        try:
            pieces = encode_reply(reply, request_id, self._reply_limits)
        except LimitExceeded as error:
            reply = error_reply(error)
            pieces = encode_reply(reply, request_id)
        self._answered.append(_Answer(connection, pieces, size, work, request, reply, began_s - received_s, took_s))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon_threadsafe(self._flush)

    def _answer(self, request: Request, deadline_s: float) -> Reply:
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded("the request's time was up before a look-up began")
        match request:
            case PullRequest():
                return self._shard.pull(request)
            case RangePullRequest():
                return self._shard.range_pull(request)
            case StatisticsRequest():
                return self._shard.statistics()
            case DescribeRequest():
                return self._shard.describe(request)


class _Answer(NamedTuple):
    """Answer on its way from a look-up thread to the event loop."""

    connection: _ServedConnection
    pieces: Pieces
    size: int
    """Bytes of the request's payload."""
    work: Work | None
    """Work of a pull, as admission counts it; None for other verbs."""
    request: Request
    reply: Reply
    queue_s: float
    took_s: float


class _ServedConnection(FrameProtocol):
    """Accepted connection."""

    def __init__(self, server: ShardServer, limits: Limits) -> None:
        super().__init__(REQUESTS, limits)
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._in_flight_bytes = 0
        self._replies_stuck = False
        self._draining = False
        self._reading = True
        self._greeted = False
        self.in_flight = 0

    def drain(self) -> asyncio.Future[None]:
        """Read no further, close once all is answered; the future is done when the connection has ended."""
        self._draining = True
        self._pace()
        self._close_if_drained()
        return self._ended

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def answered(self, pieces: Pieces, size: int) -> None:
        """Send one reply to a request of `size` bytes."""
        self.in_flight -= 1
        self._in_flight_bytes -= size
        if not self._poisoned:
            self.send(pieces)
        self._pace()
        self._close_if_drained()

    # -- from the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.left(self)
        if not self._ended.done():
            self._ended.set_result(None)

    def frame_received(self, frame: Frame) -> None:
        if not self._greeted:
            self._greet(frame)
            return
        request = decode_request(frame)
        deadline_s = time.monotonic() + frame.remaining_us * 1e-6
        size = sum(array.nbytes for array in frame.arrays)
        try:
            self._server.submit(self, frame.request_id, request, deadline_s, size)
        except Unavailable as error:
            self.send(encode_reply(self._server.refused(request, size, error), frame.request_id))
            return
        self.in_flight += 1
        self._in_flight_bytes += size
        self._pace()

    def _greet(self, frame: Frame) -> None:
        meant, who = decode_hello(frame, Kind.HELLO), self._server.hello
        if not who.fits(meant):
            raise Stranger(f"this is {who}; {meant} was meant")
        self.send(encode_hello(who, reply=True))
        self._greeted = True

    def give_up(self, error: RingpullError) -> None:
        """Take nothing in, say why, and end."""
        self._poisoned = True
        self.poisoned(error)

    def poisoned(self, error: RingpullError) -> None:
        assert self._transport is not None
        self._transport.writelines(encode_reply(error_reply(error), CONNECTION_ID))
        self._transport.write_eof()
        self._loop.call_later(LINGER_S, self.abort)

    def pause_writing(self) -> None:
        self._replies_stuck = True
        self._pace()

    def resume_writing(self) -> None:
        self._replies_stuck = False
        self._pace()

    # -- pace ---------------------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        """Read from the peer exactly while there is room for what it sends."""
        full = self.in_flight >= MAX_IN_FLIGHT or self._in_flight_bytes >= MAX_IN_FLIGHT_BYTES
        reading = not (full or self._replies_stuck or self._draining)
        if reading == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _close_if_drained(self) -> None:
        if self._draining and self.in_flight == 0 and self._transport is not None:
            self._transport.close()
