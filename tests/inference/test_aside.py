"""Work beside the event loop: what waits for what, what is given up, and what that leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref

import pytest

from ringpull.inference.head.aside import LONG_BYTES, ON_LOOP_BYTES, aside
from ringpull.ps.errors import DeadlineExceeded


class Large:
    """What work holds: a body, in a request."""

    def __call__(self) -> None:
        raise AssertionError("it was given up")


async def test_no_shorter_work_waits_for_long_one() -> None:
    gate = threading.Event()
    long = [asyncio.create_task(aside(LONG_BYTES + 1, gate.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await aside(LONG_BYTES, threading.get_ident) != threading.get_ident()
    assert await aside(ON_LOOP_BYTES, threading.get_ident) == threading.get_ident()
    long[2].cancel()
    gate.set()
    assert await asyncio.gather(*long[:2]) == [True, True]


@pytest.mark.parametrize("nbytes", [LONG_BYTES, LONG_BYTES + 1])
async def test_work_waits_no_longer_than_its_deadline(nbytes: int) -> None:
    gate = threading.Event()
    running = asyncio.create_task(aside(nbytes, gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="the deadline passed"):
        await aside(nbytes, Large(), time.monotonic() + 0.02)
    with pytest.raises(DeadlineExceeded, match="the deadline passed"):  # long ago, too
        await aside(nbytes, Large(), time.monotonic() - 1)
    gate.set()
    assert await running


async def test_what_is_given_up_leaves_nothing_in_the_queue() -> None:
    gate = threading.Event()
    running = asyncio.create_task(aside(LONG_BYTES + 1, gate.wait))
    await asyncio.sleep(0)
    works = [Large() for _ in range(5)]
    held = weakref.WeakSet(works)
    waiting = [asyncio.create_task(aside(LONG_BYTES + 1, work)) for work in works]
    del works
    await asyncio.sleep(0)
    assert len(held) == 5
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    del waiting, each
    assert not held, "they are dropped before their turn comes"
    gate.set()
    assert await running
    assert await aside(LONG_BYTES + 1, lambda: True), "and what they left does no harm"
