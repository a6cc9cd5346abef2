"""A head under overload, over real gRPC: what is refused, how a caller is told, and that all else goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.admission import Admission, Ticket
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.status_codes import PUSHBACK
from ringpull.ps.errors import DeadlineExceeded
from tests.inference.served import ROWS, Served, still_serves
from tests.inference.small_model import columns_of

pytestmark = pytest.mark.net

GARBAGE = b"\xff" * 100
"""No message at all: whoever decodes it answers INVALID_ARGUMENT."""
BODY = encode_request(as_call("ranker", columns_of(ROWS))).SerializeToString()


class LearningClock:
    """A clock that stands still, behind the monotonic one, and moves by hand: what takes minutes is learnt at once.

    Once that is done it is the monotonic one.
    """

    def __init__(self, behind_s: float) -> None:
        self.now_s: float | None = time.monotonic() - behind_s

    def __call__(self) -> float:
        return time.monotonic() if self.now_s is None else self.now_s

    def move(self, by_s: float) -> None:
        self.now_s = self() + by_s


def learnt(request_s: float, *, max_queue_s: float = 5.5, standing_queue_s: float = 5.5) -> Admission:
    """An admission that has seen every request take `request_s`, just now."""
    aheads = [0] * 20 + [3] * 300 + [0] * 4
    clock = LearningClock(len(aheads) * request_s)
    admission = Admission(
        max_queue_s=max_queue_s, standing_queue_s=standing_queue_s, max_in_flight_bytes=1 << 20, clock=clock
    )
    waiting: list[Ticket] = []
    for ahead in aheads:
        waiting += [admission.expect(time.monotonic()) for _ in range(ahead + 1 - len(waiting))]
        waiting[-1].received(len(BODY))
        clock.move(request_s)
        waiting.pop(0).done()
    assert not waiting
    clock.now_s = None
    return admission


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served.target) as channel:
        yield channel


async def predict(channel: grpc.aio.Channel, body: bytes, timeout_s: float = 60.0) -> bytes:
    reply: bytes = await channel.unary_unary(stubs.PREDICT.path)(body, timeout=timeout_s)
    return reply


async def refused(channel: grpc.aio.Channel, body: bytes, timeout_s: float = 60.0) -> tuple[str, int]:
    """Make a call that is refused, and return the message and the hint in milliseconds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await predict(channel, body, timeout_s)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details, metadata = caught.value.details(), dict(caught.value.trailing_metadata() or ())
    assert details is not None
    hint_ms = int(metadata[PUSHBACK])
    assert f"ask again in {hint_ms} ms" in details
    return details, hint_ms


async def in_flight(served: Served, channel: grpc.aio.Channel, count: int) -> list[asyncio.Task[bytes]]:
    served.router.gate.clear()
    before = served.counts.requests
    calls = [asyncio.create_task(predict(channel, BODY)) for _ in range(count)]
    while served.counts.requests < before + count or served.predictor.admission.in_flight_bytes < count * len(BODY):
        await asyncio.sleep(0)
    return calls


async def test_a_full_queue_refuses_without_decoding_and_says_when_to_come_back(
    served: Served, channel: grpc.aio.Channel, client: AsyncClient
) -> None:
    served.predictor.admission = learnt(1.0)
    calls = await in_flight(served, channel, 7)
    details, hint_ms = await refused(channel, GARBAGE)
    assert "overloaded: requests wait 6000 ms here; the most is 5500 ms" in details
    assert hint_ms == pytest.approx(7000, abs=1)
    assert served.counts.failed == 1
    served.router.gate.set()
    await asyncio.gather(*calls)
    await still_serves(client)


async def test_a_deadline_that_cannot_be_kept_is_refused_without_decoding(
    served: Served, channel: grpc.aio.Channel, client: AsyncClient
) -> None:
    served.predictor.admission = learnt(1.0)
    calls = await in_flight(served, channel, 3)
    details, _ = await refused(channel, GARBAGE, timeout_s=2.0)
    assert "the answer would take 4000 ms" in details
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await predict(channel, GARBAGE, timeout_s=30.0)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, "there is time for it, so it is looked at"
    served.router.gate.set()
    await asyncio.gather(*calls)
    await still_serves(client)


async def test_bytes_in_flight_are_bounded(served: Served, channel: grpc.aio.Channel) -> None:
    served.predictor.admission = Admission(max_queue_s=5.0, standing_queue_s=5.0, max_in_flight_bytes=len(BODY))
    [call] = await in_flight(served, channel, 1)
    await refused(channel, BODY)
    served.router.gate.set()
    await call
    assert served.predictor.admission.in_flight_bytes == 0
    await predict(channel, BODY)


async def test_a_long_message_is_refused_unread(served: Served, channel: grpc.aio.Channel) -> None:
    served.predictor.admission = learnt(1.0)
    calls = await in_flight(served, channel, 7)
    # Longer than the head's limit for messages: it would say so, had it received the message.
    details, _ = await refused(channel, bytes(10 << 20))
    assert "overloaded" in details
    served.router.gate.set()
    await asyncio.gather(*calls)


async def test_overload_refuses_predicts_only(served: Served, channel: grpc.aio.Channel, client: AsyncClient) -> None:
    served.predictor.admission = learnt(1.0)
    calls = await in_flight(served, channel, 7)
    await refused(channel, BODY)
    assert (await client.model("ranker")).name == "ranker"
    assert (await client.status()).requests == 8
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    served.router.gate.set()
    await asyncio.gather(*calls)


async def test_after_an_overload_everyone_is_served(
    served: Served, channel: grpc.aio.Channel, client: AsyncClient
) -> None:
    served.predictor.admission = learnt(1.0)
    calls = await in_flight(served, channel, 7)
    for _ in range(20):
        await refused(channel, BODY)
    served.router.gate.set()
    await asyncio.gather(*calls)
    await asyncio.gather(*[still_serves(client) for _ in range(4)])
    assert served.predictor.admission.refused == 20
    assert served.predictor.admission.pressure() == 0.0


async def test_callers_who_went_away_leave_no_trace(served: Served, channel: grpc.aio.Channel) -> None:
    calls = await in_flight(served, channel, 5)
    assert served.predictor.admission.in_flight_bytes == 5 * len(BODY)
    for call in calls:
        call.cancel()
    while served.predictor.admission.in_flight_bytes:
        await asyncio.sleep(0)


async def test_a_call_that_is_late_when_it_is_taken_in_is_not_decoded(served: Served) -> None:
    async def never() -> bytes:
        pytest.fail("a message is received that nobody waits for")

    class LateContext:
        def time_remaining(self) -> float:
            return 0.0

        def invocation_metadata(self) -> None: ...

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

    with pytest.raises(DeadlineExceeded, match="taken in"):
        await served.service.predict(never, LateContext())  # type: ignore[arg-type]
    assert served.counts.failed == 1


async def test_connections_are_limited(served: Served) -> None:
    config = HeadConfig(max_connections=2)
    service = PredictorService(Predictor(served.catalog, config), served.catalog)
    server = GrpcServer(service, AdminService(served.status), config)
    target = f"127.0.0.1:{await server.start()}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(target, options=options) as first,
        grpc.aio.insecure_channel(target, options=options) as second,
        grpc.aio.insecure_channel(target, options=options) as third,
    ):
        await predict(first, BODY)
        await predict(second, BODY)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict(third, BODY)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await predict(first, BODY)
    await server.stop(grace_s=0)
