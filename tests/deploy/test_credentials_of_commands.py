"""Every command with `--target`, over TLS and with a token: by its options, and by the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.deploy.commands.options import CREDENTIALS
from ringpull.deploy.view import change_watch
from tests.certificates import Certificates
from tests.commands import COMMANDS
from tests.deploy.fake_operations import FakeOperations
from tests.guarded import TOKEN, GuardedHead, guarded_head, proxy_that_refuses, server_credentials

pytestmark = pytest.mark.net

ASKING = {
    "status": (),
    "predict": ("ranker", "--features", "item=1"),
    "lookup": ("ranker", "items", "1"),
    "load": ("/models/other",),
    "unload": ("other",),
    "label": ("ranker", "stable=3"),
    "publish": ("ranker/4",),
    "rollback": ("ranker",),
    "rebalance": ("--status",),
    "restart": ("--rolling", "--heads", "--force"),
}
"""Command -> arguments with which all it needs is a head. `loadtest` is in tests/loadtest, `plan` below."""


@pytest.fixture(scope="module")
def guarded(certificates: Certificates) -> Iterator[GuardedHead]:
    with guarded_head(server_credentials(certificates.server, certificates.ca)) as head:
        yield head


@pytest.fixture
def head(guarded: GuardedHead, monkeypatch: pytest.MonkeyPatch) -> GuardedHead:
    monkeypatch.setattr(change_watch, "POLL_S", 0.0)
    guarded.shown.clear()
    guarded.operations = FakeOperations()
    return guarded


def test_every_command_with_a_target_has_them_but_stop_which_asks_nobody() -> None:
    options = {f"--{name.replace('_', '-')}" for name in CREDENTIALS}
    for name, command in COMMANDS.items():
        there = {option for parameter in command.params for option in parameter.opts}
        if "--target" in there and name != "stop":
            assert options <= there, name


@pytest.mark.parametrize("command", ASKING)
def test_by_options(ringpull, head: GuardedHead, certificates: Certificates, command: str) -> None:
    pair = certificates.client
    files = ("--tls-ca", certificates.ca, "--tls-cert", pair.cert, "--tls-key", pair.key)
    ran = ringpull(command, *ASKING[command], "--target", head.target, *files, "--token", TOKEN, "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)
    assert set(head.shown) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("command", ASKING)
def test_by_the_environment(
    ringpull, head: GuardedHead, certificates: Certificates, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPULL_TLS_CA", str(certificates.ca))
    monkeypatch.setenv("RINGPULL_TLS_CERT", str(certificates.client.cert))
    monkeypatch.setenv("RINGPULL_TLS_KEY", str(certificates.client.key))
    monkeypatch.setenv("RINGPULL_TOKEN", TOKEN)
    ran = ringpull(command, *ASKING[command], "--target", head.target, "--json")
    assert ran.status == 0, ran.err
    assert set(head.shown) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("command", ASKING)
def test_without_a_token(ringpull, head: GuardedHead, certificates: Certificates, command: str) -> None:
    pair = certificates.client
    files = ("--tls-ca", certificates.ca, "--tls-cert", pair.cert, "--tls-key", pair.key)
    ran = ringpull(command, *ASKING[command], "--target", head.target, *files, "--json")
    assert (ran.status, ran.out) == (1, "")
    assert "a token is asked for (this client shows no token: token=, --token or RINGPULL_TOKEN" in ran.err


def test_a_plan_by_the_traffic_of_a_deployment(
    ringpull, head: GuardedHead, certificates: Certificates, tmp_path: Path
) -> None:
    """It fails for its folder, after it was let in; nothing here has one."""
    pair = certificates.client
    files = ("--tls-ca", certificates.ca, "--tls-cert", pair.cert, "--tls-key", pair.key)
    ran = ringpull("plan", tmp_path, "--memory", "1GiB", "--target", head.target, *files, "--token", TOKEN)
    assert (ran.status, head.shown) == (1, [f"Bearer {TOKEN}"])
    assert str(tmp_path) in ran.err.replace("\n", "")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--tls-ca", "/none"), "error: --tls-ca: /none cannot be read: No such file"),
        (("--tls-cert", "/none"), "error: --tls-cert: /none cannot be read"),
        (("--token", "a b"), "error: --token must be visible ASCII"),
        (("--target", "http://h:1"), "error: --target 'http://h:1': write HOST:PORT, here h:1"),
        (("--target", "h:99999"), "error: --target 'h:99999': the port is '99999'"),
    ],
)
@pytest.mark.parametrize("command", ASKING)
def test_what_is_wrong_is_named_by_its_option(ringpull, command: str, given: tuple[str, ...], says: str) -> None:
    ran = ringpull(command, *ASKING[command], "--target", "127.0.0.1:1", *given)
    assert (ran.status, ran.out) == (1, "")
    assert says in ran.err.replace("\n", " ")


def test_a_token_of_the_environment_is_never_shown(ringpull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPULL_TOKEN", "sec ret")
    ran = ringpull("status", "--target", "127.0.0.1:1")
    assert ran.err.startswith("error: RINGPULL_TOKEN must be visible ASCII")
    assert "sec ret" not in ran.err


def test_a_proxy_of_the_environment_keeps_no_command_from_this_machine(
    ringpull, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded_head() as head, proxy_that_refuses() as (address, asked):
        monkeypatch.setenv("http_proxy", f"http://{address}")
        ran = ringpull("status", "--target", head.target, "--token", TOKEN, "--json")
        assert ran.status == 0, ran.err
        assert asked == []
        ran = ringpull("status", "--target", "head.invalid:8500")
    assert f"the proxy {address} of http_proxy" in ran.err.replace("\n", " ")


def test_a_wait_of_any_length_is_one(ringpull) -> None:
    with guarded_head(token="") as head:
        for seconds in ("1e10", "1e300"):
            ran = ringpull("predict", "ranker", "--features", "item=1", "--timeout", seconds, "--target", head.target)
            assert ran.status == 0, ran.err
            assert ringpull("status", "--timeout", seconds, "--target", head.target, "--json").status == 0
