"""Loan: a connection that only pushes, read and answered by the push thread itself instead of the event loop.

Two threads that hand each push to and fro wait for each other's wake-up, and for the interpreter, longer than a push
takes to read. So the event loop lends such a connection: what is usual of it, pushes of some MiB at most and replies
that its peer takes at once, the push thread reads and sends, between two groups. Whatever else comes of it ends the
loan, and goes to the event loop, where all that is unusual is settled by the rules of `ringpull.ps.wire.served`:
another verb, bytes that are no frame, the end of the connection, a frame for which there is no memory, a peer that
does not read. The event loop, too, may end it at any time, and does of a peer that is slow.

Invariants: one thread at a time reads and writes a connection, the one that has it; pushes of one connection are
applied in the order in which they came, as none is under way when it is lent, and those that were read of a loan are in
the group that is under way when it ends; each push that was read gets one answer, by whoever has the connection then.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ringpull.ps.descriptors import MAX_OPEN, part_of_descriptors
from ringpull.ps.errors import ConnectionLost
from ringpull.ps.wire.codec import decode_push
from ringpull.ps.wire.frames import Decoder, Frame, Kind
from ringpull.ps.wire.job import Answer, Job
from ringpull.ps.wire.ledger import FREE_HEADER_BYTES
from ringpull.ps.wire.messages import Reply
from ringpull.ps.wire.push_messages import PushRequest

if TYPE_CHECKING:
    from ringpull.ps.wire.served import ServedConnection
    from ringpull.ps.wire.server import ShardServer

LENT_FRAME_BYTES: Final = 4 << 20
"""Largest payload of a frame that is read of a loan."""
PUSHES_AT_ONCE: Final = 1024
"""Pushes that are read of one loan for one group."""
BUSY_AFTER_S: Final = 0.5
"""Time after which a push thread that does not look at its loans holds them up."""
PART_OF_DESCRIPTORS: Final = 1 / 4
"""Part of the process's descriptors that loans may have, one each besides their connections': files need some, too."""


class NotLent(Exception):
    """Raised where the push thread has no say: the event loop is to go on, with the frame if one is given."""


class Returned(NamedTuple):
    """End of a loan by the push thread, on its way to the event loop."""

    loan: Loan
    under_way: Sequence[Job]
    """Pushes that were read and not answered: the event loop answers them."""
    unread: Frame | ConnectionLost | None
    """What came last, and is no push."""
    unsent: bytes
    """Rest of the replies that its peer did not take at once."""


class Loan:
    """Connection on loan. The push thread calls `take`, `answer`, `send` and `end`, the event loop `recall`."""

    __slots__ = (
        "_answers",
        "_connection",
        "_decoder",
        "_lent",
        "_loans",
        "_lock",
        "_server",
        "_socket",
        "_under_way",
        "frames",
        "served_s",
    )

    def __init__(self, connection: ServedConnection, server: ShardServer, decoder: Decoder, descriptor: int) -> None:
        """Begin a loan.

        Args:
            descriptor: That of the connection's socket, of which the loan has one of its own.
        """
        self._connection, self._server, self._decoder = connection, server, decoder
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._socket.setblocking(False)
        self._lock = threading.Lock()  # guards all below, and the decoder; not held while pushes are applied
        self._lent = True
        self._loans: Loans | None = None
        self._under_way: list[Job] = []
        self._answers: list[Answer] = []
        self.frames = 0
        """Pushes that were read."""
        self.served_s = 0.0
        """Time at which it was read last: those that wait longest come first."""

    # -- in the push thread -------------------------------------------------------------------------------------------

    def take(self, most_bytes: int) -> list[tuple[Job, PushRequest]]:
        """Return the pushes that have arrived, and what they ask for: some, until they have so many bytes."""
        taken: list[tuple[Job, PushRequest]] = []
        with self._lock:
            if not self._lent:
                return taken
            try:
                if self._read(taken, most_bytes):
                    self._has_more()
            except NotLent as reason:
                self._give_back(*reason.args)
            except ConnectionLost as error:
                self._give_back(error)
            except OSError:
                self._give_back()  # The transport finds out as well.
            except Exception as error:  # It must not end the pushes of others.
                self._give_back(ConnectionLost(f"a push cannot be read: {error}"))
        return taken

    def _read(self, taken: list[tuple[Job, PushRequest]], most_bytes: int) -> bool:
        """Take what has arrived; return whether there may be more.

        Raises:
            NotLent: Something else came, which it has.
            ConnectionLost: What came is no frame.
            OSError: The connection has ended.
        """
        decoder, size, more = self._decoder, 0, True
        now = self.served_s = time.monotonic()
        while True:
            while (frame := decoder.next_frame()) is not None:
                assert isinstance(frame, Frame)  # Of a loan none is refused.
                if frame.kind is not Kind.PUSH:
                    raise NotLent(frame)
                request = decode_push(frame)
                nbytes = request.nbytes
                self._connection.read_of_loan(now)
                deadline_s = now + frame.remaining_us * 1e-6
                job = Job(self._connection, frame.request_id, request, now, deadline_s, nbytes, 0)
                self._under_way.append(job)
                taken.append((job, request))
                self.frames += 1
                size += nbytes
                if frame.header_bytes > FREE_HEADER_BYTES:
                    raise NotLent
                if size >= most_bytes or len(taken) == PUSHES_AT_ONCE:
                    return True
            if not more:
                return False
            more = self._receive(decoder)

    def _receive(self, decoder: Decoder) -> bool:
        """Receive until the decoder has something to do, or all that has arrived; return whether there may be more.

        Raises:
            NotLent: The peer sends no more.
            OSError: The connection has ended.
        """
        while True:
            buffer = decoder.get_buffer()
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                return False
            if not count:
                raise NotLent
            filled = count == len(buffer)
            if decoder.buffer_updated(count) or not filled:
                return filled

    def answer(self, job: Job, reply: Reply | Exception) -> None:
        """Note the answer to a push that was taken; `send` sends it. From any thread once the loan has ended."""
        answer = self._server.answer(job, job.received_s, reply)
        if not self._lent or self._loans is None:
            self._server.give(answer)
            return
        if not self._answers:
            self._loans.owing.append(self)
        self._answers.append(answer)

    def send(self) -> None:
        """Send the answers that were noted, in one piece."""
        with self._lock:
            answers, self._answers = self._answers, []
            if self._lent:
                self._under_way.clear()
                for each in answers:
                    self._server.count(each)
                content = b"".join(piece for each in answers for piece in each.pieces)
                try:
                    sent = self._socket.send(content)
                except OSError:  # Its peer reads slowly, or the connection has ended: the transport finds out.
                    sent = 0
                if sent < len(content):
                    self._give_back(unsent=content[sent:])
                return
        for each in answers:
            self._server.give(each)

    def end(self) -> None:
        """Give it back, with the pushes that were taken and not answered."""
        with self._lock:
            if self._lent:
                self._give_back()

    def _has_more(self) -> None:
        assert self._loans is not None
        self._loans.unread.append(self)

    def _give_back(self, unread: Frame | ConnectionLost | None = None, unsent: bytes = b"") -> None:
        self._close()
        self._server.give(Returned(self, self._under_way, unread, unsent))

    # -- on the event loop --------------------------------------------------------------------------------------------

    def recall(self) -> list[Job] | None:
        """End the loan; return the pushes that were read and not answered. None: it was given back, which comes."""
        with self._lock:
            if not self._lent:
                return None
            self._close()
            return self._under_way

    def begin(self, loans: Loans) -> None:
        """Have the push thread read it."""
        self._loans = loans

    # -- anywhere -----------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Pushes that were read and not answered."""
        return len(self._under_way)

    @property
    def is_held_up(self) -> bool:
        """Whether the push thread has something else to do, for long."""
        return self._loans is not None and time.monotonic() > self._loans.looked_s + BUSY_AFTER_S

    @property
    def connection(self) -> ServedConnection:
        """Connection that is lent."""
        return self._connection

    def fileno(self) -> int:
        """Return the descriptor of its socket."""
        return self._socket.fileno()

    def _close(self) -> None:
        self._lent = False
        if self._loans is not None:
            self._loans.forget(self)
        self._socket.close()


