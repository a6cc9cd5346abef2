"""The limits of HTTP connections: how many there may be, and how long each may take to ask and to be answered.

A connection that sends half a request, or nothing, costs a descriptor of the process, and gRPC and shards need those,
too. So connections are few, however many descriptors there are, and each has `timeout_s` from when it is taken, or was
answered the last time, until a whole header has come; TLS's handshake and an idle keep-alive are part of that. A body
has the time of an answer, and whoever takes it in has limits of its own (`ringpull.inference.head.receiving`). When
there are too many, the one that has been asking for longest makes room, of the address that has most of them, and who
has sent half a body asks: a probe gets through, also where all come from one address. Where all are being answered, one
more is hung up on at once.
Whoever does not read its answers, or asks again before it has the last one, is ended like one that asks, and before it:
else it would keep all others out for as long as it likes. While an answer is not read its time runs on, however many
follow.

Uvicorn accepts whatever comes and waits for it without a limit, so connections are accepted here and handed to its
protocol. It tells an application that asks that its client went away; here the request's task is cancelled, as gRPC
does it, so that nobody computes what nobody waits for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ringpull.inference.head.config import HttpLimits
from ringpull.ps.descriptors import NO_DESCRIPTOR, part_of_descriptors
from ringpull.ps.wire.handshakes import Handshakes

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 16 << 10
"""Bytes of a request's header; one more is answered by 400 and hung up on."""
ANSWER_S: Final = 30.0
"""Time in which an answer must be made and read."""
DESCRIPTOR_SHARE: Final = 1 / 8
"""Part of the process's descriptors that connections of one HTTP port take at most."""
MAX_ACCEPTED: Final = 16
"""Connections taken in one turn of the loop."""
PAUSE_S: Final = 0.2
"""Time for which none is taken where the process has no descriptor left."""

TIMEOUT: Final = "timeout"
FULL: Final = "full"
REFUSED: Final = "refused"
MALFORMED: Final = "malformed"
REASONS: Final = (TIMEOUT, FULL, REFUSED, MALFORMED)
"""Why connections were ended: the time limit; room for another one; no room could be made; what came is no HTTP."""

WARNING_S: Final = 60.0
"""Time between two warnings of what strangers send, who would else fill a log."""
_AUTHORITY: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


@dataclass(slots=True)
class ConnectionCounts:
    """HTTP connections of a process, over all its ports."""

    open: int = 0
    ended: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    """Connections that were ended by the limits since start, by reason."""


class Connection:
    """One connection that was accepted."""

    __slots__ = ("address", "ahead", "answering", "blocked", "opening", "receiving", "since_s", "timer", "transport")

    def __init__(self, address: str) -> None:
        """Hold what `LimitedServer` notes of the connection; the attributes are its own."""
        self.address = address
        self.answering = False
        """Whether a whole header is here, and its answer is not all made."""
        self.receiving = False
        """Whether of the request that is being answered the body is not all here."""
        self.ahead = False
        """Whether what is being answered was asked before the last answer was made."""
        self.blocked = False
        """Whether so much of its answers is unread that no more is written."""
        self.since_s = 0.0
        """Time since which it has been asking, or is being answered."""
        self.timer: asyncio.TimerHandle | None = None
        self.opening: asyncio.Task[None] | None = None
        self.transport: asyncio.BaseTransport | None = None
        """Its transport; None before it has one, which with TLS takes a handshake."""

    @property
    def greedy(self) -> bool:
        """Whether it takes more answers than it waits for."""
        return self.blocked or (self.answering and self.ahead)


class NowAndThen(logging.Filter):
    """Lets warnings through once in a while; the next one tells how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Let the next one through."""
        super().__init__()
        self._clock = clock
        self._next_s = -math.inf
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        if record.levelno != logging.WARNING:
            return True
        if self._clock() < self._next_s:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.msg} (and {self._left_out} such warnings before it)"
        self._next_s, self._left_out = self._clock() + WARNING_S, 0
        return True


_quiet: Final = logging.getLogger("uvicorn.error.requests")
_quiet.addFilter(NowAndThen())


