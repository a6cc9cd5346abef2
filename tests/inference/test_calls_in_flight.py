"""Calls in flight: their sum holds the limit, by whichever protocols they come, and whoever lets others wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ringpull.inference.client import stubs
from ringpull.inference.head.frontends.http.bodies import open_call, receive_body
from ringpull.inference.head.receiving import Receiving
from ringpull.inference.wire.codec import as_call, encode_request
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import ROWS, Served
from tests.inference.small_model import columns_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

BODY = encode_request(as_call("ranker", columns_of(ROWS))).SerializeToString()
POST = b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
MOST = 3


@pytest.fixture
def receiving(served: Served, monkeypatch: pytest.MonkeyPatch) -> Receiving:
    """The calls of a head that may have a few in flight, none of which is answered until the router's gate opens."""
    monkeypatch.setattr(served.predictor.receiving.in_flight, "_max_calls", MOST)
    served.router.gate.clear()
    return served.predictor.receiving


@pytest.fixture
async def http(served: Served, receiving: Receiving) -> AsyncIterator[HttpServed]:
    async def hold(request: Request) -> JSONResponse:
        with open_call(http.parts, request) as call:
            body = await receive_body(request, call)
            await served.router.gate.wait()
            return JSONResponse({"bytes": len(body)})

    async with http_served(served, Route("/hold", hold, methods=["POST"])) as http:
        yield http


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served.target) as channel:
        yield channel


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.001)


async def in_flight(channel: grpc.aio.Channel, receiving: Receiving, count: int) -> list[grpc.aio.Call]:
    """Begin calls over gRPC that stay in flight."""
    before = len(receiving.in_flight)
    begun = [channel.unary_unary(stubs.PREDICT.path)(BODY, timeout=PATIENCE_S) for _ in range(count)]
    await until(lambda: len(receiving.in_flight) == before + count)
    await until(lambda: not len(receiving) - receiving.overdue)
    return begun


async def is_refused(channel: grpc.aio.Channel) -> None:
    one_more = channel.unary_unary(stubs.PREDICT.path)(BODY, timeout=PATIENCE_S)
    assert await one_more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{MOST} calls are in flight" in (await one_more.details() or "")


async def test_overdue_bodies_over_http_let_no_more_calls_of_grpc_in(
    served: Served, http: HttpServed, channel: grpc.aio.Channel, receiving: Receiving
) -> None:
    writers = []
    for _ in range(2 * MOST):  # One after the other: until they are overdue they have a place, as any call.
        writers.append((await http.raw(POST + b"half"))[1])
        await until(lambda: receiving.overdue == len(writers))
    calls = await in_flight(channel, receiving, MOST)
    await is_refused(channel)
    served.router.gate.set()
    assert [await each.code() for each in calls] == [grpc.StatusCode.OK] * MOST
    for writer in writers:
        writer.close()
    await until(lambda: not len(receiving) and not len(receiving.in_flight))


async def test_requests_over_http_and_grpc_are_counted_together(
    served: Served, http: HttpServed, channel: grpc.aio.Channel, receiving: Receiving
) -> None:
    asked = asyncio.create_task(http.client.post("/hold", content=b"x" * 10))
    await until(lambda: len(receiving.in_flight) == 1)
    calls = await in_flight(channel, receiving, MOST - 1)
    await is_refused(channel)
    refused = await http.client.post("/hold", content=b"x" * 10)
    assert (refused.status_code, refused.json()["code"]) == (429, "RESOURCE_EXHAUSTED")
    assert "retry-after" in refused.headers
    assert (await http.client.get("/healthz")).status_code == 200
    served.router.gate.set()
    assert (await asked).json() == {"bytes": 10}
    assert [await each.code() for each in calls] == [grpc.StatusCode.OK] * (MOST - 1)
    assert (await http.client.post("/hold", content=b"x" * 10)).status_code == 200
    await until(lambda: not len(receiving.in_flight))


async def test_a_body_that_comes_late_has_to_have_a_place_again(
    served: Served, http: HttpServed, channel: grpc.aio.Channel, receiving: Receiving
) -> None:
    reader, writer = await http.raw(POST + b"01234")
    await until(lambda: receiving.overdue == 1)
    calls = await in_flight(channel, receiving, MOST)
    writer.write(b"56789")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 429")
    writer.close()
    served.router.gate.set()
    assert [await each.code() for each in calls] == [grpc.StatusCode.OK] * MOST
    reader, writer = await http.raw(POST + b"01234")
    await until(lambda: receiving.overdue == 1)
    writer.write(b"56789")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.close()
    await until(lambda: not len(receiving.in_flight))


async def test_streams_without_a_message_let_no_more_calls_in(
    served: Served, channel: grpc.aio.Channel, receiving: Receiving
) -> None:
    silent = [channel.stream_stream("/grpc.health.v1.Health/Watch")(timeout=PATIENCE_S) for _ in range(MOST)]
    await until(lambda: receiving.overdue == MOST)
    calls = await in_flight(channel, receiving, MOST)
    await is_refused(channel)
    served.router.gate.set()
    assert [await each.code() for each in calls] == [grpc.StatusCode.OK] * MOST
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    for each in silent:
        each.cancel()
