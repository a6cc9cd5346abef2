"""Calls that are taken straight from gRPC's core: all that is promised of calls holds for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc._cython import cygrpc

from ringpull.inference.client import stubs
from ringpull.inference.head.frontends.grpc import direct_calls, rehearsal, taking_in
from ringpull.inference.head.frontends.grpc.direct_calls import DirectCalls
from ringpull.inference.head.frontends.grpc.rehearsal import rehearse
from ringpull.inference.head.frontends.grpc.taking_in import AHEAD
from tests.inference.served import Served
from tests.inference.test_overload import BODY

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(not direct_calls.available(), reason="this build of grpc.aio lacks what is needed"),
]

Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[bytes]]
PATH = "/test.Echo/Say"


class Serving:
    """A server of one method, and a way to call it."""

    def __init__(self, method: Method) -> None:
        self.server = taking_in.server(())
        handlers = {"Say": grpc.stream_unary_rpc_method_handler(method)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        if direct_calls.available():
            self.server.add_registered_method_handlers("test.Echo", handlers)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    @property
    def direct(self) -> dict[bytes, DirectCalls]:
        direct: dict[bytes, DirectCalls] = self.server._server._direct
        return direct


@asynccontextmanager
async def serving(method: Method) -> AsyncIterator[tuple[Serving, Any]]:
    served = Serving(method)
    await served.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        try:
            yield served, channel.unary_unary(PATH)
        finally:
            await served.server.stop(None)


async def echo(_messages: Any, context: grpc.aio.ServicerContext) -> bytes:
    return bytes(await context.read())


async def test_predict_is_taken_directly_in_this_build_of_grpc(served: Served) -> None:
    taken = served.server._server._server._direct
    assert {"/grpc.health.v1.Health/Check", stubs.LOOKUP.path, stubs.TOP_K.path} < {each.decode() for each in taken}
    direct = taken[stubs.PREDICT.path.encode()]
    assert direct.asked == AHEAD
    await served.raw(stubs.PREDICT.path, BODY)
    assert direct.asked == AHEAD
    assert set(rehearsal._well) == {True}, "it was tried before"
    assert repr(direct).startswith(f"<DirectCalls of {stubs.PREDICT.path}: {AHEAD} asked for, ")


async def test_a_crowd_is_answered_call_by_call() -> None:
    sent = [str(number).encode() for number in range(5 * AHEAD)]
    async with serving(echo) as (served, say):
        assert await asyncio.gather(*[say(each) for each in sent]) == sent
        assert served.direct[PATH.encode()].asked == AHEAD


async def test_a_method_hears_that_its_caller_went_away() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def wait(_messages: Any, _context: grpc.aio.ServicerContext) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.set()
            raise
        raise AssertionError("nobody ends it otherwise")

    async with serving(wait) as (_, say):
        call = say(b"")
        await begun.wait()
        call.cancel()
        await gone.wait()


async def test_statuses_errors_and_deadlines_are_told() -> None:
    async def fail(_messages: Any, context: grpc.aio.ServicerContext) -> bytes:
        body = await context.read()
        if body == b"abort":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("hint", "7"),))
        if body == b"wait":
            await asyncio.Event().wait()
        raise RuntimeError("a mistake")

    async with serving(fail) as (_, say):
        ended = {}
        for body in (b"abort", b"wait", b"break"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(body, timeout=0.2 if body == b"wait" else 30.0)
            ended[body] = caught.value
    assert [ended[each].code().name for each in ended] == ["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNKNOWN"]
    assert dict(ended[b"abort"].trailing_metadata() or ())["hint"] == "7"
    assert ended[b"abort"].details() == "full"


async def test_a_stop_waits_for_calls_and_asks_for_none() -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_messages: Any, _context: grpc.aio.ServicerContext) -> bytes:
        begun.set()
        await goes_on.wait()
        return b"done"

    async with serving(slow) as (served, say):
        call = asyncio.ensure_future(say(b""))
        await begun.wait()
        stopping = asyncio.create_task(served.server.stop(30.0))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        goes_on.set()
        assert await call == b"done"
        await stopping
        assert served.direct[PATH.encode()].asked == 0


async def test_a_grpc_that_is_built_otherwise_serves_such_methods_as_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that lacks a name, and one whose function takes other arguments."""
    for name, other in (("NEEDED", ("_not_there",)), ("NEEDED_FUNCTIONS", {"_handle_exceptions": ("rpc_state",)})):
        with monkeypatch.context() as patched:
            patched.setattr(direct_calls, name, other)
            direct_calls.available.cache_clear()
            async with serving(echo) as (served, say):
                assert not served.direct
                assert await say(b"as before") == b"as before"
        direct_calls.available.cache_clear()


