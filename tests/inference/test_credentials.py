"""Credentials: what is wrong with files and tokens shows when they are given, by name, and no token is ever shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import grpc
import httpx
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client import credentials as module
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.operations import OperationsClient
from ringpull.ps.errors import InvalidInput
from ringpull.ps.metric_families import registry_of
from ringpull.ps.metrics_server import MetricsServer
from ringpull.ps.tls import LiveTls
from tests.certificates import Certificates
from tests.patience import PATIENCE_S

VARIABLES = ("RINGPULL_TLS_CA", "RINGPULL_TLS_CERT", "RINGPULL_TLS_KEY", "RINGPULL_TOKEN")
KINDS = [Client, AsyncClient, OperationsClient]


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_nothing_is_nothing() -> None:
    none = Credentials.given()
    assert (none.tls, none.authorization, none.metadata) == (False, "", None)


@pytest.mark.parametrize("kind", KINDS)
async def test_files_and_a_token_are_taken_by_every_client(kind: type, certificates: Certificates) -> None:
    cert, key = certificates.client.cert, str(certificates.client.key)
    client = kind("127.0.0.1:1", tls_ca=certificates.ca, tls_cert=cert, tls_key=key, token="abc")
    assert client.credentials == Credentials(
        certificates.ca.read_bytes(),
        cert.read_bytes(),
        certificates.client.key.read_bytes(),
        "abc",
        str(certificates.ca),
        str(cert),
        key,
    )
    assert client.credentials.tls


@pytest.mark.parametrize("kind", KINDS)
async def test_the_environment_gives_defaults_and_an_empty_text_is_none(
    kind: type, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPULL_TOKEN", "of-the-environment")
    monkeypatch.setenv("RINGPULL_TLS_CA", str(certificates.ca))
    assert kind("127.0.0.1:1").credentials.authorization == "Bearer of-the-environment"
    assert kind("127.0.0.1:1").credentials.tls
    assert kind("127.0.0.1:1", token="mine").credentials.token == "mine"
    without = kind("127.0.0.1:1", token="", tls_ca="").credentials
    assert (without.tls, without.metadata) == (False, None)
    monkeypatch.setenv("RINGPULL_TLS_CA", "")
    assert not kind("127.0.0.1:1").credentials.tls


@pytest.mark.parametrize("kind", KINDS)
async def test_credentials_of_grpc_go_with_a_token_and_without_files(
    kind: type, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_grpc = grpc.ssl_channel_credentials()
    monkeypatch.setenv("RINGPULL_TLS_CA", "/of/no/use")
    made = kind("127.0.0.1:1", credentials=of_grpc, token="abc").credentials
    assert (made.channel, made.token, made.tls) == (of_grpc, "abc", True)
    with pytest.raises(InvalidInput, match="credentials and tls_ca both"):
        kind("127.0.0.1:1", credentials=of_grpc, tls_ca=certificates.ca)
    assert kind("127.0.0.1:1", credentials=made).credentials is made
    with pytest.raises(InvalidInput, match="credentials and token both"):
        kind("127.0.0.1:1", credentials=made, token="x")


def wrong_files(certificates: Certificates, folder: Path) -> dict[str, tuple[dict[str, object], str]]:
    """Name -> arguments, and what the message begins with."""
    pair, other = certificates.client, certificates.stranger
    half = folder / "half.pem"
    half.write_bytes(certificates.ca.read_bytes()[:200])
    text = folder / "text.pem"
    text.write_text("no certificate\n")
    return {
        "no such file": ({"tls_ca": folder / "none"}, "tls_ca: "),
        "a folder": ({"tls_ca": folder}, "tls_ca: "),
        "a text": ({"tls_ca": text}, "tls_ca: "),
        "half a certificate": ({"tls_ca": half}, "tls_ca: "),
        "a key": ({"tls_ca": pair.key}, "tls_ca: "),
        "a number": ({"tls_ca": 3}, "tls_ca is 3"),
        "bytes": ({"tls_ca": b"ca.pem"}, "tls_ca is b'ca.pem'"),
        "a NUL": ({"tls_ca": "a\0b"}, "tls_ca is"),
        "no key": ({"tls_cert": pair.cert}, "tls_cert is given without tls_key"),
        "no certificate": ({"tls_key": pair.key}, "tls_key is given without tls_cert"),
        "exchanged": ({"tls_cert": pair.key, "tls_key": pair.cert}, "tls_cert "),
        "another's key": ({"tls_cert": pair.cert, "tls_key": other.key}, "tls_key: "),
        "an encrypted key": (
            {"tls_cert": certificates.encrypted.cert, "tls_key": certificates.encrypted.key},
            "tls_key: ",
        ),
    }


WRONG_FILES = (
    "no such file",
    "a folder",
    "a text",
    "half a certificate",
    "a key",
    "a number",
    "bytes",
    "a NUL",
    "no key",
    "no certificate",
    "exchanged",
    "another's key",
    "an encrypted key",
)


@pytest.mark.parametrize("name", WRONG_FILES)
async def test_wrong_files_are_refused_by_the_arguments_name(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    arguments, begins = wrong_files(certificates, tmp_path)[name]
    for kind in KINDS:
        with pytest.raises(InvalidInput) as caught:
            kind("127.0.0.1:1", **arguments)
        assert str(caught.value).startswith(begins)


def test_what_the_environment_has_wrong_is_named_by_its_variable(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match=r"^RINGPULL_TLS_CA: /none cannot be read: No such file"):
        Credentials.given(environment={"RINGPULL_TLS_CA": "/none"})
    with pytest.raises(InvalidInput, match=r"^RINGPULL_TLS_CERT is given without tls_key"):
        Credentials.given(environment={"RINGPULL_TLS_CERT": str(certificates.client.cert)})
    with pytest.raises(InvalidInput, match=r"^--tls-ca: /none"):
        Credentials.given("/none", environment={}, options="--")
    with pytest.raises(InvalidInput, match=r"^RINGPULL_TOKEN must be visible ASCII"):
        Credentials.given(environment={"RINGPULL_TOKEN": "abc\n"})


@pytest.mark.parametrize("token", ["a b", "abc\n", "\ttab", "caf\u00e9", "nul\0", "\x7f", 7, b"abc", "x" * 5000])
async def test_a_token_that_cannot_be_sent_is_refused_at_once_and_not_shown(token: object) -> None:
    for kind in KINDS:
        with pytest.raises(InvalidInput, match=r"^token ") as caught:
            kind("127.0.0.1:1", token=token)
        assert str(token) not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_neither_token_nor_key_is_in_any_repr(kind: type, certificates: Certificates) -> None:
    client = kind("127.0.0.1:1", tls_cert=certificates.client.cert, tls_key=certificates.client.key, token="secret")
    for shown in (repr(client), repr(client.credentials), str(client.credentials)):
        assert "secret" not in shown
        assert "PRIVATE" not in shown


@pytest.mark.parametrize("kind", KINDS)
async def test_a_token_over_plain_text_is_warned_of_once_and_beyond_this_machine_only(
    kind: type, certificates: Certificates, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_warned", set())
    for _ in range(3):
        kind("10.0.0.7:1", token="abc")
        kind("127.0.0.1:1", token="abc")
        kind("[::1]:1", token="abc")
        kind("unix:/x", token="abc")
        kind("10.0.0.8:1")
        kind("10.0.0.9:1", token="abc", tls_ca=certificates.ca)
    (warning,) = [each for each in caplog.records if each.name == module.__name__]
    assert warning.levelno == logging.WARNING
    assert "10.0.0.7:1 in plain text" in warning.getMessage()
    assert "abc" not in warning.getMessage()


def test_an_unreadable_file_says_why(certificates: Certificates, tmp_path: Path) -> None:
    unreadable = tmp_path / "ca.pem"
    unreadable.write_bytes(certificates.ca.read_bytes())
    unreadable.chmod(0)
    if os.access(unreadable, os.R_OK):
        pytest.skip("who is root reads everything")
    with pytest.raises(InvalidInput, match="Permission denied"):
        Credentials.given(unreadable)


@pytest.mark.net
def test_http_trusts_the_ca_that_grpc_does_also_one_that_another_has_signed(certificates: Certificates) -> None:
    ca, shown = certificates.intermediate_ca.cert, certificates.below
    server = MetricsServer(registry_of([]), "127.0.0.1", tls=LiveTls(shown.files(ca)))
    try:
        trusted = Credentials.given(ca, shown.cert, shown.key).ssl_context()
        page = httpx.get(f"https://127.0.0.1:{server.port}/", verify=trusted, trust_env=False, timeout=PATIENCE_S)
        assert page.status_code == 200
    finally:
        server.close()
