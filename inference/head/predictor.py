"""The predictor: a request's way through a head, whatever protocol it came over.

It knows columns, packed as `ReceivedColumns`, and no protocol's messages.

    with predictor.open(timeout_s, authorization=...) as call:
                                                  admits caller and request, or refuses them, before anything is read
        body = await call.within_deadline(...)    the front-end receives the message,
        call.received(len(body))                  tells its length, which may refuse it yet,
        request = ...                             and decodes it;
        prediction = await call.predict(request)  catalog, degrade steps, micro-batch, timings
        reply = ...                               the front-end encodes the answer

Rows by key are asked for the same way, with `verb="lookup"` and `await call.rows(request)`; those with the largest
scores with `verb="top_k"` and `await call.top_k(request)`; rows are written with `verb="push"` and
`await call.push(request, nbytes)`.

Whatever a step raises ends the `with` block, which counts the request by its outcome, logs it, and lets the error go on
to the front-end, who reports it (`ringpull.inference.wire.status_codes`). A request's own deadline is kept, capped by
the head's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, NamedTuple, TypeVar

from ringpull.inference.head.access import Access, Caller, Unasked
from ringpull.inference.head.admission import Admission, Ticket
from ringpull.inference.head.aside import aside
from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.latency import RecentLatencies
from ringpull.inference.head.metrics.call_log import Call, Verb
from ringpull.inference.head.metrics.call_tally import CallCounts
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.head.missed_deadlines import missed_after_s
from ringpull.inference.head.outputs import predicts_nothing, wanted_outputs, with_rows
from ringpull.inference.head.push_routes import PushRoutes
from ringpull.inference.head.receiving import Incoming, Receiving
from ringpull.inference.head.request.inference_request import InferenceRequest, check_version
from ringpull.inference.head.request.received import Limits
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest, check
from ringpull.inference.head.request.top_k import TopKRequest
from ringpull.inference.head.stage_timings import timings_of
from ringpull.inference.head.tokens.quotas import Permit
from ringpull.inference.prediction import Prediction
from ringpull.inference.push_request import Pushed, PushRequest
from ringpull.inference.top_k_answer import TopK
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, NotFound
from ringpull.router.control.verbs import Role

T = TypeVar("T")

_ids: Final = random.Random()
"""Source of the ids of requests that have none. Of its own, and no system call: that lets another thread have the
interpreter's lock, once for every request."""


