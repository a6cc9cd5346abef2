"""Calls that are being received: when they count as work, and who makes room; on a fake clock, and over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.access import AtDoor, Unasked
from ringpull.inference.head.admission import REQUEST_COST_BYTES, Admission
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.answers import grpc_server
from ringpull.inference.head.frontends.grpc.server import DESCRIPTOR_SHARE, DESCRIPTOR_SHARE_OF_DOOR, GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.http.limits import DESCRIPTOR_SHARE as HTTP_SHARE
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.head.receiving import DISTRUSTED, MAX_OVERDUE_S, MIN_OVERDUE_S, Incoming, Receiving
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.status_codes import PUSHBACK
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded
from tests.clock import Clock
from tests.inference.served import ROWS, Served, still_serves
from tests.inference.small_model import columns_of
from tests.patience import PATIENCE_S

BODY = encode_request(as_call("ranker", columns_of(ROWS))).SerializeToString()
FAR_S = 1e6


class Limit:
    """Stands in for `asyncio.Timeout`: notes that it was told to end."""

    def __init__(self) -> None:
        self.ended = False

    def expired(self) -> bool:
        return self.ended

    def reschedule(self, when: float) -> None:
        self.ended = True


class Calls:
    """Calls that enter and leave on a fake clock."""

    def __init__(self, clock: Clock, max_calls: int = 4) -> None:
        self.clock = clock
        self.memory = 1 << 30
        self.receiving = Receiving(
            timeout_s=10.0, max_calls=max_calls, max_bytes=1000, memory=lambda: self.memory, clock=clock
        )
        self.aside: list[str] = []

    def enter(self, sender: str, name: str = "") -> Incoming:
        incoming = Incoming(sender, lambda: self.aside.append(name))
        self.receiving.enter(incoming, Limit())  # type: ignore[arg-type]
        return incoming

    def come(self, sender: str, after_s: float) -> None:
        incoming = self.enter(sender)
        self.clock.now_s += after_s
        self.receiving.leave(incoming, arrived=True)
        self.receiving.judge(incoming, brought=True)


@pytest.fixture
async def calls(clock: Clock) -> AsyncIterator[Calls]:
    calls = Calls(clock)
    yield calls
    calls.receiving.close()


async def test_a_call_is_overdue_after_some_times_what_messages_take(calls: Calls, clock: Clock) -> None:
    calls.enter("a", "first")
    assert calls.receiving.overdue_s == MIN_OVERDUE_S
    clock.now_s += MIN_OVERDUE_S / 2
    calls.enter("a", "second")
    calls.receiving.look()
    assert calls.aside == []
    clock.now_s += MIN_OVERDUE_S / 2
    calls.receiving.look()
    assert calls.aside == ["first"]
    assert (len(calls.receiving), calls.receiving.overdue) == (2, 1)


async def test_how_long_messages_take_is_learnt_and_bounded(calls: Calls, clock: Clock) -> None:
    for _ in range(300):
        calls.come("a", 0.02)
    assert calls.receiving.overdue_s == pytest.approx(0.08, rel=0.1)
    for _ in range(300):
        calls.come("slow", 9.0)
    assert calls.receiving.overdue_s == pytest.approx(0.08, rel=0.1), "who sends slowly makes nobody else late"
    for _ in range(600):
        calls.come("a", 9.0)
    assert calls.receiving.overdue_s == MAX_OVERDUE_S


async def test_few_slow_messages_do_not_make_others_late(calls: Calls, clock: Clock) -> None:
    for turn in range(600):
        calls.come("a", 5.0 if turn % 10 == 0 else 0.001)
    assert calls.receiving.overdue_s < 3 * MIN_OVERDUE_S


async def test_the_oldest_of_whoever_has_most_makes_room(calls: Calls, clock: Clock) -> None:
    honest = calls.enter("honest")
    crowd = [calls.enter("crowd") for _ in range(3)]
    clock.now_s += 1.0
    newcomer = calls.enter("new")
    assert [each.pushed_out for each in crowd] == ["full", "", ""]
    assert not honest.pushed_out
    assert not newcomer.pushed_out
    assert len(calls.receiving) == 4
    calls.receiving.leave(crowd[0], arrived=False)
    assert len(calls.receiving) == 4, "its place was another's by then"


async def test_who_is_not_overdue_is_not_ended_for_one_more(calls: Calls) -> None:
    for _ in range(4):
        calls.enter("burst")
    with pytest.raises(LimitExceeded, match="max_receiving_requests") as caught:
        calls.enter("new")
    assert caught.value.retry_after_s == MIN_OVERDUE_S
    assert calls.receiving.ended == {"timeout": 0, "full": 1, "memory": 0}


async def test_halves_of_messages_take_memory_within_bounds(calls: Calls, clock: Clock) -> None:
    calls.memory += 10_000
    honest = calls.enter("honest")
    crowd = [calls.enter("crowd") for _ in range(3)]
    clock.now_s += 1.0
    calls.receiving.look()
    calls.memory += 1000
    calls.receiving.look_at_memory()
    assert not any(each.pushed_out for each in (honest, *crowd))
    calls.memory += 1
    calls.receiving.look_at_memory()
    assert [each.pushed_out for each in (honest, *crowd)] == ["", "memory", "memory", "memory"]
    assert len(calls.receiving) == 1


async def test_halves_that_are_told_take_memory_within_bounds(calls: Calls) -> None:
    """Whoever sends little is let through, however much others have sent."""
    receiving = calls.receiving
    large, other, small = calls.enter("a", "large"), calls.enter("b", "other"), calls.enter("c", "small")
    receiving.holds(large, 600)
    receiving.holds(other, 300)
    receiving.holds(small, 100)
    assert receiving.ended["memory"] == 0
    receiving.holds(small, 1)
    assert (large.pushed_out, other.pushed_out, small.pushed_out) == ("memory", "", "")
    assert calls.aside == ["large"], "it counts as work to nobody"
    receiving.holds(large, 5000)  # what was on its way
    receiving.leave(large, arrived=False)
    receiving.holds(other, 599)
    assert receiving.ended["memory"] == 1
    receiving.holds(small, 1)
    assert (other.pushed_out, small.pushed_out) == ("memory", "")
    receiving.leave(other, arrived=False)
    receiving.holds(small, 10_000)
    assert not small.pushed_out, "a lone one may be of any length"
    receiving.leave(small, arrived=True)
    assert len(receiving) == 0
    first, second = calls.enter("a"), calls.enter("b")
    receiving.holds(first, 500)
    receiving.holds(second, 500)
    assert [first.pushed_out, second.pushed_out] == ["", ""], "what has left holds nothing"


async def test_memory_is_not_looked_at_for_calls_whose_messages_come(calls: Calls) -> None:
    call = calls.enter("a")
    calls.memory += 1 << 30
    calls.receiving.look_at_memory()
    assert not call.pushed_out


async def test_whoever_keeps_many_waiting_is_not_counted_on(clock: Clock) -> None:
    calls = Calls(clock, max_calls=100)
    for _ in range(DISTRUSTED):
        calls.enter("crowd", "old")
    clock.now_s += 1.0
    calls.receiving.look()
    calls.enter("crowd", "new")
    calls.enter("other", "other")
    assert calls.aside == ["old"] * DISTRUSTED + ["new"]
    calls.receiving.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "leave", "come", "wait"])), max_size=60))
async def test_whatever_comes_and_goes_places_are_counted(steps: list[tuple[str, str]]) -> None:
    clock = Clock(0.0)
    calls = Calls(clock)
    inside: list[Incoming] = []
    for sender, step in steps:
        if step == "wait":
            clock.now_s += MIN_OVERDUE_S
        elif step == "enter":
            try:
                inside.append(calls.enter(sender))
            except LimitExceeded:
                assert len(calls.receiving) == 4
        elif inside:
            calls.receiving.leave(inside.pop(0), arrived=step == "come")
        inside = [each for each in inside if not each.pushed_out]
        assert len(calls.receiving) == len(inside) <= 4
        assert calls.receiving.overdue == sum(each.overdue for each in inside)
    calls.receiving.close()


# -- admission ---------------------------------------------------------------------------------------------------------


def busy(clock: Clock) -> Admission:
    """An admission that has learnt that it serves 100 requests a second, one after the other."""
    admission = Admission(max_queue_s=1.0, standing_queue_s=0.2, max_in_flight_bytes=1 << 20, clock=clock)
    waiting = []
    for ahead in [0] * 100 + [10] * 300 + [0] * 11:
        while len(waiting) <= ahead:
            waiting.append(admission.expect(FAR_S))
            waiting[-1].received(10_000 - REQUEST_COST_BYTES)
        clock.now_s += 0.01
        waiting.pop(0).done()
    return admission


def test_what_is_set_aside_is_no_work_until_it_comes(clock: Clock) -> None:
    admission = busy(clock)
    silent = [admission.expect(FAR_S) for _ in range(100)]
    assert admission.queue_s() > 0.9
    for ticket in silent:
        ticket.set_aside()
    assert admission.queue_s() == 0.0
    assert admission.pressure() == 0.0
    assert admission.in_flight_bytes == 100 * (10_000 - REQUEST_COST_BYTES)
    for _ in range(50):
        with admission.expect(clock.now_s + 0.05) as ticket:
            ticket.received(10_000 - REQUEST_COST_BYTES)
            clock.now_s += 0.01
    for ticket in silent[:20]:
        ticket.received(10_000 - REQUEST_COST_BYTES)
    assert admission.queue_s() == pytest.approx(0.19, abs=0.02), "those that came are work like any other"
    for ticket in silent:
        ticket.done(served=False)
    assert admission.in_flight_bytes == 0
    assert admission.queue_s() == 0.0


def test_what_is_set_aside_fills_no_head_with_bytes(clock: Clock) -> None:
    admission = busy(clock)
    for _ in range(1000):
        admission.expect(FAR_S).set_aside()
    assert admission.in_flight_bytes > 4 << 20
    with admission.expect(FAR_S) as ticket:
        ticket.received(10_000)
    assert admission.refused == 0


def test_silence_teaches_no_rate(clock: Clock) -> None:
    admission = busy(clock)
    for _ in range(20):
        silent = [admission.expect(FAR_S) for _ in range(20)]
        clock.now_s += MIN_OVERDUE_S
        for ticket in silent:
            ticket.set_aside()
        for _ in range(10):
            with admission.expect(FAR_S) as ticket:
                ticket.received(10_000 - REQUEST_COST_BYTES)
                clock.now_s += 0.01
        for ticket in silent:
            ticket.done(served=False)
    waiting = [admission.expect(FAR_S) for _ in range(21)]
    assert admission.queue_s() == pytest.approx(0.2, abs=0.03)
    assert len(waiting) == 21


# -- over gRPC ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def limited(served: Served, **settings: float) -> AsyncIterator[tuple[str, Predictor]]:
    """Serve with these limits beside the server of the fixture."""
    config = HeadConfig(**settings)  # type: ignore[arg-type]
    predictor = Predictor(served.catalog, config)
    server = GrpcServer(PredictorService(predictor, served.catalog), AdminService(served.status), config)
    try:
        yield f"127.0.0.1:{await server.start()}", predictor
    finally:
        await server.stop(grace_s=0)


def connect(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def until(reached: object) -> None:
    assert callable(reached)
    while not reached():
        await asyncio.sleep(0.001)


async def hint_of(call: grpc.aio.Call) -> int:
    metadata = dict(await call.trailing_metadata() or ())
    return int(metadata[PUSHBACK])


METHODS = [
    stubs.PREDICT.path,
    stubs.GET_MODEL.path,
    stubs.LIST_MODELS.path,
    stubs.GET_STATUS.path,
    "/ringpull.v1.Operations/Call",
    "/ringpull.v1.Operations/OfAnotherBuild",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.mark.net
@pytest.mark.parametrize("path", METHODS)
async def test_a_message_that_does_not_come_ends_its_call_in_words(served: Served, path: str) -> None:
    async with limited(served, receive_timeout_s=0.05) as (target, predictor), connect(target) as channel:
        call = channel.stream_stream(path)(timeout=60)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "within 0.05 s (receive_timeout_s)" in (await call.details() or "")
        assert predictor.receiving.ended["timeout"] == 1
        assert len(predictor.receiving) == predictor.admission.in_flight_bytes == 0


@pytest.mark.net
@pytest.mark.parametrize("shared", [True, False], ids=["one connection", "another connection"])
async def test_calls_without_messages_take_the_head_from_nobody(served: Served, shared: bool) -> None:
    async with connect(served.target) as channel, connect(served.target) as other:
        silent = [
            (channel if shared else other).stream_unary(stubs.PREDICT.path)(timeout=PATIENCE_S) for _ in range(200)
        ]
        await until(lambda: served.predictor.receiving.overdue == 200)
        assert served.predictor.admission.queue_s() == served.predictor.admission.pressure() == 0.0
        for _ in range(20):
            await channel.unary_unary(stubs.PREDICT.path)(BODY, timeout=60)
        assert served.predictor.admission.refused == 0
        for call in silent:
            call.cancel()
        await until(lambda: not len(served.predictor.receiving))
        assert served.predictor.admission.in_flight_bytes == 0


@pytest.mark.net
@pytest.mark.parametrize("path", [stubs.PREDICT.path, stubs.GET_MODEL.path, "/grpc.health.v1.Health/Check"])
async def test_more_calls_without_messages_than_may_be_end_the_oldest(served: Served, path: str) -> None:
    settings = {"max_receiving_requests": 10, "max_concurrent_requests": 5}
    async with limited(served, **settings) as (target, predictor), connect(target) as crowd, connect(target) as honest:
        mine = honest.stream_unary(stubs.PREDICT.path)(timeout=PATIENCE_S)
        await until(lambda: predictor.receiving.overdue == 1)
        silent = []
        for count in range(2, 40):
            silent.append(crowd.stream_unary(path)(timeout=PATIENCE_S))
            await until(lambda count=count: predictor.receiving.overdue == min(count, 10))
            await until(lambda count=count: predictor.receiving.ended["full"] == max(0, count - 10))
        assert await silent[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await hint_of(silent[0]) > 0
        for _ in range(20):
            await honest.unary_unary(stubs.PREDICT.path)(BODY, timeout=60)
        await mine.write(BODY)
        await mine.done_writing()
        await mine
        health = await health_pb2_grpc.HealthStub(honest).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.net
async def test_a_message_that_comes_late_is_answered(served: Served, client: AsyncClient) -> None:
    async with connect(served.target) as channel:
        call = channel.stream_unary(stubs.PREDICT.path)(timeout=PATIENCE_S)
        await until(lambda: served.predictor.receiving.overdue == 1)
        await call.write(BODY)
        await call.done_writing()
        assert await call
        await still_serves(client)
    assert served.counts.failed == 0


@pytest.mark.net
async def test_calls_in_flight_are_limited_with_a_hint(served: Served) -> None:
    async with limited(served, max_concurrent_requests=2) as (target, predictor), connect(target) as channel:
        served.router.gate.clear()
        predict = channel.unary_unary(stubs.PREDICT.path)
        calls = [asyncio.create_task(_answer(predict(BODY, timeout=PATIENCE_S))) for _ in range(2)]
        await until(lambda: predictor.counts.requests == 2)
        refused = predict(BODY, timeout=PATIENCE_S)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_concurrent_requests" in (await refused.details() or "")
        assert await hint_of(refused) > 0
        served.router.gate.set()
        await asyncio.gather(*calls)


@pytest.mark.net
async def test_streams_that_stay_take_no_place_of_calls(served: Served) -> None:
    settings = {"max_concurrent_requests": 2, "max_receiving_requests": 3}
    async with limited(served, **settings) as (target, _), connect(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            assert isinstance(await watch.read(), Message)
        one_more = stub.Watch(health_pb2.HealthCheckRequest())
        assert await one_more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await channel.unary_unary(stubs.PREDICT.path)(BODY, timeout=60)
        for watch in watches:
            watch.cancel()


@pytest.mark.net
@pytest.mark.parametrize("path", [stubs.PREDICT.path, "/ringpull.v1.Operations/Call"])
async def test_a_crowd_at_the_port_takes_no_place_at_the_door_nor_lifts_its_limits(served: Served, path: str) -> None:
    config = HeadConfig(max_receiving_requests=10, max_concurrent_requests=2)
    predictor = Predictor(served.catalog, config)
    parts = Parts(predictor, served.catalog, served.status, pb.ClusterStatus, Operators(None))
    port, door = grpc_server(parts, config, Unasked()), grpc_server(parts, config, AtDoor(), at_door=True)
    at_port, at_door = [f"127.0.0.1:{await each.start()}" for each in (port, door)]
    async with connect(at_port) as crowd, connect(at_door) as operator:
        mine = operator.stream_unary(path)(timeout=PATIENCE_S)
        await until(lambda: predictor.receiving_at_door.overdue == 1)
        silent = []
        for count in range(1, 13):
            silent.append(crowd.stream_unary(stubs.PREDICT.path)(timeout=PATIENCE_S))
            await until(lambda count=count: predictor.receiving.overdue == min(count, 10))
            await until(lambda count=count: predictor.receiving.ended["full"] == max(0, count - 10))
        assert predictor.receiving_at_door.overdue == 1
        assert not mine.done()
        assert predictor.receiving_at_door.ended["full"] == 0
        # What is overdue at the port makes no room at the door: two calls, and no more.
        served.router.gate.clear()
        predict, begun = operator.unary_unary(stubs.PREDICT.path), predictor.counts.requests
        calls = [asyncio.create_task(_answer(predict(BODY, timeout=PATIENCE_S))) for _ in range(2)]
        await until(lambda: predictor.counts.requests == begun + 2)
        assert await predict(BODY, timeout=PATIENCE_S).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        served.router.gate.set()
        await asyncio.gather(*calls)
        for each in (mine, *silent):
            each.cancel()
    await asyncio.gather(port.stop(0), door.stop(0))


def test_the_ports_of_a_head_leave_descriptors_for_shards_and_files() -> None:
    http_and_metrics = 2 * HTTP_SHARE
    assert DESCRIPTOR_SHARE + DESCRIPTOR_SHARE_OF_DOOR + http_and_metrics < 1 - 1 / 16


@pytest.mark.net
async def test_the_door_takes_a_share_of_its_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    monkeypatch.setattr(
        "ringpull.inference.head.frontends.grpc.server.part_of_descriptors",
        lambda part, at_most: shares.append(part) or at_most,
    )
    config = HeadConfig()
    parts = Parts(Predictor(served.catalog, config), served.catalog, served.status, pb.ClusterStatus, Operators(None))
    servers = [grpc_server(parts, config, Unasked()), grpc_server(parts, config, AtDoor(), at_door=True)]
    assert shares == [DESCRIPTOR_SHARE, DESCRIPTOR_SHARE_OF_DOOR]
    for each in servers:
        await each.stop(0)


async def _answer(call: grpc.aio.UnaryUnaryCall) -> bytes:
    reply: bytes = await call
    return reply


async def test_the_errors_of_a_message_that_does_not_come() -> None:
    receiving = Receiving(timeout_s=600, max_calls=10)
    with pytest.raises(DeadlineExceeded, match="the deadline passed before the request had been received"):
        await receiving.receive(asyncio.Event().wait(), Incoming("a"), deadline_s=0.0)
    assert receiving.ended["timeout"] == 0
    receiving.close()


@pytest.mark.net
@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n"])
async def test_a_connection_that_does_not_begin_ends(served: Served, sent: bytes) -> None:
    async with limited(served, receive_timeout_s=0.05) as (target, _):
        reader, writer = await asyncio.open_connection(*target.split(":"))
        writer.write(sent)
        await reader.read()
        writer.close()
