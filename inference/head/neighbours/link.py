"""Link: the connection to one neighbour, over which requests are handed to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

from ringpull.inference.head.neighbours.frames import FrameReader, Header, Part, write_frame
from ringpull.inference.head.neighbours.load_board import LoadBoard
from ringpull.ps.errors import ConnectionLost, ProtocolError

Answer = tuple[Header, bytes]


class Link(asyncio.Protocol):
    """Connection to a neighbour. Owned by the event loop."""

    def __init__(self, lost: Callable[[Link], None]) -> None:
        """Use `Link.open`."""
        self._lost = lost
        self._reader = FrameReader()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = 0
        self._transport: asyncio.Transport | None = None
        self._board: LoadBoard | None = None
        self.closed = False

    def __repr__(self) -> str:
        return f"<Link {self._board!r} {'closed' if self.closed else f'waiting={len(self._waiting)}'}>"

    @classmethod
    async def open(cls, path: Path, hello: Sequence[Any], board: Path, lost: Callable[[Link], None]) -> Self:
        """Connect to the neighbour that listens at a path, and map its board.

        Args:
            hello: What either side says first, and has to be the same: format and deployment.
            lost: Called once when the connection is gone.

        Raises:
            OSError: Nobody is there.
            ConnectionLost: Who is there is no neighbour.
        """
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: cls(lost), str(path))
        try:
            header, _ = await link.ask(list(hello))
            if header[1:] != list(hello):
                raise ProtocolError(f"{path}: a head of another build or deployment listens there")
            link._board = LoadBoard(board)
        except BaseException:
            link.close()
            raise
        return link

    @property
    def idle(self) -> bool:
        """Whether the neighbour has nothing in hand, nor anything of ours on its way."""
        return not self._waiting and not self.closed and self._board is not None and self._board.load == 0

    def ask(self, header: list[Any], payload: Sequence[Part] = ()) -> asyncio.Future[Answer]:
        """Send a message; return the future of its answer, which fails with `ConnectionLost`."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        if self._transport is None or self.closed:
            answer.set_exception(ConnectionLost("the neighbour is gone"))
            return answer
        self._numbers += 1
        self._waiting[self._numbers] = answer
        write_frame(self._transport, [self._numbers, *header], payload)
        return answer

    def close(self) -> None:
        """Hang up; what waits fails. Idempotent."""
        if not self.closed:
            self.closed = True
            waiting, self._waiting = self._waiting, {}
            for answer in waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionLost("the neighbour is gone"))
            if self._transport is not None:
                self._transport.abort()
            if self._board is not None:
                self._board.close()
            self._lost(self)

    # -- asyncio's ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's are, though not by their class

    def data_received(self, data: bytes) -> None:
        """Pass on the answers that are whole."""
        try:
            for header, payload in self._reader.feed(data):
                answer = self._waiting.pop(header[0], None) if header else None
                if answer is not None and not answer.done():
                    answer.set_result((header, payload))
        except ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.close()


def _seen(answer: asyncio.Future[Answer]) -> None:
    """Take note of an error that nobody may wait for any more, or asyncio logs it."""
    if not answer.cancelled():
        answer.exception()
