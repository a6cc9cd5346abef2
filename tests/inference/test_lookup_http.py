"""Rows by key over HTTP: what is answered, in which form, and what is refused with which status."""

from __future__ import annotations

import base64
import gzip
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.frontends.lookups.json_bodies import AskedRows
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer
from ringpull.inference.wire.json_writing import JsonWriter
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, LimitExceeded, Unavailable
from ringpull.ps.spec import KeyType
from tests.inference.http_served import http_served
from tests.inference.served import Served
from tests.inference.small_model import make_tables
from tests.inference.tables_served import serve_tables_alone

OF_RANKER = "/v1/models/ranker"
PATH = "/v1/models/ranker/tables/users:lookup"
LIMITS = RowLimits(100, 1 << 20)


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with http_served(served) as http:
        yield http.client


@pytest.mark.net
@pytest.mark.parametrize("which", ["/versions/0", "/versions/9", f"/versions/{2**63}", "/labels/best", "/labels/0"])
async def test_versions_and_labels_are_those_of_predictions(http: httpx.AsyncClient, which: str) -> None:
    predicted = await http.post(f"{OF_RANKER}{which}:predict", json={"instances": [1]})
    looked_up = await http.post(f"{OF_RANKER}{which}/tables/users:lookup", json={"keys": [1]})
    assert looked_up.status_code == predicted.status_code


@pytest.mark.net
async def test_a_label_names_a_version(http: httpx.AsyncClient, served: Served) -> None:
    served.catalog.show({"ranker": 3}, [("ranker", 3)], labels={"ranker": {"stable": 3}})
    reply = await http.post(f"{OF_RANKER}/labels/stable/tables/users:lookup", json={"keys": [1]})
    assert (reply.status_code, reply.json()["version"]) == (200, 3)


@pytest.mark.net
async def test_rows_and_bags(http: httpx.AsyncClient, served: Served) -> None:
    table = make_tables()["users"]
    for path in (PATH, "/v1/models/ranker/versions/3/tables/users:lookup"):
        reply = await http.post(path, json={"keys": [1, 0, -7, 1]})
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
        expected, found = table.pull(np.array([1, 0, -7, 1]).view(np.uint64))
        assert reply.json() == {
            "model": "ranker",
            "version": 3,
            "rows": expected.tolist(),
            "found": found.tolist(),
            "missing": int((~found).sum()),
        }
    reply = await http.post(PATH, json={"keys": [1, 2], "pooling": "sum", "offsets": [0, 2], "weights": [2, 0.5]})
    rows, _ = table.pull(np.array([1, 2], np.uint64))
    np.testing.assert_allclose(reply.json()["rows"], [2 * rows[0] + 0.5 * rows[1]], rtol=1e-5)
    assert "found" not in reply.json()
    assert served.calls.lookups["ranker", "OK"] == 3
    served.router.lost["users"] = 1
    assert (await http.post(PATH, json={"keys": [1], "request_id": "r"})).json()["lost"] == 1


