"""Link: the connection to one neighbour, over which requests are handed to it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

from ringpull.inference.head.neighbours.frames import FrameReader, Header, Part, write_frame
from ringpull.inference.head.neighbours.load_board import LoadBoard
from ringpull.ps.errors import ConnectionLost, ProtocolError

FIRST_REST_S: Final = 1.0
"""Time for which a neighbour is asked nothing more of what it has refused; twice as long after each refusal."""
LONGEST_REST_S: Final = 30.0

Answer = tuple[Header, bytes]


class Link(asyncio.Protocol):
    """Connection to a neighbour. Owned by the event loop."""

    def __init__(self, lost: Callable[[Link], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Use `Link.open`."""
        self._lost, self._clock = lost, clock
        self._reader = FrameReader()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = 0
        self._transport: asyncio.Transport | None = None
        self._board: LoadBoard | None = None
        self._rests: dict[Hashable, tuple[float, float]] = {}
        """When what was refused is asked for again, and how long the rest is; by what it was."""
        self.closed = False

    def __repr__(self) -> str:
        return f"<Link {self._board!r} {'closed' if self.closed else f'waiting={len(self._waiting)}'}>"

    @classmethod
    async def open(cls, path: Path, hello: Sequence[Any], lost: Callable[[Link], None]) -> Self:
        """Connect to the neighbour that listens at a path, and map its board.

        Args:
            hello: What either side says first, and has to be the same: format and deployment.
            lost: Called once when the connection is gone.

        Raises:
            OSError: Nobody is there, or it is another machine's or user's.
            ConnectionLost: Who is there is no neighbour.
        """
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: cls(lost), str(path))
        try:
            header, _ = await link.ask(list(hello))
            _, *told = header
            if told[: len(hello)] != list(hello) or len(told) != len(hello) + 2:
                raise ProtocolError(f"{path}: a head of another format or deployment listens there")
            link._board = LoadBoard.of(*told[len(hello) :])
        except BaseException:
            link.close()
            raise
        return link

    @property
    def waiting(self) -> Collection[asyncio.Future[Answer]]:
        """Answers that are on their way."""
        return self._waiting.values()

    def idle(self, what: Hashable) -> bool:
        """Whether the neighbour has nothing in hand, nor anything of ours on its way, and answers for this."""
        if self._waiting or self.closed or self._board is None or self._board.load != 0:
            return False
        return what not in self._rests or self._clock() >= self._rests[what][0]

    def refused(self, what: Hashable) -> None:
        """Note that the neighbour did not answer for this; it is not asked again soon."""
        _, rest_s = self._rests.get(what, (-math.inf, FIRST_REST_S / 2))
        rest_s = min(2 * rest_s, LONGEST_REST_S)
        self._rests[what] = self._clock() + rest_s, rest_s

    def answered(self, what: Hashable) -> None:
        """Note that it did."""
        if self._rests:
            self._rests.pop(what, None)

    def ask(self, header: list[Any], payload: Sequence[Part] = ()) -> asyncio.Future[Answer]:
        """Send a message; return the future of its answer, which fails with `ConnectionLost`.

        Raises:
            ValueError, TypeError: The message cannot be packed; nothing was sent.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        if self._transport is None or self.closed:
            answer.set_exception(ConnectionLost("the neighbour is gone"))
            return answer
        number = self._numbers = self._numbers + 1
        write_frame(self._transport, [number, *header], payload)
        self._waiting[number] = answer
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
