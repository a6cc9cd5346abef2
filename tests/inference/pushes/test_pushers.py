"""Pushers before shards that fail: what is acknowledged is there, in order, and nothing is applied twice."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient
from ringpull.inference.client import push as push_calls
from ringpull.inference.client import push_progress
from ringpull.inference.client.lanes import Lanes
from ringpull.inference.client.push_progress import NamelessWriters, PushProgress
from ringpull.inference.client.pusher import AsyncPusher, Pusher
from ringpull.inference.push_answer import PushAnswer, PushStamp
from ringpull.inference.push_request import nameless_writer
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget
from ringpull.ps.errors import InvalidInput, RingpullError, StaleNumber, Unavailable
from ringpull.ps.wire.push_messages import NAMELESS
from tests.inference.pushes.fake_shards import FakeShards, expected

TARGET = PushTarget(model="ranker", table="")


def progress(number: int | None = 0, *, resumes: bool = False, piece_bytes: int = 600) -> PushProgress:
    made = PushProgress(TARGET, "trainer-3", number, resumes=resumes)
    made.lanes = Lanes(made.lanes.number, whole=not resumes, piece_bytes=piece_bytes)
    return made


def pushes(rng: np.random.Generator, count: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    made = []
    for _ in range(count):
        keys = rng.integers(0, 60, int(rng.choice([1, 10, 150])))
        made.append((str(rng.choice(["user", "item"])), keys, rng.normal(size=(len(keys), 2)).astype(np.float32)))
    return made


def test_what_is_flushed_is_there() -> None:
    shards, made = FakeShards(), pushes(np.random.default_rng(1), 40)
    with Pusher(shards.send, progress(), None) as pusher:
        numbers = [pusher.push(*each) for each in made]
        done = pusher.flush()
        assert shards.rows == expected(*made)
        assert numbers == list(range(1, 41))
        assert (pusher.number, pusher.acknowledged) == (40, 40)
        assert str(done.stamp) == f"0:{shards.stamps[0]},1:{shards.stamps[1]}"
        assert done.new_keys == len(shards.rows)
        assert (done.repeated, done.lineage) == (0, "0000000000000007")
        assert pusher.flush().rows == 0


async def test_what_is_flushed_is_there_in_asyncio() -> None:
    shards, made = FakeShards(), pushes(np.random.default_rng(2), 40)

    async def send(message: Any, timeout_s: float | None) -> PushAnswer:
        await asyncio.sleep(0)
        return shards.send(message)

    async with AsyncPusher(send, progress(), None, max_held_bytes=2_000) as pusher:
        for each in made:
            await pusher.push(*each)
        done = await pusher.flush()
    assert shards.rows == expected(*made)
    assert done.new_keys == len(shards.rows)
    with pytest.raises(RingpullError, match="closed"):
        await pusher.push("user", [1], [[1.0, 2.0]])


def test_arrays_may_be_written_to_after_a_push() -> None:
    shards, gate = FakeShards(), threading.Event()

    def send(message: Any, timeout_s: float | None) -> PushAnswer:
        gate.wait(60)
        return shards.send(message)

    with Pusher(send, progress(), None) as pusher:
        keys, rows = np.array([1, 2]), np.ones((2, 2), np.float32)
        for value in (1, 2):
            rows[:] = value
            pusher.push("user", keys, rows)
        rows[:], keys[:] = 9, 9
        gate.set()
    assert shards.rows == expected(("user", [1, 2], np.full((2, 2), 2)))


@pytest.mark.parametrize("seed", range(6))
def test_a_life_that_goes_on_applies_each_push_once(seed: int) -> None:
    """The first life dies between shards; the second begins behind what was acknowledged, sends it all again."""
    rng = np.random.default_rng(seed)
    shards, made = FakeShards(), pushes(rng, 30)
    deaths = {0: int(rng.integers(2, 25)), 1: int(rng.integers(2, 25))}

    def send(message: Any, timeout_s: float | None) -> PushAnswer:
        for shard, left in deaths.items():
            deaths[shard] = left - 1
            if left <= 0:
                shards.down.add(shard)
        return shards.send(message)

    first = Pusher(send, progress(), None)
    try:
        for each in made:
            first.push(*each)
        first.flush()
    except RingpullError:
        pass
    known = first.acknowledged
    with pytest.raises(RingpullError):
        first.close()
    shards.down.clear()
    before = expected(*made[:known])
    assert all(key in shards.rows for key in before)
    # It remembers less than it might.
    begin = int(rng.integers(0, known + 1))
    with Pusher(shards.send, progress(begin, resumes=True), None) as second:
        for each in made[begin:]:
            second.push(*each)
        done = second.flush()
        more = ("user", [1], np.ones((1, 2), np.float32))
        assert second.push(*more) == 31
    assert shards.rows == expected(*made, more)
    assert len(shards.applied) == len(set(shards.applied))
    assert done.rows + done.repeated >= sum(len(np.unique(keys)) for _, keys, _ in made[begin:]) // 2


def test_an_error_stops_a_pusher_and_says_which_push() -> None:
    shards = FakeShards()
    sent = []

    def send(message: Any, timeout_s: float | None) -> PushAnswer:
        sent.append(message)
        if len(sent) == 2:
            raise Unavailable("no head")
        return shards.send(message)

    pusher = Pusher(send, progress(), None)
    pusher.push("user", [1], [[1.0, 2.0]])
    pusher.flush()
    pusher.push("user", [2], [[1.0, 2.0]])
    with pytest.raises(Unavailable, match="push 2 of table user: no head"):
        pusher.flush()
    with pytest.raises(Unavailable, match="push 2"):
        pusher.push("user", [3], [[1.0, 2.0]])
    assert (pusher.acknowledged, len(sent)) == (1, 2)
    with pytest.raises(Unavailable):
        pusher.close()


def test_another_process_of_the_same_name_is_told_of() -> None:
    shards = FakeShards()
    with Pusher(shards.send, progress(10), None) as ahead:
        ahead.push("user", [1], [[1.0, 2.0]])
    with (
        pytest.raises(StaleNumber, match="another process pushes as this writer"),
        Pusher(shards.send, progress(5), None) as late,
    ):
        late.push("user", [1], [[3.0, 4.0]])
    assert shards.rows == expected(("user", [1], [[1.0, 2.0]]))


def test_a_life_that_goes_on_hears_of_another_once_it_is_past_its_own() -> None:
    shards = FakeShards()
    with Pusher(shards.send, progress(), None) as first:
        first.push("user", [1], [[1.0, 2.0]])
        first.push("user", [1], [[2.0, 2.0]])
    second = Pusher(shards.send, progress(resumes=True), None)
    for number in (1, 2, 3):
        second.push("user", [1], [[float(number), 2.0]], number=number)
    assert second.flush().rows == 1
    with Pusher(shards.send, progress(20), None) as other:
        other.push("user", [1], [[9.0, 9.0]])
    second.push("user", [1], [[4.0, 4.0]])
    with pytest.raises(StaleNumber):
        second.flush()
    with pytest.raises(StaleNumber):
        second.close()


def test_numbers_go_on_behind_the_clock_by_default() -> None:
    first, second = progress(None), progress(None)
    assert 1_600_000_000_000_000 < first.lanes.number <= second.lanes.number


@pytest.mark.parametrize(("writer", "number"), [("", 1), ("x" * 129, 1), ("a", -1), ("a", True), ("a", 1 << 60)])
def test_writers_and_numbers_that_are_none_are_refused(writer: str, number: Any) -> None:
    with pytest.raises(InvalidInput):
        PushProgress(TARGET, writer, number)


def test_a_stamp_joins_by_maximum_and_is_a_text() -> None:
    one, other = PushStamp.parse("0:5,2:9"), PushStamp({0: 7, 1: 1})
    assert str(one | other) == "0:7,1:1,2:9"
    assert PushStamp.parse(str(one)) == one
    assert len({one, PushStamp({2: 9, 0: 5})}) == 1
    assert str(PushStamp()) == ""
    assert dict(one) == {0: 5, 2: 9}
    assert len(one) == 2
    assert PushStamp.parse("") == PushStamp()
    for wrong in ("0", "0:", "a:1", "0:1,0:2", "0:18446744073709551616"):
        with pytest.raises(InvalidInput, match="stamp"):
            PushStamp.parse(wrong)


async def test_what_is_closed_may_be_closed_again() -> None:
    shards = FakeShards()

    async def send(message: Any, timeout_s: float | None) -> PushAnswer:
        return shards.send(message)

    with Pusher(shards.send, progress(), None) as pusher:
        pusher.push("user", [1], [[1.0, 2.0]])
        pusher.close()
    pusher.close()
    async with AsyncPusher(send, progress(2), None) as later:
        await later.push("user", [2], [[1.0, 2.0]])
        await later.close()
    await later.close()
    assert shards.rows == expected(("user", [1, 2], [[1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(RingpullError, match="is closed"):
        pusher.push("user", [1], [[1.0, 2.0]])


def test_a_forked_process_pushes_as_another_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of its parent its pushes would be taken for the parent's, sent again, and not be applied."""
    shards, writers = FakeShards(), NamelessWriters()
    own = writers.take()
    writers.give_back(own)
    with Pusher(shards.send, progress(), None) as pusher:
        pusher.push("user", [1], [[1.0, 2.0]])
        pusher.flush()
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 0)
            assert writers.take().writer != own.writer
            for call in (pusher.flush, pusher.close, lambda: pusher.push("user", [1], [[1.0, 2.0]])):
                with pytest.raises(RingpullError, match="which was forked; make one of another name"):
                    call()


