"""Connection to a shard's server, from accepting it to its end: what its peer sends, is owed, and makes the shard hold.

Invariants: a connection that means another shard, or sends nonsense, gets the reason and is ended; one that has as much
in flight as it may, or does not read its replies, is not read from, and what has arrived of it waits too; one that does
not read has nothing more looked up for it; what it holds is in the server's ledger until it ends.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    LimitExceeded,
    RequestCancelled,
    RingpullError,
    Stranger,
    Unavailable,
)
from ringpull.ps.service_rate import Work
from ringpull.ps.top_k_messages import TopKRequest
from ringpull.ps.wire.codec import (
    CONNECTION_ID,
    check_cancel,
    decode_hello,
    decode_request,
    encode_hello,
    encode_reply,
)
from ringpull.ps.wire.error_codes import error_reply
from ringpull.ps.wire.frames import REQUESTS, Frame, Kind, Limits, Prelude, Refusal
from ringpull.ps.wire.ledger import FREE_HEADER_BYTES, Replies, overhead
from ringpull.ps.wire.messages import Request
from ringpull.ps.wire.protocol import FrameProtocol

if TYPE_CHECKING:
    from ringpull.ps.wire.server import ShardServer

LINGER_S = 1.0
"""Time a poisoned connection is kept to let its reason arrive: closing at once with unread bytes would reset it."""

RESUMED: Final = 4
"""Parked requests that go on together when the peer reads again; each answer has another one follow."""

Pieces = list[bytes | memoryview]


class Job:
    """Request that was taken."""

    __slots__ = (
        "cancelled",
        "connection",
        "deadline_s",
        "overhead",
        "received_s",
        "request",
        "request_id",
        "size",
        "work",
    )

    def __init__(
        self,
        connection: ServedConnection,
        request_id: int,
        request: Request,
        received_s: float,
        deadline_s: float,
        size: int,
        overhead: int,
    ) -> None:
        """Take a request in.

        Args:
            size: Bytes of its payload.
            overhead: Memory that it takes besides.
        """
        self.connection = connection
        self.request_id = request_id
        self.request = request
        self.received_s = received_s
        self.deadline_s = deadline_s
        self.size = size
        self.overhead = overhead
        self.cancelled = False
        self.work: Work | None = None
        """Work of a pull or a scan, as admission counts it; None for other verbs."""

    def check_wanted(self) -> None:
        """Check, from any thread, that somebody still waits for the answer.

        Raises:
            DeadlineExceeded: The time is up.
            RequestCancelled: The caller has said that it does not wait.
            ConnectionLost: The connection has ended.
        """
        if time.monotonic() >= self.deadline_s:
            raise DeadlineExceeded("the request's time was up before all rows were looked at")
        if self.cancelled:
            raise RequestCancelled("the caller does not wait any more")
        if self.connection.gone:
            raise ConnectionLost("the caller is gone")


class ServedConnection(FrameProtocol):
    """Accepted connection."""

    def __init__(self, server: ShardServer, limits: Limits, max_in_flight: int, max_in_flight_bytes: int) -> None:
        super().__init__(REQUESTS, limits, self._has_room, first=Kind.HELLO)
        self._server = server
        self._max_in_flight, self._max_in_flight_bytes = max_in_flight, max_in_flight_bytes
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._in_flight_bytes = 0
        self._replies_stuck = False
        self._draining = False
        self._reading = True
        self._greeted = False
        self._gone = False
        self._joined_s = self._asked_s = time.monotonic()
        self.address = ""
        """Address of its peer, without the port."""
        self._receiving = 0
        """Memory of the frame that is coming, as the ledger has it."""
        self._frame_since_s = 0.0
        """Time at which that frame was first seen unfinished; 0: there is none."""
        self._stuck_since_s = 0.0
        self._stuck_taken = 0
        """Bytes of replies that the peer had taken then."""
        self._parked: deque[Job] = deque()
        """Requests that wait until the peer reads."""
        self._scans: dict[int, Job] = {}
        """Scans that wait or run, by their request ids."""
        self.replies: Final = Replies()
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

    def hang_up(self) -> None:
        """End the connection because another needs its place or its memory: both are free at once."""
        self.abort()
        self._leave()  # `connection_lost` comes a turn of the loop later

    def answered(self, job: Job, pieces: Pieces, sent_bytes: int) -> None:
        """Send the reply to a request."""
        self._forget_scan(job)
        self.in_flight -= 1
        self._in_flight_bytes -= job.size + job.overhead
        self.replies.handed += sent_bytes
        if not self._poisoned:
            self.send(pieces)
        if self._replies_stuck:
            self._note_unsent()
        if self._parked:
            self._resume_one()
        self._pace()
        self._close_if_drained()

    def park(self, job: Job) -> None:
        """Keep a request until the peer reads."""
        if self._gone:
            self._drop(job)
            return
        self._parked.append(job)
        if not self._replies_stuck:  # it has read meanwhile
            self._resume_one()

    # -- from the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if not self._ended.done():
            self._ended.set_result(None)

    def _leave(self) -> None:
        """Hold nothing any more."""
        self._gone = self._poisoned = True
        self._server.left(self)
        self._release()
        self._decoder.forget()
        self._set_unsent(0)
        while self._parked:
            self._drop(self._parked.popleft())

    def frame_received(self, frame: Frame) -> None:
        if self._frame_since_s:
            self._release()
        if not self._greeted:
            self._greet(frame)
            return
        if frame.kind is Kind.CANCEL:
            check_cancel(frame)
            if frame.request_id in self._scans:  # else it was answered meanwhile
                self._scans[frame.request_id].cancelled = True
            return
        request = decode_request(frame)
        now = self._asked_s = time.monotonic()
        size = sum(array.nbytes for array in frame.arrays)
        more = 0 if frame.header_bytes <= FREE_HEADER_BYTES else overhead(frame.header_bytes)
        job = Job(self, frame.request_id, request, now, now + frame.remaining_us * 1e-6, size, more)
        try:
            self._server.submit(job)
        except Unavailable as error:
            self.send(encode_reply(self._server.refused(request, size, error), frame.request_id))
            if self._replies_stuck:  # refusals are replies that it does not read, too
                self._note_unsent()
                self._pace()
            return
        if isinstance(request, TopKRequest):
            self._scans[frame.request_id] = job
        self.in_flight += 1
        self._in_flight_bytes += size + more
        self._pace()

    def frame_refused(self, refusal: Refusal) -> None:
        self._release()
        prelude = refusal.prelude
        if self._poisoned:  # it was slow itself
            return
        reply = self._server.refused_unread(prelude.kind, prelude.payload_bytes)
        self.send(encode_reply(reply, prelude.request_id))

    def _greet(self, frame: Frame) -> None:
        meant, who = decode_hello(frame, Kind.HELLO), self._server.hello
        if not who.fits(meant):
            raise Stranger(f"this is {who}; {meant} was meant")
        self.send(encode_hello(who, reply=True))
        self._greeted = True

    def give_up(self, error: RingpullError) -> None:
        """Take nothing more in, say why, and end."""
        self._poisoned = True
        self._decoder.forget()
        self.poisoned(error)

    def poisoned(self, error: RingpullError) -> None:
        assert self._transport is not None
        self._release()
        self._transport.writelines(encode_reply(error_reply(error), CONNECTION_ID))
        self._transport.write_eof()
        self._loop.call_later(LINGER_S, self.abort)

    def pause_writing(self) -> None:
        self._replies_stuck = True
        self._stuck_since_s = time.monotonic()
        self._note_unsent()
        self._stuck_taken = self._taken
        self._pace()

    def resume_writing(self) -> None:
        self._replies_stuck = False
        self._stuck_since_s = 0.0
        self._set_unsent(0)
        for _ in range(min(RESUMED, len(self._parked))):
            self._resume_one()
        self._pace()

    # -- pace ---------------------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        """Read from the peer exactly while there is room for what it sends."""
        full = self.in_flight >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes
        held_back = full or self._draining
        if self._replies_stuck:
            ledger = self._server.ledger
            held_back = held_back or self.replies.unread > ledger.unread_limit or ledger.replies_full
        if held_back != self._held_back:
            self._held_back = held_back
            if not (held_back or self._taking):
                self._take_frames()  # It may be full again after that.
        reading = not (self._held_back or self._replies_stuck)
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

    # -- what it makes the shard hold ---------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether it has ended; from any thread."""
        return self._gone

    @property
    def holds(self) -> bool:
        """Whether memory is held for what it has not sent, or not read."""
        return self._receiving > 0 or self.replies.unread > 0

    @property
    def silent_since_s(self) -> float:
        """Time since which it has not said whom it means; infinite: it has."""
        return math.inf if self._greeted or self._poisoned else self._joined_s

    @property
    def idle_since_s(self) -> float:
        """Time of its last request; infinite: it is owed something, sends something, or has not begun."""
        busy = self.in_flight or self.holds or self._decoder.mid_frame or self._draining
        return math.inf if busy or self._poisoned or not self._greeted else self._asked_s

    def end_if_slow(self, now: float, *, short: bool) -> bool:
        """End the connection if its peer is slow; return whether it was.

        Args:
            short: Whether there is no room for others.
        """
        patience = self._server.patience
        if self._replies_stuck:
            self._note_unsent()
            if not patience.is_over(now - self._stuck_since_s, self._taken - self._stuck_taken, short=short):
                return False
            self.hang_up()  # It would not read a reason either.
            return True
        if self._poisoned or self._draining:
            return False
        if not self._greeted:
            silent_s = now - self._joined_s
            if silent_s <= (patience.short_s if short else patience.hello_s):
                return False
            if short:
                self.hang_up()
            else:
                self.give_up(LimitExceeded(f"no hello came for {silent_s:.1f} s"))
            return True
        if not (self._reading and self._decoder.mid_frame):
            self._frame_since_s = 0.0 if not self._receiving else now
            return False
        self._frame_since_s = self._frame_since_s or now
        took_s, arrived = now - self._frame_since_s, self._decoder.arrived
        if not patience.is_over(took_s, arrived, short=short):
            return False
        self.give_up(LimitExceeded(f"a frame is not complete after {took_s:.1f} s; {arrived} bytes of it have arrived"))
        return True

    def _has_room(self, prelude: Prelude, more: int) -> bool:
        """See `ringpull.ps.wire.frames.Room`."""
        ledger = self._server.ledger
        self._frame_since_s = self._frame_since_s or time.monotonic()
        if not ledger.fits_part(more, self._receiving):
            self._server.make_room()
            if self._poisoned or not ledger.fits_part(more, self._receiving):
                return False
        self._receiving += more
        ledger.receiving += more
        return True

    def _release(self) -> None:
        """Note that no frame is coming any more."""
        self._server.ledger.receiving -= self._receiving
        self._receiving = 0
        self._frame_since_s = 0.0

    @property
    def _taken(self) -> int:
        return self.replies.handed - self.replies.unsent

    def _note_unsent(self) -> None:
        if self._transport is not None and not self._gone:
            self._set_unsent(self._transport.get_write_buffer_size())

    def _set_unsent(self, size: int) -> None:
        ledger, before = self._server.ledger, self.replies.unsent
        ledger.unsent += size - before
        self.replies.unsent = size
        if size > ledger.largest_unsent:
            ledger.largest_unsent = size
        elif before >= ledger.largest_unsent:
            ledger.largest_unsent = size  # or another's, which is noted when that is looked at

    def _forget_scan(self, job: Job) -> None:
        if self._scans.get(job.request_id) is job:
            del self._scans[job.request_id]

    def _resume_one(self) -> None:
        """Have one request go on that waited, if the peer has read."""
        if self.replies.unread <= self._server.ledger.unread_limit:
            self._server.resume(self._parked.popleft())

    def _drop(self, job: Job) -> None:
        self._forget_scan(job)
        self.in_flight -= 1
        self._server.dropped(job)
