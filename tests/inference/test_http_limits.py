"""HTTP connections that ask little or nothing: how many there may be, how long, and what is left to everybody else."""

from __future__ import annotations

import asyncio
import resource
import select
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HttpLimits
from ringpull.inference.head.frontends.grpc.server import DESCRIPTOR_SHARE as GRPC_SHARE
from ringpull.inference.head.frontends.http import limits
from ringpull.inference.head.frontends.http import server as http_server
from ringpull.inference.head.frontends.http.limits import DESCRIPTOR_SHARE, MAX_HEADER_BYTES, ConnectionCounts
from ringpull.inference.head.frontends.http.server import HttpServer
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.head.process import HeadProcess
from ringpull.ps import tls
from ringpull.ps.descriptors import part_of_descriptors
from ringpull.ps.tls import NO_TLS, LiveTls, TlsFiles
from ringpull.ps.tls_contexts import TlsText
from ringpull.router.shard_map import ShardMap
from tests.certificates import Certificates, Pair
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

WHOLE = b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = WHOLE[:-4]


class Served:
    """A server of few connections."""

    def __init__(
        self,
        max_connections: int,
        timeout_s: float,
        secure: Certificates | None = None,
        files: TlsFiles = NO_TLS,
    ) -> None:
        self._secure = secure
        self.counts = ConnectionCounts()
        self.gate = asyncio.Event()
        self.asked = 0
        self.cancelled = 0
        self.peers: list[Peer] = []
        bound = claim("http", "127.0.0.1", 0)
        self.port = bound.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/quick", self._quick, methods=["GET", "POST"]),
                Route("/slow", self._slow),
                Route("/body", self._body, methods=["POST"]),
                Route("/large", self._large),
            ]
        )
        self.server = HttpServer(
            app,
            bound,
            HttpLimits(max_connections=max_connections, timeout_s=timeout_s),
            self.counts,
            tls=LiveTls.of(secure.tls if secure else files),
        )

    async def _quick(self, request: Request) -> Response:
        return PlainTextResponse("here")

    async def _slow(self, request: Request) -> Response:
        self.asked += 1
        await self.gate.wait()
        return PlainTextResponse("at last")

    async def _body(self, request: Request) -> Response:
        self.asked += 1
        try:
            return PlainTextResponse(str(len(await request.body())))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _large(self, request: Request) -> Response:
        self.asked += 1
        return PlainTextResponse("x" * (16 << 20))

    async def send(self, data: bytes) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self.peers.append(peer)
        peer.writer.write(data)
        await peer.writer.drain()
        return peer

    async def ask(self) -> str:
        trusted = ssl.create_default_context(cafile=str(self._secure.ca)) if self._secure else False
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, verify=trusted) as http:
            return (await http.get(f"http{'s' if self._secure else ''}://127.0.0.1:{self.port}/quick")).text

    async def stop(self) -> None:
        self.gate.set()
        for peer in self.peers:
            peer.writer.close()
        await self.server.stop()

    async def opened(self, count: int) -> None:
        while self.counts.open != count:
            await asyncio.sleep(0.001)


class Peer:
    """One connection of a stranger."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def rest(self) -> bytes:
        """Return what comes until the server hangs up."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served(max_connections=4, timeout_s=600)
    yield served
    await served.stop()


@pytest.fixture
async def hurried() -> AsyncIterator[Served]:
    hurried = Served(max_connections=4, timeout_s=0.05)
    yield hurried
    await hurried.stop()


HALF_A_BODY = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 90_000
HALF_A_CHUNK = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"x" * 90_000


@pytest.mark.parametrize(
    "sent",
    [b"", HALF, b"GET", HALF_A_BODY, HALF_A_CHUNK],
    ids=["nothing", "half a request", "a word", "half a body", "half a chunk"],
)
async def test_half_sent_requests_keep_nobody_out(served: Served, sent: bytes) -> None:
    strangers = [await served.send(sent) for _ in range(20)]
    for _ in range(10):
        assert await served.ask() == "here"
    assert served.counts.open <= 4
    assert served.counts.ended["full"] >= 16
    assert await strangers[0].rest() == b""


