"""Ends of pushers: nobody waits for ever, whatever ends them, and each message goes once."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import threading
from typing import Any

import pytest

from ringpull.inference.client.push_progress import PushProgress
from ringpull.inference.client.pusher import AsyncPusher, Pusher
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.push_codec import PushTarget, SinglePush
from ringpull.ps.errors import RingpullError
from tests.inference.pushes.fake_shards import FakeShards


def progress() -> PushProgress:
    return PushProgress(PushTarget(model="ranker", table=""), 1, 0)


async def test_nobody_waits_for_a_pusher_that_was_left_by_an_error() -> None:
    """Neither who waits for room or for acknowledgements then, nor who asks later: what was out is given up."""
    sent = asyncio.Event()

    async def send(message: Any, timeout_s: float | None) -> PushAnswer:
        sent.set()
        return await asyncio.get_running_loop().create_future()

    pusher, waiting = AsyncPusher(send, progress(), None, max_held_bytes=1), []

    async def left() -> None:
        async with pusher:
            await pusher.push("user", [1], [[1.0, 2.0]])
            waiting.append(asyncio.ensure_future(pusher.flush()))
            waiting.append(asyncio.ensure_future(pusher.push("user", [2], [[1.0, 2.0]])))
            await sent.wait()
            raise KeyError

    with pytest.raises(KeyError):
        await left()
    waiting += [asyncio.ensure_future(call()) for call in (pusher.flush, pusher.close)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert [task.done() and str(task.exception()) for task in waiting] == ["the pusher was left by an error: "] * 4


async def test_nor_for_one_whose_end_is_cancelled() -> None:
    """Messages that are out may take their time to be given up."""
    given_up = asyncio.Event()

    async def send(message: Any, timeout_s: float | None) -> PushAnswer:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            await given_up.wait()

    pusher = AsyncPusher(send, progress(), None)
    await pusher.push("user", [1], [[1.0, 2.0]])
    waiting = asyncio.ensure_future(pusher.flush())
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(pusher.__aexit__(KeyError, KeyError("it"), None))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ending.done()
    ending.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert waiting.done()
    assert str(waiting.exception()) == "the pusher was left by an error: 'it'"
    given_up.set()


def test_threads_push_on_when_the_main_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter waits for them, and executors take nothing more from then on."""
    shards = FakeShards()
    with Pusher(shards.send, progress(), None) as pusher:
        pusher.push("user", [1], [[1.0, 2.0]])
        assert pusher.flush().rows == 1
        monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)
        pusher.push("user", [2], [[1.0, 2.0]])
        assert pusher.flush().rows == 1


@pytest.mark.parametrize("is_queued", [True, False])
def test_a_message_goes_once_where_no_thread_more_can_be_started(
    monkeypatch: pytest.MonkeyPatch, is_queued: bool
) -> None:
    """Executors queue it first, and then start the thread for it, which may fail; others of theirs carry it then."""
    shards, sent = FakeShards(), []

    def send(push: SinglePush, timeout_s: float | None) -> PushAnswer:
        sent.append(push.number)
        return shards.send(push)

    with Pusher(send, progress(), None) as pusher:
        pusher.push("user", [1], [[1.0, 2.0]])
        assert pusher.flush().rows == 1
        with monkeypatch.context() as few:
            submit = pusher._senders.submit

            def failing(*work: Any) -> None:
                if is_queued:
                    submit(*work)
                raise RuntimeError("can't start new thread")

            few.setattr(pusher._senders, "submit", failing)
            pusher.push("user", [2], [[1.0, 2.0]])
            assert pusher.flush().rows == 1
        pusher.push("user", [3], [[1.0, 2.0]])
        assert pusher.flush().rows == 1
    assert len(sent) == len(set(sent)) == 3


def test_nobody_waits_for_a_message_that_no_thread_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 and later starts none, where threads push when the main one has ended."""
    pusher = Pusher(FakeShards().send, progress(), None)

    def failing(*work: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as ending:
        ending.setattr(concurrent.futures.thread, "_shutdown", True)
        ending.setattr(threading.Thread, "start", failing)
        pusher.push("user", [1], [[1.0, 2.0]])
        with pytest.raises(RingpullError, match="push 1 of table user: no thread could be started to push: can't cr"):
            pusher.flush()
    with pytest.raises(RingpullError, match="no thread could be started"):
        pusher.close()
