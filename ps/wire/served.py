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
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ringpull.ps.errors import ConnectionLost, LimitExceeded, RingpullError, Stranger, Unavailable
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
from ringpull.ps.wire.job import Job, Pieces
from ringpull.ps.wire.ledger import FREE_HEADER_BYTES, Replies, overhead
from ringpull.ps.wire.loans import LENT_FRAME_BYTES, Loan, NotLent, Returned
from ringpull.ps.wire.protocol import FrameProtocol
from ringpull.ps.wire.push_messages import PushRequest

if TYPE_CHECKING:
    from ringpull.ps.wire.server import ShardServer

LINGER_S = 1.0
"""Time a poisoned connection is kept to let its reason arrive: closing at once with unread bytes would reset it."""

LEND_WITHIN_S: Final = 0.05
"""Time for which nothing more is read of a connection that is to be lent, while requests of it are under way."""

LEND_AGAIN_S: Final = 0.5
"""Time from one attempt to lend it to the next."""

RESUMED: Final = 4
"""Parked requests that go on together when the peer reads again; each answer has another one follow."""


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
        self._taken_in = 0
        """Requests that were taken in and not answered, but for those read of a loan."""
        self._loan: Loan | None = None
        """While it is lent, and until that has come back."""
        self._frames_of_loan = 0
        """Pushes that had been read of the loan at the last look."""
        self._only_pushes = True
        """Whether it may be lent: nothing has come so far that is not read of a loan."""
        self._to_lend: asyncio.TimerHandle | None = None
        """While nothing more is read, so that it can be lent; ends that."""
        self._lend_after_s = 0.0
        """Time before which that is not tried again."""

    @property
    def in_flight(self) -> int:
        """Requests that were taken in and not answered; from any thread."""
        loan = self._loan
        return self._taken_in + (0 if loan is None else loan.under_way)

    def drain(self) -> asyncio.Future[None]:
        """Read no further, close once all is answered; the future is done when the connection has ended."""
        self._draining = True
        self._recall()
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
        self._taken_in -= 1
        self._in_flight_bytes -= job.size + job.overhead
        self.replies.handed += sent_bytes
        if not self._poisoned:
            self.send(pieces)
        if self._replies_stuck:
            self._note_unsent()
        if self._parked:
            self._resume_one()
        if self._only_pushes and isinstance(job.request, PushRequest):
            self._lend_soon(job.request)
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
        self._recall()
        if self._to_lend is not None:
            self._to_lend.cancel()
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
        self._only_pushes = self._only_pushes and isinstance(request, PushRequest)
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
        self._taken_in += 1
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
        self._recall()
        self._decoder.forget()
        self.poisoned(error)
        self._pace()  # It was not read here while it was lent.

    def poisoned(self, error: RingpullError) -> None:
        assert self._transport is not None
        self._release()
        if self._transport.is_closing():
            return
        self._transport.writelines(encode_reply(error_reply(error), CONNECTION_ID))
        with suppress(OSError):  # Its peer is gone; answers to others may be next, where a loan comes back.
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

    # -- loans to the push thread -------------------------------------------------------------------------------------

    def _lend_soon(self, push: PushRequest) -> None:
        """Read no more until all is answered, to be lent then: it is one of a client that pushes and does nothing else.

        What is under way may wait for the coordinator, so it is read again soon, whatever comes of it.
        """
        if not push.only_live or self._loan is not None or not self._server.lends:
            return
        if self._to_lend is None:
            if (now := time.monotonic()) < self._lend_after_s:
                return
            self._lend_after_s = now + LEND_AGAIN_S
            self._to_lend = self._loop.call_later(LEND_WITHIN_S, self._lend_later)
        if not self._taken_in:
            self._loop.call_soon(self._lend)  # The transport has sent the reply then.

    def _lend(self) -> None:
        transport = self._transport
        if self._to_lend is None or self._taken_in or transport is None:
            return
        self._to_lend.cancel()
        held = self._poisoned or self._draining or self._replies_stuck
        if not (held or transport.is_closing() or transport.get_write_buffer_size()):
            descriptor = transport.get_extra_info("socket").fileno()
            self._frames_of_loan = 0
            try:
                self._loan = Loan(self, self._server, self._decoder, descriptor)
                lent = self._server.lend(self._loan)
            except OSError:  # No descriptor is left, or no memory of the kernel's.
                lent = False
            if not lent:
                self._recall()
        self._to_lend = None
        self._pace()

    def _lend_later(self) -> None:
        """Read on, as it could not be lent."""
        self._to_lend = None
        self._pace()

    def _recall(self) -> None:
        """End the loan, unless the push thread has just done so."""
        if self._loan is not None and (under_way := self._loan.recall()) is not None:
            self._adopt(under_way)

    def _adopt(self, under_way: Sequence[Job]) -> None:
        self._loan = None
        for job in under_way:
            self._taken_in += 1
            self._in_flight_bytes += job.size
            self._server.adopt(job)

    def returned(self, what: Returned) -> None:
        """Go on with what the push thread has given back."""
        if self._loan is what.loan:
            self._adopt(what.under_way)
        if what.unsent:
            self._server.ledger.handed += len(what.unsent)
            self.replies.handed += len(what.unsent)
            if not self._poisoned:
                self.send([what.unsent])
        if what.unread is not None and not self._poisoned:
            try:
                if isinstance(what.unread, ConnectionLost):
                    raise what.unread
                self.frame_received(what.unread)
            except ConnectionLost as error:
                self._poison(error)
        self._pace()
        self._close_if_drained()

    def read_of_loan(self, now: float) -> None:
        """Note a push that was read of the loan; by the push thread."""
        if self._frame_since_s:
            self._release()
        self._asked_s = now

    # -- pace ---------------------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        """Read from the peer exactly while there is room for what it sends."""
        full = self._taken_in >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes
        held_back = full or self._draining or self._loan is not None or self._to_lend is not None
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
        if self._draining and not self._taken_in and self._loan is None and self._transport is not None:
            self._transport.close()

    # -- what it makes the shard hold ---------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether it has ended; from any thread."""
        return self._gone

    @property
    def is_lent(self) -> bool:
        """Whether it is on loan."""
        return self._loan is not None

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
        if self._loan is not None:
            self._look_at_loan(self._loan, now)
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

    def _look_at_loan(self, loan: Loan, now: float) -> None:
        """End the loan of a peer that may be slow, which has its time from now, or that the push thread holds up."""
        frames, self._frames_of_loan = self._frames_of_loan, loan.frames
        if loan.is_held_up or (frames == loan.frames and self._decoder.mid_frame):
            self._recall()
            if self._loan is None:
                self._frame_since_s = now if self._decoder.mid_frame else 0.0
                self._pace()

    def _has_room(self, prelude: Prelude, more: int) -> bool:
        """See `ringpull.ps.wire.frames.Room`."""
        ledger = self._server.ledger
        self._frame_since_s = self._frame_since_s or time.monotonic()
        if self._loan is not None:  # in the push thread
            self._only_pushes = prelude.payload_bytes <= LENT_FRAME_BYTES
            if not (self._only_pushes and ledger.take_part(more, self._receiving)):
                raise NotLent
        elif not ledger.take_part(more, self._receiving):
            self._server.make_room()
            if self._poisoned or not ledger.take_part(more, self._receiving):
                return False
        self._receiving += more
        return True

    def _release(self) -> None:
        """Note that no frame is coming any more."""
        if self._receiving:
            self._server.ledger.let_go(self._receiving)
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
        self._taken_in -= 1
        self._server.dropped(job)
