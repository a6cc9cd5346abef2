"""Two doors to one predictor: a toy protocol predicts, times out, and refuses exactly as gRPC does."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.admission import Admission
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.status_codes import PUSHBACK
from tests.inference.fakes import EchoProgram
from tests.inference.served import Served
from tests.inference.test_overload import learnt
from tests.inference.toy_front_end import ToyFrontEnd, ask
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

FEATURES = {"item": [1, 2], "genres": [[1, 2], []], "tags": [[], []], "history": [[5], [5]], "recent": [[], []]}
CONTEXT = {"user": [3], "age": [[1.0, 2.0]], "price": [3.0]}
REQUEST = {"model": "ranker", "features": FEATURES, "context": CONTEXT}

Outcome = tuple[str, str, float | None]
"""Code, message, and hint in seconds."""


@pytest.fixture
async def toy(served: Served) -> AsyncIterator[ToyFrontEnd]:
    toy = ToyFrontEnd(served.predictor)
    await toy.start()
    yield toy
    toy.server.close()


def body_of(**changes: Any) -> bytes:
    return json.dumps({**REQUEST, **changes}).encode()


async def by_toy(toy: ToyFrontEnd, timeout_s: float = 60.0, **changes: Any) -> Outcome:
    reply = await ask(toy.port, body_of(**changes), timeout_s=timeout_s)
    return reply["code"], reply.get("message", ""), reply.get("retry_after_s")


async def by_grpc(served: Served, timeout_s: float = 60.0, **changes: Any) -> Outcome:
    asked = {**REQUEST, **changes}
    call = as_call(asked["model"], asked["features"], asked["context"], outputs=asked.get("outputs"))
    message = encode_request(call)
    message.version = asked.get("version", 0)
    try:
        await served.raw(stubs.PREDICT.path, message.SerializeToString(), timeout_s)
    except grpc.aio.AioRpcError as error:
        hint = dict(error.trailing_metadata() or ()).get(PUSHBACK)
        return error.code().name, error.details() or "", None if hint is None else int(hint) / 1e3
    return "OK", "", None


async def test_the_answer_is_the_same(toy: ToyFrontEnd, client: AsyncClient) -> None:
    reply = await ask(toy.port, body_of(outputs=["input0", "input11"]))
    expected = await client.predict("ranker", FEATURES, CONTEXT, outputs=["input0", "input11"])
    assert reply == {
        "code": "OK",
        "version": 3,
        "outputs": {name: values.tolist() for name, values in expected.outputs.items()},
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "nobody"}, "NOT_FOUND"),
        ({"version": 9}, "NOT_FOUND"),
        ({"version": -1}, "INVALID_ARGUMENT"),
        ({"outputs": ["nothing"]}, "INVALID_ARGUMENT"),
        ({"features": {"item": [1, 2], "colour": [1, 2]}}, "INVALID_ARGUMENT"),
        ({"features": {**FEATURES, "item": [1, 2, 3]}}, "INVALID_ARGUMENT"),
        ({"features": {**FEATURES, "item": [0.5, 1.5]}}, "INVALID_ARGUMENT"),
        ({"features": {"item": [1] * 51}}, "RESOURCE_EXHAUSTED"),
    ],
    ids=str,
)
async def test_errors_are_the_same(served: Served, toy: ToyFrontEnd, changes: dict[str, Any], code: str) -> None:
    own = await by_toy(toy, **changes)
    assert own[0] == code
    assert own == await by_grpc(served, **changes)
    assert (served.counts.requests, served.counts.failed) == (2, 2)


@pytest.mark.medium
async def test_both_time_out(served: Served, toy: ToyFrontEnd) -> None:
    served.router.gate.clear()
    for door in (lambda timeout_s: by_toy(toy, timeout_s), lambda timeout_s: by_grpc(served, timeout_s)):
        before, timeout_s = served.counts.requests, 0.5
        while served.counts.requests == before:  # on a busy machine nobody may have heard of a call before it is over
            assert (await door(timeout_s))[0] == "DEADLINE_EXCEEDED"
            timeout_s *= 2
    async with asyncio.timeout(PATIENCE_S):
        while served.counts.failed < served.counts.requests:  # gRPC's client may give up before the server does
            await asyncio.sleep(0.001)
    assert served.counts.failed == served.counts.requests >= 2
    late = await ask(toy.port, None, length=100, timeout_s=0.05)
    assert (late["code"], late["http"]) == ("DEADLINE_EXCEEDED", 504)
    assert late["message"] == "the deadline passed before the request had been received"
    assert served.predictor.admission.in_flight_bytes == 0


async def test_a_full_queue_refuses_before_the_body_is_read(served: Served, toy: ToyFrontEnd) -> None:
    served.predictor.admission = learnt(1.0)
    served.router.gate.clear()
    calls = [asyncio.create_task(by_toy(toy)) for _ in range(8)]
    while toy.bodies_read < 8:
        await asyncio.sleep(0.001)
    refused = await ask(toy.port, None, length=10 << 20)
    assert (refused["code"], refused["http"], toy.bodies_read) == ("RESOURCE_EXHAUSTED", 429, 8)
    code, message, hint_s = await by_grpc(served)
    assert (refused["code"], refused["message"]) == (code, message)
    assert message.startswith("overloaded: requests wait ")
    assert refused["retry_after_s"] == pytest.approx(hint_s, abs=0.001)
    served.router.gate.set()
    assert {code for code, _, _ in await asyncio.gather(*calls)} == {"OK"}


async def test_a_body_that_there_is_no_room_for_is_not_read(served: Served, toy: ToyFrontEnd) -> None:
    served.predictor.admission = Admission(max_queue_s=5.0, standing_queue_s=5.0, max_in_flight_bytes=1000)
    served.router.gate.clear()
    call = asyncio.create_task(by_toy(toy))
    while toy.bodies_read < 1:
        await asyncio.sleep(0.001)
    refused = await ask(toy.port, None, length=900)
    assert "and the request has 900; max_in_flight_bytes is 1000" in refused["message"]
    assert toy.bodies_read == 1
    served.router.gate.set()
    assert (await call)[0] == "OK"


# -- overload ----------------------------------------------------------------------------------------------------------

BATCH_S = 0.02
BATCHES = 75
"""Batches that are done while there is a flood."""


class SlowProgram(EchoProgram):
    """Takes 20 ms for a batch, which holds one request of two rows, and until three more have come in a flood.

    So that three times as many come as can be answered however busy the machine is, and however long each takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Semaphore(0)
        self.in_flood = False

    def run(self, inputs: Any, rows: int) -> Any:
        time.sleep(BATCH_S)
        if self.in_flood:
            self.may_end.acquire()
        return super().run(inputs, rows)


