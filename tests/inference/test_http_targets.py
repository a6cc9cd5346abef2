"""Requests over HTTP that are written otherwise than most: whole URLs, and what is no HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from ringpull.inference.head.frontends.http import limits
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served

pytestmark = pytest.mark.net


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async with http_served(served) as http:
        yield http


async def answered(http: HttpServed, sent: bytes) -> bytes:
    reader, writer = await http.raw(sent)
    answer = await reader.read()
    writer.close()
    return answer


async def test_what_is_no_http_is_counted_and_hardly_fills_a_log(
    http: HttpServed, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        assert (await answered(http, b"NO\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert http.counts.ended["malformed"] == 10
    assert len(caplog.records) <= 1


def test_warnings_tell_how_many_were_left_out() -> None:
    now = [0.0]
    filtered = limits.NowAndThen(lambda: now[0])

    def logged(level: int) -> str:
        record = logging.LogRecord("a", level, "a", 1, "odd %s", ("thing",), None)
        return record.getMessage() if filtered.filter(record) else ""

    assert [logged(logging.WARNING) for _ in range(3)] == ["odd thing", "", ""]
    assert [logged(logging.ERROR) for _ in range(2)] == ["odd thing"] * 2
    now[0] = limits.WARNING_S
    assert logged(logging.WARNING) == "odd thing (and 2 such warnings before it)"
    now[0] *= 2
    assert logged(logging.WARNING) == "odd thing"


@pytest.mark.parametrize(
    "target", ["http://a/healthz", "HTTPS://u@[::1]:80/healthz", "http://other/healthz?a=http://b/slow", "/healthz"]
)
async def test_a_target_may_be_a_whole_url(http: HttpServed, target: str) -> None:
    assert (await answered(http, f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())).endswith(
        b'{"status":"SERVING"}'
    )


@pytest.mark.parametrize("target", ["http://a/nothing", "ftp://a/healthz", "http:/healthz", "/http://a/healthz"])
async def test_a_target_of_nothing(http: HttpServed, target: str) -> None:
    assert (await answered(http, f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())).startswith(
        b"HTTP/1.1 404"
    )


@pytest.mark.parametrize("target", ["http://a", "http://a?b=c", "http://a/", "/"])
async def test_a_url_without_a_path_is_the_page(http: HttpServed, target: str) -> None:
    answer = await answered(http, f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"text/html" in answer
