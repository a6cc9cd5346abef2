"""Lanes of a pusher: which rows go out next, and under which number. No I/O.

The rows of a push are dealt to lanes by the slots of their keys, and a lane has one message out at a time: so the rows
of one key go in the order in which they were given, and a number that is refused as too low was overtaken by later rows
of its own lane, which it was acknowledged before. While nothing is out, what waits goes as one message of all lanes:
small pushes are not cut in as many messages as there are lanes.

The number of a message is that of its last push, times `PIECES`, and which piece of the lane's part of that push it
ends with: `PIECES - 1` where that is the last. Numbers are kept by slot, and this makes them mean the same whether a
push went out whole, in lanes, in pieces or behind others: so many rows of the slot, and all before them. It holds
across restarts as long as `LANES`, `PIECE_BYTES` and the cut are the same. A writer that may send again what an earlier
life of it has sent has a message for each lane and push, so that each is told apart from what was applied. Pushes that
are out lie within `SPAN` of them, so that it knows when it is beyond all of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.ps.errors import InvalidInput

LANES: Final = 4
PIECE_BYTES: Final = 2 << 20
"""Bytes of keys and rows of one message, about."""
PIECES: Final = 1 << 12
"""Messages that the part of one push that is in one lane may have."""
SPAN: Final = 1 << 10
"""Pushes of which some may be out at a time, from the first one that is not acknowledged on. Pushes, not their numbers:
these may be offsets, which rise by thousands."""
UNEVEN: Final = 32
"""Times `PIECE_BYTES` that a piece of uneven rows may have that was cut by their number: 64 MiB, which shards take."""
CUT: Final = 2
"""Version of the cut: raised when the same rows come into other pieces. 1 cut by the number of rows alone."""
MAX_NUMBER: Final = (1 << 63) // PIECES - 1
"""Largest number of a push."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Part of a push that stays together."""

    table: str
    keyed: KeyedRows
    number: int
    """Number of the push."""
    place: int
    """Which push of this pusher it is of, of those that have rows."""
    piece: int
    """Which of the pieces of its lane it is; `PIECES - 1`: the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """Message that is out."""

    table: str
    keyed: KeyedRows
    number: int
    """Number of the message."""
    lanes: tuple[int, ...]
    pushes: tuple[int, ...]
    """Numbers of the pushes that it has parts of."""


class Lanes:
    """What waits and what is out, of one pusher. Used by one thread at a time."""

    def __init__(self, after: int = 0, *, whole: bool = True, piece_bytes: int = PIECE_BYTES) -> None:
        """Begin with nothing.

        Args:
            after: Number that those of pushes are above.
            whole: Whether a message may be of several lanes or pushes; else not before `join_above` is called.
        """
        self._whole_above = 0 if whole else None
        """Number above which a message may be of several lanes or pushes; None: none may."""
        self._piece_bytes = piece_bytes
        self._waiting: deque[Part] = deque()
        """Pushes that are not dealt yet."""
        self._lanes: list[deque[Part]] = [deque() for _ in range(LANES)]
        self._busy = [False] * LANES
        self._open: dict[int, int] = {}
        """Parts of each push that are not acknowledged, by its number."""
        self._places: dict[int, int] = {}
        """Place of each of these pushes, by its number."""
        self._numbers: deque[int] = deque()
        """Numbers of these pushes, ascending, and of some behind the first that are acknowledged. The first key of a
        dict is looked for anew each time, among all that were deleted before it."""
        self._added = 0
        self._largest = after
        self.held_bytes = 0
        """Bytes of what waits and what is out."""

    def __repr__(self) -> str:
        return f"<Lanes {len(self._waiting)} waiting, {sum(self._busy)} busy, {self.held_bytes} bytes>"

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self._open

    @property
    def number(self) -> int:
        """Number of the last push that was added."""
        return self._largest

    @property
    def acknowledged(self) -> int:
        """Number up to which every push is acknowledged."""
        return self._numbers[0] - 1 if self._numbers else self._largest

    def add(self, table: str, keyed: KeyedRows, number: int) -> None:
        """Take a push.

        Raises:
            InvalidInput: Its number is not larger than those before, or too large.
        """
        if not self._largest < number <= MAX_NUMBER:
            raise InvalidInput(
                f"number: is {number}; it must be larger than that of the push before, {self._largest},"
                f" and at most {MAX_NUMBER}"
            )
        self._largest = number
        if not len(keyed):
            return
        self.held_bytes += keyed.nbytes
        self._open[number] = 1
        self._places[number] = self._added
        self._numbers.append(number)
        self._waiting.append(Part(table, keyed, number, self._added, PIECES - 1))
        self._added += 1

    def next(self) -> Outgoing | None:
        """Return a message that may go out now, and count it as out; None: there is none."""
        first = self._waiting[0] if self._waiting else None
        if first is not None and self._joins(first) and not any(self._busy) and not any(self._lanes):
            nbytes = sum(part.keyed.nbytes for part in self._waiting)
            if nbytes <= self._piece_bytes:
                return self._out(self._taken(self._waiting), tuple(range(LANES)))
        free = [lane for lane in range(LANES) if not self._busy[lane]]
        if self._waiting and any(not self._lanes[lane] for lane in free):
            self._deal()
        for lane in free:
            if self._lanes[lane] and self._in_span(self._lanes[lane][0]):
                return self._out(self._taken(self._lanes[lane]), (lane,))
        return None

    def join_above(self, number: int | None) -> None:
        """Let messages be of several lanes and pushes whose numbers are larger than this one; None: let none be."""
        self._whole_above = number

    def done(self, message: Outgoing) -> None:
        """Note that a message is acknowledged."""
        for lane in message.lanes:
            self._busy[lane] = False
        self.held_bytes -= message.keyed.nbytes
        for number in message.pushes:
            self._open[number] -= 1
            if not self._open[number]:
                del self._open[number], self._places[number]
        while self._numbers and self._numbers[0] not in self._open:
            self._numbers.popleft()

    def _out(self, parts: list[Part], lanes: tuple[int, ...]) -> Outgoing:
        for lane in lanes:
            self._busy[lane] = True
        last = parts[-1]
        return Outgoing(
            last.table,
            KeyedRows.joined([part.keyed for part in parts]),
            last.number * PIECES + last.piece,
            lanes,
            tuple(part.number for part in parts),
        )

    def _taken(self, queue: deque[Part]) -> list[Part]:
        """Take the first part of a queue, and those behind it that go into the same message."""
        if not queue:
            return []
        parts = [queue.popleft()]
        nbytes = parts[0].keyed.nbytes
        while (
            queue
            and self._joins(parts[0])
            and self._in_span(queue[0])
            and queue[0].table == parts[0].table
            and parts[0].keyed.fits(queue[0].keyed)
        ):
            nbytes += queue[0].keyed.nbytes
            if nbytes > self._piece_bytes:
                break
            parts.append(queue.popleft())
        return parts

    def _joins(self, part: Part) -> bool:
        return self._whole_above is not None and part.number > self._whole_above

    def _in_span(self, part: Part) -> bool:
        """Return whether a part may go out: places of pushes rise, so the first open one is the lowest."""
        return part.place < self._places[self._numbers[0]] + SPAN

    def _deal(self) -> None:
        """Deal what waits to the lanes, cut into pieces."""
        while self._waiting:
            push = self._waiting.popleft()
            lanes = push.keyed.slots() % LANES
            count = 0
            for lane in range(LANES):
                pieces = self._cut(push.keyed.at(np.flatnonzero(lanes == lane)))
                count += len(pieces)
                for place, keyed in enumerate(pieces):
                    piece = PIECES - 1 if place == len(pieces) - 1 else place
                    self._lanes[lane].append(Part(push.table, keyed, push.number, push.place, piece))
            self._open[push.number] = count

    def _cut(self, keyed: KeyedRows) -> list[KeyedRows]:
        """Return rows in pieces of `PIECE_BYTES`, about: by their number, or by bytes where that makes one too large.

        A build that knew only the first cut could send no piece that is too large, and what it sent of other pushes has
        the numbers of now. Pieces before one that it could not send had other rows under theirs.
        """
        count = len(keyed)
        if not count:
            return []
        pieces = -(-keyed.nbytes // self._piece_bytes)
        if pieces >= PIECES:
            raise InvalidInput(f"rows: {count} rows of {keyed.nbytes} bytes are too many for one push; push fewer")
        sizes = keyed.sizes()
        cuts = np.linspace(0, count, min(pieces, count) + 1).astype(np.int64)
        if sizes is not None and pieces > 1:
            ends = np.cumsum(sizes)
            before = np.concatenate([[0], ends])[cuts]
            if np.diff(before).max() > UNEVEN * self._piece_bytes:
                inner = np.searchsorted(ends, np.linspace(0, ends[-1], pieces + 1)[1:-1], side="right")
                cuts = np.unique(np.concatenate([[0], inner, [count]]))
        bounds: list[int] = cuts.tolist()
        return [keyed.at(slice(begin, end)) for begin, end in pairwise(bounds)]