@pytest.mark.medium
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"], ids=["nothing", "half a hello"])
async def test_handshakes_that_never_end_keep_nobody_out(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(limits, "part_of_descriptors", lambda part, at_most: at_most)
    served = Served(max_connections=150, timeout_s=600, secure=certificates)
    strangers = [await served.send(sent) for _ in range(300)]
    for _ in range(3):
        assert await served.ask() == "here"
    assert served.counts.open <= 150
    assert served.counts.ended["full"] >= 150
    assert served.counts.ended["refused"] == 0
    assert await strangers[0].rest() == b""
    await served.stop()


def hello() -> bytes:
    """Return what a client of TLS begins with."""
    sent = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


async def test_handshakes_are_done_one_in_a_turn_of_the_loop(certificates: Certificates) -> None:
    """Predictions run on that loop; whoever connects may begin one."""
    served = Served(max_connections=256, timeout_s=600, secure=certificates)
    strangers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(40)]
    for each in strangers:
        each.sendall(hello())
    silent, most = strangers, 0
    while silent:
        await asyncio.sleep(0)
        answered, _, _ = select.select(silent, [], [], 0)
        silent = [each for each in silent if each not in answered]
        most = max(most, len(answered))
    assert most <= 2, "what a turn has made may be sent by the next"
    assert await served.ask() == "here"
    for each in strangers:
        each.close()
    await served.stop()


