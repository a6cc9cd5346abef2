"""Clients and heads over TLS and with tokens, and what a client is told where no connection comes about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client.operations import GetStatus, OperationsClient
from ringpull.inference.errors import Forbidden, RingpullError, Unauthenticated, Unavailable
from tests.certificates import Certificates
from tests.guarded import MODEL, TOKEN, GuardedHead, guarded_head, proxy_that_refuses, server_credentials

pytestmark = pytest.mark.net

Ask = Callable[..., Awaitable[int]]


async def with_threads(target: str, **arguments: Any) -> int:
    def ask() -> int:
        with Client(target, timeout_s=30, retries=1, **arguments) as client:
            client.status(), client.models(), client.model("ranker")
            return client.predict("ranker", {"item": [1]}).version

    return await asyncio.to_thread(ask)


async def with_asyncio(target: str, **arguments: Any) -> int:
    async with AsyncClient(target, timeout_s=30, retries=1, **arguments) as client:
        await client.status(), await client.models(), await client.model("ranker")
        return (await client.predict("ranker", {"item": [1]})).version


async def with_verbs(target: str, **arguments: Any) -> int:
    def ask() -> int:
        with OperationsClient(target, timeout_s=30, **arguments) as client:
            return client.call(GetStatus()).spec.versions[0].version

    return await asyncio.to_thread(ask)


@pytest.fixture(params=[with_threads, with_asyncio, with_verbs], ids=["Client", "AsyncClient", "OperationsClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Iterator[GuardedHead]:
    with guarded_head(server_credentials(certificates.server)) as head:
        yield head


@pytest.fixture(scope="module")
def mutual(certificates: Certificates) -> Iterator[GuardedHead]:
    with guarded_head(server_credentials(certificates.server, certificates.ca), token="") as head:
        yield head


@pytest.fixture(scope="module")
def plain() -> Iterator[GuardedHead]:
    with guarded_head() as head:
        yield head


async def test_over_tls_with_a_token(ask: Ask, tls: GuardedHead, certificates: Certificates) -> None:
    tls.shown.clear()
    assert await ask(tls.target, tls_ca=certificates.ca, token=TOKEN) == MODEL.version
    assert set(tls.shown) == {f"Bearer {TOKEN}"}


async def test_by_name(ask: Ask, tls: GuardedHead, certificates: Certificates) -> None:
    by_name = tls.target.replace("127.0.0.1", "localhost")
    assert await ask(by_name, tls_ca=certificates.ca, token=TOKEN) == MODEL.version


async def test_by_the_environment(
    ask: Ask, mutual: GuardedHead, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPULL_TLS_CA", str(certificates.ca))
    monkeypatch.setenv("RINGPULL_TLS_CERT", str(certificates.client.cert))
    monkeypatch.setenv("RINGPULL_TLS_KEY", str(certificates.client.key))
    monkeypatch.setenv("RINGPULL_TOKEN", TOKEN)
    mutual.shown.clear()
    assert await ask(mutual.target) == MODEL.version
    assert set(mutual.shown) == {f"Bearer {TOKEN}"}


async def test_over_plain_text_with_a_token(ask: Ask, plain: GuardedHead) -> None:
    assert await ask(plain.target, token=TOKEN) == MODEL.version


async def test_with_credentials_of_grpc(ask: Ask, tls: GuardedHead, certificates: Certificates) -> None:
    of_grpc = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
    assert await ask(tls.target, credentials=of_grpc, token=TOKEN) == MODEL.version


async def test_who_shows_no_token_or_a_wrong_one_is_told_once(ask: Ask, plain: GuardedHead) -> None:
    plain.shown.clear()
    with pytest.raises(Unauthenticated, match=r"a token is asked for .*RINGPULL_TOKEN"):
        await ask(plain.target)
    with pytest.raises(Forbidden, match=r"^that token may not$"):
        await ask(plain.target, token="another")
    assert plain.shown == [None, "Bearer another"], "no retries"


async def told(ask: Ask, target: str, **arguments: Any) -> str:
    with pytest.raises(RingpullError) as caught:
        await ask(target, **arguments)
    assert type(caught.value) is Unavailable
    return str(caught.value)


async def test_a_certificate_of_another_ca(ask: Ask, tls: GuardedHead, certificates: Certificates) -> None:
    said = await told(ask, tls.target, tls_ca=certificates.stranger_ca.cert)
    assert f"of no authority in {certificates.stranger_ca.cert}: give the CA that signed it as tls_ca" in said


async def test_a_certificate_for_another_host(ask: Ask, certificates: Certificates) -> None:
    elsewhere = certificates.authority.sign("elsewhere", hosts=("elsewhere",))
    with guarded_head(server_credentials(elsewhere)) as head:
        said = await told(ask, head.target, tls_ca=certificates.ca)
    assert "its certificate is not for 127.0.0.1" in said


async def test_a_certificate_that_has_expired(ask: Ask, certificates: Certificates) -> None:
    with guarded_head(server_credentials(certificates.expired)) as head:
        said = await told(ask, head.target, tls_ca=certificates.ca)
    assert "its certificate has expired" in said


async def test_a_certificate_is_demanded(ask: Ask, mutual: GuardedHead, certificates: Certificates) -> None:
    said = await told(ask, mutual.target, tls_ca=certificates.ca)
    assert "perhaps it demands a certificate, which tls_cert and tls_key give" in said
    pair = certificates.stranger
    said = await told(ask, mutual.target, tls_ca=certificates.ca, tls_cert=pair.cert, tls_key=pair.key)
    assert f"perhaps it does not take the certificate {pair.cert}" in said
    pair = certificates.client
    assert await ask(mutual.target, tls_ca=certificates.ca, tls_cert=pair.cert, tls_key=pair.key) == MODEL.version


async def test_plain_text_where_tls_is_spoken(ask: Ask, tls: GuardedHead) -> None:
    assert "perhaps it speaks TLS, and needs tls_ca" in await told(ask, tls.target)


async def test_tls_where_plain_text_is_spoken(ask: Ask, plain: GuardedHead, certificates: Certificates) -> None:
    assert "it speaks no TLS: leave out tls_ca" in await told(ask, plain.target, tls_ca=certificates.ca)


async def test_a_port_of_http(ask: Ask) -> None:
    with proxy_that_refuses() as (address, _):
        assert "that is a port of HTTP: give that of gRPC" in await told(ask, address)


async def test_no_proxy_is_asked_for_what_is_on_this_machine(
    ask: Ask, plain: GuardedHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_that_refuses() as (address, asked):
        for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(variable, f"http://{address}")
        assert await ask(plain.target, token=TOKEN) == MODEL.version
        assert await ask(plain.target.replace("127.0.0.1", "localhost"), token=TOKEN) == MODEL.version
    assert asked == []


async def test_a_proxy_is_named_where_it_stands_in_the_way(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_that_refuses() as (address, asked):
        monkeypatch.setenv("http_proxy", f"http://user:secret@{address}/")
        said = await told(ask, "head.invalid:8500")
    assert set(asked) == {b"CONNECT head.invalid:8500 HTTP/1.1"}
    assert f"the proxy {address} of http_proxy: name head.invalid in no_proxy" in said
    assert "secret" not in said
