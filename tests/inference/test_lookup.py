"""Rows by key over real gRPC, in front of a fake router: against dictionaries, and what is refused."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.lookups.messages import decode_lookup
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsRequest, check
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.rows_answer import RowsAnswer
from ringpull.inference.wire.lookup_codec import decode_rows, encode_lookup, encode_rows
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, LimitExceeded, NotFound, RingpullError, Unavailable
from ringpull.ps.spec import Pooling, TableSpec
from tests.inference.served import Served, still_serves
from tests.inference.small_model import DIM, make_tables
from tests.inference.tables_served import serve_tables_alone
from tests.reference import assert_close

LIMITS = RowLimits(100, 1 << 20)

# -- over gRPC ---------------------------------------------------------------------------------------------------------


@pytest.mark.net
async def test_rows_and_what_was_found_are_those_of_the_table(client: AsyncClient, served: Served) -> None:
    rng = np.random.default_rng(1)
    for table, reference in make_tables().items():
        for size in (0, 1, 7, 300):
            keys = rng.integers(-5, 130, size)
            rows, found = await client.lookup("ranker", table, keys)
            expected, known = reference.pull(keys.view(np.uint64))
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(found, known)
    assert served.calls.lookups["ranker", "OK"] == 16
    assert not served.calls.calls
    assert served.counts.requests == 16


@pytest.mark.net
async def test_an_answer_says_what_answered(client: AsyncClient) -> None:
    answer = await client.lookup("ranker", "users", [1, 0, 3, 1], version=3, request_id="r-1")
    assert (answer.model, answer.version, answer.request_id) == ("ranker", 3, "r-1")
    assert (answer.missing, answer.lost) == (2, 0)
    assert answer.found is not None
    assert answer.found.tolist() == [True, False, False, True]


@pytest.mark.net
@pytest.mark.parametrize("pooling", ["sum", "mean", "max"])
@pytest.mark.parametrize("weighted", [False, True])
async def test_bags_are_those_of_the_reference(client: AsyncClient, pooling: str, weighted: bool) -> None:
    rng = np.random.default_rng(2)
    reference = make_tables()["shared"]
    for bags in (0, 1, 20):
        lengths = rng.integers(0, 6, bags)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        keys = rng.integers(0, 115, offsets[-1])
        weights = rng.normal(size=len(keys)).astype(np.float32) if weighted and pooling == "sum" else None
        answer = await client.lookup("ranker", "shared", keys, pooling=pooling, offsets=offsets, weights=weights)
        assert answer.found is None
        expected = reference.pull_bags(keys.view(np.uint64), offsets, Pooling(pooling), weights)
        assert_close(answer.rows, expected, 10.0)
        assert answer.missing == sum(int(key) not in reference.rows for key in keys)


@pytest.mark.net
async def test_keys_may_be_typed_and_so_are_the_rows_then(served: Served) -> None:
    request = pb.LookupRequest(model="ranker", table="users", keys=pb.Column(int64s=pb.Int64List(values=[1, 2])))
    reply = pb.LookupResponse.FromString(await served.raw(stubs.LOOKUP.path, request.SerializeToString()))
    assert list(reply.vectors.shape) == [2, DIM]
    assert reply.vectors.data == b""
    np.testing.assert_array_equal(
        np.array(reply.vectors.floats, np.float32).reshape(2, DIM),
        make_tables()["users"].pull(np.array([1, 2], np.uint64))[0],
    )
    assert reply.found == b"\x01\x01"


@pytest.mark.net
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "nobody"}, NotFound, "nobody.*ranker"),
        ({"version": 9}, NotFound, "no version 9.*3"),
        ({"table": "user"}, NotFound, "ranker/3 has no table 'user'; it has: genres, shared, tags, users"),
        ({"keys": ["a", "b"]}, InvalidInput, "keys: are strings; table users is keyed by integers"),
        ({"keys": list(range(51))}, LimitExceeded, "51.*max_lookup_keys is 50"),
        ({"offsets": [0, 2]}, InvalidInput, "offsets.*need a pooling"),
        ({"weights": [1, 2]}, InvalidInput, "weights.*without offsets"),
        ({"pooling": "sum"}, InvalidInput, "offsets.*sum needs the starts of bags"),
        ({"pooling": "sum", "offsets": [0, 3]}, InvalidInput, "offsets.*number of keys, 2"),
        ({"pooling": "sum", "offsets": [1, 2]}, InvalidInput, "offsets"),
        ({"pooling": "sum", "offsets": [0, 2, 1, 2]}, InvalidInput, "offsets"),
        ({"pooling": "sum", "offsets": [0] * 60 + [2]}, LimitExceeded, "60.*max_lookup_keys"),
        ({"pooling": "max", "offsets": [0, 2], "weights": [1, 2]}, InvalidInput, "weights.*not pooling max"),
        ({"pooling": "sum", "offsets": [0, 2], "weights": [1]}, InvalidInput, "weights"),
        ({"pooling": "sum", "offsets": [0, 2], "weights": [1, np.inf]}, InvalidInput, "weights.*NaN or infinite"),
        ({"pooling": "sum", "offsets": [0, 2], "weights": [1, 1e300]}, InvalidInput, "weights.*NaN or infinite"),
        ({"pooling": "avg"}, InvalidInput, "pooling: is 'avg'.*sum, mean, max, none"),
        ({"keys": "abc"}, InvalidInput, "keys: is 'abc'"),
        ({"keys": [1, "a"]}, InvalidInput, "keys: must be all integers"),
        ({"keys": [1.5]}, InvalidInput, "keys: must be all integers"),
        ({"keys": [True]}, InvalidInput, "keys: must be all integers"),
        ({"keys": [2**64]}, InvalidInput, "keys: must be all integers"),
        ({"keys": [-1, 2**63]}, InvalidInput, "keys: must be all integers"),
        ({"keys": np.ones((2, 2), np.int64)}, InvalidInput, "keys: have the shape"),
        ({"keys": np.ones(2)}, InvalidInput, "keys: are float64"),
        (
            {"keys": ["a", "\ud800"]},
            InvalidInput,
            "keys: key 1: a string cannot be written as UTF-8",
        ),
        ({"offsets": [0.5]}, InvalidInput, "offsets: are float64"),
        ({"table": "\ud800"}, InvalidInput, "no text"),
        ({"version": -1}, InvalidInput, "version"),
        ({"keys": [2**64]}, InvalidInput, "64 bits; some are beyond"),
        ({"label": 5}, InvalidInput, "label is 5; it must be a text"),
        ({"label": 0}, InvalidInput, "label is 0; it must be a text"),
        ({"model": 5}, InvalidInput, "model is 5"),
        ({"table": None}, InvalidInput, "table is None"),
        ({"request_id": 5}, InvalidInput, "request_id is 5"),
    ],
    ids=range(35),
)
async def test_what_may_not_be_is_a_clear_error(
    limited: tuple[Served, AsyncClient], arguments: dict[str, Any], error: type[RingpullError], message: str
) -> None:
    _, client = limited
    with pytest.raises(error, match=message):
        await client.lookup(**{"model": "ranker", "table": "users", "keys": [1, 2], **arguments})
    await still_serves(client)


@pytest.fixture
async def limited():
    config = HeadConfig(max_message_bytes=100_000, max_candidates=50, max_values_per_row=20, max_lookup_keys=50)
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, config)
        served.target = f"127.0.0.1:{await served.server.start()}"
        async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
            yield served, client
        await served.server.stop(grace_s=0)
        await served.version.close(timeout_s=60)


@pytest.mark.net
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (pb.Column(), "keys: has no values"),
        (pb.Column(floats=pb.FloatList(values=[1.0])), "keys: are floats"),
        (pb.Column(raw=pb.RawBuffer(dtype=pb.INT64, data=b"1234567")), "keys: raw data of 7 bytes"),
        (pb.Column(raw=pb.RawBuffer(dtype=pb.FLOAT32, data=b"1234")), "keys: are floats"),
        (pb.Column(raw=pb.RawBuffer(data=b"1234")), "keys: raw.dtype is 0"),
        (pb.Column(raw=pb.RawBuffer(dtype=pb.STRING, data=b"ab", lengths=b"\x01\0\0\0")), "keys: lengths"),
        (pb.Column(raw=pb.RawBuffer(dtype=pb.STRING, data=b"\xff", lengths=b"\x01\0\0\0")), "keys: .*UTF-8"),
        (pb.Column(int64s=pb.Int64List(values=[1, 2]), width=2), "keys: have a width"),
        (pb.Column(int64s=pb.Int64List(values=[1, 2]), raw_offsets=b"123"), "keys: raw_offsets"),
    ],
    ids=range(9),
)
async def test_buffers_that_lie(client: AsyncClient, served: Served, keys: pb.Column, message: str) -> None:
    request = pb.LookupRequest(model="ranker", table="users", keys=keys)
    with pytest.raises(grpc.aio.AioRpcError, match=message) as raised:
        await served.raw(stubs.LOOKUP.path, request.SerializeToString())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.calls.lookups["", "INVALID_ARGUMENT"] + served.calls.lookups["ranker", "INVALID_ARGUMENT"] == 1
    await still_serves(client)


@pytest.mark.net
async def test_too_many_typed_keys_are_refused_before_they_are_read(served: Served) -> None:
    many = pb.Column(strings=pb.StringList(values=["k"] * 65_537))
    message = pb.LookupRequest(model="ranker", table="users", keys=many)
    with pytest.raises(LimitExceeded, match=r"65537.*max_lookup_keys is 65536"):
        decode_lookup(message, served.predictor.row_limits)
    bags = pb.Column(int64s=pb.Int64List(values=[1]), offsets=[0] * 65_538)
    with pytest.raises(LimitExceeded, match=r"65537.*max_lookup_keys is 65536"):
        decode_lookup(pb.LookupRequest(keys=bags), served.predictor.row_limits)


@pytest.mark.net
async def test_an_unknown_pooling_and_no_message_at_all(served: Served) -> None:
    for body in (pb.LookupRequest(model="ranker", table="users", pooling=9).SerializeToString(), b"\xff\xff"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.raw(stubs.LOOKUP.path, body)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_clear_error(body: bytes) -> None:
    keys = pb.Column(raw=pb.RawBuffer(dtype=pb.INT64, data=body), raw_offsets=body, raw_weights=body)
    for message in (
        pb.LookupRequest(keys=keys, pooling=pb.LookupRequest.SUM),
        pb.LookupRequest(keys=pb.Column(raw=pb.RawBuffer(dtype=pb.STRING, data=body, lengths=body))),
    ):
        try:
            request = decode_lookup(message, LIMITS)
            check(request, TableSpec(name="t", dim=2), LIMITS)
        except (InvalidInput, LimitExceeded):
            continue
        assert len(request.keys) == 0 or request.pooling is Pooling.SUM or request.key_type is not None


@pytest.mark.net
async def test_lost_keys_and_errors_of_shards_are_told(client: AsyncClient, served: Served) -> None:
    served.router.lost["users"] = 2
    assert (await client.lookup("ranker", "users", [1, 2])).lost == 2
    served.router.error = Unavailable("table users: no live shard")
    with pytest.raises(Unavailable, match="table users: no live shard"):
        await client.lookup("ranker", "users", [1, 2])
    assert served.calls.lookups["ranker", "UNAVAILABLE"] == 1


@pytest.mark.net
async def test_no_keys_are_of_any_type(client: AsyncClient) -> None:
    for keys in ([], np.array([]), np.array([], np.uint64), np.array([], object)):
        assert (await client.lookup("ranker", "users", keys)).rows.shape[0] == 0


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ([1, 2**63 + 5], np.array([1, 2**63 + 5], np.uint64)),
        (np.array([1, 2**63 + 5], object), np.array([1, 2**63 + 5], np.uint64)),
        ([np.uint64(2**63), np.int64(1)], np.array([2**63, 1], np.uint64)),
        (np.array([-1, 7], object), np.array([-1, 7])),
        (torch.tensor([3, 4]), np.array([3, 4])),
        (np.array(["a", "b"], object), ["a", "b"]),
    ],
)
def test_keys_are_exact_however_they_are_given(keys, same) -> None:
    assert encode_lookup("ranker", "users", keys) == encode_lookup("ranker", "users", same)


@pytest.mark.parametrize(
    "keys", [np.array([-1, 2**63], object), np.array([1, "a"], object), np.array([True, 1], object), torch.ones(2)]
)
def test_keys_that_are_no_integers_of_64_bits_are_refused(keys) -> None:
    with pytest.raises(InvalidInput, match="keys: "):
        encode_lookup("ranker", "users", keys)


@pytest.mark.net
async def test_a_reply_that_would_be_too_long_is_not_pulled(client: AsyncClient, served: Served) -> None:
    begun = served.router.pulls_begun
    with pytest.raises(LimitExceeded, match="max_message_bytes is 100000"):
        await client.lookup("ranker", "users", np.arange(9_000))
    assert served.router.pulls_begun == begun


# -- a version of tables alone -----------------------------------------------------------------------------------------


@pytest.mark.net
async def test_a_version_of_tables_alone_gives_rows_and_predicts_nothing(served: Served, client: AsyncClient) -> None:
    with ThreadPoolExecutor(1) as executor:
        version = serve_tables_alone(served, executor)
        rows, found = await client.lookup("feed", "vectors", ["ü", "?", "a"])
        assert rows.tolist() == [[3, 4], [0, 0], [1, 2]]
        assert found.tolist() == [True, False, True]
        with pytest.raises(InvalidInput, match="keys: are integers; table vectors is keyed by strings"):
            await client.lookup("feed", "vectors", [1])
        with pytest.raises(InvalidInput, match=r"feed/1 has tables only.*feed/tables/TABLE:lookup.*vectors"):
            await client.predict("feed", {"user": [1]})
        model = await client.model("feed")
        assert [each.name for each in model.tables] == ["vectors"]
        assert not model.features
        assert not model.outputs
        await version.close(timeout_s=60)
        with pytest.raises(Unavailable, match="stopping"):
            await client.lookup("feed", "vectors", ["a"])


async def test_a_version_waits_for_its_rows_before_it_goes(served: Served) -> None:
    served.router.gate.clear()
    request = RowsRequest(model="ranker", table="users", keys=np.array([1], np.uint64))
    predictor: Predictor = served.predictor

    async def ask() -> RowsAnswer:
        with predictor.open(60, verb="lookup") as call:
            call.received(8)
            return await call.rows(request)

    asked = asyncio.create_task(ask())
    while not served.router.pulls_begun:
        await asyncio.sleep(0)
    closing = asyncio.create_task(served.version.close(timeout_s=60))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    served.router.gate.set()
    assert (await asked).version == 3
    await closing


# -- messages ----------------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    request = encode_lookup(
        "m", "t", [1, -1], version=7, pooling="sum", offsets=[0, 2], weights=[1, 0.5], request_id="r"
    )
    assert request.SerializeToString(deterministic=True).hex() == (
        "0a016d12017418072a322a14080112100100000000000000ffffffffffffffff3a100000000000000000"
        "02000000000000004a080000803f0000003f30013a0172"
    )
    rows, found = np.array([[1, 0.5]], np.float32), np.array([True])
    vectors = RowsAnswer(model="m", version=7, rows=rows, found=found, missing=1, lost=2, request_id="r")
    assert encode_rows(vectors).SerializeToString(deterministic=True).hex() == (
        "0a016d10071a0e0a02010212080000803f0000003f2a010130013802420172"
    )
    texts = RowsAnswer(model="m", version=7, rows=BytesRows.of([b"", b"ab"]), found=np.array([False, True]), missing=1)
    assert encode_rows(texts).SerializeToString(deterministic=True).hex() == (
        "0a016d1007221e0a02616212180000000000000000000000000000000002000000000000002a0200013001"
    )


def test_answers_come_back_as_they_were() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = np.array([True, False, True])
    for typed in (False, True):
        answer = RowsAnswer(model="m", version=2, rows=rows, found=found, missing=1, lost=1, request_id="r")
        back = decode_rows(encode_rows(answer, typed=typed), pooled=False)
        np.testing.assert_array_equal(back.rows, rows)
        np.testing.assert_array_equal(back.found, found)
        assert (back.model, back.version, back.missing, back.lost, back.request_id) == ("m", 2, 1, 1, "r")
    texts = [b"", b"abc", b"\0\xff"]
    answer = RowsAnswer(model="m", version=2, rows=BytesRows.of(texts), found=found, missing=0)
    back = decode_rows(encode_rows(answer), pooled=False)
    assert isinstance(back.rows, BytesRows)
    assert list(back.rows) == texts


@pytest.mark.parametrize(
    "message",
    [
        pb.LookupResponse(),
        pb.LookupResponse(vectors=pb.Tensor(shape=[2, 2], data=b"1234"), found=b"\1\1"),
        pb.LookupResponse(vectors=pb.Tensor(shape=[2], data=b"12345678"), found=b"\1\1"),
        pb.LookupResponse(vectors=pb.Tensor(shape=[1, 1], data=b"1234"), found=b"\1\1"),
        pb.LookupResponse(bytes=pb.BytesRows(data=b"ab"), found=b"\1"),
        pb.LookupResponse(bytes=pb.BytesRows(data=b"ab", offsets=np.array([0, 3]).tobytes()), found=b"\1"),
        pb.LookupResponse(bytes=pb.BytesRows(data=b"ab", offsets=np.array([0, 2, 1, 2]).tobytes()), found=b"\1\1\1"),
    ],
    ids=range(7),
)
def test_answers_that_do_not_fit_are_errors(message: pb.LookupResponse) -> None:
    with pytest.raises(RingpullError):
        decode_rows(message, pooled=False)