class Predictor:
    """Scores requests for all front-ends of a head. Owned by the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        config: HeadConfig,
        *,
        watch: CallWatch | None = None,
        access: Access | None = None,
    ) -> None:
        """Prepare to score.

        Args:
            catalog: Versions to score by.
            config: Limits, and bounds of deadlines.
            watch: Told how every call ends; None: calls are logged only.
            access: Rule of who may predict; None: anyone.
        """
        self.access: Final = access or Unasked()
        self.admission = Admission(
            max_queue_s=config.max_queue_s,
            standing_queue_s=config.standing_queue_s,
            max_in_flight_bytes=config.max_in_flight_bytes,
        )
        self.pushing: Final = Admission(
            max_queue_s=config.max_queue_s,
            standing_queue_s=config.max_queue_s,
            max_in_flight_bytes=config.max_pushing_bytes,
        )
        """Admission of pushes, which wait for disks, and of which no prediction is to hear."""
        self._admissions = (self.admission, self.admission.scans, self.pushing)
        self.receiving: Final = Receiving.of(config)
        self.receiving_at_door: Final = Receiving.of(config)
        """Calls that are received at the operators' door: of its own, so that no crowd at the port takes its places."""
        self._watch = watch or CallWatch()
        self.counts: Final[CallCounts] = self._watch.tally.calls
        self.latencies: Final = RecentLatencies()
        self.limits: Final = Limits(
            config.max_candidates, config.max_values_per_row, config.max_columns, config.max_message_bytes
        )
        self.row_limits: Final = RowLimits(config.max_lookup_keys, config.max_message_bytes)
        self.push_routes: Final = PushRoutes(catalog, config)
        self._catalog = catalog
        self._default_timeout_s = config.default_timeout_s
        self._max_timeout_s = config.max_timeout_s

    def __repr__(self) -> str:
        return f"<Predictor {self._catalog!r} {self.admission!r} {self.counts}>"

    def open(
        self,
        timeout_s: float | None,
        length: int | None = None,
        *,
        authorization: str | None = None,
        access: Access | None = None,
        verb: Verb = "predict",
    ) -> OpenCall:
        """Admit a request of which nothing has been read; to be used as a context manager.

        Args:
            timeout_s: Time that its caller gives it, from now; None: the default.
            length: Bytes of its message, where the protocol tells before; else `OpenCall.received` is to be told.
            authorization: What the caller shows of itself, for `Access.admit`; None: nothing.
            access: Rule of who may predict by this way in; None: the predictor's. Who may predict may ask for rows, and
                who may write may push.
            verb: What is asked for, for counts and the log.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
            Forbidden: The caller's token may not predict, or may not write.
            LimitExceeded: It cannot be answered in time, there is no room for it, or its caller has had what it may
                have. `retry_after_s` is set.
            DeadlineExceeded: Its time is up.
        """
        given_s = timeout_s
        timeout_s = self._default_timeout_s if timeout_s is None else min(timeout_s, self._max_timeout_s)
        role = Role.WRITE if verb == "push" else Role.PREDICT
        self.counts.requests += verb != "push"  # which asks for no answer
        call = OpenCall(self, timeout_s, given_s, verb)
        try:
            call.admit(length, (access or self.access).admit(authorization, role))
        except BaseException as error:
            call.close(error)
            raise
        return call

    def has_one_call(self) -> bool:
        """Return whether one call at most is in flight; for any thread."""
        return sum(each.in_flight for each in self._admissions) < 2

    def admission_of(self, verb: Verb) -> Admission:
        """Return the admission that a call goes by."""
        if verb == "push":
            return self.pushing
        return self.admission.scans if verb == "top_k" else self.admission

    async def _predict(self, request: InferenceRequest, call: OpenCall) -> Prediction:
        trace = call.trace
        trace.model, trace.request_id = request.model, request.request_id or _new_id()
        asked = request.served or self._catalog.get(request.model, request.version, request.label)
        trace.version = asked.key[1]
        if asked.loaded.program is None:
            raise predicts_nothing(asked)
        wanted = wanted_outputs(request.outputs, asked)
        call.take_rows(request.columns.rows)
        served, columns = asked.degraded(request.columns, named=request.version != 0 or bool(request.label))
        trace.rows = columns.rows_left
        decoded_s = time.monotonic()
        trace.stage = "batch"
        scores, times = await served.batcher.submit(columns, columns.rows_left, call.deadline_s)
        scored_s = time.monotonic()
        trace.stage = "encode"
        asked.degrader.count(scores.degraded)
        rows, (model, version) = columns.rows, served.key
        prediction = Prediction(
            outputs={name: with_rows(scores.outputs[name], rows) for name in wanted},
            version=version,
            filled=scores.filled,
            unknown=tuple([each.told(request.with_unknown) for each in scores.unknown]),
            timings=timings_of(times, trace.started_s, decoded_s) if request.with_timings else None,
            model=model,
            request_id=trace.request_id,
            degraded=scores.degraded,
        )
        call.answer = _Answer(model, version, times, decoded_s, scored_s)
        return prediction

    async def _rows(self, request: RowsRequest, call: OpenCall) -> RowsAnswer:
        trace = call.trace
        trace.model, trace.request_id = request.model, request.request_id or _new_id()
        check_version(request.version)
        asked = self._catalog.get(request.model, request.version, request.label)
        trace.version, reader = asked.key[1], asked.rows
        check(request, reader.spec(request.table), self.row_limits)
        trace.rows = len(request.keys)
        call.take_rows(trace.rows)
        trace.stage, decoded_s = "lookup", time.monotonic()
        answer = await reader.read(
            request, self.row_limits, call.take_room, deadline_s=call.deadline_s, request_id=trace.request_id
        )
        trace.stage = "encode"
        call.looked_up = _LookedUp(answer.model, answer.version, decoded_s, time.monotonic())
        return answer

    async def _push(self, request: PushRequest, nbytes: int, call: OpenCall) -> Pushed:
        trace = call.trace
        trace.model, trace.request_id = request.model, request.request_id or _new_id()
        check_version(request.version)
        if request.lineage:
            asked = self._catalog.of_lineage(request.model, request.lineage, only_live=request.only_live)
        else:
            asked = self._catalog.get(request.model, request.version, request.label)
        trace.version, writer = asked.key[1], asked.writer
        pushed = await call.aside(nbytes, lambda: writer.prepare(request))
        trace.rows, trace.table = len(request.keys), request.table
        call.take_rows(trace.rows)
        trace.stage = "push"
        answer = await writer.write(pushed, deadline_s=call.deadline_s, request_id=trace.request_id)
        trace.stage = "encode"
        return answer

    async def _top_k(self, request: TopKRequest, call: OpenCall) -> TopK:
        trace = call.trace
        trace.model, trace.request_id = request.model, request.request_id or _new_id()
        check_version(request.version)
        asked = self._catalog.get(request.model, request.version, request.label)
        trace.version, ranker = asked.key[1], asked.ranker
        plan = ranker.plan(request, self.limits.max_message_bytes)
        trace.rows = request.queries
        call.take_work(plan.cost)
        call.take_rows(plan.rows)
        call.take_room(plan.room)
        trace.stage, decoded_s = "lookup", time.monotonic()
        scores = None
        if request.columns is not None:
            scores, _ = await asked.batcher.submit(request.columns, request.columns.rows_left, call.deadline_s)
        answer = await ranker.rank(request, plan, scores, deadline_s=call.deadline_s, request_id=trace.request_id)
        trace.stage = "encode"
        call.looked_up = _LookedUp(answer.model, answer.version, decoded_s, time.monotonic())
        return answer


