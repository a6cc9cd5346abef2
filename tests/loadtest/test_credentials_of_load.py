"""The load tools against a head that lets nobody in without TLS, a certificate and a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.deploy import cli
from ringpull.inference.client.client import Client
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.errors import InvalidInput, Unavailable
from ringpull.loadtest.find_max import find_max
from ringpull.loadtest.generator import PayloadSender
from ringpull.loadtest.http_read import read
from ringpull.loadtest.ids import parse_ids
from ringpull.loadtest.local import LOCUSTFILE
from ringpull.loadtest.messages import prepare_messages
from ringpull.loadtest.open_loop import OpenLoopPlan, run_open_loop
from ringpull.loadtest.open_loop_report import measure_rate
from ringpull.loadtest.options import parse_options
from tests.certificates import Certificates
from tests.guarded import TOKEN, GuardedHead, guarded_head, guarded_http, proxy_that_refuses, server_credentials

pytestmark = pytest.mark.net

WORKLOAD = parse_options(candidates=4, requests=4)


@pytest.fixture(scope="module")
def guarded(certificates: Certificates) -> Iterator[GuardedHead]:
    with guarded_head(server_credentials(certificates.server, certificates.ca)) as head:
        yield head


@pytest.fixture
def head(guarded: GuardedHead) -> GuardedHead:
    guarded.shown.clear()
    guarded.predictions = 0
    return guarded


@pytest.fixture(scope="module")
def credentials(certificates: Certificates) -> Credentials:
    return Credentials.given(certificates.ca, certificates.client.cert, certificates.client.key, TOKEN)


@pytest.fixture
def environment(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPULL_TLS_CA", str(certificates.ca))
    monkeypatch.setenv("RINGPULL_TLS_CERT", str(certificates.client.cert))
    monkeypatch.setenv("RINGPULL_TLS_KEY", str(certificates.client.key))
    monkeypatch.setenv("RINGPULL_TOKEN", TOKEN)


PLAN = OpenLoopPlan(rate=200, seconds=0.1)


def test_the_open_loop_goes_with_the_credentials_of_its_client(head: GuardedHead, credentials: Credentials) -> None:
    with Client(head.target, credentials=credentials) as client:
        messages = prepare_messages(client, "ranker", WORKLOAD)
        run, summary = measure_rate(client, messages, PLAN, settings={})
    assert (summary.failures, summary.requests) == (0, run.sent)
    assert head.predictions == run.sent > 0
    assert set(head.shown) == {f"Bearer {TOKEN}"}


@pytest.mark.usefixtures("environment")
def test_or_with_those_of_the_environment(head: GuardedHead) -> None:
    run = run_open_loop(head.target, [b""], PLAN)
    assert head.predictions == run.sent > 0
    assert run.latencies.failures == 0


def test_without_a_token_every_request_fails(head: GuardedHead, credentials: Credentials) -> None:
    without = Credentials.given(credentials.ca_file, credentials.cert_file, credentials.key_file, "")
    run = run_open_loop(head.target, [b""], PLAN, without)
    assert run.latencies.failures == run.sent > 0


@pytest.mark.usefixtures("environment")
def test_the_command(head: GuardedHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("loadtest", "--rate", "200", "--seconds", "0.1", "--candidates", "4", "--requests", "4", "--json")
    monkeypatch.setattr(sys, "argv", ["ringpull", *arguments, "--target", head.target])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    told = capsys.readouterr()
    assert not exit_.value.code, told.err
    assert json.loads(told.out)["failures"] == 0
    assert set(head.shown) == {f"Bearer {TOKEN}"}


def locust(head: GuardedHead, report: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "-H", head.target, "-u", "2"]
    command += ["-t", "1s", "--candidates", "4", "--requests", "4", "--report", str(report), *options]
    paths = os.pathsep.join([str(LOCUSTFILE.parents[2]), *sys.path[1:]])
    known = {name: value for name, value in os.environ.items() if not name.startswith("RINGPULL_T")}
    return subprocess.run(
        command, env={**known, "PYTHONPATH": paths, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.medium
def test_locust(head: GuardedHead, certificates: Certificates, tmp_path: Path) -> None:
    files = {"tls-ca": certificates.ca, "tls-cert": certificates.client.cert, "tls-key": certificates.client.key}
    options = [text for name, path in files.items() for text in (f"--ringpull-{name}", str(path))]
    ran = locust(head, tmp_path, *options, RINGPULL_TOKEN=TOKEN)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["failures"] == 0
    rehearsals = 1
    assert summary["requests"] == head.predictions - rehearsals > 0
    assert set(head.shown) == {f"Bearer {TOKEN}"}
    assert TOKEN not in ran.stdout + ran.stderr + "".join(
        path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*") if path.suffix in (".md", ".json")
    )


@pytest.mark.medium
def test_locust_says_what_is_wrong_before_the_run(
    head: GuardedHead, certificates: Certificates, tmp_path: Path
) -> None:
    ran = locust(head, tmp_path, "--ringpull-tls-ca", "/none")
    assert ran.returncode == 1
    assert "--ringpull-tls-ca: /none cannot be read" in ran.stderr
    ran = locust(head, tmp_path, "--ringpull-tls-ca", str(certificates.ca), "--ringpull-token", TOKEN)
    assert ran.returncode == 1
    assert "perhaps it demands a certificate" in ran.stderr
    ran = locust(head, tmp_path, "--timeout", "inf", "--ringpull-tls-ca", str(certificates.ca))
    assert ran.returncode == 1
    assert "--timeout is inf; it must be above 0, and finite" in ran.stderr


def test_http_is_read_with_tls_and_a_token_and_past_any_proxy(
    certificates: Certificates, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_that_refuses() as (proxy, asked):
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"http://{proxy}")
        with guarded_http(certificates) as (address, shown):
            assert read(address, "/healthz", credentials) == b"healthy"
        assert shown == [f"Bearer {TOKEN}"]
        with guarded_http(None) as (address, shown):
            assert read(address, "/healthz", Credentials.given("", "", "", TOKEN)) == b"healthy"
            with pytest.raises(Unavailable, match=f"^{address}/healthz: 401"):
                read(address, "/healthz", Credentials())
        assert shown == [f"Bearer {TOKEN}", None]
    assert asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": 0.0},
        {"seconds": float("nan")},
        {"seconds": 1e10},
        {"seconds": -1.0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"seed": -1},
        {"seed": 2**63},
        {"connections": 0},
        {"connections": 10**9},
    ],
    ids=repr,
)
def test_plans_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        OpenLoopPlan(**{"rate": 100.0, "seconds": 1.0, **wrong})  # type: ignore[arg-type]


def test_other_numbers_that_make_no_sense() -> None:
    for wrong in ({"seed": -1}, {"seed": 2**64}, {"requests": 10**12}, {"candidates": 10**12}):
        with pytest.raises(InvalidInput, match=f"--{next(iter(wrong))} is"):
            parse_options(**wrong)  # type: ignore[arg-type]
    for ids in (f"0..{2**63}", f"{-(2**63)}..{2**63 - 1}", "1.." + "9" * 5000, "\u0661..\u0662"):
        with pytest.raises(InvalidInput, match="--ids item="):
            parse_ids("item", ids)
    for start, bound_ms in ((float("nan"), 1.0), (float("inf"), 1.0), (1e9, 1.0), (1.0, float("nan"))):
        with pytest.raises(InvalidInput, match="find-max"):
            find_max(lambda rate: pytest.fail("nothing is to be tried"), bound_ms=bound_ms, start=start)
    with pytest.raises(InvalidInput, match="timeout_s is nan"):
        PayloadSender([], [], timeout_s=float("nan"))
