"""Neighbours: the other heads of a machine, to which a head that is busy hands a request if one of them is idle.

The kernel deals connections to heads, not requests: each head has a queue of its own, and a request may wait in one
while another head has nothing to do. With two heads, half busy, one request in a hundred takes 4.5 times as long as
alone; with one queue for both it would be 2.6 times (requests of equal length at random times). So a request that would
wait here is answered there, if it is worth it: by columns, after everything about it was decided here (admission,
quotas, version, degrade steps), and counted here alone.

    PLACE/head-0.desk   Unix socket of a head, where others hand requests over                     `desk.py`, `link.py`
    a page of memory    how many requests it has in hand; whoever connects is told where it is     `load_board.py`

It is a short cut and never the only way: whatever goes wrong there, the request is answered here, in its turn. A
neighbour has one request of each other head at most, admits it like its own, and hands none on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from ringpull.inference.head.admission import Admission
from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.neighbours.desk import Desk
from ringpull.inference.head.neighbours.frames import Header, Part
from ringpull.inference.head.neighbours.link import Link
from ringpull.inference.head.neighbours.load_board import BUSY, LoadBoard
from ringpull.inference.head.neighbours.messages import answer_of, columns_of, packed_layout, parts_of, scores_of
from ringpull.inference.head.pipeline import Scores
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.head.unix_socket import UnixSocket
from ringpull.ps.errors import ConnectionLost, NotFound, ProtocolError, RingpullError, Unavailable

logger: Final = logging.getLogger(__name__)

FORMAT: Final = 1
"""Format of messages; heads of other formats hand each other nothing."""
WORTH_S: Final = 0.0005
"""Time that a request has to take at least: to hand one over costs both heads some 0.1 ms."""
PATIENCE_S: Final = 0.05
"""Time after which an answer is waited for no longer than the request usually takes, several times."""
PATIENCE_FACTOR: Final = 8.0
"""How many times that is: then the neighbour hangs, and the request is answered here."""
WEIGHT: Final = 0.1
"""Weight of the newest batch in the moving average of the time that a row takes."""
LOOK_S: Final = 1.0
"""Interval at which new neighbours are looked for."""
CONNECT_S: Final = 1.0
"""Time in which a neighbour has to say that it is one."""

OUTCOMES: Final = ("answered", "taken_back", "for_others")
"""What comes of requests between heads: answered by a neighbour, not answered there, and answered for a neighbour."""

LONGEST_LAYOUT: Final = 1 << 20
"""Bytes of the longest layout that is handed over: longer ones are not kept, and would be read each time."""

_DESK: Final = ".desk"

Answer = tuple[Scores, StageTimes]


class Neighbours:
    """Heads of this machine as one of them sees them. Owned by the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        limits: Limits,
        admission: Admission,
        *,
        wanted: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know none yet.

        Args:
            catalog: Versions that are answered for here.
            limits: Largest request that is taken.
            admission: Lets in what neighbours hand over.
            wanted: Whether there may be others; if not, all is answered here.
        """
        self.warnings: tuple[str, ...] = ()
        """Why it has none, though it may have."""
        self.outcomes: Final[Counter[str]] = Counter()
        """Requests that were handed over, by what came of it: see `OUTCOMES`."""
        self._catalog, self._limits, self._admission = catalog, limits, admission
        self._wanted, self._clock = wanted, clock
        self._in_hand = 0
        self._row_s: WeakKeyDictionary[ServedVersion, float] = WeakKeyDictionary()
        self._links: dict[Path, Link] = {}
        self._board: LoadBoard | None = None
        self._desk: Desk | None = None
        self._hello: list[Any] = []
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Neighbours {len(self._links)} linked, in hand {self._in_hand}, {dict(self.outcomes)}>"

    async def begin(self, folders: Sequence[Callable[[], Path]], head: int, deployment: str) -> None:
        """Be a neighbour, and look for others; where there can be no socket, say so.

        Args:
            folders: Functions that return a folder that heads of this machine have in common, and nobody else can
                enter, in the order of preference.
            head: Number of this head.
        """
        if not self._wanted:
            return
        self._hello = [FORMAT, deployment]
        try:
            socket = UnixSocket.claim(folders, f"head-{head}{_DESK}")
            self._board = LoadBoard.make()
            desk = Desk(socket, self._hello, self._board.place, self._handed)
            await desk.open()
        except (RingpullError, OSError) as exc:
            self.warnings = (f"this head hands no requests to others of its machine: {exc}",)
            logger.warning(self.warnings[0])
            return
        self._desk = desk
        self._looking = asyncio.create_task(self._look(desk.socket.path))

    async def submit(self, served: ServedVersion, columns: ReceivedColumns, deadline_s: float) -> Answer:
        """Return the answer of a version, of a neighbour if that has it sooner.

        Raises:
            Exception: What the version's batcher raises.
        """
        if self._desk is None:
            return await served.batcher.submit(columns, columns.rows_left, deadline_s)
        if self._in_hand and self._links and columns.degradation is None and not self._closed:
            expected_s = columns.rows * self._row_s.get(served, 0.0)
            if expected_s >= WORTH_S and (link := self._idle(served)) is not None:
                answer = await self._hand_over(link, served, columns, deadline_s, expected_s)
                if answer is not None:
                    return answer
        return await self._own(served, columns, deadline_s)

    async def stop(self, timeout_s: float) -> None:
        """Hand over and take nothing any more, and end what is on its way within `timeout_s`. Idempotent."""
        self._closed = True
        until_s = self._clock() + timeout_s
        if self._looking is not None:
            self._looking.cancel()
        self._tell()
        if self._desk is not None:
            await self._desk.close(timeout_s)
        if waiting := [answer for link in self._links.values() for answer in link.waiting]:
            await asyncio.wait(waiting, timeout=max(0.0, until_s - self._clock()))
        for link in list(self._links.values()):
            link.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    # -- own requests --------------------------------------------------------------------------------------------------

    async def _own(self, served: ServedVersion, columns: ReceivedColumns, deadline_s: float) -> Answer:
        self._in_hand += 1
        self._tell()
        try:
            answer = await served.batcher.submit(columns, columns.rows_left, deadline_s)
        finally:
            self._in_hand -= 1
            self._tell()
        times = answer[1]
        if times.first:
            took_s = (times.prepare_s + times.lookup_s + times.dense_s) / max(1, times.batch_rows)
            before_s = self._row_s.get(served, took_s)
            self._row_s[served] = before_s + WEIGHT * (took_s - before_s)
        return answer

    def _tell(self) -> None:
        if self._board is not None:
            self._board.load = BUSY if self._closed else self._in_hand

    def _idle(self, served: ServedVersion) -> Link | None:
        return next((link for link in self._links.values() if link.idle(served.key)), None)

    async def _hand_over(
        self, link: Link, served: ServedVersion, columns: ReceivedColumns, deadline_s: float, expected_s: float
    ) -> Answer | None:
        """Return a neighbour's answer; None: it gave none, and the request is to be answered here."""
        began_s = self._clock()
        left_s, patience_s = deadline_s - began_s, PATIENCE_S + PATIENCE_FACTOR * expected_s
        try:
            layout = packed_layout(columns.layout)
            if len(layout) > LONGEST_LAYOUT:
                return None
            identity = served.loaded.manifest.identity
            asked = link.ask([*served.key, identity, left_s, layout], parts_of(columns))
        except (ValueError, TypeError):  # such as a name that no neighbour can be told; here it is refused by its name
            return None
        try:
            await asyncio.wait([asked], timeout=min(patience_s, max(0.0, left_s)))
            if not asked.done():
                self.outcomes["taken_back"] += 1
                if left_s > patience_s:  # else the deadline has passed, which is said here as ever
                    link.close()  # It hangs; when it is well again it is found again.
                return None
            header, payload = asked.result()
            if len(header) > 2:
                scores, times = scores_of(header, payload)
                self.outcomes["answered"] += 1
                link.answered(served.key)
                stages_s = times.prepare_s + times.lookup_s + times.dense_s
                return scores, replace(times, queue_s=max(0.0, self._clock() - began_s - stages_s))
            link.refused(served.key)
        except ProtocolError:
            link.close()
        except ConnectionLost:
            pass
        self.outcomes["taken_back"] += 1
        return None

    # -- requests of others --------------------------------------------------------------------------------------------

    async def _handed(self, header: Header, payload: bytes) -> tuple[list[Any], list[Part]]:
        try:
            model, version, identity, left_s, layout = header
        except ValueError as exc:
            raise ProtocolError("what a neighbour handed over is no request") from exc
        if self._closed:
            raise Unavailable("this head is stopping")
        served = self._catalog.find((model, version))
        if served is None or served.loaded.manifest.identity != identity:
            raise NotFound(f"{model}/{version} of identity {identity} is not here")
        deadline_s = self._clock() + left_s
        with self._admission.expect(deadline_s) as ticket:
            ticket.received(len(payload))
            columns = columns_of(layout, payload, self._limits)
            scores, times = await self._own(served, columns, deadline_s)
        self.outcomes["for_others"] += 1
        return answer_of(scores, times)

    # -- who is there --------------------------------------------------------------------------------------------------

    async def _look(self, own: Path) -> None:
        """Connect to whoever has a desk, again and again: heads come and go."""
        while True:
            try:
                for path in await asyncio.to_thread(lambda: sorted(own.parent.glob(f"head-*{_DESK}"))):
                    if path != own and path not in self._links:
                        await self._connect(path)
            except Exception:  # such as no descriptors for a moment
                logger.exception("other heads of this machine could not be looked for")
            await asyncio.sleep(LOOK_S)

    async def _connect(self, path: Path) -> None:
        def lost(_: Link) -> None:
            self._links.pop(path, None)

        with suppress(OSError, RingpullError, TimeoutError):  # it has ended, or is another machine's
            async with asyncio.timeout(CONNECT_S):
                link = await Link.open(path, self._hello, lost)
            if link.closed:
                return
            self._links[path] = link
            logger.info("linked to a head of this machine", extra={"desk": path.name})