@pytest.mark.parametrize("kind", [int, np.int64, np.uint64])
def test_writers_may_be_numbers_of_numpy(kind: type) -> None:
    made = PushProgress(TARGET, kind(7), 0)
    made.add("user", KeyedRows.of([1], VECTORS[:1]), None)
    found = made.next()
    assert found is not None
    assert found[1].message().nameless == 7
    assert nameless_writer(found[1].writer) == NAMELESS | 7


@pytest.mark.parametrize("writer", [None, b"x", 1.5, -1, True])
def test_writers_are_names_or_numbers(writer: Any) -> None:
    with pytest.raises(InvalidInput, match=r"writer is .*, of 63 random bits, or a name"):
        PushProgress(TARGET, writer, 0)


HALF = ["ok", "bad\ud83d"]
VECTORS = np.ones((2, 2), np.float32)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("resumes", [False, True])
def test_keys_with_half_a_character_are_refused_and_nothing_is_handed_on(ahead: int, *, resumes: bool) -> None:
    """Behind a push that is out, too, where rows are dealt by another thread."""
    shards, gate = FakeShards(), threading.Event()

    def send(push: Any, timeout_s: float | None) -> PushAnswer:
        gate.wait(60)
        return shards.send(push)

    with Pusher(send, progress(resumes=resumes), None) as pusher:
        for number in range(ahead):
            pusher.push("user", [number], [[1.0, 2.0]])
        for rows in (VECTORS, None):
            with pytest.raises(InvalidInput, match=r"keys\[1\]: .* holds half a character"):
                pusher.push("texts", HALF, rows, remove=rows is None)
            with pytest.raises(InvalidInput, match=r"keys\[1\]: .* holds half a character"):
                pusher.hand_on("texts", KeyedRows(np.array(HALF), rows))
        assert pusher.number == ahead
        gate.set()
        pusher.push("texts", ["ok"], [[1.0, 2.0]])
        assert pusher.flush().rows == ahead + 1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_by_their_place_before_any_goes_out(number: float) -> None:
    """However many messages they would be cut into, of which the first are well."""
    shards = FakeShards()
    rows = np.ones((2_000, 2), np.float32)
    rows[1_234, 1] = number
    with Pusher(shards.send, progress(), None) as pusher:
        with pytest.raises(InvalidInput, match="table user: row 1234, of key 6170, has a number that is NaN or infin"):
            pusher.push("user", np.arange(2_000) * 5, rows)
        with pytest.raises(InvalidInput, match="table texts: row 1, of key 'b', has a number that is NaN or infinite"):
            pusher.push("texts", ["a", "b"], rows[1_233:1_235])
        with pytest.raises(InvalidInput, match="table blobs: row 1, of key 8, has 1048577 bytes; the most is 1048576"):
            pusher.push("blobs", [7, 8], [b"", b"x" * ((1 << 20) + 1)])
        assert (pusher.number, pusher.flush().rows, shards.rows) == (0, 0, {})
        pusher.push("user", [1], rows[:1])
        assert pusher.flush().rows == 1


