"""Who sends calls: what counts as work of those whose messages are not here, and streams that wait between messages."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ringpull.inference.client import stubs
from ringpull.inference.head.receiving import MIN_OVERDUE_S, Incoming
from ringpull.inference.head.senders import FIRST_TRUST, MAX_KNOWN, Senders
from tests.clock import Clock
from tests.inference.served import Served
from tests.inference.test_overload import learnt
from tests.inference.test_receiving import BODY, Calls, Limit, connect, limited, until
from tests.patience import PATIENCE_S


async def test_who_brings_no_requests_is_not_counted_on(clock: Clock) -> None:
    calls = Calls(clock, max_calls=1000)
    for _ in range(100):
        calls.come("honest", 0.001)
        calls.come("bad", 0.001)
    for _ in range(10):
        calls.receiving.leave(calls.enter("bad"), arrived=False)
    calls.aside.clear()
    for name in ("bad", "honest"):
        for _ in range(100):
            calls.enter(name, name)
    assert calls.aside == ["bad"] * 100
    calls.receiving.close()


async def test_connections_that_are_new_are_counted_on_together(clock: Clock) -> None:
    calls = Calls(clock, max_calls=1000)
    for number in range(100):
        calls.enter(f"new {number}", "aside")
    assert len(calls.aside) == 100 - FIRST_TRUST
    calls.receiving.close()


async def test_what_was_no_request_teaches_no_lateness_and_takes_trust(clock: Clock) -> None:
    calls = Calls(clock)
    calls.come("a", 0.001)
    for _ in range(300):
        call = calls.enter("a")
        clock.now_s += 0.027
        calls.receiving.leave(call, arrived=True)
        calls.receiving.judge(call, brought=False)
    assert calls.receiving.overdue_s == MIN_OVERDUE_S
    assert calls.receiving.senders.named("a").trust == 0.0
    calls.come("a", 0.001)
    calls.aside.clear()
    calls.enter("a")
    assert calls.aside == [], "who brings requests again is counted on again"
    calls.receiving.close()


async def test_a_process_that_grew_by_itself_ends_no_call_twice(clock: Clock) -> None:
    calls = Calls(clock)
    first = calls.enter("a")
    clock.now_s += 1.0
    calls.receiving.look()
    other = calls.enter("b")
    third = calls.enter("b")
    clock.now_s += 1.0
    calls.receiving.look()
    calls.memory += 1001  # a version was published
    calls.receiving.look_at_memory()
    calls.receiving.look_at_memory()
    assert [each.pushed_out for each in (first, other, third)] == ["", "memory", "memory"]
    calls.memory -= 900
    calls.receiving.look_at_memory()
    calls.memory += 1001
    calls.receiving.look_at_memory()
    assert first.pushed_out == "memory", "what it grows by counts from where it is"
    calls.receiving.close()


@pytest.mark.net
@pytest.mark.medium
@pytest.mark.parametrize("end", ["a byte", "cancelled"])
async def test_calls_that_end_just_before_they_are_late_take_it_from_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("ringpull.inference.head.receiving.MIN_OVERDUE_S", 0.25)
    served.predictor.admission = learnt(0.1, max_queue_s=1.0, standing_queue_s=0.2)
    receiving = served.predictor.receiving
    async with connect(served.target) as channel, connect(served.target) as stranger:

        async def hold_one_after_the_other() -> None:
            while True:
                call = stranger.stream_unary(stubs.PREDICT.path)(timeout=PATIENCE_S)
                await asyncio.sleep(0.9 * receiving.overdue_s)
                if end == "cancelled":
                    call.cancel()
                else:
                    await call.write(b"x")
                    await call.done_writing()
                    await call.code()

        holding = [asyncio.create_task(hold_one_after_the_other()) for _ in range(50)]
        await until(lambda: len(receiving) >= 8)
        predict = channel.unary_unary(stubs.PREDICT.path)
        codes = [await predict(BODY, timeout=60).code() for _ in range(240)]
        for each in holding:
            each.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    assert codes.count(grpc.StatusCode.OK) > 200


@pytest.mark.net
async def test_a_stream_that_has_begun_may_wait(served: Served) -> None:
    async with limited(served, receive_timeout_s=0.05) as (target, predictor), connect(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=60)
        for _ in range(2):
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await call.read()).list_services_response.service
            await asyncio.sleep(0.1)
        assert len(predictor.receiving) == predictor.receiving.overdue == 0
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
    assert predictor.receiving.ended["timeout"] == 0


async def test_halves_of_later_messages_take_memory_within_bounds_too(clock: Clock) -> None:
    calls = Calls(clock)
    stream = Incoming("crowd", idle=True)
    calls.receiving.enter(stream, Limit())  # type: ignore[arg-type]
    assert len(calls.receiving) == 0
    calls.memory += 1001
    calls.receiving.look_at_memory()
    assert stream.pushed_out == "memory"
    calls.receiving.leave(stream, arrived=False)
    calls.receiving.close()


def test_senders_that_are_remembered_are_so_many(clock: Clock) -> None:
    senders = Senders(0.001, clock)
    for number in range(MAX_KNOWN + 1):
        senders.brought(str(number), 0.001, in_time=True)
    assert senders.named("0") is senders.named("a stranger")
    assert senders.named("1") is not senders.named("a stranger")
