"""Bodies of HTTP requests: what is received, what is refused before it is read, and what half-sent ones cost."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.aside import ON_LOOP_BYTES
from ringpull.inference.head.frontends.http.bodies import MAX_MEMBERS, decompressed, open_call, receive_body
from ringpull.inference.head.predictor import OpenCall
from ringpull.inference.wire.json_reading import parse_json
from ringpull.ps.errors import InvalidInput, LimitExceeded
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import CONFIG, Served, still_serves

pytestmark = pytest.mark.net

MAX_BYTES = CONFIG.max_message_bytes


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async def count(request: Request) -> JSONResponse:
        with open_call(http.parts, request) as call:
            return JSONResponse({"bytes": len(await receive_body(request, call))})

    async with http_served(served, Route("/count", count, methods=["POST"])) as http:
        yield http


def nothing_is_left(served: Served) -> None:
    assert served.predictor.admission.in_flight_bytes == 0
    assert len(served.predictor.receiving) == 0


async def test_a_body_is_received_however_it_is_framed(http: HttpServed) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000

    assert (await http.client.post("/count", content=b"x" * MAX_BYTES)).json() == {"bytes": MAX_BYTES}
    assert (await http.client.post("/count", content=chunks())).json() == {"bytes": 5000}
    assert (await http.client.post("/count")).json() == {"bytes": 0}
    nothing_is_left(http.served)


async def test_what_is_too_long_is_refused_unread(http: HttpServed) -> None:
    reader, writer = await http.raw(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n")
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "code": "RESOURCE_EXHAUSTED",
        "message": "the body has 100001 bytes; max_message_bytes is 100000",
    }
    writer.close()
    nothing_is_left(http.served)


async def test_what_does_not_say_its_length_is_counted(http: HttpServed) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(101):
            yield b"x" * 1000

    refused = await http.client.post("/count", content=chunks())
    assert (refused.status_code, refused.json()["code"]) == (413, "RESOURCE_EXHAUSTED")
    assert "retry-after" not in refused.headers
    assert (await http.client.get("/healthz")).status_code == 200
    nothing_is_left(http.served)


async def test_who_waits_for_100_is_told_to_go_on_or_why_not(http: HttpServed) -> None:
    head = b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await http.raw(head % 10)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"0123456789")
    assert json.loads((await reader.readuntil(b"}")).partition(b"\r\n\r\n")[2]) == {"bytes": 10}
    writer.close()
    reader, writer = await http.raw(head % (MAX_BYTES + 1))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
    writer.close()


@pytest.mark.parametrize("stated", [b"-1", b"1e3", b"0x10", b"1, 2", b"", b"9" * 30])
async def test_a_length_that_is_none(http: HttpServed, stated: bytes) -> None:
    reader, writer = await http.raw(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: " + stated + b"\r\n\r\n")
    status = int((await reader.readuntil(b"\r\n")).split()[1])
    assert status in (400, 413)
    writer.close()
    nothing_is_left(http.served)


@pytest.mark.parametrize("sent", [0, 10, 90_000])
async def test_who_goes_away_while_it_sends_has_cost_nothing(http: HttpServed, sent: int) -> None:
    served = http.served
    _, writer = await http.raw(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * sent)
    while not len(served.predictor.receiving):
        await asyncio.sleep(0.001)
    writer.close()
    while len(served.predictor.receiving):
        await asyncio.sleep(0.001)
    nothing_is_left(served)
    assert served.counts.requests == 1
    assert served.predictor.admission.pressure() == 0


async def test_a_body_that_never_ends_has_its_time(http: HttpServed) -> None:
    begun = b"POST /count HTTP/1.1\r\nHost: a\r\nRequest-Timeout: 0.05\r\nContent-Length: 100\r\n\r\nx"
    reader, writer = await http.raw(begun)
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 504")
    assert b"the deadline passed before the request had been received" in answer
    writer.close()
    nothing_is_left(http.served)


@pytest.mark.parametrize("stated", ["x", "-1", "inf", "nan", "1 s", "", "1_0", "1e1", "+1", ".", "9" * 400])
async def test_a_deadline_that_is_none(http: HttpServed, stated: str) -> None:
    answer = await http.client.post("/count", headers={"Request-Timeout": stated})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ARGUMENT")
    assert "it must be a number of seconds" in answer.json()["message"]


@pytest.mark.medium
async def test_half_sent_bodies_are_no_work_to_grpc(http: HttpServed, client: AsyncClient) -> None:
    begun = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
    writers = [(await http.raw(begun))[1] for _ in range(50)]
    while http.served.predictor.receiving.overdue < 50:
        await asyncio.sleep(0.001)
    await still_serves(client)
    assert http.served.predictor.admission.pressure() == 0
    assert (await http.client.get("/healthz")).status_code == 200
    for writer in writers:
        writer.close()


async def test_a_connection_goes_on_after_a_refusal(http: HttpServed) -> None:
    refused = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_001
    taken = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    reader, writer = await http.raw(refused + taken + taken)
    answers = [await reader.readuntil(b"}") for _ in range(3)]
    assert [each.split()[1] for each in answers] == [b"413", b"200", b"200"]
    writer.close()


# -- compressed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("", b"text"),
        ("identity", b"text"),
        ("gzip", gzip.compress(b"text", mtime=0)),
        ("X-GZIP", gzip.compress(b"text", mtime=0)),
        ("deflate", zlib.compress(b"text")),
        ("gzip", gzip.compress(b"te", mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(b"xt", mtime=0)),
        ("gzip", gzip.compress(b"", mtime=0) * (MAX_MEMBERS - 1) + gzip.compress(b"text", mtime=0)),
    ],
)
def test_what_is_compressed_is_unpacked(encoding: str, packed: bytes) -> None:
    assert decompressed(packed, encoding, 4) == b"text"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_no_more_is_unpacked_than_is_taken(encoding: str) -> None:
    with pytest.raises(LimitExceeded):
        decompressed(gzip.compress(b"x" * 600, mtime=0) * 2, "gzip", 1199)
    packed = (gzip.compress if encoding == "gzip" else zlib.compress)(b"x" * 1_000_001)
    with pytest.raises(LimitExceeded, match="longer than max_message_bytes, 1000000"):
        decompressed(packed, encoding, 1_000_000)
    assert len(decompressed(packed, encoding, 1_000_001)) == 1_000_001


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"x"),
        ("gzip, gzip", b"x"),
        ("gzip", b"x"),
        ("gzip", b""),
        ("gzip", gzip.compress(b"text", mtime=0)[:-1]),
        ("gzip", gzip.compress(b"text", mtime=0) + b"x"),
        ("gzip", gzip.compress(b"te", mtime=0) + gzip.compress(b"xt", mtime=0)[:-1]),
        ("gzip", gzip.compress(b"", mtime=0) * (MAX_MEMBERS + 1)),
        ("deflate", gzip.compress(b"text", mtime=0)),
        ("deflate", zlib.compress(b"text") + zlib.compress(b"text")),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_compressed_otherwise(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"Content-Encoding is|the body is not"):
        decompressed(body, encoding, 100)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/predict/ranker",
        "/v1/models/ranker:predict",
        "/v1/models/ranker/tables/users:lookup",
        "/v2/models/ranker/infer",
    ],
)
async def test_what_was_compressed_counts_as_what_it_becomes(
    http: HttpServed, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    lengths: list[int] = []
    work: list[int] = []
    received, aside = OpenCall.received, OpenCall.aside
    monkeypatch.setattr(OpenCall, "received", lambda call, length: [received(call, length), lengths.append(length)])
    monkeypatch.setattr(OpenCall, "aside", lambda call, nbytes, f: [work.append(nbytes), aside(call, nbytes, f)][1])
    plain = b"[" + b" " * 90_000 + b"]"
    packed = gzip.compress(plain, mtime=0)
    answer = await http.client.post(path, content=packed, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert lengths == [len(packed), len(plain)]
    assert work == [ON_LOOP_BYTES, MAX_BYTES, len(plain)], "only the first attempt to unpack it is on the event loop"
    nothing_is_left(http.served)


# -- JSON --------------------------------------------------------------------------------------------------------------


def hostile() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "no JSON", b"{'a': 1}"
    yield "too deep", b"[" * 100_000 + b"]" * 100_000
    yield "deep objects", b'{"a":' * 100_000
    yield "many digits", b"1" * 1_000_000
    yield "not UTF-8", b'"\xff"'
    yield "UTF-16", '{"a": 1}'.encode("utf-16")
    yield "half", b'{"a": [1, 2'
    yield "two", b"1 2"


@pytest.mark.parametrize("body", [body for _, body in hostile()], ids=[name for name, _ in hostile()])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^not (JSON|UTF-8)") as caught:
        parse_json(body)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'"\\ud800"', "\ud800"),
        (b"[1e999, -1e999]", [float("inf"), -float("inf")]),
        (b"18446744073709551615", 2**64 - 1),
    ],
)
def test_what_json_may_say(body: bytes, said: Any) -> None:
    assert parse_json(body) == said


# -- styles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/nothing", {"code", "message"}),
        ("/v1/nothing", {"code", "message"}),
        ("/v1/models/a/nothing/b", {"error"}),
        ("/V1/Models/a/nothing/b", {"error"}),
        ("/v2/nothing", {"error"}),
    ],
)
async def test_what_is_not_here_is_told_in_the_style_of_its_api(http: HttpServed, path: str, keys: set[str]) -> None:
    answer = await http.client.get(path)
    # Below /v1/models/ TensorFlow Serving calls it a malformed request.
    assert (answer.status_code, answer.json().keys()) == (400 if path.lower().startswith("/v1/models/") else 404, keys)
    assert path in answer.text


async def test_a_method_that_is_none_says_which_are(http: HttpServed) -> None:
    answer = await http.client.get("/count")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"code": "UNIMPLEMENTED", "message": "Method Not Allowed: GET /count"}


@pytest.mark.parametrize("path", ["/status/", "/V1/models", "/healthz/", "/v1/predict/", "/count/", "/v2/"])
async def test_nobody_is_sent_elsewhere(http: HttpServed, path: str) -> None:
    """A redirect would go to where the client's own header says."""
    answer = await http.client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code in (404, 405)
    assert "location" not in answer.headers