async def test_keys_with_half_a_character_are_refused_in_asyncio() -> None:
    shards = FakeShards()

    async def send(push: Any, timeout_s: float | None) -> PushAnswer:
        return shards.send(push)

    async with AsyncPusher(send, progress(), None) as pusher:
        with pytest.raises(InvalidInput, match=r"keys\[1\]: .* holds half a character"):
            await pusher.push("texts", HALF, VECTORS)
        await pusher.push("texts", ["ok"], [[1.0, 2.0]])
        assert (await pusher.flush()).rows == 1


@pytest.mark.parametrize("ahead", [0, 1])
async def test_rows_that_cannot_be_dealt_fail_the_pusher_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Whatever goes wrong there, in the thread of a sender, too, which nobody looks at."""
    monkeypatch.setattr(Lanes, "_cut", lambda lanes, keyed: 1 // 0)
    shards, gate, turn = FakeShards(), threading.Event(), asyncio.Event()

    def send(push: Any, timeout_s: float | None) -> PushAnswer:
        gate.wait(60)
        return shards.send(push)

    async def later(push: Any, timeout_s: float | None) -> PushAnswer:
        await turn.wait()
        return shards.send(push)

    large = np.arange(200), np.ones((200, 2), np.float32)
    pusher, patient = Pusher(send, progress(), None), AsyncPusher(later, progress(100), None)
    for number in range(ahead):
        pusher.push("user", [number], [[1.0, 2.0]])
        await patient.push("user", [number], [[1.0, 2.0]])
    pusher.push("user", *large)
    await patient.push("user", *large)
    gate.set()
    turn.set()
    for call in (pusher.flush, pusher.close):
        with pytest.raises(RingpullError, match="ZeroDivisionError"):
            call()
    for meant in (patient.flush, patient.close):
        with pytest.raises(RingpullError, match="ZeroDivisionError"):
            await meant()


async def test_a_client_pushes_as_so_many_writers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gathers a thousand pushes would take all the writers that a shard remembers, for ten minutes."""
    monkeypatch.setattr(push_progress, "MOST_NAMELESS", 3)
    writers, gate, seen, out, most = NamelessWriters(), asyncio.Event(), set[int](), 0, 0

    async def push(*, fails: bool) -> None:
        nonlocal out, most
        async with writers.later() as writer:
            seen.add(writer.writer)
            out += 1
            most = max(most, out)
            await gate.wait()
            out -= 1
            if fails:
                raise Unavailable("no head")

    tasks = [asyncio.create_task(push(fails=place % 2 == 0)) for place in range(20)]
    for _ in range(5):
        await asyncio.sleep(0)
    tasks[-1].cancel()
    gate.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert (len(seen), most, out) == (3, 3, 0)
    assert [type(each) for each in ended] == [Unavailable, type(None)] * 9 + [Unavailable, asyncio.CancelledError]


