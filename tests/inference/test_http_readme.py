"""What the page about HTTP says is so: its request fits the schema of the README beside, its paths and statuses are."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest

import ringpull.inference.head.frontends.http as http_package
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.http.gate import FREE, ROLES
from ringpull.inference.head.frontends.http.limits import ANSWER_S, MAX_HEADER_BYTES
from ringpull.inference.head.frontends.json.requests import read_request
from ringpull.inference.head.request.received import Limits
from ringpull.inference.wire.status_codes import STATUSES, TOO_LARGE
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served
from tests.inference.test_readme import schema_of_the_readme

README = (Path(http_package.__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async with http_served(served) as http:
        yield http


def test_the_request_fits_the_schema() -> None:
    request, answer = re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    read = read_request(request.encode(), "ranker", Limits(50, 50))
    prepared = schema_of_the_readme().prepare_requests(*read.columns.columns(), [3])
    assert [asdict(each) for each in prepared.context.filled] == json.loads(answer)["filled"]
    assert read.columns.rows == len(json.loads(answer)["outputs"]["score"]) == 3


@pytest.mark.net
async def test_every_path_is_there(http: HttpServed) -> None:
    named = re.findall(r"`(GET|POST) (/[^`]*)`", README)
    assert len(named) >= 9
    for method, path in named:
        if path.startswith("/metrics"):  # they are the head's, which is not here
            continue
        answer = await http.client.request(method, path.replace("MODEL", "ranker"), content=b"{")
        assert answer.status_code in (200, 400), (path, answer.text)


def test_every_path_that_asks_for_a_role_of_its_own_is_told() -> None:
    for path in ROLES:
        assert f"GET {path}`" in README, path
    assert "/healthz" in FREE


def test_every_status_is_told() -> None:
    listed = {int(code) for row in re.findall(r"^\| ([0-9, ]+) \|", README, re.MULTILINE) for code in row.split(",")}
    assert {status.http for status in (*STATUSES, TOO_LARGE)} <= listed


def test_every_limit_is_as_told() -> None:
    config = HeadConfig()
    for told in (
        f"`--max-message-bytes` ({config.max_message_bytes >> 20} MiB)",
        f"`--receive-timeout` ({config.receive_timeout_s:g} s)",
        f"`--max-request-bytes` ({config.max_in_flight_bytes >> 20} MiB)",
        f"`--max-http-connections` ({config.max_http_connections})",
        f"`--http-timeout` ({config.http_timeout_s:g} s)",
        f"| {MAX_HEADER_BYTES >> 10} KiB |",
        f"| {ANSWER_S:g} s |",
    ):
        assert told in README, told