async def flood(served: Served, program: SlowProgram, door: Callable[[], Awaitable[Outcome]]) -> list[Outcome]:
    """Send three times as many requests as can be answered, evenly spaced: each when the last has come to the head."""
    program.in_flood = True  # its rehearsal, before, waits for nobody
    calls: list[asyncio.Task[Outcome]] = []
    for number in range(3 * BATCHES):
        come = served.counts.requests
        calls.append(asyncio.create_task(door()))
        while served.counts.requests == come and not calls[-1].done():
            await asyncio.sleep(0.001)
        if number % 3 == 2:
            program.may_end.release()
        await asyncio.sleep(BATCH_S / 3)
    program.may_end.release(len(calls))  # for those that wait still
    outcomes = await asyncio.gather(*calls)
    while program.may_end.acquire(blocking=False):
        pass
    return outcomes


@pytest.mark.medium
async def test_three_times_what_can_be_served_is_refused_alike_and_unread() -> None:
    with ThreadPoolExecutor(1) as executor:
        config = HeadConfig(max_queue_s=0.3)
        program = SlowProgram()
        served = Served(executor, config, program=program, max_batch_rows=2)
        served.target = f"127.0.0.1:{await served.server.start()}"
        toy = ToyFrontEnd(served.predictor)
        await toy.start()
        await flood(served, program, lambda: by_toy(toy))  # teaches what can be served
        toy.bodies_read = 0
        outcomes = {
            "toy": await flood(served, program, lambda: by_toy(toy)),
            "gRPC": await flood(served, program, lambda: by_grpc(served)),
        }
        counts = {door: Counter(code for code, _, _ in replies) for door, replies in outcomes.items()}
        assert toy.bodies_read == counts["toy"].total() - counts["toy"]["RESOURCE_EXHAUSTED"]
        for door, replies in outcomes.items():
            assert counts[door].keys() == {"OK", "RESOURCE_EXHAUSTED"}, counts
            assert counts[door]["OK"] > 0.5 * BATCHES, counts
            for code, message, hint_s in replies:
                assert code == "OK" or (message.startswith("overloaded: requests wait ") and hint_s), message
        toy.server.close()
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)