def test_threads_push_as_so_many_writers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_progress, "MOST_NAMELESS", 2)
    writers, gate, seen, begun = NamelessWriters(), threading.Event(), list[int](), threading.Semaphore(0)

    def push() -> None:
        with writers.one() as writer:
            seen.append(writer.writer)
            begun.release()
            gate.wait(60)

    threads = [threading.Thread(target=push) for _ in range(6)]
    for each in threads:
        each.start()
    for _ in range(2):
        assert begun.acquire(timeout=60)
    assert len(seen) == 2
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 0)
        child = NamelessWriters()
        forked.setattr(os, "getpid", lambda: 1)
        with child.one(), child.one():
            pass
    gate.set()
    for each in threads:
        each.join()
    assert (len(seen), len(set(seen))) == (6, 2)


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_what_a_caller_writes_to_its_arrays_while_a_push_waits_for_its_turn_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, *, in_pieces: bool
) -> None:
    monkeypatch.setattr(push_progress, "MOST_NAMELESS", 1)
    if in_pieces:
        monkeypatch.setattr(push_calls, "PIECE_BYTES", 0)
    shards, gate = FakeShards(), asyncio.Event()

    async def send(push: Any, timeout_s: float | None) -> PushAnswer:
        await gate.wait()
        return shards.send(push)

    keys, rows = np.arange(1, 4), np.ones((3, 2), np.float32)
    async with AsyncClient("127.0.0.1:1", straight_pushes=False) as client:
        monkeypatch.setattr(client, "_send_push", send)
        before = asyncio.create_task(client.push("ranker", "user", [0], [[5.0, 5.0]]))
        waits = asyncio.create_task(client.push("ranker", "user", keys, rows))
        for _ in range(5):
            await asyncio.sleep(0)
        keys[:], rows[:] = 9, 7.0
        gate.set()
        await asyncio.gather(before, waits)
    assert shards.rows == expected(("user", [0], [[5.0, 5.0]]), ("user", [1, 2, 3], np.ones((3, 2))))
