"""The verbs of the public contract, as coroutines for `inference.head.api.methods`: from a call's bytes to its reply.

Predict: admit (under overload a call ends here), receive, parse, decode and check (what does not fit ends here), ride
in a micro-batch, encode. The call's own deadline is kept, capped by the head's; every stage is timed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

import grpc.aio
from google.protobuf.message import Message

from ringpull.inference.head.admission import Admission
from ringpull.inference.head.api.metadata import describe
from ringpull.inference.head.api.methods import Receive, parse
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.latency import RecentLatencies
from ringpull.inference.head.lease import Lease
from ringpull.inference.head.metrics.call_log import Call
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.prediction import Prediction, Timings
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.request.codec import encode_response
from ringpull.inference.request.received import Limits, ReceivedCall, decode_request
from ringpull.ps.errors import DeadlineExceeded, InvalidInput

GRPC_TICK_S: Final = 0.002
"""gRPC counts time in whole milliseconds, so it may end a call a little before the deadline that it told."""


@dataclass(slots=True)
class CallCounts:
    """Predict calls since start. Owned by the event loop."""

    requests: int = 0
    failed: int = 0


class PredictorService:
    """`ringpull.v1.Predictor`."""

    def __init__(
        self,
        catalog: Catalog,
        config: HeadConfig,
        counts: CallCounts,
        *,
        lease: Lease | None = None,
        latencies: RecentLatencies | None = None,
        watch: CallWatch | None = None,
    ) -> None:
        self._catalog = catalog
        self._lease = lease
        self._latencies = latencies
        self._watch = watch or CallWatch()
        self._config = config
        self._limits = Limits(config.max_candidates, config.max_values_per_row, config.max_columns)
        self._counts = counts
        self.admission = Admission(
            max_queue_s=config.max_queue_s,
            standing_queue_s=config.standing_queue_s,
            max_in_flight_bytes=config.max_in_flight_bytes,
        )

    async def predict(self, receive: Receive, context: grpc.aio.ServicerContext) -> Message:
        """Score the rows of a request."""
        started_s = time.monotonic()
        trace = Call(started_s, "admission")
        self._counts.requests += 1
        deadline_s = started_s + self._time_left(context)
        try:
            if deadline_s <= started_s:
                # It waited within gRPC. That must cost as little as a refusal, or all behind it will be late, too.
                raise DeadlineExceeded("the deadline had passed before the request was taken in")
            with self.admission.expect(deadline_s) as ticket:
                body = await _in_time(receive, deadline_s - started_s)
                ticket.received(len(body))
                return await self._admitted(body, trace, deadline_s)
        except BaseException as error:
            failure = error
            if isinstance(error, asyncio.CancelledError) and time.monotonic() >= deadline_s - GRPC_TICK_S:
                # gRPC ends a call at its deadline by itself, and may be first: the caller sees the same.
                failure = DeadlineExceeded("the deadline passed")
            if isinstance(failure, Exception):
                self._counts.failed += 1
            self._watch.failed(trace, failure)
            raise

    async def get_model(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe one version of a model."""
        request = parse(pb.GetModelRequest, body)
        if request.version < 0:
            raise InvalidInput(f"version is {request.version}; it must be 1 or more, or 0 for the live one")
        return self._describe(self._catalog.get(request.model, request.version))

    async def list_models(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe the live version of every model."""
        parse(pb.ListModelsRequest, body)
        return self.models()

    def models(self) -> pb.ListModelsResponse:
        """Return the live version of every model."""
        return pb.ListModelsResponse(models=[self._describe(served) for served in self._catalog.live()])

    async def _admitted(self, body: bytes, trace: Call, deadline_s: float) -> pb.PredictResponse:
        trace.stage = "decode"
        try:
            if self._lease is not None and self._lease.expired:
                await self._lease.refresh()
            return await self._predict(body, trace, deadline_s)
        finally:
            if self._latencies is not None:
                self._latencies.add(time.monotonic() - trace.started_s)

    async def _predict(self, body: bytes, trace: Call, deadline_s: float) -> pb.PredictResponse:
        started_s = trace.started_s
        call = decode_request(parse(pb.PredictRequest, body), self._limits)
        trace.model, trace.request_id = call.model, call.request_id or os.urandom(8).hex()
        asked = self._catalog.get(call.model, call.version)
        wanted = _wanted_outputs(call, asked)
        served, columns = asked.degraded(call.columns, named=call.version != 0)
        decoded_s = time.monotonic()
        trace.stage = "batch"
        scores, times = await served.batcher.submit(columns, columns.rows_left, deadline_s)
        scored_s = time.monotonic()
        trace.stage = "encode"
        timings = None
        if call.with_timings:
            timings = Timings(
                decode_us=_us(decoded_s - started_s),
                features_us=_us(times.prepare_s),
                queue_us=_us(times.queue_s),
                lookup_us=_us(times.lookup_s),
                dense_us=_us(times.dense_s),
                total_us=_us(time.monotonic() - started_s),
                batch_rows=times.batch_rows,
            )
        manifest = served.loaded.manifest
        asked.degrader.count(scores.degraded)
        prediction = Prediction(
            outputs={name: scores.outputs[name] for name in wanted},
            version=manifest.version,
            filled=scores.filled,
            timings=timings,
            model=manifest.model,
            request_id=trace.request_id,
            degraded=scores.degraded,
        )
        reply = encode_response(prediction, typed=call.typed)
        self._watch.answered(trace, manifest.model, manifest.version, times, decoded_s=decoded_s, scored_s=scored_s)
        return reply

    def _time_left(self, context: grpc.aio.ServicerContext) -> float:
        left_s = context.time_remaining()
        return self._config.default_timeout_s if left_s is None else min(float(left_s), self._config.max_timeout_s)

    def _describe(self, served: ServedVersion) -> pb.Model:
        return describe(served.loaded, self._catalog.versions(served.loaded.manifest.model))


class AdminService:
    """`ringpull.v1.Admin`."""

    def __init__(self, status: Callable[[], Awaitable[pb.ClusterStatus]]) -> None:
        self._status = status

    async def get_status(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Describe the cluster."""
        parse(pb.GetStatusRequest, body)
        return await self._status()


async def _in_time(receive: Receive, left_s: float) -> bytes:
    """Receive a message that may never come: a caller can vanish while it sends, and without a deadline of its own."""
    try:
        async with asyncio.timeout(left_s):
            return await receive()
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the request had been received") from None


def _wanted_outputs(call: ReceivedCall, served: ServedVersion) -> Collection[str]:
    """Return the outputs asked for, or all."""
    if not call.outputs:
        return served.outputs
    for name in call.outputs:
        if name not in served.outputs:
            known = ", ".join(sorted(served.outputs))
            raise InvalidInput(f"outputs: {served.loaded.name} has no output {name!r}; it has: {known}")
    return call.outputs


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