@pytest.mark.net
@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/nobody/tables/users:lookup", {"keys": [1]}, 404, "nobody"),
        ("/v1/models/ranker/versions/9/tables/users:lookup", {"keys": [1]}, 404, "no version 9"),
        ("/v1/models/ranker/versions/x/tables/users:lookup", {"keys": [1]}, 400, "Failed to convert version: x"),
        ("/v1/models/ranker/versions/0/tables/users:lookup", {"keys": [1]}, 404, "Specific(ranker, 0)"),
        (
            "/v1/models/ranker/labels/best/tables/users:lookup",
            {"keys": [1]},
            400,
            "Unrecognized servable version label: best",
        ),
        ("/v1/models/ranker/tables/user:lookup", {"keys": [1]}, 404, "no table 'user'; it has: genres"),
        (PATH, {}, 400, '"keys"'),
        (PATH, [], 400, '"keys"'),
        (PATH, {"keys": [1], "key": 1}, 400, "unknown field 'key'"),
        (PATH, {"keys": 1}, 400, "keys: must be a list, not int"),
        (PATH, {"keys": [1, "a"]}, 400, "keys: must be all integers"),
        (PATH, {"keys": [1.0]}, 400, "keys: must be all integers"),
        (PATH, {"keys": [None]}, 400, "keys: must be all integers"),
        (PATH, {"keys": [[1]]}, 400, "keys: must be all integers"),
        (PATH, {"keys": [2**64]}, 400, "keys: must be all integers"),
        (PATH, {"keys": ["a"]}, 400, "keys: are strings; table users is keyed by integers"),
        (PATH, {"keys": [1], "pooling": "avg"}, 400, "pooling: is 'avg'"),
        (PATH, {"keys": [1], "pooling": ["sum"]}, 400, "pooling"),
        (PATH, {"keys": [1], "pooling": "sum", "offsets": "0"}, 400, "offsets: must be a list"),
        (PATH, {"keys": [1], "pooling": "sum", "offsets": [0, [1]]}, 400, "offsets"),
        (PATH, {"keys": [1], "pooling": "sum", "offsets": [0, 2**70]}, 400, "offsets"),
        (PATH, {"keys": [1], "pooling": "sum", "offsets": [0, 1], "weights": [10**400]}, 400, "weights"),
        (PATH, {"keys": [1], "pooling": "sum", "offsets": [0, 1], "weights": ["a"]}, 400, "weights"),
        (PATH, {"keys": [1], "as": "xml"}, 400, "as: is 'xml'; it must be one of b64, text, json"),
        (PATH, {"keys": [1], "as": ["b64"]}, 400, "as: is"),
        (PATH, {"keys": [1], "as": "text"}, 400, "as: table users has vectors"),
        (PATH, {"keys": [1], "request_id": 7}, 400, "request_id"),
        (PATH, {"keys": [0] * 9_000}, 413, "max_message_bytes is 100000, of the reply"),
        (PATH, {"keys": [0] * 60_000}, 413, "max_message_bytes is 100000"),
    ],
    ids=range(29),
)
async def test_what_may_not_be_is_a_clear_error(
    http: httpx.AsyncClient, path: str, body: Any, status: int, message: str
) -> None:
    reply = await http.post(path, json=body)
    assert list(reply.json()) == ["error"]
    assert message in reply.json()["error"]
    assert reply.status_code == status


@pytest.mark.net
async def test_what_is_no_json_and_who_only_looks(http: httpx.AsyncClient, served: Served) -> None:
    packed = gzip.compress(b'{"keys": [1]}')
    assert (await http.post(PATH, content=packed, headers={"Content-Encoding": "gzip"})).json()["version"] == 3
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        assert (await http.post(PATH, content=body)).status_code == 400
    assert (await http.get(PATH)).status_code in (400, 405)
    served.router.error = Unavailable("no live shard")
    assert (await http.post(PATH, json={"keys": [1]})).status_code == 503


@pytest.mark.net
async def test_every_protocol_knows_what_to_say_of_tables_alone(http: httpx.AsyncClient, served: Served) -> None:
    with ThreadPoolExecutor(1) as executor:
        version = serve_tables_alone(served, executor)
        for path in ("/v1/models", "/v1/models/feed", "/v1/models/feed/metadata", "/v2/models/feed", "/openapi.json"):
            assert (await http.get(path)).status_code == 200, path
        for path, body in {
            "/v1/models/feed:predict": {"instances": [{"user": 1}]},
            "/v2/models/feed/infer": {"inputs": [{"name": "user", "shape": [1], "datatype": "INT64", "data": [1]}]},
            "/v1/predict": {"model": "feed", "features": {"user": [1]}},
        }.items():
            reply = await http.post(path, json=body)
            assert reply.status_code == 400, path
            assert "tables only" in reply.text, path
        reply = await http.post("/v1/models/feed/tables/vectors:lookup", json={"keys": ["ü", "?"]})
        assert reply.json()["rows"] == [[3, 4], [0, 0]]
        await version.close(timeout_s=60)


# -- rows of bytes -----------------------------------------------------------------------------------------------------