async def test_connections_have_the_loop_read_no_files(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(max_connections=256, timeout_s=600, secure=certificates)
    looks: list[int] = []
    read = tls.read

    def seen(files: TlsFiles) -> TlsText:
        looks.append(threading.get_ident())
        return read(files)

    monkeypatch.setattr(tls, "read", seen)
    for _ in range(5):
        assert await served.ask() == "here"
    assert threading.get_ident() not in looks
    await served.stop()


async def test_new_files_are_shown_to_who_connects_then(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(http_server, "LOOK_S", 0.001)
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")

    def write(now: Pair) -> None:
        shutil.copy(now.cert, pair.cert)
        shutil.copy(now.key, pair.key)

    write(certificates.server)
    served = Served(max_connections=256, timeout_s=600, files=pair.files())
    for now in (certificates.server, certificates.renewed):
        write(now)
        shown = ""
        while shown != now.cert.read_text():
            shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", served.port))
    await served.stop()


async def test_idle_connections_make_room_too(served: Served) -> None:
    idle = [await served.send(WHOLE) for _ in range(4)]
    for peer in idle:
        assert await peer.reader.readuntil(b"here")
    assert await served.ask() == "here"


async def test_who_is_being_answered_is_not_ended_and_one_more_is_hung_up_on(served: Served) -> None:
    asked = WHOLE.replace(b"quick", b"slow")
    peers = [await served.send(asked) for _ in range(4)]
    while served.asked < 4:
        await asyncio.sleep(0.001)
    assert await (await served.send(WHOLE)).rest() == b""
    assert served.counts.ended["refused"] == 1
    served.gate.set()
    for peer in peers:
        assert b"at last" in await peer.reader.readuntil(b"at last")


@pytest.mark.parametrize(
    "sent",
    [b"", HALF, WHOLE, b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf"],
    ids=["nothing", "half a header", "idle", "half a body"],
)
async def test_time_is_limited_whatever_is_left_out(hurried: Served, sent: bytes) -> None:
    await (await hurried.send(sent)).rest()
    assert hurried.counts.ended["timeout"] == 1
    assert hurried.counts.open == 0


@pytest.mark.parametrize(
    "begun", [b"GET /quick HTTP/1.1\r\nX: ", b"POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"]
)
async def test_bytes_that_drip_buy_no_time(hurried: Served, begun: bytes) -> None:
    peer = await hurried.send(begun)

    async def drip() -> None:
        while True:
            peer.writer.write(b"x")
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    await peer.rest()
    dripping.cancel()
    assert hurried.counts.ended["timeout"] == 1


async def test_who_asks_again_in_time_stays(served: Served) -> None:
    peer = await served.send(WHOLE)
    for _ in range(5):
        await peer.reader.readuntil(b"here")
        peer.writer.write(WHOLE)
    assert served.counts.open == 1


async def test_an_answer_that_is_not_read_ends(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(limits, "ANSWER_S", 0.05)
    peer = await served.send(WHOLE.replace(b"quick", b"slow"))
    assert await peer.rest() == b""
    assert served.counts.ended["timeout"] == 1


@pytest.mark.medium
async def test_answers_that_are_not_read_keep_nobody_out(served: Served) -> None:
    strangers = [await served.send(WHOLE) for _ in range(4)]
    asking = [asyncio.create_task(ask_for_ever(peer)) for peer in strangers]
    for _ in range(10):
        assert await served.ask() == "here"
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert served.counts.ended["refused"] == 0


async def ask_for_ever(peer: Peer) -> None:
    while True:
        peer.writer.write(WHOLE * 100)
        await peer.writer.drain()


@pytest.mark.medium
async def test_however_many_answers_are_not_read_they_have_one_time(
    monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    monkeypatch.setattr(limits, "ANSWER_S", 0.05)
    peer = await served.send(WHOLE.replace(b"quick", b"large") * 20)
    while not served.counts.ended["timeout"]:
        await asyncio.sleep(0.001)
    assert served.counts.open == 0
    assert served.asked < 20, "it was ended while the rest waited"
    peer.writer.close()


async def test_an_endless_header_is_refused(served: Served) -> None:
    peer = await served.send(b"GET /quick HTTP/1.1\r\nX: " + b"x" * (2 * MAX_HEADER_BYTES))
    assert (await peer.rest()).startswith(b"HTTP/1.1 400")


async def test_bodies_that_drip_keep_nobody_out_and_their_requests_are_cancelled(served: Served) -> None:
    strangers = [await served.send(HALF_A_BODY) for _ in range(4)]

    async def drip(peer: Peer) -> None:
        while True:
            peer.writer.write(b"x")
            await asyncio.sleep(0.001)

    dripping = [asyncio.create_task(drip(peer)) for peer in strangers]
    while served.asked < 4:
        await asyncio.sleep(0.001)
    for _ in range(10):
        assert await served.ask() == "here"
    for each in dripping:
        each.cancel()
    assert served.counts.ended["refused"] == 0
    while served.cancelled < served.counts.ended["full"]:
        await asyncio.sleep(0.001)
    assert served.cancelled >= 1


async def test_a_whole_body_is_answered_where_there_is_no_room(served: Served) -> None:
    """Who has sent all of a request is not ended for the next one."""
    asked = WHOLE.replace(b"quick", b"slow")
    peers = [await served.send(asked) for _ in range(3)]
    while served.asked < 3:
        await asyncio.sleep(0.001)
    peer = await served.send(HALF_A_BODY)
    peer.writer.write(b"x" * 910_000)
    assert (await peer.reader.readuntil(b"\r\n\r\n1000000")).startswith(b"HTTP/1.1 200")
    served.gate.set()
    for each in peers:
        assert b"at last" in await each.reader.readuntil(b"at last")


async def test_a_request_ends_with_its_connection_and_no_error_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for end in ("close", "abort"):
        peer = await served.send(HALF_A_BODY)
        before = served.cancelled
        while served.asked == before:
            await asyncio.sleep(0.001)
        getattr(peer.writer if end == "close" else peer.writer.transport, end)()
        while served.cancelled == before:
            await asyncio.sleep(0.001)
        await served.opened(0)
    assert not caplog.records


async def test_who_goes_away_leaves_no_trace(served: Served) -> None:
    peers = [await served.send(HALF) for _ in range(3)]
    await served.opened(3)
    for peer in peers:
        peer.writer.close()
    await served.opened(0)


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_http_leaves_descriptors_to_the_others(few_descriptors: int) -> None:
    assert part_of_descriptors(GRPC_SHARE, 4096) == 160
    assert part_of_descriptors(DESCRIPTOR_SHARE, 256) == 32
    assert part_of_descriptors(DESCRIPTOR_SHARE, 5) == 5
    served = Served(max_connections=256, timeout_s=600)
    for _ in range(70):
        await served.send(HALF)
    assert await served.ask() == "here"
    assert served.counts.open <= 32
    await served.stop()


@pytest.mark.medium
def test_half_sent_requests_leave_grpc_its_descriptors(head: HeadProcess, nobody: ShardMap) -> None:
    """On the head's own loop; strangers and head share this process's descriptors, so that the strangers' are had
    before."""
    address = head.route(nobody, {}, [])
    strangers = [socket.socket() for _ in range(380)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(each.fileno() for each in strangers) + 300, hard))
    try:
        for each in strangers:
            each.connect((address.host, address.http_port))
            each.sendall(HALF)
        for _ in range(3):
            with Client(f"{address.host}:{address.grpc_port}", timeout_s=PATIENCE_S, retries=0) as client:
                assert client.status().epoch == nobody.epoch
            assert (
                httpx.get(f"http://{address.host}:{address.http_port}/healthz", timeout=PATIENCE_S).status_code == 200
            )
    finally:
        for each in strangers:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_process_without_a_descriptor_takes_connections_when_it_has_one(few_descriptors: int) -> None:
    served = Served(max_connections=256, timeout_s=600)
    peer = socket.socket()
    peer.setblocking(False)
    taken = []
    try:
        while True:
            taken.append(socket.socket())
    except OSError:
        pass
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", served.port))
    await loop.sock_sendall(peer, WHOLE)
    await asyncio.sleep(0.01)
    assert served.counts.open == 0
    for each in taken:
        each.close()
    assert b"here" in await loop.sock_recv(peer, 10_000)
    peer.close()
    await served.stop()
