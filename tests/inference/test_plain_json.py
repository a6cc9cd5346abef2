"""Predictions in plain JSON: the answers are the client's, the errors say what is wrong, hostile bodies harm nobody."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.aside import ON_LOOP_BYTES
from ringpull.inference.head.frontends.json.answers import CHUNK_NUMBERS, answer_text
from ringpull.inference.head.frontends.json.requests import read_request
from ringpull.inference.head.request.received import Limits
from ringpull.inference.prediction import Filled, Prediction, Timings
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, RingpullError, Unavailable
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served, still_serves

pytestmark = pytest.mark.net

FEATURES = {"item": [1, 2], "genres": [[1, 2], []], "tags": [[], []], "history": [[5], [5]], "recent": [[], []]}
CONTEXT = {"user": [3], "age": [[1.0, 2.0]], "price": 3.0}
REQUEST = {"model": "ranker", "features": FEATURES, "context": CONTEXT}


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async with http_served(served) as http:
        yield http


async def post(http: HttpServed, body: Any, path: str = "/v1/predict", **headers: str) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.client.post(path, content=content, headers=headers)
    return answer.status_code, answer.json()


async def test_the_answer_is_that_of_the_client(http: HttpServed, client: AsyncClient) -> None:
    status, answer = await post(http, REQUEST | {"outputs": ["input0", "input11"], "request_id": "mine"})
    expected = await client.predict("ranker", FEATURES, CONTEXT, outputs=["input0", "input11"])
    assert (status, answer) == (
        200,
        {
            "model": "ranker",
            "version": 3,
            "outputs": {name: values.tolist() for name, values in expected.outputs.items()},
            "filled": [],
            "unknown": [{"feature": each.feature, "ids": each.ids} for each in expected.unknown],
            "degraded": [],
            "request_id": "mine",
        },
    )
    assert expected.unknown


async def test_rows_with_unknown_ids_are_told_when_asked_for(http: HttpServed, client: AsyncClient) -> None:
    status, answer = await post(http, REQUEST | {"with_unknown": True})
    expected = await client.predict("ranker", FEATURES, CONTEXT, with_unknown=True)
    assert status == 200
    assert answer["unknown"] == [
        {"feature": each.feature, "ids": each.ids, "rows": each.rows.tolist()}
        for each in expected.unknown
        if each.rows is not None
    ]
    assert len(answer["unknown"]) == len(expected.unknown) > 0


async def test_all_outputs_and_timings_when_asked_for(http: HttpServed) -> None:
    status, answer = await post(http, REQUEST | {"with_timings": True, "version": 3})
    assert status == 200
    assert len(answer["outputs"]) == 16
    assert answer["timings"]["batch_rows"] == 2
    assert answer["request_id"]


async def test_what_is_not_sent_is_told(http: HttpServed) -> None:
    status, answer = await post(http, {"features": {"item": [1, 2]}, "context": {"user": 3}}, "/v1/predict/ranker")
    assert status == 200
    assert {"feature": "age", "reason": "absent", "values": 1} in answer["filled"]


@pytest.mark.parametrize("named", [{}, {"model": "ranker"}, {"model": None}, {"model": ""}])
async def test_the_path_may_name_the_model(http: HttpServed, named: dict[str, Any]) -> None:
    body = {name: each for name, each in REQUEST.items() if name != "model"} | named
    assert (await post(http, body, "/v1/predict/ranker"))[0] == 200


@pytest.mark.parametrize(
    ("body", "path", "status", "says"),
    [
        (REQUEST, "/v1/predict/other", 400, "model: is 'ranker'; the path names 'other'"),
        (REQUEST | {"model": "nobody"}, "/v1/predict", 404, "model 'nobody' is not served here"),
        (FEATURES, "/v1/predict", 400, "request: Message type"),
        ({"features": FEATURES, "context": CONTEXT}, "/v1/predict", 400, "model: is missing"),
        (REQUEST | {"version": 9}, "/v1/predict", 404, "model ranker has no version 9"),
        (REQUEST | {"label": "stable"}, "/v1/predict", 404, "model ranker has no label 'stable'"),
        (REQUEST | {"label": "stable", "version": 3}, "/v1/predict", 400, "ask for one of both"),
        (REQUEST | {"outputs": "input0"}, "/v1/predict", 400, "request: "),
        (REQUEST | {"outputs": ["x" * 5000]}, "/v1/predict", 400, "outputs: ranker/3 has no output 'xxx"),
        (REQUEST | {"features": [1]}, "/v1/predict", 400, "features and context must be JSON objects"),
        (REQUEST | {"features": {"item": [1] * 51}}, "/v1/predict", 413, "max_candidates is 50"),
        (REQUEST | {"features": FEATURES | {"item": [2**64, 1]}}, "/v1/predict", 400, "feature item: its integers fit"),
        (REQUEST | {"features": FEATURES | {"item": [0.5, 1]}}, "/v1/predict", 400, "feature item"),
        (
            REQUEST | {"features": FEATURES | {"item": ["\ud800", "a"]}},
            "/v1/predict",
            400,
            "cannot be written as UTF-8",
        ),
        (REQUEST | {"model": "\ud800"}, "/v1/predict", 400, "request: "),
        (REQUEST | {"outputs": ["\ud800"]}, "/v1/predict", 400, "request: "),
        (REQUEST | {"context": CONTEXT | {"price": float("nan")}}, "/v1/predict", 200, ""),
        (b"", "/v1/predict", 400, "not JSON: Expecting value"),
        (b"[]", "/v1/predict/ranker", 400, "request: must be a JSON object"),
        (b"[" * 100_000, "/v1/predict", 400, "not JSON: it is nested too deep"),
        (b"1" * 90_000, "/v1/predict", 400, "not JSON: a number has thousands of digits"),
        (b'{"model": "\xff"}', "/v1/predict", 400, "not UTF-8: byte 0xff at 11"),
        (
            b'{"model":"ranker","features":{"item":' + b"[" * 400 + b"]" * 400 + b"}}",
            "/v1/predict",
            400,
            "feature item",
        ),
    ],
    ids=[str(each) for each in range(23)],
)
async def test_errors_say_what_is_wrong(http: HttpServed, body: Any, path: str, status: int, says: str) -> None:
    answered, answer = await post(http, body, path)
    assert (answered, says in str(answer)) == (status, True), answer
    assert status == 200 or answer.keys() == {"code", "message"}
    assert len(str(answer)) < 4_000


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_bodies_may_be_compressed(http: HttpServed, coding: str) -> None:
    packed = (zlib.compress if coding == "deflate" else gzip.compress)(json.dumps(REQUEST).encode())
    headers = {"Content-Encoding": coding}
    assert (await post(http, packed, **headers))[0] == (400 if coding == "br" else 200)
    bomb = gzip.compress(b" " * 100_001)
    status, answer = await post(http, bomb, **{"Content-Encoding": "gzip"})
    assert (status, answer["code"]) == (413, "RESOURCE_EXHAUSTED")


async def test_only_post_is_answered(http: HttpServed) -> None:
    answer = await http.client.get("/v1/predict/ranker")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_errors_of_the_cluster_have_their_status(http: HttpServed) -> None:
    for error, status in ((Unavailable("no shard"), 503), (DeadlineExceeded("late"), 504)):
        http.served.router.error = error
        assert (await post(http, REQUEST))[0] == status
    http.served.router.error = ZeroDivisionError("secret")
    status, answer = await post(http, REQUEST)
    assert (status, answer["message"]) == (500, "internal error (ZeroDivisionError); the server's log has more")


# -- who goes away -----------------------------------------------------------------------------------------------------


def sent(body: Any, *, more: bytes = b"") -> bytes:
    content = json.dumps(body).encode()
    head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    return head % len(content) + content + more


@pytest.mark.parametrize("padding", [0, 70_000], ids=["short", "long"])
@pytest.mark.parametrize("gone", ["closed", "reset"])
async def test_a_prediction_nobody_waits_for_is_cancelled(http: HttpServed, padding: int, gone: str) -> None:
    """Also of a long body, behind which reading had paused."""
    served = http.served
    served.router.gate.clear()
    _, writer = await http.raw(sent(REQUEST | {"request_id": "x" * padding}))
    while not served.router.pulls_begun:
        await asyncio.sleep(0.001)
    assert served.predictor.admission.in_flight_bytes > padding
    if gone == "reset":
        writer.transport.abort()
    else:
        writer.close()
    while served.predictor.admission.in_flight_bytes:
        await asyncio.sleep(0.001)
    assert (served.counts.requests, served.counts.failed) == (1, 0), "cancelled is not failed, as over gRPC"
    served.router.gate.set()
    assert (await post(http, REQUEST))[0] == 200


async def test_who_asks_ahead_and_goes_away_leaves_nothing(http: HttpServed) -> None:
    served = http.served
    served.router.gate.clear()
    _, writer = await http.raw(sent(REQUEST, more=sent(REQUEST) * 3))
    while not served.router.pulls_begun:
        await asyncio.sleep(0.001)
    writer.transport.abort()
    served.router.gate.set()
    while served.predictor.admission.in_flight_bytes or http.counts.open:
        await asyncio.sleep(0.001)
    assert served.counts.requests <= 4


async def test_requests_on_one_connection_are_answered_in_order(http: HttpServed) -> None:
    reader, writer = await http.raw(
        b"".join(sent(REQUEST | {"request_id": str(each), "outputs": ["input11"]}) for each in range(20))
    )
    for each in range(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert json.loads(await reader.readexactly(length))["request_id"] == str(each)
    writer.close()


# -- large and hostile -------------------------------------------------------------------------------------------------


async def test_a_long_body_is_answered_like_a_short_one(http: HttpServed) -> None:
    short, long = REQUEST | {"request_id": "a"}, REQUEST | {"request_id": "a", "label": "", "outputs": []}
    text = json.dumps(long).encode()
    text = text[:-1] + b" " * ON_LOOP_BYTES + b"}"
    first, second = await post(http, short), await post(http, text)
    assert first == second


@pytest.mark.medium
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "ranker", "features": {"item": [' + b"1," * 40_000 + b"1]}}",
        b'{"model": "ranker", "features": {' + b'"a": 1,' * 12_000 + b'"a": 1}}',
        b'{"model": "ranker", "features": {"item": ' + b'["x",' * 15_000,
        b"\x00" * 90_000,
        b'{"model": "' + b"\\u0000" * 10_000 + b'"}',
    ],
    ids=["many rows", "one name", "deep", "zeros", "no characters"],
)
async def test_hostile_bodies_leave_predictions_and_probes_alone(
    http: HttpServed, client: AsyncClient, body: bytes
) -> None:
    async def hostile() -> None:
        for _ in range(5):
            status, _ = await post(http, body)
            assert status in (400, 404, 413, 429)

    attacks = [asyncio.create_task(hostile()) for _ in range(8)]
    for _ in range(5):
        await still_serves(client)
        assert (await http.client.get("/healthz")).status_code == 200
    await asyncio.gather(*attacks)
    assert http.served.predictor.admission.in_flight_bytes == 0


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(["model", "version", "label", "features", "context", "outputs", "with_timings", "request_id"])
NAMES = st.sampled_from(["item", "user", "tags", "age", "colour"])
BODIES = st.dictionaries(FIELDS, JSONS | st.dictionaries(NAMES, JSONS, max_size=4), max_size=6)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES | JSONS)
@pytest.mark.medium
def test_whatever_is_said_is_a_request_or_a_clear_error(body: Any) -> None:
    with suppress(RingpullError):
        read_request(json.dumps(body).encode(), "", Limits(50, 20))


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (3,), (0, 2), (2, 0), (5, 1), (3 * CHUNK_NUMBERS,), (700, 3, 7)])
def test_outputs_of_any_shape_are_written_whole(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    told = json.loads(answer_text(Prediction(outputs={"a": values, "b": values}, version=1, model="m")))
    assert told["outputs"] == {"a": values.tolist(), "b": values.tolist()}


def test_what_is_not_finite_is_null() -> None:
    values = np.array([[1, np.nan], [np.inf, -np.inf]], np.float32)
    prediction = Prediction(
        outputs={"a": values},
        version=2**60,
        model="m",
        filled=(Filled("\ud800", "absent", 1),),
        timings=Timings(total_us=3),
        degraded=("cut history to 5",),
        request_id="\u00e9",
    )
    told = json.loads(answer_text(prediction), parse_constant=lambda name: pytest.fail(name))
    assert told["outputs"] == {"a": [[1.0, None], [None, None]]}
    assert (told["version"], told["request_id"], told["degraded"]) == (2**60, "\u00e9", ["cut history to 5"])
    assert told["filled"] == [{"feature": "?", "reason": "absent", "values": 1}]
    assert told["timings"]["total_us"] == 3


async def test_an_overloaded_head_says_when_to_come_back(http: HttpServed) -> None:
    http.served.router.error = LimitExceeded("overloaded", retry_after_s=1.5)
    answer = await http.client.post("/v1/predict", json=REQUEST)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
