"""Rows with the largest scores over real gRPC, in front of a fake router: against sorting in Python."""

from __future__ import annotations

import numpy as np
import pytest

from ringpull.inference.client import stubs
from ringpull.inference.client.client import AsyncClient
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.wire.top_k_codec import decode_answer
from ringpull.ps.errors import (
    InvalidInput,
)
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import KeyType
from tests.inference.served import ROWS, Served
from tests.inference.small_model import columns_of, make_tables
from tests.inference.top_k_cases import QUERIES, check, expected, keyed_by

pytestmark = pytest.mark.net

TEXTS = ["a", "ü", "item:7", "ß" * 40]


# -- queries by their numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dot", "cosine"])
async def test_keys_and_scores_are_those_of_sorting(client: AsyncClient, served: Served, metric: str) -> None:
    for table in make_tables():
        for k in (1, 3, 1_000):
            answer = await client.top_k("ranker", table, QUERIES, k, metric=metric)
            check(answer, expected(table, QUERIES, k, metric))
            assert (answer.keys.shape, answer.scores.shape) == ((4, k), (4, k))
            assert (answer.keys.dtype, answer.scores.dtype) == (np.int64, np.float32)
            beyond = np.arange(k) >= answer.counts[:, None]
            assert not answer.keys[beyond].any()
            assert np.isneginf(answer.scores[beyond]).all()
    assert served.calls.top_ks["ranker", "OK"] == 12
    assert not served.calls.lookups
    assert not served.calls.calls
    assert served.calls.models()["ranker"].top_k_seconds.count == 12


async def test_one_vector_is_one_query_and_the_answer_says_what_answered(client: AsyncClient) -> None:
    answer = await client.top_k("ranker", "users", QUERIES[0].tolist(), k=2, version=3, request_id="r-1")
    keys, scores = answer
    assert (keys.shape, scores.shape) == ((1, 2), (1, 2))
    assert (answer.model, answer.version, answer.table, answer.request_id) == ("ranker", 3, "users", "r-1")
    assert (answer.found, answer.missing, answer.lost, answer.hashed) == (None, 0, 0, False)


async def test_keys_are_excluded_or_the_only_ones(client: AsyncClient) -> None:
    [best] = expected("shared", QUERIES[0], 4)
    out = [best[0][0], best[2][0], 12345]
    check(
        await client.top_k("ranker", "shared", QUERIES[:2], 5, exclude=out),
        expected("shared", QUERIES[:2], 5, exclude=set(out)),
    )
    only = [1, 2, 4, 4, 999]
    check(
        await client.top_k("ranker", "shared", QUERIES[:2], 5, among=np.array(only), exclude=[2]),
        expected("shared", QUERIES[:2], 5, among=set(only), exclude={2}),
    )
    each = [[1, 2], []]
    wanted = [*expected("shared", QUERIES[0], 3, among={1, 2}), []]
    for lists in (each, Ragged.from_lists(each, np.int64)):
        check(await client.top_k("ranker", "shared", QUERIES[:2], 3, among=lists), wanted)
    check(await client.top_k("ranker", "shared", QUERIES[:1], 3, among=[]), [[]])
    both = np.array([[1, 2], [4, 5]])
    wanted = [expected("shared", QUERIES[place], 3, exclude=set(row))[0] for place, row in enumerate(both.tolist())]
    check(await client.top_k("ranker", "shared", QUERIES[:2], 3, exclude=both), wanted)


# -- queries by key, and by features -----------------------------------------------------------------------------------


async def test_items_like_this_one_are_not_itself(client: AsyncClient) -> None:
    tables = make_tables()
    answer = await client.top_k("ranker", "shared", like=[7, 8], k=5)
    vectors = [tables["shared"].row(key) for key in (7, 8)]
    check(answer, [expected("shared", row, 5, exclude={key})[0] for key, row in zip((7, 8), vectors, strict=True)])
    assert answer.found is not None
    assert answer.found.all()
    check(await client.top_k("ranker", "shared", like=7, k=5, keep_self=True), expected("shared", vectors[0], 5))
    out = [[1], [2, 4]]
    check(
        await client.top_k("ranker", "shared", like=[7, 8], k=5, exclude=out),
        [
            expected("shared", row, 5, exclude={key, *more})[0]
            for key, row, more in zip((7, 8), vectors, out, strict=True)
        ],
    )


async def test_items_for_a_user_are_by_the_users_vector(client: AsyncClient, served: Served) -> None:
    user = make_tables()["users"]
    answer = await client.top_k("ranker", "shared", like=[7, 0], query_table="users", k=4)
    check(answer, expected("shared", [user.row(7), user.default], 4))
    assert answer.found is not None
    assert (answer.found.tolist(), answer.missing, answer.lost_queries) == ([True, False], 1, 0)
    served.router.lost["users"] = 1
    served.router.lost_slots = 9
    answer = await client.top_k("ranker", "shared", like=[7], query_table="users", k=4)
    assert (answer.lost, answer.lost_queries) == (9, 1)