@pytest.fixture
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of this build, whatever has served before."""
    monkeypatch.setattr(rehearsal, "_well", [])
    monkeypatch.setattr(direct_calls, "_refused", [])


@pytest.mark.usefixtures("unrehearsed")
async def test_a_rehearsal_finds_nothing_wrong_with_this_build(monkeypatch: pytest.MonkeyPatch) -> None:
    await rehearse()
    assert (rehearsal._well, direct_calls._refused) == ([True], [])
    monkeypatch.setattr(rehearsal, "_found", None)  # there is no second one
    await rehearse()


def does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectCalls, "_serve", lambda *_: None)


def hears_of_nobody_who_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None: ...

    monkeypatch.setattr(cygrpc, "_handle_cancellation_from_core", never)


def takes_other_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def context(*_: object) -> None:
        raise TypeError("_ServicerContext takes no such arguments")

    monkeypatch.setattr(cygrpc, "_ServicerContext", context)


def answers_another(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = DirectCalls._serve

    async def says(_messages: Any, context: grpc.aio.ServicerContext) -> bytes:
        await context.read()
        return b"of another call"

    def other(direct: DirectCalls, state: Any) -> None:
        direct._method = says
        serve(direct, state)

    monkeypatch.setattr(DirectCalls, "_serve", other)


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize(
    ("behaves", "said"),
    [
        (does_not_answer, "end as CANCELLED"),
        (hears_of_nobody_who_goes_away, "do not end within 0.3 s"),
        (takes_other_arguments, "do not end within 0.3 s"),
        (answers_another, "are not answered as they were asked"),
    ],
)
async def test_a_grpc_that_does_something_else_serves_such_methods_as_all_others(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaves: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:
    behaves(monkeypatch)
    if "within" in said:
        monkeypatch.setattr(rehearsal, "PATIENCE_S", 0.3)
        monkeypatch.setattr(rehearsal, "STOP_S", 0.0)
    await rehearse()
    assert rehearsal._well == [False]
    assert f"served directly, calls {said}" in caplog.text
    async with serving(echo) as (served, say):
        assert await asyncio.gather(*[say(b"%d" % each) for each in range(50)]) == [b"%d" % each for each in range(50)]
        assert served.direct[PATH.encode()].asked == 0


async def test_calls_are_asked_for_again_after_a_mistake(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_calls, "FIRST_PAUSE_S", 0.001)
    asked, well = 0, asyncio.Event()

    async def ask() -> object:
        nonlocal asked
        asked += 1
        if asked <= 3:
            raise ValueError("not now")
        well.set()
        return await asyncio.get_running_loop().create_future()

    direct = DirectCalls("/a/method", grpc.stream_unary_rpc_method_handler(echo), ask, 2)
    direct.begin()
    assert direct.asked == 0
    await well.wait()
    assert direct.asked == 2
    assert caplog.text.count("cannot be asked for a call") == 3
    direct.end()


async def test_a_call_that_cannot_be_served_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as (served, say):
        direct = served.direct[PATH.encode()]

        def fails(_state: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(direct, "_serve", fails)
            for _ in range(3 * AHEAD):
                with pytest.raises(grpc.aio.AioRpcError):
                    await say(b"", timeout=0.01)
        assert await say(b"well again") == b"well again"
        assert direct.asked == AHEAD