def reply_of(rows: list[bytes], found: list[bool], **body: Any) -> bytes:
    keys = list(range(len(rows)))
    asked = AskedRows.read({"keys": keys, **body}, LIMITS, model="m", table="t", version=0, label="")
    answer = RowsAnswer(model="m", version=1, rows=BytesRows.of(rows), found=np.array(found), missing=0)
    return asked.reply(answer, JsonWriter(LIMITS.max_reply_bytes))


def test_rows_of_bytes_in_each_form() -> None:
    rows, found = [b'{"items":[1,2.5]}', "ü".encode(), b""], [True, True, False]
    assert b'"rows":[{"b64":"' + base64.b64encode(rows[0]) in reply_of(rows, found)
    assert '"rows":["{\\"items\\":[1,2.5]}","ü",null]'.encode() in reply_of(rows, found, **{"as": "text"})
    assert b'"rows":[{"items":[1,2.5]},null]' in reply_of(rows[::2], [True, False], **{"as": "json"})
    assert b'"rows":["\\ud800"]' in reply_of([b'"\\ud800"'], [True], **{"as": "json"})


@pytest.mark.parametrize(
    ("row", "form"), [(b"\xff", "text"), (b"\xff", "json"), (b"{", "json"), (b" ", "json"), (b"[" * 100_000, "json")]
)
def test_a_row_that_is_not_in_that_form_is_named(row: bytes, form: str) -> None:
    with pytest.raises(InvalidInput, match=rf"as: the row of keys\[1\] is no {form}"):
        reply_of([b"1", row], [True, True], **{"as": form})


def test_a_rows_own_json_stays_as_it_is() -> None:
    row = b'{"a": 1.10, "a": 2e400,\n "b": "\\ud800"}'
    assert b'"rows":[' + row + b',null,"\xc3\xbc"],"found"' in reply_of(
        [row, b"", b'\xef\xbb\xbf"\xc3\xbc"'], [True] * 3, **{"as": "json"}
    )
    with pytest.raises(InvalidInput, match="is no json"):
        reply_of(['"x"'.encode("utf-16")], [True], **{"as": "json"})


def test_a_reply_is_bounded_as_json() -> None:
    asked = AskedRows.read({"keys": [1]}, LIMITS, model="m", table="t", version=0, label="")
    answer = RowsAnswer(model="m", version=1, rows=np.full((1, 1000), 0.1, np.float32), found=None, missing=0)
    length = len(asked.reply(answer, JsonWriter(1 << 20)))
    assert len(asked.reply(answer, JsonWriter(length))) == length > 4 * 1000
    with pytest.raises(LimitExceeded, match=f"longer as JSON than max_message_bytes, {length - 1}"):
        asked.reply(answer, JsonWriter(length - 1))


@pytest.mark.net
async def test_a_reply_longer_as_json_than_may_be_is_refused(http: httpx.AsyncClient) -> None:
    """It would not be, binary: 30,000 keys of 3 numbers at most."""
    table = {"model": "ranker.users", "path": "/v2/models/ranker.users/infer"}
    keys = [1] * 5_000
    told = [await http.post(PATH, json={"keys": keys})]
    tensor = {"name": "KEYS", "shape": [len(keys)], "datatype": "INT64", "data": keys}
    told.append(await http.post(table["path"], json={"inputs": [tensor]}))
    for reply in told:
        assert reply.status_code == 413, reply.text[:200]
        assert "longer as JSON than max_message_bytes, 100000" in reply.json()["error"]


def test_a_row_of_any_depth_is_answered_or_named() -> None:
    for depth in range(1, 1200):
        try:
            reply_of([b"[" * depth + b"]" * depth], [True], **{"as": "json"})
        except InvalidInput:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.medium
@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["keys", "pooling", "offsets", "weights", "as", "request_id"]), json_values)
    | json_values
)
def test_any_json_is_a_request_or_a_clear_error(body: Any) -> None:
    try:
        asked = AskedRows.read(body, LIMITS, model="m", table="t", version=0, label="")
    except (InvalidInput, LimitExceeded):
        return
    assert len(asked.request.keys) == len(body["keys"])
    assert asked.request.key_type in (None, *KeyType)
