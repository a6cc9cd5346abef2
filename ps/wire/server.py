"""The shard's end of connections: accepts them, runs verbs off the event loop, answers in the order they finish.

Invariants: a look-up never runs on the event loop (a page fault would stall every connection); a request whose time is
up is answered without work, and one that would wait beyond its time is refused at once (`ringpull.ps.wire.admission`);
a connection that means another shard, or sends nonsense, gets the reason and is ended, and no other connection notices;
a peer that sends faster than it is served, or does not read its replies, is not read from meanwhile, and nothing more
is looked up for it; whatever peers make a shard hold counts against one limit, and who is slow is ended
(`ringpull.ps.wire.ledger`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from ringpull.ps.errors import (
    DeadlineExceeded,
    LimitExceeded,
    RingpullError,
    StartupError,
    Stranger,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.service_rate import Work
from ringpull.ps.tls import LiveTls
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.admission import Admission, AdmissionLimits
from ringpull.ps.wire.codec import CONNECTION_ID, encode_reply
from ringpull.ps.wire.error_codes import error_reply
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.frames import REPLY_LIMITS, REQUEST_LIMITS, Kind, Limits
from ringpull.ps.wire.handshakes import MAX_HANDSHAKES, Handshakes
from ringpull.ps.wire.job import Answer, Job
from ringpull.ps.wire.ledger import REQUEST_BYTES, Patience
from ringpull.ps.wire.loans import Loan, Returned
from ringpull.ps.wire.messages import (
    ANYONE,
    DescribeReply,
    DescribeRequest,
    ErrorReply,
    Hello,
    RangePullReply,
    RangePullRequest,
    Reply,
    Request,
    ShardStatistics,
    StatisticsRequest,
)
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.ps.wire.push_messages import MAX_PUSH_BYTES, PushReply, PushRequest
from ringpull.ps.wire.served import ServedConnection
from ringpull.ps.wire.tally import ServerTally

MAX_IN_FLIGHT = 1024
"""Upper bound on requests of one connection that wait or run at a time."""
MAX_IN_FLIGHT_BYTES = 64 << 20
"""Upper bound on the payload of the requests of one connection that wait or run; a larger one is taken alone."""


class Verbs(Protocol):
    """The verbs that a server serves; `ringpull.ps.shard.Shard` has them. Called from several threads at once."""

    def pull(self, request: PullRequest) -> PullReply: ...
    def range_pull(self, request: RangePullRequest) -> RangePullReply: ...
    def statistics(self) -> ShardStatistics: ...
    def describe(self, request: DescribeRequest) -> DescribeReply: ...
    def files(self, request: FilesRequest) -> FilesReply: ...
    def top_k(self, request: TopKRequest, go_on: Callable[[], None]) -> TopKReply: ...
    def top_k_cost(self, request: TopKRequest) -> float: ...
    def newest(self, request: NewestRequest) -> NewestReply: ...


class Pushes(Protocol):
    """Takes pushes in; `ringpull.ps.live.push_thread.PushThread` does."""

    def push(self, request: PushRequest, deadline_s: float, answer: Callable[[PushReply | Exception], None]) -> None:
        """Apply a push and call `answer` once it is durable, from any thread; returns at once."""
        ...

    def borrow(self, loan: Loan) -> bool:
        """Read a connection's pushes from now on, and answer them; False: it does not."""
        ...


class Threads(Protocol):
    """Runs functions in other threads, first come first served: a `LookupThreads`, or any executor."""

    def submit(self, function: Callable[..., None], /, *args: object) -> object: ...