class Loans:
    """All loans of a push thread, and its way to wait for them. The thread has it; `add` and `wake` are for any."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wakes = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wakes, select.EPOLLIN)
        self._of: dict[int, Loan] = {}
        self._most = part_of_descriptors(PART_OF_DESCRIPTORS, MAX_OPEN)
        self.unread: deque[Loan] = deque()
        """Those of which something may have arrived that no socket tells of."""
        self.owing: list[Loan] = []
        """Those with answers that were not sent."""
        self.looked_s = time.monotonic()
        """Time at which the thread looked last; infinite: it does nothing else."""

    def add(self, loan: Loan) -> None:
        """Take a loan; the thread is to be woken.

        Raises:
            OSError: The kernel cannot tell when something arrives of it.
        """
        self._poll.register(loan.fileno(), select.EPOLLIN)  # First, as it may fail.
        loan.begin(self)
        self._of[loan.fileno()] = loan
        self.unread.append(loan)

    @property
    def full(self) -> bool:
        """Whether no more may be added."""
        return len(self._of) >= self._most

    def forget(self, loan: Loan) -> None:
        """Forget a loan that has ended, before its socket is closed."""
        self._poll.unregister(loan.fileno())
        del self._of[loan.fileno()]

    def wait(self, timeout_s: float) -> list[Loan]:
        """Return the loans of which something has arrived, those first that wait longest."""
        self.looked_s = float("inf")
        events = self._poll.poll(0 if self.unread else timeout_s)
        self.looked_s = time.monotonic()
        ready: dict[Loan, None] = {}
        while self.unread:
            ready[self.unread.popleft()] = None
        for descriptor, _ in events:
            if descriptor == self._wakes:
                os.eventfd_read(self._wakes)
            elif (loan := self._of.get(descriptor)) is not None:
                ready[loan] = None
        return list(ready) if len(ready) < 2 else sorted(ready, key=lambda each: each.served_s)

    def wake(self) -> None:
        """Have the thread go on that waits."""
        os.eventfd_write(self._wakes, 1)

    def send(self) -> None:
        """Send all answers that were noted."""
        while self.owing:
            self.owing.pop().send()

    def close(self) -> None:
        """Give all back, and end; nobody wakes it any more."""
        for loan in list(self._of.values()):
            loan.end()
        self._poll.close()
        os.close(self._wakes)
