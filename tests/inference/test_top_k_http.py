"""Rows with the largest scores over HTTP: what is answered, and what is refused with which status."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.frontends.top_k.json_bodies import FIELDS, read_top_k
from ringpull.inference.head.request.received import Limits
from ringpull.ps.errors import InvalidInput, LimitExceeded, Unavailable
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import KeyType
from tests.inference.http_served import http_served
from tests.inference.served import Served
from tests.inference.small_model import make_tables, plain_row
from tests.inference.top_k_cases import QUERIES, expected, keyed_by

PATH = "/v1/models/ranker/tables/users:top_k"
VECTOR = [1.0, 2.0, 3.0]
HALF = b'{"features": {"user": ["\\ud800"]}, "output": "input0"}'
"""Body with half a character."""


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with http_served(served) as http:
        yield http.client


@pytest.mark.net
async def test_queries_of_every_kind(http: httpx.AsyncClient, served: Served) -> None:
    def same(reply: httpx.Response, wanted: list[list[tuple[int, float]]]) -> dict[str, Any]:
        body: dict[str, Any] = reply.json()
        assert reply.status_code == 200, body
        assert body["keys"] == [[key for key, _ in each] for each in wanted]
        for scores, each in zip(body["scores"], wanted, strict=True):
            np.testing.assert_allclose(scores, [score for _, score in each], rtol=1e-6)
        return body

    for path in (PATH, "/v1/models/ranker/versions/3/tables/users:top_k"):
        body = same(await http.post(path, json={"vectors": QUERIES.tolist(), "k": 2}), expected("users", QUERIES, 2))
        assert {name: body[name] for name in ("model", "version", "table")} == {
            "model": "ranker",
            "version": 3,
            "table": "users",
        }
        assert set(body) == {"model", "version", "table", "keys", "scores", "request_id"}
    asked = {"vector": VECTOR, "metric": "cosine", "exclude": [1, 2], "among": [[1, 4, 5]], "request_id": "r"}
    body = same(await http.post(PATH, json=asked), expected("users", VECTOR, 10, "cosine", among={4, 5}))
    assert body["request_id"] == "r"
    users = make_tables()["users"]
    body = same(
        await http.post(PATH, json={"like": [1, 0], "k": 3}),
        [expected("users", users.row(key), 3, exclude={key})[0] for key in (1, 0)],
    )
    assert (body["found"], body["missing"]) == ([True, False], 1)
    same(await http.post(PATH, json={"like": [1], "k": 3, "keep_self": True}), expected("users", users.row(1), 3))
    asked = {"like": [1], "query_table": "shared", "k": 3}
    same(await http.post(PATH, json=asked), expected("users", make_tables()["shared"].row(1), 3))
    row = plain_row(1, 2)
    features = {name: [value] for name, value in row.items() if name not in ("user", "tags", "price")}
    asked = {"features": features, "context": {"user": 1}, "output": "input0", "k": 3}
    body = same(await http.post(PATH, json=asked), expected("users", users.row(1), 3))
    assert {each["feature"] for each in body["filled"]} == {"tags", "price"}
    assert served.calls.top_ks["ranker", "OK"] == 7
    served.router.lost_slots = 5
    assert (await http.post(PATH, json={"vector": VECTOR})).json()["lost"] == 5


@pytest.mark.net
async def test_strings_and_large_keys(http: httpx.AsyncClient, served: Served) -> None:
    path = "/v1/models/feed/tables/t:top_k"
    async with keyed_by(served, KeyType.STRING, keys_of_strings(["a", "ü"])):
        body = (await http.post(path, json={"vector": [1, 0], "k": 1})).json()
        assert (body["keys"], body["hashed"]) == ([[int(keys_of_strings(["ü"])[0])]], True)
        body = (await http.post(path, json={"vector": [1, 0], "among": ["a", "?"]})).json()
        assert body["keys"] == [["a"]]
        assert "hashed" not in body
    served.catalog.show({"ranker": 3}, [("ranker", 3)])
    async with keyed_by(served, KeyType.UINT64, np.array([2**63 + 1, 2**64 - 1], np.uint64)):
        body = (await http.post(path, json={"vector": [1, 0], "exclude": [2**63 + 1]})).json()
        assert body["keys"] == [[2**64 - 1]]


@pytest.mark.net
@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/nobody/tables/users:top_k", {"vector": VECTOR}, 404, "nobody"),
        ("/v1/models/ranker/versions/9/tables/users:top_k", {"vector": VECTOR}, 404, "no version 9"),
        ("/v1/models/ranker/labels/x/tables/users:top_k", {"vector": VECTOR}, 400, "version label: x"),
        ("/v1/models/ranker/tables/user:top_k", {"vector": VECTOR}, 404, "no table 'user'; it has: genres"),
        ("/v1/models/ranker:top_k", {"vector": VECTOR}, 400, "table: name the one whose rows are ranked"),
        (PATH, {}, 400, "the queries come in one way"),
        (PATH, [], 400, "must be an object"),
        (PATH, {"vector": VECTOR, "K": 1}, 400, "unknown field 'K'"),
        (PATH, {"vector": VECTOR, "like": [1]}, 400, "one way"),
        (PATH, {"vector": VECTOR, "vectors": [VECTOR]}, 400, "vector: stands for one"),
        (PATH, {"vector": VECTOR, "k": 0}, 400, "k: is 0"),
        (PATH, {"vector": VECTOR, "k": "5"}, 400, "k: is '5'"),
        (PATH, {"vector": VECTOR, "k": 1.0}, 400, "k: is 1.0"),
        (PATH, {"vector": VECTOR, "k": 10**9}, 413, "the most is 10000"),
        (PATH, {"vector": VECTOR, "metric": ["dot"]}, 400, "metric"),
        (PATH, {"vector": [1, 2]}, 400, "have 3 numbers"),
        (PATH, {"vector": [1, 2, None]}, 400, "must be numbers"),
        (PATH, {"vector": [1, 2, "a"]}, 400, "must be numbers"),
        (PATH, {"vector": [1, 2, True]}, 400, "must be numbers"),
        (PATH, {"vector": [1, 2, 10**400]}, 400, "too large"),
        (PATH, {"vector": [1, 2, 1e300]}, 400, "vectors[0] holds NaN or an infinity"),
        (PATH, {"vector": 1}, 400, "vector: must be a list of numbers"),
        (PATH, {"vectors": VECTOR}, 400, "vectors: must be a list of lists"),
        (PATH, {"vectors": [VECTOR, [1]]}, 400, "have 3 and 1 numbers"),
        (PATH, {"vectors": []}, 400, "no queries"),
        (PATH, {"vectors": [VECTOR] * 65}, 413, "65 queries; the most is 64"),
        (PATH, {"like": 1}, 400, "like: must be a list"),
        (PATH, {"like": ["a"]}, 400, "like: are strings"),
        (PATH, {"like": [1], "query_table": 5}, 400, "query_table"),
        (PATH, {"like": [1], "keep_self": 1}, 400, "keep_self"),
        (PATH, {"vector": VECTOR, "keep_self": True}, 400, "there is no like"),
        (PATH, {"vector": VECTOR, "context": {}}, 400, "context"),
        (PATH, {"vector": VECTOR, "exclude": 5}, 400, "exclude: must be a list"),
        (PATH, {"vector": VECTOR, "exclude": [[1], 2]}, 400, "exclude"),
        (PATH, {"vector": VECTOR, "exclude": [2**64]}, 400, "exclude: must be all integers"),
        (PATH, {"vector": VECTOR, "among": [[1], [2]]}, 400, "among: has 2 lists for 1 queries"),
        (PATH, {"features": {"user": [[[1]]]}, "output": "input0"}, 400, "user"),
        (PATH, {"features": 5}, 400, "must be JSON objects"),
        (PATH, {"vector": VECTOR, "exclude": [0] * 60_000}, 413, "max_message_bytes is 100000"),
    ],
    ids=range(39),
)
async def test_what_may_not_be_is_a_clear_error(
    http: httpx.AsyncClient, served: Served, path: str, body: Any, status: int, message: str
) -> None:
    reply = await http.post(path, json=body)
    assert list(reply.json()) == ["error"]
    assert message in reply.json()["error"]
    assert reply.status_code == status
    assert not served.router.ranked


@pytest.mark.net
async def test_what_is_no_json_and_who_only_looks(http: httpx.AsyncClient, served: Served) -> None:
    packed = gzip.compress(b'{"vector": [1, 2, 3]}')
    assert (await http.post(PATH, content=packed, headers={"Content-Encoding": "gzip"})).json()["version"] == 3
    for body in (b"", b"{", b"\xff", b"[" * 100_000, b'{"vector": [NaN, 1, 2]}', b'{"vector": [Infinity, 1, 2]}', HALF):
        assert (await http.post(PATH, content=body)).status_code == 400
    assert (await http.get(PATH)).status_code in (400, 405)
    served.router.error = Unavailable("no live shard")
    assert (await http.post(PATH, json={"vector": VECTOR})).status_code == 503


@pytest.mark.net
async def test_the_document_has_an_example_that_is_answered(http: httpx.AsyncClient) -> None:
    operation = (await http.get("/openapi.json")).json()["paths"][PATH]["post"]
    [example] = operation["requestBody"]["content"]["application/json"]["examples"].values()
    assert (await http.post(PATH, json=example["value"])).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.medium
@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3) | json_values)
def test_any_json_is_a_request_or_a_clear_error(body: Any) -> None:
    limits = Limits(max_candidates=50, max_values_per_row=20)
    try:
        read_top_k(body, limits, model="m", table="t", version=0, label="").check()
    except (InvalidInput, LimitExceeded):
        return
    assert {"vectors", "vector", "like", "features"} & set(body)
