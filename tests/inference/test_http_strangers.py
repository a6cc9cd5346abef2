"""What strangers may send over HTTP, byte by byte: a head answers, or hangs up, and everybody else goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator

import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.config import HeadConfig, HttpLimits
from ringpull.inference.head.predictor import Predictor
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served, still_serves

pytestmark = pytest.mark.net

BODY = json.dumps(
    {"model": "ranker", "features": {"user": [1], "item": [1]}, "outputs": ["input0"], "request_id": "a"}
).encode()
HEADS = (
    b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nRequest-Timeout: 5\r\nContent-Length: %d\r\n\r\n" % len(BODY),
    b"POST /v1/predict/ranker HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY),
    b"POST /v1/predict HTTP/1.0\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BODY),
    b"GET /openapi.json HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nConnection: close\r\n\r\n",
)
REQUESTS = (HEADS[0] + BODY, HEADS[1] + BODY + b"\r\n0\r\n\r\n", HEADS[2] + BODY, HEADS[3], (HEADS[0] + BODY) * 3)
INSERTED = (
    b"\r\n",
    b"\x00",
    b": ",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\xff" * 9,
    b"[" * 50,
)


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    served.predictor = Predictor(served.catalog, HeadConfig(receive_timeout_s=0.2))
    async with http_served(served, limits=HttpLimits(max_connections=64, timeout_s=0.2)) as http:
        yield http


def damaged(dice: random.Random) -> bytes:
    """Return a request with up to three places cut, put in, or turned."""
    sent = bytearray(dice.choice(REQUESTS))
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(sent) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            del sent[at:]
        elif kind == 1:
            del sent[at : at + dice.randint(1, 20)]
        elif kind == 2:
            sent[at:at] = dice.choice(INSERTED)
        elif at < len(sent):
            sent[at] = dice.randrange(256)
    return bytes(sent)


async def answers_to(http: HttpServed, sent: bytes) -> list[int]:
    """Return the statuses that come until the head hangs up, or we do."""
    reader, writer = await http.raw(sent)
    try:
        got = await reader.read()
    except ConnectionError:
        got = b""
    writer.close()
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(4))
async def test_damaged_requests_are_refused_and_harm_nobody(
    http: HttpServed, client: AsyncClient, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    dice = random.Random(seed)
    for _ in range(5):
        found = await asyncio.gather(*(answers_to(http, damaged(dice)) for _ in range(20)))
        for statuses in found:
            assert set(statuses) <= {200, 304, 400, 404, 405, 413, 429, 504}, statuses
    await still_serves(client)
    assert (await http.client.get("/healthz")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert http.served.predictor.admission.in_flight_bytes == 0
    assert len(http.served.predictor.receiving) == 0


async def test_a_crowd_of_half_bodies_keeps_nobody_out(served: Served, client: AsyncClient) -> None:
    """More of them than there may be connections, each as long as is taken."""
    async with http_served(served, limits=HttpLimits(max_connections=16, timeout_s=600)) as http:
        begun = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 99_999
        crowd = [await http.raw(begun) for _ in range(60)]
        for _ in range(3):
            await still_serves(client)
            assert (await http.client.get("/healthz")).status_code == 200
            answer = await http.client.post("/v1/predict", content=BODY)
            assert (answer.status_code, answer.json()["request_id"]) == (200, "a")
        assert http.counts.ended["refused"] == 0
        for _, writer in crowd:
            writer.close()


async def test_half_bodies_hold_no_more_than_they_may(served: Served) -> None:
    served.predictor = Predictor(served.catalog, HeadConfig(max_in_flight_bytes=300_000))
    async with http_served(served) as http:
        begun = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nRequest-Timeout: 60\r\nContent-Length: 100000\r\n\r\n"
        crowd = [await http.raw(begun + b"x" * 99_000) for _ in range(8)]
        first = [asyncio.create_task(reader.readuntil(b"\r\n")) for reader, _ in crowd]
        ended: set[asyncio.Task[bytes]] = set()
        while len(ended) < 5:
            ended, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        assert {(await each).split()[1] for each in ended} == {b"429"}
        assert served.predictor.receiving.ended["memory"] == 5
        answer = await http.client.post("/v1/predict", content=BODY)
        assert answer.status_code == 200, "who sends little is let through"
        for _, writer in crowd:
            writer.close()
        await asyncio.gather(*first, return_exceptions=True)