async def test_an_output_of_the_model_is_the_query(client: AsyncClient) -> None:
    columns = columns_of(ROWS)
    context = {"user": columns.pop("user")[:1]}
    user = make_tables()["users"]
    answer = await client.top_k("ranker", "shared", features=columns, context=context, output="input0", k=4)
    check(answer, expected("shared", [user.row(1)] * len(ROWS), 4))
    assert answer.found is None
    del columns["price"]
    answer = await client.top_k("ranker", "shared", features=columns_of([{**ROWS[0], "user": 0}]), output="input0")
    assert ("user", 1) in [(each.feature, each.ids) for each in answer.unknown]
    answer = await client.top_k("ranker", "shared", features=columns, context=context, output="input0")
    assert [(each.feature, each.reason) for each in answer.filled] == [("price", "absent")]


# -- keys of other types -----------------------------------------------------------------------------------------------


async def test_keys_beyond_2_to_63_are_what_they_were(served: Served, client: AsyncClient) -> None:
    keys = np.array([5, 2**63 + 5, 2**64 - 1], np.uint64)
    async with keyed_by(served, KeyType.UINT64, keys):
        answer = await client.top_k("feed", "t", [1, 0])
        assert answer.keys.dtype == np.uint64
        assert answer.items() == [[(2**64 - 1, 3.0), (2**63 + 5, 2.0), (5, 1.0)]]
        answer = await client.top_k("feed", "t", like=2**64 - 1, exclude=[2**63 + 5])
        assert answer.items() == [[(5, 4.0)]]
        with pytest.raises(InvalidInput, match="exclude: are strings; table t is keyed by integers"):
            await client.top_k("feed", "t", [1, 0], exclude=["a"])
        with pytest.raises(InvalidInput, match=r"feed/1 has tables only, and computes no query"):
            await client.top_k("feed", "t", features={"user": [1]})


async def test_ties_go_by_key_as_unsigned(served: Served, client: AsyncClient) -> None:
    keys = np.array([-1, 3, 1])
    async with keyed_by(served, KeyType.INT64, keys):
        assert [key for key, _ in (await client.top_k("feed", "t", [0, 1])).items()[0]] == [1, 3, -1]


async def test_strings_come_back_where_they_are_known(served: Served, client: AsyncClient) -> None:
    hashes = keys_of_strings(TEXTS)
    async with keyed_by(served, KeyType.STRING, hashes):
        answer = await client.top_k("feed", "t", [1, 0], 3)
        assert answer.hashed
        assert answer.keys.dtype == np.uint64
        assert answer.keys.tolist() == [hashes[::-1][:3].tolist()]
        named = answer.with_texts(["other", *TEXTS, "a"])
        assert (named.keys.tolist(), named.hashed) == ([TEXTS[::-1][:3]], False)
        with pytest.raises(InvalidInput, match="none of the 2 has the hash"):
            answer.with_texts(TEXTS[:2])
        with pytest.raises(InvalidInput, match="no hashes of strings"):
            named.with_texts(TEXTS)
        # Among strings they are known to the head.
        answer = await client.top_k("feed", "t", like="a", k=5, among=["?", "ü", *TEXTS], exclude=["item:7"])
        assert not answer.hashed
        assert answer.keys.tolist() == [["ß" * 40, "ü", None, None, None]]
        assert answer.items() == [[("ß" * 40, 5.0), ("ü", 3.0)]]
        answer = await client.top_k("feed", "t", [[1, 0], [-1, 0]], k=1, among=[["ü"], ["a", "ü"]])
        assert answer.keys.tolist() == [["ü"], ["a"]]
        assert (await client.top_k("feed", "t", [1, 0], among=[""])).items() == [[]]
        with pytest.raises(InvalidInput, match="like: are integers; table t is keyed by strings"):
            await client.top_k("feed", "t", like=[1])
        with pytest.raises(InvalidInput, match="none of the 0 has"):
            (await client.top_k("feed", "t", [1, 0])).with_texts([])


async def test_numbers_may_be_typed_and_so_is_the_answer_then(served: Served) -> None:
    asked = pb.TopKRequest(model="ranker", table="users", k=2, like=pb.Column(int64s=pb.Int64List(values=[1, 0])))
    reply = pb.TopKResponse.FromString(await served.raw(stubs.TOP_K.path, asked.SerializeToString()))
    assert reply.keys.WhichOneof("values") == "int64s"
    assert (len(reply.keys.int64s.values), list(reply.keys.offsets), len(reply.scores)) == (4, [0, 2, 4], 4)
    assert (reply.found, reply.missing, reply.raw_scores) == (b"\1\0", 1, b"")
    check(decode_answer(reply, 2), [
        expected("users", make_tables()["users"].row(1), 2, exclude={1})[0],
        expected("users", make_tables()["users"].default, 2, exclude={0})[0],
    ])  # fmt: skip
