"""A gRPC server that takes in many calls at once: asked for ahead, handed over in order, and none lost by a stop."""

from __future__ import annotations

import asyncio
from collections import deque

import grpc
import grpc.aio
import pytest

from ringpull.inference.head.frontends.grpc import taking_in
from ringpull.inference.head.frontends.grpc.taking_in import AHEAD


class OneByOne:
    """A server of gRPC's core, made up: calls come when they are told to, to whoever has asked first."""

    def __init__(self) -> None:
        self.asked: deque[asyncio.Future[str]] = deque()
        self.stopped_with: float | None = -1.0

    async def _request_call(self) -> str:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    def _make_request_call_future(self, method: bytes | None) -> bytes | None:
        return method

    async def _server_main_loop(self, taken: list[str]) -> None:
        while True:
            taken.append(await self._request_call())

    async def shutdown(self, grace: float | None) -> None:
        self.stopped_with = grace
        for asked in self.asked:
            asked.set_exception(ConnectionError("no more calls"))
        self.asked.clear()

    def come(self, call: str) -> None:
        self.asked.popleft().set_result(call)


@pytest.fixture
def core():
    return taking_in._many_at_once(OneByOne)()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_are_asked_for_ahead_and_again_when_they_are_handed_over(core):
    first = asyncio.create_task(core._request_call())
    await turns()
    assert len(core.asked) == AHEAD
    for number in range(AHEAD):
        core.come(f"call {number}")
    assert not core.asked
    assert await first == "call 0"
    await turns()
    assert not core.asked, "what waits to be handed over counts"
    assert [await core._request_call() for _ in range(AHEAD - 1)] == [f"call {number}" for number in range(1, AHEAD)]
    core._make_request_call_future(None)
    await turns()
    assert len(core.asked) == AHEAD


async def test_a_call_that_has_come_is_handed_over_in_the_same_turn(core):
    first = core._make_request_call_future(None)
    await turns()
    core.come("one")
    core.come("two")
    assert await first == "one"
    await turns()
    second = core._make_request_call_future(None)
    assert second.done()
    assert second.result() == "two"
    assert not core._make_request_call_future(None).done()
    assert core._make_request_call_future(b"/a/method") == b"/a/method"


async def test_what_goes_wrong_with_one_is_raised_in_its_turn(core):
    first = asyncio.create_task(core._request_call())
    await turns()
    core.come("before")
    core.asked.popleft().set_exception(ConnectionError("not this one"))
    core.come("after")
    assert await first == "before"
    with pytest.raises(ConnectionError, match="not this one"):
        await core._request_call()
    assert await core._request_call() == "after"


async def test_a_stop_waits_until_those_that_have_come_are_handed_over(core):
    served = [asyncio.create_task(core._request_call())]
    await turns()
    core.come("one")
    core.come("two")
    await turns()
    stopped = asyncio.create_task(core.shutdown(3.0))
    await turns()
    assert not stopped.done()
    served.append(asyncio.create_task(core._request_call()))
    await stopped
    assert [await each for each in served] == ["one", "two"]
    assert core.stopped_with == 3.0
    assert not core._come


async def test_a_stop_waits_for_nobody_where_a_mistake_has_ended_serving(core):
    taken: list[str] = []
    serving = asyncio.create_task(core._server_main_loop(taken))
    await turns()
    core.come("one")
    core.asked.popleft().set_exception(ConnectionError("a mistake"))
    core.come("two")
    with pytest.raises(ConnectionError, match="a mistake"):
        await serving
    core.come("three")
    stopped = asyncio.create_task(core.shutdown(None))
    await turns()
    assert stopped.done()
    assert taken == ["one"]


async def test_a_second_stop_is_told_to_grpc_at_once(core):
    core._make_request_call_future(None)
    await turns()
    await core.shutdown(30.0)
    await turns()
    assert core._come, "what ended the calls that were asked for"
    second = asyncio.create_task(core.shutdown(None))
    await turns()
    assert second.done()
    assert core.stopped_with is None


async def test_whoever_waits_for_the_next_call_hears_of_a_stop_though_all_that_were_asked_for_have_come(core):
    first = core._make_request_call_future(None)
    await turns()
    for _ in range(AHEAD):
        core.come("call")
    core._stopping = True  # as while it waits for these to be handed over
    await turns()
    assert await first == "call"
    for _ in range(AHEAD - 1):
        assert core._make_request_call_future(None).result() == "call"
    last = core._make_request_call_future(None)
    await turns()
    assert len(core.asked) == 1
    await core.shutdown(None)
    with pytest.raises(ConnectionError, match="no more calls"):
        await last


async def test_a_call_that_crosses_a_stop_is_held_by_nobody(core):
    last = core._make_request_call_future(None)
    await turns()
    core._stopped = core._stopping = True  # as in `shutdown`, once all that had come were handed over
    for _ in range(AHEAD):
        core.come("too late")
    await turns()
    assert not core._come
    assert not last.done()
    assert len(core.asked) == 1  # by whoever waits for the next call
    await core.shutdown(None)
    with pytest.raises(ConnectionError, match="no more calls"):
        await last


@pytest.mark.net
async def test_a_real_server_takes_in_and_answers_more_calls_than_are_asked_for_at_a_time():
    here, all_here, calls = 0, asyncio.Event(), 3 * AHEAD

    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        nonlocal here
        here += 1
        if here == calls:
            all_here.set()
        await all_here.wait()
        return request

    server = taking_in.server(())
    assert type(server._server).__name__ == "ManyAtOnce"  # Or grpc.aio is another one by now.
    assert type(grpc.aio.server()._server).__name__ == "AioServer"
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert len(server._server._asked) == AHEAD, "or grpc.aio asks for calls in another way by now"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        sent = [str(number).encode() for number in range(calls)]
        assert await asyncio.gather(*[say(each) for each in sent]) == sent
    await server.stop(None)


async def test_a_grpc_that_is_built_otherwise_serves_as_it_is(monkeypatch):
    monkeypatch.setattr(taking_in, "cygrpc", type("OtherBuild", (), {"AioServer": object}))
    assert type(taking_in.server(())._server).__name__ == "AioServer"
