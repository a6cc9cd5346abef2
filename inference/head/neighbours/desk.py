"""Desk: where a head takes what its neighbours hand over, on a Unix socket of its user's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from ringpull.inference.head.neighbours.frames import FrameReader, Header, Part, write_frame
from ringpull.inference.head.unix_socket import UnixSocket
from ringpull.ps.errors import ProtocolError, RingpullError

logger: Final = logging.getLogger(__name__)

Handed = Callable[[Header, bytes], Awaitable[tuple[list[Any], list[Part]]]]
"""Function that answers a request: header and bytes, less its number."""


class Desk:
    """Listens from `open` to `close`. Owned by the event loop."""

    def __init__(self, socket: UnixSocket, hello: Sequence[Any], board: Sequence[int], answer: Handed) -> None:
        """Take the place of a socket.

        Args:
            hello: What a connection begins with; see `Link.open`.
            board: Where the head's board is, which is told then.
            answer: Answers a request; what it raises is told to the neighbour as a refusal.
        """
        self.socket = socket
        self._hello, self._board, self._answer = list(hello), list(board), answer
        self._server: asyncio.Server | None = None
        self._visits: set[_Visit] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Desk {self.socket.path} visits={len(self._visits)} answering={len(self._tasks)}>"

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError, StartupError: The socket cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Visit(self), str(self.socket.path_to_bind))
        try:
            self.socket.show()
        except BaseException:
            self._server.close()
            raise

    async def close(self, timeout_s: float) -> None:
        """Take nothing more, answer what is here within `timeout_s`, and hang up. Idempotent."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
        for visit in list(self._visits):
            visit.hang_up()
        self.socket.remove()

    def greeting(self, header: Header) -> list[Any] | None:
        """Return what a connection is answered that begins as one of a neighbour does; None: it does not."""
        return [*header, *self._board] if header[1:] == self._hello else None

    def answer(self, visit: _Visit, header: Header, payload: bytes) -> None:
        """Answer a request of a neighbour when its answer is made."""
        task = asyncio.get_running_loop().create_task(self._answered(visit, header, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, visit: _Visit, header: Header, payload: bytes) -> None:
        number, *rest = header
        try:
            told, parts = await self._answer(rest, payload)
            visit.write([number, *told], parts)
        except Exception as exc:
            if not isinstance(exc, RingpullError):
                logger.exception("what a neighbour handed over failed")  # a bug here; it answers by itself
            visit.write([number, f"{type(exc).__name__}: {exc}"])


class _Visit(asyncio.Protocol):
    """Connection of one neighbour."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeted = False

    def write(self, header: list[Any], parts: Sequence[Part] = ()) -> None:
        if self._transport is not None:
            write_frame(self._transport, header, parts)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's are, though not by their class
        self._desk._visits.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for header, payload in self._reader.feed(data):
                if self._greeted and header:
                    self._desk.answer(self, header, payload)
                elif (greeting := self._desk.greeting(header)) is not None:
                    self._greeted = True
                    self.write(greeting)
                else:
                    raise ProtocolError("whoever connects is no neighbour")
        except ProtocolError as exc:
            logger.debug("a connection to the desk of this head was ended: %s", exc)  # who is no neighbour asks again
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._desk._visits.discard(self)