class _Answer(NamedTuple):
    """The version that answered a call, and its times, for the metrics."""

    model: str
    version: int
    times: StageTimes
    decoded_s: float
    scored_s: float


class _LookedUp(NamedTuple):
    """The version whose rows a call was given, by key or by score, and the times."""

    model: str
    version: int
    decoded_s: float
    pulled_s: float


class OpenCall:
    """One admitted request, from before it is read until its reply is encoded."""

    __slots__ = (
        "_among",
        "_incoming",
        "_missed_from_s",
        "_permit",
        "_predictor",
        "_ticket",
        "answer",
        "deadline_s",
        "looked_up",
        "trace",
    )

    def __init__(self, predictor: Predictor, timeout_s: float, given_s: float | None, verb: Verb = "predict") -> None:
        """Begin a call now; made by `Predictor.open`.

        Args:
            timeout_s: Time that it has.
            given_s: Time that its caller gives it; None: any.
            verb: What is asked for.
        """
        self.trace: Final = Call(time.monotonic(), "admission", verb=verb)
        self.deadline_s = self.trace.started_s + timeout_s
        """Deadline on the monotonic clock."""
        self._missed_from_s: Final = self.trace.started_s + missed_after_s(given_s)
        self.answer: _Answer | None = None
        self.looked_up: _LookedUp | None = None
        self._predictor = predictor
        self._ticket: Ticket | None = None
        self._among = predictor.receiving
        self._incoming: Incoming | None = None
        self._permit: Permit | None = None

    @property
    def limits(self) -> Limits:
        """Largest request that is taken."""
        return self._predictor.limits

    def admit(self, length: int | None, caller: Caller) -> None:
        """Be let in, or refused; called by `Predictor.open`."""
        if caller.quota is not None:
            self.trace.caller = caller.name
        if self.deadline_s <= self.trace.started_s:
            # It waited within the front-end. That must cost as little as a refusal, or all behind it are late, too.
            raise DeadlineExceeded("the deadline had passed before the request was taken in")
        if caller.quota is not None:
            self._permit = caller.quota.begin()
        self._ticket = self._predictor.admission_of(self.trace.verb).expect(self.deadline_s)
        if length is not None:
            self.received(length)

    async def within_deadline(self, receiving: Awaitable[T], sender: str = "", *, among: Receiving | None = None) -> T:
        """Await the message, which may never come: a caller can vanish while it sends, without a deadline of its own.

        Args:
            sender: Connection that it comes over, as the protocol names it: one has only its share.
            among: Calls that are received by the same way in; None: the predictor's.

        Raises:
            DeadlineExceeded: The deadline, or the time limit for receiving, passed first.
            LimitExceeded: Too many calls are without their messages, and this one is to make room.
        """
        assert self._ticket is not None
        self._among = self._among if among is None else among
        self._incoming = Incoming(sender, self._ticket.set_aside, placed=True)
        message = await self._among.receive(receiving, self._incoming, deadline_s=self.deadline_s)
        if self._permit is not None:
            self._permit.received()
        return message

    def holds(self, nbytes: int) -> None:
        """Tell that so many bytes more of the message are here; for a front-end that keeps them itself meanwhile."""
        assert self._incoming is not None
        self._among.holds(self._incoming, nbytes)

    def received(self, length: int) -> None:
        """Tell how many bytes the message has.

        Raises:
            LimitExceeded: It cannot be answered in time, or there is no room for it, now that this is known.
        """
        assert self._ticket is not None
        self._ticket.received(length)
        self.trace.stage = "decode"

    async def aside(self, nbytes: int, work: Callable[[], T]) -> T:
        """Return what a function returns, run off the event loop if it is long: see `ringpull.inference.head.aside`.

        Raises:
            DeadlineExceeded: The deadline passed first.
        """
        return await aside(nbytes, work, self.deadline_s)

    def hurry(self, timeout_s: float) -> None:
        """Give the call no more than so much time from its beginning, as its message asks for."""
        self.deadline_s = min(self.deadline_s, self.trace.started_s + timeout_s)

    def take_rows(self, rows: int) -> None:
        """Take so many rows of what the caller may have.

        Raises:
            LimitExceeded: They are too many for now. `retry_after_s` is set.
        """
        if self._permit is not None:
            self._permit.take_rows(rows)

    def take_room(self, nbytes: int) -> None:
        """Take room for so many bytes of a reply, until the call ends.

        Raises:
            LimitExceeded: There is none for now. `retry_after_s` is set.
        """
        assert self._ticket is not None
        self._ticket.take_room(nbytes)

    def take_work(self, cost: float) -> None:
        """Take work that its message does not show, in bytes of a prediction's message that take as long.

        Raises:
            LimitExceeded: It cannot be done in time. `retry_after_s` is set.
        """
        assert self._ticket is not None
        self._ticket.take_work(cost)

    async def predict(self, request: InferenceRequest) -> Prediction:
        """Score the rows of the request.

        Raises:
            NotFound: The model, version or label is not served here.
            InvalidInput: An output is unknown, or a column does not fit the schema; the message names it.
            LimitExceeded: Its rows are more than its caller may have for now. `retry_after_s` is set.
            DeadlineExceeded: The deadline passed before the answer was complete.
            Unavailable: The head is stopping, or no live shard holds a key and the table's policy is to fail.
        """
        return await self._predictor._predict(request, self)

    async def rows(self, request: RowsRequest) -> RowsAnswer:
        """Return rows of a table by their keys, or bags of them.

        Degrade steps leave nothing out of it: rows by key are answered whole, or refused.

        Raises:
            NotFound: The model, version or table is not served here; the message says which are.
            InvalidInput: Keys, offsets or weights do not fit each other or the table; the message names which.
            LimitExceeded: There are too many keys, their rows are too long for one reply, or they are more than the
                caller may have for now, or than there is room for. For the last two `retry_after_s` is set.
            DeadlineExceeded: The deadline passed before the answer was complete.
            Unavailable: The head is stopping, or no live shard holds a key and the table's policy is to fail.
        """
        return await self._predictor._rows(request, self)

    async def top_k(self, request: TopKRequest) -> TopK:
        """Return the rows of a table with the largest scores, exactly.

        Degrade steps leave nothing out of it. Every row that is looked at is one of the caller's quota, for each query.

        Raises:
            NotFound: The model, version or table is not served here; the message says which are.
            InvalidInput: Queries, keys or output do not fit each other or the table; the message names which.
            LimitExceeded: It asks for too much at once, or for more than the caller may have for now, or than there is
                time or room for. For the last three `retry_after_s` is set.
            DeadlineExceeded: The deadline passed before the answer was complete.
            Unavailable: The head is stopping, or no live shard has a part of the table, whose policy is to fail.
        """
        return await self._predictor._top_k(request, self)

    async def push(self, request: PushRequest, nbytes: int) -> Pushed:
        """Have rows of a table written; return when that is acknowledged.

        Args:
            nbytes: Bytes of work that its rows are, for `aside`.

        Raises:
            NotFound: The model, version or table is not served here; the message says which are.
            UnmetCondition: The table takes no pushes, or has several copies; no version of the lineage is open; or the
                writer has sent a larger number since (`StaleNumber`).
            InvalidInput: Keys and rows do not fit each other or the table; the message names which.
            LimitExceeded: They are more than the caller may have for now, or than there is room for.
            DeadlineExceeded, Unavailable: It may have been applied, or may yet be.
        """
        return await self._predictor._push(request, nbytes, self)

    def close(self, error: BaseException | None) -> None:
        """End the call: count it, and report how it ended; None: its reply is made."""
        predictor, trace = self._predictor, self.trace
        if trace.stage != "admission" and trace.verb != "push":
            predictor.latencies.add(time.monotonic() - trace.started_s)
        if isinstance(error, asyncio.CancelledError) and time.monotonic() >= self._missed_from_s:
            # A caller or its front-end may end a call at its deadline by itself, and be first.
            error = DeadlineExceeded("the deadline passed")
        if self._incoming is not None and (error is None or _is_no_request(error)):
            self._among.judge(self._incoming, brought=error is None)
        if self._ticket is not None:
            brought = error is None or not _is_no_request(error)
            self._ticket.done(served=error is None, missed=isinstance(error, DeadlineExceeded), brought=brought)
        if self._permit is not None:
            # What is refused before it was received, to come again later, has taken nothing.
            self._permit.end(taken=not (isinstance(error, LimitExceeded) and error.retry_after_s is not None))
        if error is not None:
            predictor._watch.failed(trace, error)
        elif self.answer is not None:
            model, version, times, decoded_s, scored_s = self.answer
            predictor._watch.answered(trace, model, version, times, decoded_s=decoded_s, scored_s=scored_s)
        elif self.looked_up is not None:
            model, version, decoded_s, pulled_s = self.looked_up
            predictor._watch.looked_up(trace, model, version, decoded_s=decoded_s, pulled_s=pulled_s)
        elif trace.verb == "push":
            predictor._watch.pushed(trace, trace.model, trace.version)

    def __enter__(self) -> OpenCall:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


def _new_id() -> str:
    return f"{_ids.getrandbits(64):016x}"


def _is_no_request(error: BaseException) -> bool:
    """Whether a call ended because what it brought can be answered by no head, at no time."""
    if isinstance(error, LimitExceeded):
        return error.retry_after_s is None
    return isinstance(error, InvalidInput | NotFound)
