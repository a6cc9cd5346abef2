"""Calls leave nothing behind that only a collection of garbage would free: it comes thousands of calls later."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from grpc._cython import cygrpc

from ringpull.inference.client import stubs
from tests.inference.served import Served
from tests.inference.test_overload import BODY, learnt

pytestmark = pytest.mark.net

CALLS = 20


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def contexts() -> int:
    return sum(type(each) is cygrpc._ServicerContext for each in gc.get_objects())


async def ended(
    target: str, body: bytes = BODY, *, path: str = stubs.PREDICT.path, timeout_s: float = 30.0
) -> list[str]:
    """Make calls one after the other, and return the names of their statuses."""
    statuses = []
    async with grpc.aio.insecure_channel(target) as channel:
        method = channel.unary_unary(path)
        for _ in range(CALLS):
            try:
                await method(body, timeout=timeout_s)
                statuses.append("OK")
            except grpc.aio.AioRpcError as exc:
                statuses.append(exc.code().name)
    return statuses


async def freed(before: int) -> None:
    """Wait until calls that have ended are freed: a caller is told of its status before its call ends."""
    async with asyncio.timeout(60):
        while contexts() - before > 1:
            await asyncio.sleep(0.01)


async def full(served: Served) -> None:
    served.predictor.admission = admission = learnt(1.0)
    for _ in range(7):
        admission.expect(asyncio.get_running_loop().time() + 60.0)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("status", ["OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"])
async def test_a_call_is_freed_when_it_ends(served: Served, status: str) -> None:
    if status == "RESOURCE_EXHAUSTED":
        await full(served)
    before = contexts()
    assert await ended(served.target, b"\xff" * 100 if status == "INVALID_ARGUMENT" else BODY) == [status] * CALLS
    await freed(before)


@pytest.mark.usefixtures("no_collection")
async def test_a_call_that_is_one_too_many_is_freed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.predictor.receiving.in_flight, "_max_calls", 0)
    before = contexts()
    assert await ended(served.target) == ["RESOURCE_EXHAUSTED"] * CALLS
    await freed(before)


@pytest.mark.usefixtures("no_collection")
async def test_a_call_whose_deadline_passes_in_the_batcher_is_freed(served: Served) -> None:
    await ended(served.target)
    served.router.gate.clear()
    before = contexts()
    assert await ended(served.target, timeout_s=0.03) == ["DEADLINE_EXCEEDED"] * CALLS
    served.router.gate.set()
    await freed(before)  # those of a pull that was held are freed when it ends


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/grpc.health.v1.Health/Check", b"\xff" * 100, "INVALID_ARGUMENT"),
        ("/grpc.health.v1.Health/Check", b"\n\x07unknown", "NOT_FOUND"),
        (stubs.GET_STATUS.path, b"\xff" * 100, "INVALID_ARGUMENT"),
    ],
)
async def test_a_call_of_one_message_is_freed(served: Served, path: str, body: bytes, status: str) -> None:
    before = contexts()
    assert await ended(served.target, body, path=path) == [status] * CALLS
    await freed(before)
