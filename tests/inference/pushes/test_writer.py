"""The service Writer of a head before a fake router: what reaches the shards, what is refused, and what is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.head.access import Access
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.writer.messages import decode_push
from ringpull.inference.head.metrics import call_log
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.model.manifest import Manifest, TableEntry
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_request import check, stored
from ringpull.inference.schema.schema import Schema
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RingpullError,
    StaleLineage,
    StaleNumber,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import KeyType, RowType, TableSpec
from ringpull.ps.store.row_codec import decode
from tests.inference.served import Served

pytestmark = pytest.mark.net

IDENTITY = "00000000000000ab"
SPECS = {
    "user": TableSpec(name="user", dim=3),
    "small": TableSpec(name="small", dim=3, row_type=RowType.INT8),
    "half": TableSpec(name="half", dim=3, row_type=RowType.FLOAT16),
    "texts": TableSpec(name="texts", dim=3, key_type=KeyType.STRING),
    "blobs": TableSpec(name="blobs", dim=0, row_type=RowType.BYTES),
    "fixed": TableSpec(name="fixed", dim=3),
}
LIVE = ("user", "small", "half", "texts", "blobs")
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def loaded() -> LoadedVersion:
    entries = tuple(TableEntry(spec=spec, path="x", rows=2, bytes=1) for spec in SPECS.values())
    manifest = Manifest(model="feed", version=4, created="now", tables=entries, identity=IDENTITY)
    return LoadedVersion(Path("feed/4"), manifest, Schema.without_features(), None)


async def serving(access: Access | None = None, config: HeadConfig | None = None) -> AsyncIterator[Served]:
    with ThreadPoolExecutor(1) as executor:
        served = Served(
            executor, config or HeadConfig(max_message_bytes=8 << 20), access=access, loaded=loaded(), live=LIVE
        )
        served.target = f"127.0.0.1:{await served.server.start()}"
        yield served
        served.router.gate.set()
        await served.server.stop(grace_s=0)
        await served.version.close(timeout_s=60)


@pytest.fixture
async def feed() -> AsyncIterator[Served]:
    async for served in serving():
        yield served


@pytest.fixture
async def client(feed: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(feed.target, timeout_s=60, retries=0) as client:
        yield client


async def test_vectors_reach_the_router_as_the_table_stores_them(feed: Served, client: AsyncClient) -> None:
    for table, keys in (("user", [7, -1]), ("small", [7, -1]), ("half", np.array([7, -1])), ("texts", ["a", "ü"])):
        answer = await client.push("feed", table, keys, ROWS)
        pushed = feed.router.pushed[-1]
        assert (pushed.model, pushed.table, pushed.remove, pushed.lineage) == ("feed", table, False, 0xAB)
        as_keys = keys_of_strings(keys) if table == "texts" else np.array([7, -1]).view(np.uint64)
        np.testing.assert_array_equal(pushed.keys, as_keys)
        assert isinstance(pushed.rows, np.ndarray)
        assert pushed.rows.shape == (2, SPECS[table].row_bytes)
        np.testing.assert_allclose(decode(pushed.rows, SPECS[table]), ROWS, atol=0.01)
        assert pushed.writer >> 63 == 1
        assert pushed.number > 0
        assert (answer.rows, answer.version, answer.lineage, answer.copies) == (2, 4, IDENTITY, 1)
        assert str(answer.stamp) == f"0:{len(feed.router.pushed)}"
    numbers = [each.number for each in feed.router.pushed]
    assert numbers == sorted(set(numbers))
    assert len({each.writer for each in feed.router.pushed}) == 1


async def test_bytes_and_removals_reach_the_router(feed: Served, client: AsyncClient) -> None:
    await client.push("feed", "blobs", [1, 2], [b"x" * 5, b""])
    rows = feed.router.pushed[-1].rows
    assert isinstance(rows, BytesRows)
    assert list(rows) == [b"xxxxx", b""]
    for table in ("user", "blobs"):
        await client.push("feed", table, [3], remove=True)
        pushed = feed.router.pushed[-1]
        assert (pushed.remove, len(pushed.rows), pushed.keys.tolist()) == (True, 0, [3])
    await client.push("feed", "user", [], [])
    assert len(feed.router.pushed[-1].keys) == 0


@pytest.mark.parametrize(
    ("table", "keys", "rows", "kind", "message"),
    [
        ("nothing", [1], [[1, 2, 3]], NotFound, "has no table 'nothing'; it has: blobs, fixed"),
        ("fixed", [1], [[1, 2, 3]], UnmetCondition, r"takes no pushes .*those that do: blobs, half.*--live feed/fixed"),
        ("user", [1], [[1, 2]], InvalidInput, r"shape \(1, 2\); they must be \(1, 3\)"),
        ("user", [1, 2], [[1, 2, 3], [1, np.nan, 3]], InvalidInput, "row 1, of key 2, has a number that is NaN"),
        ("user", [5], [[1, np.inf, 3]], InvalidInput, "row 0, of key 5"),
        ("user", [5], [[1, 1e39, 3]], InvalidInput, "row 0, of key 5"),
        ("half", [5], [[1, 1e6, 3]], InvalidInput, "row 0, of key 5: .*beyond 65504"),
        ("half", [5, 6, 7], [[1, 2, 3], [1, 2, 1e6], [1e6, 2, 3]], InvalidInput, "row 1, of key 6: .*beyond 65504"),
        ("user", ["a"], [[1, 2, 3]], InvalidInput, "keys: are strings; table user is keyed by integers"),
        ("texts", [1], [[1, 2, 3]], InvalidInput, "keys: are integers; table texts is keyed by strings"),
        ("user", [1], [b"abc"], InvalidInput, "table user has vectors of 3 numbers; send vectors"),
        ("blobs", [1], [[1, 2, 3]], InvalidInput, "table blobs has rows of bytes; send bytes"),
        ("blobs", [9], [b"x" * ((1 << 20) + 1)], InvalidInput, "row 0, of key 9, has 1048577 bytes"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(
    feed: Served, client: AsyncClient, table: str, keys: Any, rows: Any, kind: type[RingpullError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await client.push("feed", table, keys, rows)
    assert feed.router.pushed == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "rows: are missing"),
        ({"remove": False}, "rows: are missing"),
        ({"remove": True, "number": 3}, "number: is 3"),
        ({"remove": True, "named": "a"}, "number: is 0"),
        ({"remove": True, "named": "", "number": 1}, "named: a writer's name has 0"),
        ({"remove": True, "nameless": 1, "number": 1 << 63}, "number: is"),
        ({"remove": True, "lineage": "xyz"}, "lineage: is 'xyz'"),
        ({"remove": True, "lineage": IDENTITY, "version": 4}, "lineage: is given, and so is version"),
        ({"remove": True, "keys": {"int64s": {"values": [1]}, "width": 2}}, "keys:"),
        ({"remove": True, "keys": {"floats": {"values": [1]}}}, "keys: are floats"),
        ({"bytes": {"data": b"x", "offsets": b"abc"}}, "bytes.offsets: 3 bytes"),
        ({"bytes": {"data": b"x", "offsets": np.array([0, 9]).tobytes()}}, "bytes.offsets: must start at 0"),
        ({"vectors": {"shape": [2, 3], "data": b"1234"}}, "vectors:"),
    ],
)
async def test_hostile_messages_are_refused_by_name(feed: Served, fields: dict[str, Any], message: str) -> None:
    request = pb.PushRequest(**{"model": "feed", "table": "user", "keys": {"int64s": {"values": [1]}}, **fields})
    with pytest.raises(grpc.RpcError) as raised:
        await feed.raw("/ringpull.v1.Writer/Push", request.SerializeToString())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in raised.value.details()
    assert feed.router.pushed == []


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("table", ["user", "small", "half"])
async def test_a_raw_call_with_a_row_that_is_not_finite_is_refused_by_table_and_row(
    feed: Served, table: str, number: float
) -> None:
    """As a client of another language may send it, whose rows nobody has checked."""
    rows = np.arange(9, dtype=np.float32).reshape(3, 3)
    rows[1, 2] = number
    for vectors in ({"shape": [3, 3], "data": rows.tobytes()}, {"shape": [3, 3], "floats": rows.ravel()}):
        request = pb.PushRequest(model="feed", table=table, keys={"int64s": {"values": [4, 5, 6]}}, vectors=vectors)
        with pytest.raises(grpc.RpcError) as raised:
            await feed.raw("/ringpull.v1.Writer/Push", request.SerializeToString())
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"table {table}: row 1, of key 5, has a number that is NaN or infinite" in raised.value.details()
    assert feed.router.pushed == []


def test_raw_rows_are_a_view_of_their_message_and_equal_to_typed_ones() -> None:
    fields: dict[str, Any] = {"model": "feed", "table": "user", "keys": {"int64s": {"values": [1, 2]}}}
    raw = pb.PushRequest(**fields, vectors={"shape": [2, 3], "data": ROWS.tobytes()})
    typed = pb.PushRequest(**fields, vectors={"shape": [2, 3], "floats": ROWS.ravel()})
    viewed, copied = (decode_push(each).rows for each in (raw, typed))
    assert isinstance(viewed, np.ndarray)
    assert not viewed.flags.writeable
    np.testing.assert_array_equal(viewed, ROWS)
    np.testing.assert_array_equal(copied, ROWS)
    assert viewed.dtype == np.float32
    check(decode_push(raw), SPECS["user"])
    np.testing.assert_array_equal(stored(decode_push(raw), SPECS["user"]), ROWS.view(np.uint8))


async def test_typed_fields_and_no_writer_do_as_well(feed: Served) -> None:
    request = pb.PushRequest(
        model="feed", table="user", keys={"int64s": {"values": [1]}}, vectors={"shape": [1, 3], "floats": [1, 2, 3]}
    )
    answer = pb.PushResponse.FromString(await feed.raw("/ringpull.v1.Writer/Push", request.SerializeToString()))
    assert (answer.rows, answer.stamp, answer.copies) == (1, "0:1", 1)
    assert (feed.router.pushed[0].writer, feed.router.pushed[0].number) == (0, 0)


async def test_a_lineage_that_is_not_open_is_refused_with_the_one_that_is(feed: Served, client: AsyncClient) -> None:
    await client.push("feed", "user", [1, 2], ROWS, lineage=IDENTITY)
    with pytest.raises(
        UnmetCondition, match=rf"lineage {'c' * 16} of model feed is not open here: feed/4.* {IDENTITY}"
    ):
        await client.push("feed", "user", [1, 2], ROWS, lineage="c" * 16)
    with pytest.raises(NotFound, match="no version 9"):
        await client.push("feed", "user", [1, 2], ROWS, version=9)
    model = await client.model("feed")
    assert model.lineage == IDENTITY
    assert {each.name for each in model.tables if each.live} == set(LIVE)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StaleNumber("sent since"), StaleNumber),
        (StaleLineage("lineage 1"), UnmetCondition),
        (UnmetCondition("table user has 2 copies; pushes go to tables of one"), UnmetCondition),
        (LimitExceeded("the log is full", retry_after_s=0.5), LimitExceeded),
        (Unavailable("shard 1 is away"), Unavailable),
        (DeadlineExceeded("no answer of shard 1"), DeadlineExceeded),
    ],
)
async def test_what_shards_refuse_is_told(
    feed: Served, client: AsyncClient, error: Exception, kind: type[RingpullError]
) -> None:
    feed.router.error = error
    with pytest.raises(kind, match=str(error)) as raised:
        await client.push("feed", "user", [1, 2], ROWS)
    if isinstance(raised.value, LimitExceeded):
        assert raised.value.retry_after_s == 0.5
    feed.router.error = None
    assert (await client.push("feed", "user", [1, 2], ROWS)).rows == 2


@pytest.mark.parametrize("error", [Unavailable("a shard is away"), LimitExceeded("full", retry_after_s=0.01)])
async def test_a_push_that_may_yet_succeed_goes_out_again_with_its_number(feed: Served, error: RingpullError) -> None:
    asked = []

    async def push(pushed: Any, *, deadline_s: float) -> Any:
        asked.append(pushed)
        if len(asked) < 8:
            raise error
        return await type(feed.router).push(feed.router, pushed, deadline_s=deadline_s)

    feed.router.push = push  # type: ignore[method-assign]
    async with AsyncClient(feed.target, timeout_s=60) as client:
        await client.push("feed", "user", [1, 2], ROWS)
    assert len(asked) == 8
    assert len({(each.writer, each.number) for each in asked}) == 1


async def test_many_rows_are_cut_and_all_are_acknowledged(feed: Served, client: AsyncClient) -> None:
    keys = np.random.default_rng(0).permutation(400_000)
    rows = np.repeat(keys[:, None], 3, axis=1).astype(np.float32)
    answer = await client.push("feed", "user", keys, rows)
    assert answer.rows == len(keys)
    pushed = feed.router.pushed
    assert len(pushed) >= 4
    assert sorted(key for each in pushed for key in each.keys.tolist()) == list(range(400_000))
    assert all((decode(each.rows, SPECS["user"])[:, 0] == each.keys).all() for each in pushed)  # type: ignore[arg-type]


def sync_pushes(target: str) -> tuple[int, int, int]:
    with Client(target, timeout_s=60) as client:
        one = client.push("feed", "user", [1, 2], ROWS)
        with client.pusher("feed", writer="trainer-3", number=6) as pusher:
            number = pusher.push("user", [1, 2], ROWS)
            done = pusher.flush()
            pusher.push("user", [1], remove=True)
    return one.rows, number, done.rows


async def test_pushes_in_threads_and_a_pusher(feed: Served) -> None:
    assert await asyncio.to_thread(sync_pushes, feed.target) == (2, 7, 2)
    assert feed.router.pushed[1].writer == feed.router.pushed[-1].writer
    assert feed.router.pushed[1].writer >> 63 == 0
    assert feed.router.pushed[-1].remove
    async with AsyncClient(feed.target, timeout_s=60) as client, client.pusher("feed", writer="trainer-3") as pusher:
        await pusher.push("user", [1, 2], ROWS)
        assert (await pusher.flush()).rows == 2
    assert feed.router.pushed[-1].writer == feed.router.pushed[1].writer


TOKENS = "".join(
    f'[[token]]\nname = "{role}"\ntoken = "{role * 4}"\nroles = ["{role}"]\n{more}\n'
    for role, more in (("predict", ""), ("write", "rows_per_s = 3"), ("read", ""), ("operate", ""))
)


async def test_a_push_needs_the_role_write() -> None:
    access = Tokens(TokenSettings(entries=parse_tokens(TOKENS, "here")))
    async for served in serving(access):
        for role in ("predict", "operate"):
            async with AsyncClient(served.target, timeout_s=60, retries=0, token=role * 4) as client:
                with pytest.raises(Forbidden, match=rf"token {role} may not do that: .*write is needed"):
                    await client.push("feed", "user", [1, 2], ROWS)
        async with AsyncClient(served.target, timeout_s=60, retries=0, token="write" * 4) as client:
            await client.push("feed", "user", [1, 2], ROWS)
            with pytest.raises(Forbidden):
                await client.lookup("feed", "user", [1])
            with pytest.raises(LimitExceeded, match="rows_per_s is 3"):
                await asyncio.gather(*[client.push("feed", "user", [1, 2], ROWS) for _ in range(9)])
        assert served.calls.callers["write", "OK"] >= 1
        assert served.calls.pushes["", "PERMISSION_DENIED"] == 2


async def test_pushes_are_counted_and_logged_as_such_and_are_no_requests(
    feed: Served, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, call_log.logger.name)
    await client.push("feed", "user", [1, 2], ROWS, request_id="r-1")
    with pytest.raises(NotFound):
        await client.push("feed", "nothing", [1], ROWS[:1], request_id="r-2")
    told = {(each.getMessage(), each.request_id) for each in caplog.records if hasattr(each, "request_id")}
    assert told == {("push answered", "r-1"), ("push failed", "r-2")}
    assert feed.calls.pushes == {("feed", "OK"): 1, ("feed", "NOT_FOUND"): 1}
    assert feed.calls.push_seconds["feed", "user"].count == 1
    assert (feed.counts.requests, feed.counts.failed) == (0, 0)


async def test_pushes_have_room_of_their_own() -> None:
    config = HeadConfig(max_pushing_bytes=2_000, max_message_bytes=100_000)
    async for served in serving(config=config):
        served.router.gate.clear()
        async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
            rows = np.zeros((50, 3), np.float32)
            calls = [asyncio.create_task(client.push("feed", "user", np.arange(50), rows)) for _ in range(4)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            with pytest.raises(LimitExceeded, match="max_in_flight_bytes is 2000"):
                await done.pop()
            assert served.predictor.admission.in_flight_bytes == 0
            served.router.gate.set()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert any(not isinstance(each, BaseException) for each in answers)
        assert served.predictor.pushing.in_flight_bytes == 0


async def test_a_pusher_stays_with_its_lineage_and_is_refused_when_another_goes_live(feed: Served) -> None:
    entries = feed.version.loaded.manifest.tables
    manifest = Manifest(model="feed", version=5, created="now", tables=entries, identity="00000000000000cd")
    newer = LoadedVersion(Path("feed/5"), manifest, Schema.without_features(), None)
    with ThreadPoolExecutor(1) as executor:
        served = ServedVersion(newer, feed.router, executor, max_batch_rows=8, live=LIVE)
    async with AsyncClient(feed.target, timeout_s=60, retries=0) as client:
        pusher = client.pusher("feed", writer="trainer")
        await pusher.push("user", [1, 2], ROWS)
        assert (await pusher.flush()).lineage == IDENTITY
        feed.catalog.add(served)
        feed.catalog.show({"feed": 5}, [("feed", 4), ("feed", 5)])
        await pusher.push("user", [1, 2], ROWS)
        with pytest.raises(UnmetCondition, match=rf"lineage {IDENTITY} .* is not live here: feed/5.* 00000000000000cd"):
            await pusher.flush()
        assert len(feed.router.pushed) == 1
        async with client.pusher("feed", writer="trainer", lineage=IDENTITY) as named:
            await named.push("user", [1, 2], ROWS)
        async with client.pusher("feed", writer="trainer", version=4) as older:
            for _ in range(2):
                await older.push("user", [1, 2], ROWS)
                await older.flush()
        assert (await client.push("feed", "user", [1, 2], ROWS)).lineage == "00000000000000cd"
        assert [each.lineage for each in feed.router.pushed] == [0xAB, 0xAB, 0xAB, 0xAB, 0xCD]