class LimitedProtocol(H11Protocol):
    """Uvicorn's protocol, which tells its server when it begins to answer and when it has answered."""

    def __init__(self, connection: Connection, server: LimitedServer) -> None:
        """Serve one connection of `server`."""
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self.logger = _quiet
        self._connection = connection
        self._server = server
        self._serve = self.app
        self.app = self._answer
        self._request: asyncio.Task[Any] | None = None
        """Task of the request that is being answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._connection.transport = transport
        super().connection_made(transport)

    def handle_events(self) -> None:
        """Take what has come."""
        super().handle_events()
        if self._waits_for_answer() and not self.conn.trailing_data[0]:
            # Reading has paused where the body was long, and who does not read learns of no end.
            self.flow.resume_reading()
        self._tell()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and end."""
        self._server.malformed()
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Go on after an answer."""
        super().on_response_complete()
        self._connection.ahead = not self.cycle.response_complete
        self._tell(again=True)

    def pause_writing(self) -> None:
        """Wait for what was written to be read."""
        super().pause_writing()
        self._server.blocked(self._connection, True)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._server.blocked(self._connection, False)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self._request is not None:
            self._request.cancel()
        self._server.left(self._connection)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Have the application answer a request, for as long as its client is there."""
        self._request = task = asyncio.current_task()
        try:
            await self._serve(_from_root(scope), receive, send)
        except asyncio.CancelledError:
            # Uvicorn would log it as an error of the application.
            if not self.transport.is_closing():
                raise
        finally:
            if self._request is task:  # and not of the next one already
                self._request = None

    def _waits_for_answer(self) -> bool:
        """Whether a whole request is here, and its answer is not all made."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _tell(self, *, again: bool = False) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        self._connection.receiving = answering and self.cycle.more_body
        if again or answering != self._connection.answering:
            self._server.turned(self._connection, answering=answering)


class LimitedServer(uvicorn.Server):
    """A server that accepts the connections of one bound socket within limits. Owned by the event loop."""

    def __init__(
        self,
        config: uvicorn.Config,
        bound: socket.socket,
        limits: HttpLimits,
        counts: ConnectionCounts,
        handshakes: Handshakes | None = None,
    ) -> None:
        """Accept nothing yet: `serve(sockets=[])` does.

        Args:
            bound: Where it listens; closed with it.
            handshakes: What shakes hands with clients; None: it speaks plain HTTP.
        """
        super().__init__(config)
        self._bound = bound
        self._limits = limits
        self._counts = counts
        self._handshakes = handshakes
        self._connections: set[Connection] = set()
        self._accepting = False
        self._resuming: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets=[])
        self._bound.setblocking(False)
        self._accept_more()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and end what is left."""
        self._pause()
        self._bound.close()
        await super().shutdown(sockets=[])
        for connection in list(self._connections):
            self._end(connection)

    def turned(self, connection: Connection, *, answering: bool) -> None:
        """Note that a connection is being answered, or asks again; its time begins anew."""
        if connection in self._connections:
            connection.answering = answering
            if not connection.blocked:
                self._give_time(connection, ANSWER_S if answering else self._limits.timeout_s)

    def blocked(self, connection: Connection, blocked: bool) -> None:
        """Note that what was written is not read, or that it was; the time for reading it begins anew."""
        if connection in self._connections and blocked != connection.blocked:
            connection.blocked = blocked
            self._give_time(connection, ANSWER_S if blocked or connection.answering else self._limits.timeout_s)

    def malformed(self) -> None:
        """Note that a connection ends as what came over it is no HTTP."""
        self._counts.ended[MALFORMED] += 1

    def left(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._counts.open -= 1
        if connection.timer is not None:
            connection.timer.cancel()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _accept_more(self) -> None:
        self._resuming = None
        self._accepting = True
        asyncio.get_running_loop().add_reader(self._bound.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._bound.fileno())
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                accepted, address = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in NO_DESCRIPTOR:
                    raise
                # Whoever connects waits in the socket's backlog; a descriptor of ours helps nobody meanwhile.
                if not self._make_room():
                    logger.warning("no HTTP connection can be taken: %s", exc.strerror)
                self._pause()
                self._resuming = asyncio.get_running_loop().call_later(PAUSE_S, self._accept_more)
                return
            self._take(accepted, str(address[0]) if isinstance(address, tuple) else "")

    def _take(self, accepted: socket.socket, address: str) -> None:
        allowed = part_of_descriptors(DESCRIPTOR_SHARE, self._limits.max_connections)
        if len(self._connections) >= allowed and not self._make_room():
            self._counts.ended[REFUSED] += 1
            accepted.close()
            return
        connection = Connection(address)
        self._connections.add(connection)
        self._counts.open += 1
        self._give_time(connection, self._limits.timeout_s)
        connection.opening = asyncio.get_running_loop().create_task(self._open(connection, accepted))

    async def _open(self, connection: Connection, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(connection), accepted
            )
            # Until hands are shaken, that of the socket itself.
            connection.transport = connection.transport or transport
        except OSError:  # it went away
            self.left(connection)
        except BaseException:
            self.left(connection)
            raise
        finally:
            connection.opening = None
            if connection.transport is None:
                accepted.close()

    def _protocol(self, connection: Connection) -> asyncio.BaseProtocol:
        own = LimitedProtocol(connection, self)
        if self._handshakes is None:
            return own
        return self._handshakes.over(own, lambda: self.left(connection))

    def _give_time(self, connection: Connection, limit_s: float) -> None:
        connection.since_s = time.monotonic()
        if connection.timer is not None:
            connection.timer.cancel()
        connection.timer = asyncio.get_running_loop().call_later(limit_s, self._time_is_up, connection)

    def _time_is_up(self, connection: Connection) -> None:
        self._counts.ended[TIMEOUT] += 1
        self._end(connection)

    def _make_room(self) -> bool:
        """End the connection that others need most; return whether there was one."""
        able = [each for each in self._connections if each.greedy or each.receiving or not each.answering]
        if not able:
            return False
        of_address = Counter(each.address for each in self._connections)
        self._counts.ended[FULL] += 1
        self._end(max(able, key=lambda each: (of_address[each.address], each.greedy, -each.since_s)))
        return True

    def _end(self, connection: Connection) -> None:
        self.left(connection)
        if connection.opening is not None:
            connection.opening.cancel()
        transport: Any = connection.transport
        if transport is not None:
            with suppress(Exception):  # a transport that is closing by itself
                transport.abort()


def _from_root(scope: Any) -> Any:
    """Return the scope of a request; where its target is a whole URL (RFC 9112, 3.2.2), as that of the URL's path."""
    authority = _AUTHORITY.match(scope["raw_path"])
    if authority is None:
        return scope
    raw = scope["raw_path"][authority.end() :] or b"/"
    return {**scope, "raw_path": raw, "path": unquote(raw.decode("ascii"))}