class ShardServer:
    """A TCP server of one shard's verbs. All methods belong to one event loop; the verbs run in `threads`.

    Streams of ranges and scans have threads of their own, if given: a pull does not wait for a MiB to be read and
    checked, nor for a table to be gone through. `hello` says who it is: callers that mean another are hung up on.
    """

    def __init__(
        self,
        shard: Verbs,
        threads: Threads,
        *,
        hello: Hello = ANYONE,
        streams: Threads | None = None,
        scans: Threads | None = None,
        pushes: Pushes | None = None,
        request_limits: Limits = REQUEST_LIMITS,
        reply_limits: Limits = REPLY_LIMITS,
        admission_limits: AdmissionLimits | None = None,
        tally: ServerTally | None = None,
        tls: LiveTls | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.hello: Final = hello
        self.patience: Final = patience or Patience()
        self._shard = shard
        self._tally = tally
        self._admission = Admission(admission_limits or AdmissionLimits())
        self._scan_admission = self._admission.scans()
        self._handshakes = None if tls is None else self._new_handshakes(tls)
        self.ledger: Final = self._admission.ledger
        self._max_requests = max(MAX_IN_FLIGHT, self.ledger.limit // REQUEST_BYTES)
        self._requests = 0
        self._pulled_s = -math.inf
        self._push_bytes = 0
        """Bytes of pushes that wait or run: they have a limit of their own, so that they hold up no pull."""
        self._room_made_s = 0.0
        self._check: asyncio.TimerHandle | None = None
        self._threads = threads
        self._streams = threads if streams is None else streams
        self._scans = threads if scans is None else scans
        self._pushes = pushes
        self._request_limits = request_limits
        self._reply_limits = reply_limits
        self._server: asyncio.Server | None = None
        self._connections: set[ServedConnection] = set()
        self._answered: deque[Answer | Returned] = deque()
        self._flush_scheduled = False
        self._closing = False
        self._address = ""

    def __repr__(self) -> str:
        held = f"{len(self._connections)} connections, {self.lent} lent, {self.in_flight} in flight"
        return f"<ShardServer {self._address} {held}>"

    @property
    def in_flight(self) -> int:
        """Requests taken in and not answered."""
        return sum(connection.in_flight for connection in tuple(self._connections))

    @property
    def lent(self) -> int:
        """Connections that the thread reads which applies pushes."""
        return sum(connection.is_lent for connection in tuple(self._connections))

    @property
    def pulls_in_flight(self) -> bool:
        """Whether a pull waits or runs; from any thread."""
        return not self._admission.idle

    @property
    def pulled_s(self) -> float:
        """Time at which the last pull came, `time.monotonic()` seconds; from any thread."""
        return self._pulled_s

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
        self._look()
        return bound

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting and reading, answer what is in flight for up to `grace_s`, then close every connection."""
        if self._server is None:
            return
        self._closing = True
        if self._check is not None:
            self._check.cancel()
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
            limit=MAX_HANDSHAKES,
            plain_answer=b"".join(encode_reply(said, CONNECTION_ID)),
        )

    def _accept(self) -> asyncio.BaseProtocol:
        connection = ServedConnection(self, self._request_limits, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES)
        return connection if self._handshakes is None else self._handshakes.over(connection)

    def joined(self, connection: ServedConnection) -> None:
        self._connections.add(connection)
        limit = self._admission.limits.max_connections
        if self._closing:  # it was in the kernel's queue when listening ended
            connection.abort()
        elif len(self._connections) > limit and not (self._end_silent(connection) or self._end_idle()):
            connection.give_up(LimitExceeded(f"this shard has {limit} connections, which is max_connections"))

    def left(self, connection: ServedConnection) -> None:
        self._connections.discard(connection)

    def submit(self, job: Job) -> None:
        """Have a thread answer a request; the answer goes back through `answered` of its connection.

        Raises:
            Unavailable: There is too much to do.
        """
        request = job.request
        if isinstance(request, StatisticsRequest):
            # Here and now: routers ask for them to learn whether a slow shard is alive, however busy it is. Who does
            # not read what it has asked for would not read these either.
            if self.ledger.replies_full and job.connection.replies.unsent:
                raise self._replies_full()
            self._requests += 1
            self._work(job)
            return
        if self._requests >= self._max_requests:
            raise Unavailable(f"this shard is overloaded: {self._requests} requests are in flight, the most it takes")
        if isinstance(request, PushRequest):
            self._take_push(job, request)
            return
        if isinstance(request, PullRequest | TopKRequest):
            self._pulled_s = job.received_s
            try:
                job.work = self._admit(job)
            except Unavailable:
                if not self.make_room():
                    raise
                job.work = self._admit(job)
        else:
            self.ledger.requests += job.overhead
        self._requests += 1
        self._hand_over(job)

    def _take_push(self, job: Job, request: PushRequest) -> None:
        """Have the shard apply a push, which answers when it is durable; no thread waits for that."""
        if self._push_bytes and self._push_bytes + job.size > MAX_PUSH_BYTES:
            raise Unavailable(
                f"this shard is overloaded: it has pushes of {self._push_bytes} bytes in hand, and this one has"
                f" {job.size}; {MAX_PUSH_BYTES} are the most (MAX_PUSH_BYTES): push less at a time, or try again"
            )
        self.adopt(job)
        answer = partial(self._finish, job, job.received_s)
        if self._pushes is None:
            answer(UnmetCondition("this shard takes no pushes"))
        else:
            self._pushes.push(request, job.deadline_s, answer)

    def adopt(self, job: Job) -> None:
        """Count a push among those in hand."""
        self._push_bytes += job.size
        self.ledger.requests += job.overhead
        self._requests += 1

    @property
    def lends(self) -> bool:
        """Whether connections that only push are lent to the thread that applies pushes: it speaks no TLS."""
        return self._pushes is not None and self._handshakes is None and not self._closing

    def lend(self, loan: Loan) -> bool:
        """Lend a connection; return whether it was taken."""
        return self._pushes is not None and self._pushes.borrow(loan)

    def _admit(self, job: Job) -> Work:
        request = job.request
        cost = self._shard.top_k_cost(request) if isinstance(request, TopKRequest) else None
        return self._admission_of(request).begin(job.size, job.deadline_s, overhead=job.overhead, cost=cost)

    def _admission_of(self, request: Request) -> Admission:
        return self._scan_admission if isinstance(request, TopKRequest) else self._admission

    def _hand_over(self, job: Job) -> None:
        match job.request:
            case RangePullRequest():
                threads = self._streams
            case TopKRequest() | NewestRequest():
                threads = self._scans
            case _:
                threads = self._threads
        threads.submit(self._work, job)

    def resume(self, job: Job) -> None:
        """Have a thread answer a request that was parked."""
        if job.work is not None:
            cost = self._shard.top_k_cost(job.request) if isinstance(job.request, TopKRequest) else 0.0
            job.work = self._admission_of(job.request).unpark(job.work, job.size, cost=cost)
        self._hand_over(job)

    def dropped(self, job: Job) -> None:
        """Forget a parked request, whose caller is gone."""
        self._ended(job, served=False)

    def make_room(self) -> bool:
        """End the peers that are slow, because there is no room for others; return whether there were any."""
        now = time.monotonic()
        if now < self._room_made_s + self.patience.short_s / 8:  # a look at all connections for every refusal costs
            return False
        self._room_made_s = now
        slow = [each for each in tuple(self._connections) if each.holds and each.end_if_slow(now, short=True)]
        return bool(slow)

    def _ended(self, job: Job, *, served: bool) -> None:
        self._requests -= 1
        if job.work is not None:
            self._admission_of(job.request).end(job.work, job.size, served=served, overhead=job.overhead)
        elif not isinstance(job.request, StatisticsRequest):
            self.ledger.requests -= job.overhead
        if isinstance(job.request, PushRequest):
            self._push_bytes -= job.size

    def _end_silent(self, newcomer: ServedConnection) -> bool:
        """End the connection that has said nothing for the longest time, if that is long; return whether one was."""
        now = time.monotonic()
        silent = min(self._connections - {newcomer}, key=lambda each: each.silent_since_s, default=None)
        return silent is not None and silent.end_if_slow(now, short=True)

    def _end_idle(self) -> bool:
        """End the longest idle connection of the address that has most; return whether one was.

        Its owner connects anew when it has something to ask. Without that, who greets and says nothing more would keep
        the places for ever.
        """
        of_address = Counter(each.address for each in self._connections)
        idle = [each for each in self._connections if each.idle_since_s < math.inf]
        ended = min(idle, key=lambda each: (-of_address[each.address], each.idle_since_s), default=None)
        if ended is None or time.monotonic() < ended.idle_since_s + self.patience.short_s:
            return False
        ended.hang_up()
        return True

    def _look(self) -> None:
        """Look for peers that are slow, again and again."""
        now, short = time.monotonic(), self.ledger.short
        for connection in tuple(self._connections):
            connection.end_if_slow(now, short=short and connection.holds)
        self._check = self._loop.call_later(self.patience.check_s, self._look)

    def refused(self, request: Request, size: int, error: RingpullError) -> ErrorReply:
        """Return what a request gets that was not taken, and count it."""
        reply = error_reply(error)
        if self._tally is not None:
            self._tally.refused(request, reply, received_bytes=size)
        return reply

    def refused_unread(self, kind: Kind, size: int) -> ErrorReply:
        """Return what a request gets of which there was no room to read the rest, and count it."""
        reply = error_reply(self._admission.no_room(size))
        if self._tally is not None:
            self._tally.refused_unread(kind, reply)
        return reply

    def _flush(self) -> None:
        # Cleared before the queue is read: an answer that comes later schedules another flush.
        self._flush_scheduled = False
        while self._answered:
            answer = self._answered.popleft()
            if isinstance(answer, Returned):
                answer.loan.connection.returned(answer)
                continue
            job, connection = answer.job, answer.job.connection
            if answer.reply is None:
                if job.work is not None:
                    job.work = self._admission_of(job.request).park(job.work)
                connection.park(job)
                continue
            self.count(answer)
            self.ledger.handed += answer.sent_bytes
            connection.answered(job, answer.pieces, answer.sent_bytes)
            self._ended(job, served=isinstance(answer.reply, PullReply | TopKReply))

    def count(self, answer: Answer) -> None:
        """Count an answer, from any thread, before it is sent: who has it finds it counted. A tally must not raise.

        That would cost this answer, its place among those in flight, and time for those behind: for another flush.
        """
        if self._tally is not None and answer.reply is not None:
            self._tally.answered(
                answer.job.request,
                answer.reply,
                queue_s=answer.queue_s,
                took_s=answer.took_s,
                received_bytes=answer.job.size,
                sent_bytes=answer.sent_bytes,
            )

    # -- in one of the threads ------------------------------------------------------------------------------------

    def _work(self, job: Job) -> None:
        began_s = time.monotonic()
        if job.connection.replies.unread > self.ledger.unread_limit and not isinstance(job.request, StatisticsRequest):
            self._give(Answer(job, [], None, 0.0, 0.0, 0))
            return
        outcome: Reply | Exception
        try:
            outcome = self._answer(job)
        except Exception as error:  # whatever it is, the caller must hear of it
            outcome = error
        self._finish(job, began_s, outcome)

    def _finish(self, job: Job, began_s: float, outcome: Reply | Exception) -> None:
        """Make the frame of an answer, and have the event loop send it."""
        self.give(self.answer(job, began_s, outcome))

    def answer(self, job: Job, began_s: float, outcome: Reply | Exception) -> Answer:
        """Return the answer to a request, with its frame."""
        reply = error_reply(outcome) if isinstance(outcome, Exception) else outcome
        took_s = time.monotonic() - began_s
        try:
            pieces = encode_reply(reply, job.request_id, self._reply_limits)
        except LimitExceeded as error:
            reply = error_reply(error)
            pieces = encode_reply(reply, job.request_id)
        return Answer(job, pieces, reply, began_s - job.received_s, took_s, sum(map(len, pieces)))

    def give(self, what: Answer | Returned) -> None:
        """Have the event loop take an answer, or a loan back; from any thread."""
        if isinstance(what, Answer):
            self.ledger.made(what.job.connection.replies, what.sent_bytes)
        elif what.unsent:
            self.ledger.made(what.loan.connection.replies, len(what.unsent))
        self._give(what)

    def _replies_full(self) -> Unavailable:
        return Unavailable(
            f"this shard is overloaded: {self.ledger.replies} bytes of replies were not read;"
            f" max_in_flight_bytes is {self.ledger.limit}"
        )

    def _give(self, answer: Answer | Returned) -> None:
        self._answered.append(answer)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon_threadsafe(self._flush)

    def _answer(self, job: Job) -> Reply:
        request = job.request
        if time.monotonic() >= job.deadline_s:
            raise DeadlineExceeded("the request's time was up before a look-up began")
        if job.cancelled:
            job.check_wanted()
        if self.ledger.replies_full and not isinstance(request, StatisticsRequest):
            raise self._replies_full()
        match request:
            case PullRequest():
                return self._shard.pull(request)
            case RangePullRequest():
                return self._shard.range_pull(request)
            case StatisticsRequest():
                return self._shard.statistics()
            case DescribeRequest():
                return self._shard.describe(request)
            case FilesRequest():
                return self._shard.files(request)
            case TopKRequest():
                return self._shard.top_k(request, job.check_wanted)
            case NewestRequest():
                return self._shard.newest(request)
            case PushRequest():
                raise AssertionError("pushes are answered by the shard's own thread")
