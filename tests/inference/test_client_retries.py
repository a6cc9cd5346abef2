"""Both clients against heads that fail on cue: over which connection a call goes out again, and when it does not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client.stubs import PREDICT, PUSHBACK
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, RingpullError, Unavailable

pytestmark = pytest.mark.net


@dataclass(frozen=True)
class Failing:
    """One failure on cue."""

    code: grpc.StatusCode
    pushback: str | None = None


BROKEN = Failing(grpc.StatusCode.UNAVAILABLE)


class Head:
    """Fails as its cues say, one call each, and answers then: version 7."""

    def __init__(self) -> None:
        self.cues: list[Failing] = []
        self.peers: list[str] = []
        """Of each call: one peer is one connection."""
        self.left_s: list[float] = []
        self.held = asyncio.Event()
        """Cleared: calls wait until it is set."""
        self.held.set()
        self.server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self.predict, None, pb.PredictResponse.SerializeToString)
        service, method = PREDICT.path.strip("/").split("/")
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def predict(self, body: bytes, context: grpc.aio.ServicerContext) -> pb.PredictResponse:
        self.peers.append(context.peer())
        self.left_s.append(context.time_remaining())
        await self.held.wait()
        if self.cues:
            failing = self.cues.pop(0)
            metadata = () if failing.pushback is None else ((PUSHBACK, failing.pushback),)
            await context.abort(failing.code, f"{failing.code.name} on cue", metadata)
        return pb.PredictResponse(model="ranker", version=7)


@pytest.fixture
async def heads() -> AsyncIterator[list[Head]]:
    heads = [Head(), Head()]
    for head in heads:
        await head.server.start()
    yield heads
    for head in heads:
        head.held.set()
        await head.server.stop(None)


@pytest.fixture
async def head(heads: list[Head]) -> Head:
    return heads[0]


Predict = Callable[..., Awaitable[int]]


async def predict_async(target: str | Sequence[str], calls: int = 1, **settings: Any) -> int:
    async with AsyncClient(target, **settings) as client:
        for _ in range(calls):
            version = (await client.predict("ranker", {"item": [1]})).version
        return version


async def predict_sync(target: str | Sequence[str], calls: int = 1, **settings: Any) -> int:
    def predict() -> int:
        with Client(target, **settings) as client:
            for _ in range(calls):
                version = client.predict("ranker", {"item": [1]}).version
            return version

    return await asyncio.to_thread(predict)


@pytest.fixture(params=[predict_async, predict_sync], ids=["AsyncClient", "Client"])
def predict(request: pytest.FixtureRequest) -> Predict:
    return request.param


async def test_a_call_that_could_not_be_answered_goes_out_on_another_connection(predict: Predict, head: Head) -> None:
    head.cues = [BROKEN]
    assert await predict(head.target) == 7
    assert len(set(head.peers)) == len(head.peers) == 2


async def test_of_several_targets_those_that_live_answer(predict: Predict, heads: list[Head]) -> None:
    await heads[0].server.stop(None)
    assert await predict(",".join(head.target for head in heads), calls=4) == 7
    assert await predict([head.target for head in heads], calls=4) == 7
    assert len(heads[1].peers) == 8


async def test_calls_take_all_connections_in_turn(predict: Predict, heads: list[Head]) -> None:
    assert await predict([head.target for head in heads], calls=12, channels=3) == 7
    for head in heads:
        assert [head.peers.count(peer) for peer in set(head.peers)] == [2, 2, 2]


async def test_without_retries_the_first_failure_is_raised(predict: Predict, head: Head) -> None:
    head.cues = [BROKEN]
    with pytest.raises(Unavailable, match=f"^{head.target}: UNAVAILABLE on cue$"):
        await predict(head.target, retries=0)
    assert len(head.peers) == 1


async def test_an_error_after_giving_up_names_every_cause(predict: Predict, heads: list[Head]) -> None:
    await heads[1].server.stop(None)
    heads[0].cues = [BROKEN] * 3
    with pytest.raises(RingpullError) as caught:
        await predict([head.target for head in heads], channels=1, retries=3)
    assert isinstance(caught.value, Unavailable)
    for part in ("4 attempts failed", "before that", "UNAVAILABLE on cue", "Connection refused"):
        assert part in str(caught.value)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL", "DATA_LOSS"])
async def test_what_would_fail_again_is_not_repeated(predict: Predict, head: Head, code: str) -> None:
    head.cues = [Failing(grpc.StatusCode[code])]
    with pytest.raises(RingpullError, match=f"{code} on cue$"):
        await predict(head.target)
    assert len(head.peers) == 1


async def test_a_head_that_says_when_is_asked_again_with_the_time_that_is_left(predict: Predict, head: Head) -> None:
    head.cues = [Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "150"), Failing(grpc.StatusCode.UNAVAILABLE, "150")]
    assert await predict(head.target, timeout_s=5) == 7
    rounding_s = 0.02  # of a timeout of seconds on the wire
    for before, after in itertools.pairwise(head.left_s):
        assert before - after >= 0.15 - rounding_s


@pytest.mark.parametrize("pushback", ["-1", "soon", "1e3", "9" * 400])
async def test_a_head_that_says_no_or_says_nonsense_is_left_alone(predict: Predict, head: Head, pushback: str) -> None:
    head.cues = [Failing(grpc.StatusCode.UNAVAILABLE, pushback)]
    with pytest.raises(Unavailable, match=r"on cue$"):
        await predict(head.target)
    assert len(head.peers) == 1


async def test_a_wait_that_does_not_fit_is_told_to_the_caller(predict: Predict, head: Head) -> None:
    head.cues = [Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "90000")]
    with pytest.raises(LimitExceeded, match="no time is left") as caught:
        await predict(head.target, timeout_s=60)
    assert caught.value.retry_after_s == 90.0
    assert len(head.peers) == 1


async def test_calls_in_flight_at_a_head_that_stops_are_answered_by_another(
    predict: Predict, heads: list[Head]
) -> None:
    """Cut off, not drained: what a kill does, as far as that goes without a process of its own."""
    heads[0].held.clear()
    calls = [asyncio.create_task(predict([head.target for head in heads], timeout_s=60)) for _ in range(4)]
    while len(heads[0].peers) < 4:  # its turn is first for every new client
        await asyncio.sleep(0)
    await heads[0].server.stop(None)
    assert await asyncio.gather(*calls) == [7] * 4


async def test_cancelling_a_call_ends_its_pause(head: Head) -> None:
    head.cues = [Failing(grpc.StatusCode.UNAVAILABLE, "60000")]
    async with AsyncClient(head.target, timeout_s=600) as client:
        call = asyncio.create_task(client.predict("ranker", {"item": [1]}))
        while head.cues:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(head.peers) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_settings_are_checked(kind: type[Client | AsyncClient]) -> None:
    for target in ("", [], "a:1,,b:2", ["a:1", " "]):
        with pytest.raises(InvalidInput, match="target is"):
            kind(target)
    with pytest.raises(InvalidInput, match="channels is 0"):
        kind("a:1", channels=0)
    with pytest.raises(InvalidInput, match="retries is -1"):
        kind("a:1", retries=-1)
    assert repr(kind([" a:1", "b:2", "a:1"], channels=3)) == f"<{kind.__name__} a:1,b:2>"


@pytest.mark.medium
async def test_a_deadline_is_no_reason_to_ask_again(predict: Predict, head: Head) -> None:
    head.held.clear()
    timeout_s = 0.5
    while not head.peers:  # on a busy machine a call may not arrive in its time
        with pytest.raises(DeadlineExceeded):
            await predict(head.target, timeout_s=timeout_s)
        timeout_s *= 2
    assert len(head.peers) == 1
