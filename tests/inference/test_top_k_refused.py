"""What is refused of a request for the rows with the largest scores, and how it is said."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.frontends.top_k.messages import decode_top_k
from ringpull.inference.head.request.received import Limits
from ringpull.inference.model.manifest import TableEntry
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.top_k_codec import encode_top_k
from ringpull.ps.errors import (
    InvalidInput,
    LimitExceeded,
    NotFound,
    RingpullError,
)
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import KeyType, RowType, TableSpec
from tests.inference.served import ROWS, Served, still_serves
from tests.inference.small_model import columns_of
from tests.inference.top_k_cases import QUERIES, keyed_by

pytestmark = pytest.mark.net

# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "nobody"}, NotFound, "nobody.*ranker"),
        ({"version": 9}, NotFound, "no version 9.*3"),
        ({"label": "best"}, NotFound, "no label"),
        ({"table": "user"}, NotFound, "ranker/3 has no table 'user'; it has: genres, shared, tags, users"),
        ({"query": None}, InvalidInput, "queries in one way.*given: none"),
        ({"like": [1]}, InvalidInput, "queries in one way.*given: query, like"),
        ({"query": None, "like": []}, InvalidInput, "no queries"),
        ({"query": None, "like": [1], "query_table": "nobody"}, NotFound, "no table 'nobody'"),
        ({"query": None, "like": ["a"]}, InvalidInput, "like: are strings; table users is keyed by integers"),
        ({"query": None, "like": [1.5]}, InvalidInput, "like: must be all integers"),
        ({"query": None, "like": [2**64]}, InvalidInput, "like: must be all integers"),
        ({"query": None, "like": list(range(65))}, LimitExceeded, "like: 65 keys; the most is 64"),
        ({"query_table": "users"}, InvalidInput, "query_table.*there is no like"),
        ({"output": "input0"}, InvalidInput, "output: names what is computed of features"),
        ({"k": 0}, InvalidInput, "k: is 0; it must be"),
        ({"k": -1}, InvalidInput, "k: is -1"),
        ({"k": 1.5}, InvalidInput, "k: is 1.5"),
        ({"k": True}, InvalidInput, "k: is True"),
        ({"k": 2**32}, InvalidInput, "k: is 4294967296"),
        ({"k": 10**9}, LimitExceeded, "k: is 1000000000; the most is 10000"),
        ({"k": 9_000}, LimitExceeded, "9000 rows for each of 1 queries have 109024 bytes; max_message_bytes is 100000"),
        ({"query": [1, 2]}, InvalidInput, r"vectors: have the shape \(1, 2\); rows of table users have 3 numbers"),
        ({"query": []}, InvalidInput, "vectors: have the shape"),
        ({"query": np.zeros((0, 3))}, InvalidInput, "no queries"),
        ({"query": np.zeros((65, 3))}, LimitExceeded, "65 queries; the most is 64"),
        ({"query": np.zeros((1, 1, 3))}, InvalidInput, "query: is float64"),
        ({"query": [1, np.nan, 3]}, InvalidInput, "query: holds NaN"),
        ({"query": [1, 1e300, 3]}, InvalidInput, "query: holds NaN, or what is infinite as float32"),
        ({"query": "abc"}, InvalidInput, "query: is <U3"),
        ({"query": [[1, 2, 3], [1]]}, InvalidInput, "query: must be a vector"),
        ({"query": [True, False, True]}, InvalidInput, "query: is bool"),
        ({"metric": "l2"}, InvalidInput, "metric: is 'l2'; it must be one of dot, cosine"),
        ({"exclude": ["a"]}, InvalidInput, "exclude: are strings"),
        ({"exclude": [1, "a"]}, InvalidInput, "exclude: must be all integers"),
        ({"exclude": [[1], [2]]}, InvalidInput, "exclude: has 2 lists for 1 queries"),
        ({"among": 5}, InvalidInput, "among: must be all integers"),
        ({"among": [True]}, InvalidInput, "among: must be all integers"),
        ({"query": None, "features": {"user": [1]}}, InvalidInput, "16 outputs of ranker/3 have as many numbers"),
        ({"query": None, "features": {"user": [1]}, "output": "x"}, InvalidInput, "no output 'x'; it has: input0"),
        ({"query": None, "features": {}, "output": "input0"}, InvalidInput, "no candidate columns"),
        ({"query": None, "features": {"user": ["a"]}, "output": "input0"}, InvalidInput, "user"),
        ({"model": 5}, InvalidInput, "model is 5"),
        ({"table": "\ud800"}, InvalidInput, "no text"),
    ],
    ids=range(43),
)
async def test_what_may_not_be_is_a_clear_error(
    client: AsyncClient, served: Served, arguments: dict[str, Any], error: type[RingpullError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await client.top_k(**{"model": "ranker", "table": "users", "query": [1, 2, 3], **arguments})
    assert not served.router.ranked
    await still_serves(client)


async def refused(served: Served, asked: pb.TopKRequest, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=message) as raised:
        await served.raw(stubs.TOP_K.path, asked.SerializeToString())
    assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


VECTOR = pb.Tensor(shape=[1, 3], floats=[1, 2, 3])
KEY = pb.Column(int64s=pb.Int64List(values=[1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the queries come in one way.*are there: none"),
        ({"vectors": VECTOR, "like": KEY}, "are there: vectors, like"),
        ({"vectors": VECTOR, "k": 0}, "k: is 0"),
        ({"vectors": VECTOR, "metric": 7}, "metric: is 7"),
        ({"vectors": pb.Tensor(shape=[1, 3], floats=[1, 2])}, "vectors"),
        ({"vectors": pb.Tensor(shape=[-1, 3], floats=[1, 2, 3])}, "vectors"),
        ({"vectors": pb.Tensor(shape=[2**62, 2**62], floats=[1])}, "4611686018427387904 queries; the most is 64"),
        ({"vectors": pb.Tensor(shape=[3], floats=[1, 2, 3])}, r"vectors: have the shape \(3,\)"),
        ({"vectors": pb.Tensor(shape=[1, 3], floats=[1, float("nan"), 3])}, r"vectors\[0\] holds NaN"),
        ({"vectors": pb.Tensor(shape=[1, 3], floats=[1, float("-inf"), 3])}, r"vectors\[0\] holds NaN or an infinity"),
        ({"vectors": pb.Tensor(shape=[1, 3], data=b"12345")}, "vectors"),
        ({"vectors": VECTOR, "version": -1}, "version is -1"),
        ({"vectors": VECTOR, "keep_self": True}, "there is no like"),
        ({"vectors": VECTOR, "exclude": pb.Column()}, "exclude: has no values"),
        ({"vectors": VECTOR, "exclude": pb.Column(floats=pb.FloatList(values=[1]))}, "exclude: are floats"),
        (
            {"vectors": VECTOR, "among": pb.Column(int64s=KEY.int64s, raw_offsets=np.array([0, 2]).tobytes())},
            "among: offsets must start at 0",
        ),
        (
            {"vectors": VECTOR, "among": pb.Column(int64s=KEY.int64s, raw_offsets=np.array([-1, 1]).tobytes())},
            "among: offsets must start at 0",
        ),
        ({"vectors": VECTOR, "among": pb.Column(int64s=KEY.int64s, width=1)}, "among: has a width"),
        ({"vectors": VECTOR, "among": pb.Column(int64s=KEY.int64s, raw_offsets=b"123")}, "among: raw_offsets"),
        ({"like": pb.Column(int64s=KEY.int64s, offsets=[0, 1])}, "like: has offsets"),
        ({"features": pb.PredictRequest(model="ranker")}, "features: has model"),
        ({"features": pb.PredictRequest(outputs=["input0"])}, "features: has outputs"),
    ],
    ids=range(22),
)
async def test_messages_that_lie(served: Served, fields: dict[str, Any], message: str) -> None:
    await refused(served, pb.TopKRequest(**{"model": "ranker", "table": "users", "k": 5, **fields}), message)
    assert not served.router.ranked


def test_a_million_keys_are_the_most_and_counted_before_they_are_read() -> None:
    limits = Limits(max_candidates=50, max_values_per_row=20)
    many = encode_top_k("ranker", "users", QUERIES[0], exclude=np.arange(1_000_001))
    with pytest.raises(LimitExceeded, match="exclude: 1000001 keys; the most is 1000000"):
        decode_top_k(many, limits)
    decode_top_k(encode_top_k("ranker", "users", QUERIES[0], exclude=np.arange(1_000_000)), limits).check()
    each = decode_top_k(encode_top_k("ranker", "users", QUERIES, among=np.arange(250_001)), limits)
    with pytest.raises(LimitExceeded, match="among: 250001 keys for each of 4 queries; the most is 1000000 in all"):
        each.check()


async def test_rows_of_bytes_have_no_score(served: Served, client: AsyncClient) -> None:
    spec = TableSpec(name="b", dim=0, row_type=RowType.BYTES)
    entry = TableEntry(spec=spec, path="x", rows=1, bytes=1)
    served.version.rows._tables["b"] = entry
    with pytest.raises(InvalidInput, match="table b has rows of bytes"):
        await client.top_k("ranker", "b", [1.0])
    with pytest.raises(InvalidInput, match="query_table: b has rows of bytes; the rows of users have 3"):
        await client.top_k("ranker", "users", like=[1], query_table="b")


async def test_a_row_that_is_not_finite_is_no_query(served: Served, client: AsyncClient) -> None:
    served.router.tables["users"].rows[1] = np.array([1, np.nan, 2], np.float32)
    with pytest.raises(InvalidInput, match="like: the row of key number 1 holds NaN"):
        await client.top_k("ranker", "users", like=[2, 1])
    with pytest.raises(InvalidInput, match="output input0 of row 0 holds NaN"):
        await client.top_k("ranker", "users", features=columns_of(ROWS), output="input0")


async def test_a_string_cut_within_a_character_is_refused(served: Served) -> None:
    async with keyed_by(served, KeyType.STRING, keys_of_strings([b"\xc3"])):
        lengths = np.array([1, 1], np.uint32).tobytes()
        among = pb.Column(raw=pb.RawBuffer(dtype=pb.STRING, data="ü".encode(), lengths=lengths))
        asked = pb.TopKRequest(
            model="feed", table="t", k=1, vectors=pb.Tensor(shape=[1, 2], floats=[1, 0]), among=among
        )
        await refused(served, asked, "not UTF-8")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_clear_error(body: bytes) -> None:
    limits = Limits(max_candidates=50, max_values_per_row=20)
    keys = pb.Column(raw=pb.RawBuffer(dtype=pb.INT64, data=body), raw_offsets=body)
    texts = pb.Column(raw=pb.RawBuffer(dtype=pb.STRING, data=body, lengths=body))
    for message in (
        pb.TopKRequest(k=1, vectors=pb.Tensor(shape=[1, len(body) // 4], data=body), exclude=keys),
        pb.TopKRequest(k=1, like=texts, among=texts),
    ):
        try:
            decode_top_k(message, limits).check()
        except (InvalidInput, LimitExceeded):
            continue
