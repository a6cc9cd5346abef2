"""TLS between processes of a deployment: what arrives, who is refused and hears why, and files that change."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import ConnectionLost, ProtocolError, Stranger, Unavailable
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.tls import LiveTls, TlsFiles
from ringpull.ps.wire import handshakes, server
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from ringpull.ps.wire.tls_layer import TlsTransport
from tests.certificates import Certificates, Pair
from tests.ps.wire.conftest import Served
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon

pytestmark = pytest.mark.net

MIB = 1 << 20


@asynccontextmanager
async def serving(files: TlsFiles, limits: AdmissionLimits | None = None) -> AsyncIterator[Served]:
    shard = FakeShard()
    with LookupThreads(2) as threads:
        shard_server = ShardServer(shard, threads, tls=LiveTls.of(files), admission_limits=limits)
        host, port = await shard_server.start()
        try:
            yield Served(shard, shard_server, host, port)
        finally:
            shard.gate.set()
            await shard_server.close()


@asynccontextmanager
async def connected(served: Served, files: TlsFiles | LiveTls) -> AsyncIterator[Connection]:
    tls = files if isinstance(files, LiveTls) else LiveTls.of(files)
    connection = await Connection.connect(served.host, served.port, tls=tls)
    try:
        yield connection
    finally:
        await connection.close()


async def asked(connection: Connection, request: PullRequest) -> PullReply:
    reply = await connection.request(request, deadline_s=soon())
    assert isinstance(reply, PullReply)
    return reply


async def why_not(served: Served, files: TlsFiles) -> str:
    """Return what a caller that is not taken hears, at once or with its first request."""
    with pytest.raises(Unavailable) as caught:
        async with connected(served, files) as connection:
            await asked(connection, pull_of(1))
    return str(caught.value)


@pytest.mark.parametrize("mutual", [False, True])
async def test_replies_come_over_tls(certificates: Certificates, mutual: bool) -> None:
    """Between processes both ends show the certificate, whether clients have to or not."""
    files = certificates.mutual if mutual else certificates.tls
    async with serving(files) as served, connected(served, files) as connection:
        replies = await asyncio.gather(*[asked(connection, pull_of(key, key + 1)) for key in range(50)])
        assert [list(each.values) for each in replies] == [[key, key + 1] for key in range(50)]
        assert served.server.handshakes_refused == 0


@pytest.mark.medium
async def test_a_big_pull_is_right(certificates: Certificates) -> None:
    async with serving(certificates.tls) as served, connected(served, certificates.tls) as connection:
        served.shard.values_per_key = 256
        keys = np.arange(64 * MIB // 1024, dtype=np.uint64)
        whole = pull_of(*keys.tolist())
        small, big = await asyncio.gather(asked(connection, pull_of(7)), asked(connection, whole))
        assert small.values[0] == 7
        assert big.values.nbytes == 64 * MIB
        assert np.array_equal(big.values.reshape(-1, 256)[:, 0], keys)
        assert np.array_equal(big.values.reshape(-1, 256)[:, 255], keys)


@pytest.mark.medium
async def test_what_a_peer_does_not_read_is_not_encrypted(certificates: Certificates) -> None:
    """It waits as the arrays it was made of: once in memory. The shard reads nothing more of such a peer."""
    async with serving(certificates.tls) as served, connected(served, certificates.tls) as connection:
        served.shard.values_per_key = 256
        transport = connection._transport
        assert isinstance(transport, TlsTransport)
        transport.pause_reading()
        keys = np.arange(32 * MIB // 1024, dtype=np.uint64).tolist()
        waiting = [asyncio.create_task(asked(connection, pull_of(*keys))) for _ in range(2)]
        theirs: TlsTransport | None = None
        while theirs is None or theirs.get_write_buffer_size() < 24 * MIB:
            await asyncio.sleep(0.01)
            for each in served.server._connections:
                assert isinstance(each._transport, TlsTransport)
                theirs = each._transport
        assert theirs._layer.socket.get_write_buffer_size() < 2 * MIB
        assert not theirs.is_reading()
        transport.resume_reading()
        for reply in await asyncio.gather(*waiting):
            assert np.array_equal(reply.values.reshape(-1, 256)[:, 9], keys)


async def test_strangers_are_refused_and_hear_why(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    strange = certificates.stranger.files(certificates.stranger_ca.cert)
    async with serving(certificates.mutual) as served:
        assert "its certificate is not taken" in await why_not(served, strange)
        # One that takes any certificate, and shows one that nobody knows: it is the shard that refuses.
        careless = LiveTls(strange)
        careless.members.client.verify_mode = ssl.CERT_NONE
        for _ in range(20):
            with pytest.raises(ConnectionLost, match="it does not know the CA of the certificate shown to it"):
                async with connected(served, careless) as connection:
                    await asked(connection, pull_of(1))
        assert served.server.handshakes_refused == 21
        assert served.shard.pulls == 0
        assert [each.levelno for each in caplog.records].count(logging.WARNING) == 1
        async with connected(served, certificates.mutual) as connection:
            assert (await asked(connection, pull_of(5))).values[0] == 5


async def test_a_deployment_without_a_ca_takes_its_own_certificate_only(certificates: Certificates) -> None:
    async with serving(certificates.tls) as served:
        assert "its certificate is not taken" in await why_not(served, certificates.renewed.files())
        assert "its certificate is not taken" in await why_not(served, certificates.stranger.files())


async def test_plain_text_at_a_tls_port_hears_why(certificates: Certificates) -> None:
    async with serving(certificates.tls) as served:
        connection = await Connection.connect(served.host, served.port)
        with pytest.raises(Stranger, match="this shard speaks TLS only"):
            await asked(connection, pull_of(1))
        await connection.close()
        assert served.server.handshakes_refused == 1
        assert served.server.connections == 0


async def test_tls_at_a_plain_port_hears_why(certificates: Certificates, served: Served) -> None:
    assert "it does not speak TLS" in await why_not(served, certificates.tls)
    assert (await asked(await served.connect(), pull_of(6))).values[0] == 6


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01" + b"\xff" * 4_000, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000])
async def test_nonsense_harms_no_other(certificates: Certificates, nonsense: bytes) -> None:
    async with serving(certificates.tls) as served, connected(served, certificates.tls) as connection:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(nonsense)
        writer.write_eof()
        await reader.read()
        writer.close()
        assert (await asked(connection, pull_of(1))).values[0] == 1


async def test_a_handshake_that_never_ends_has_a_time_limit(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "HANDSHAKE_S", 0.01)
    async with serving(certificates.tls) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        assert await reader.read() == b""
        assert served.server.handshakes_refused == 1
        writer.close()


@pytest.fixture
def strangers() -> Iterator[list[socket.socket]]:
    """Connections that a test opens and that say nothing."""
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


async def silence(served: Served, strangers: list[socket.socket], number: int, at: str = "127.0.0.1") -> None:
    """Open connections from an address, one after the other, as the shard takes them."""
    for _ in range(number):
        before = begun(served)
        strangers.append(socket.create_connection((served.host, served.port), source_address=(at, 0)))
        while begun(served) == before:
            await asyncio.sleep(0)


def begun(served: Served) -> int:
    return len(served.server._handshakes or ()) + served.server.handshakes_refused


@pytest.mark.medium
async def test_strangers_that_say_nothing_keep_no_member_out(
    certificates: Certificates, strangers: list[socket.socket]
) -> None:
    async with serving(certificates.tls, AdmissionLimits(max_connections=20)) as served, AsyncExitStack() as stack:
        await silence(served, strangers, 40)
        members = [await stack.enter_async_context(connected(served, certificates.tls)) for _ in range(20)]
        for key, each in enumerate(members):
            assert (await asked(each, pull_of(key))).values[0] == key
        assert begun(served) == 40
        assert "max_connections" in await refusal_of_one_too_many(served, certificates)


async def test_too_many_handshakes_end_the_oldest_of_the_address_that_has_most(
    certificates: Certificates, strangers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_HANDSHAKES", 5)
    async with serving(certificates.tls) as served:
        await silence(served, strangers, 2, "127.0.0.2")
        await silence(served, strangers, 7, "127.0.0.3")
        while served.server.handshakes_refused < 4:
            await asyncio.sleep(0)
        assert len(served.server._handshakes or ()) == 5
        for each in strangers:
            each.setblocking(False)
        loop = asyncio.get_running_loop()
        for each in strangers[2:6]:
            with suppress(ConnectionError):
                assert await loop.sock_recv(each, 1) == b""
        for each in (*strangers[:2], *strangers[6:]):
            with pytest.raises(BlockingIOError):
                each.recv(1)
        async with connected(served, certificates.tls) as connection:
            assert (await asked(connection, pull_of(3))).values[0] == 3
        assert served.server.handshakes_refused == 5, "each is counted once"


async def refusal_of_one_too_many(served: Served, certificates: Certificates) -> str:
    """Return what one hears that is one too many once the shard has seen the others."""
    while True:
        try:
            async with connected(served, certificates.tls) as connection:
                await asked(connection, pull_of(1))
        except ProtocolError as exc:
            return str(exc)


async def test_a_stopping_shard_hangs_up_on_whoever_shakes_hands(certificates: Certificates) -> None:
    async with serving(certificates.tls) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        while not served.server._handshakes:
            await asyncio.sleep(0)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.readexactly(1)
    writer.close()


async def test_replies_in_flight_are_sent_before_a_shard_closes(certificates: Certificates) -> None:
    async with serving(certificates.tls) as served, connected(served, certificates.tls) as connection:
        served.shard.values_per_key = 60_000
        waiting = [asyncio.create_task(asked(connection, pull_of(key, model=GATED))) for key in range(5)]
        await asyncio.to_thread(served.shard.entered.wait)
        while served.server.in_flight < 5:
            await asyncio.sleep(0)
        closing = asyncio.create_task(served.server.close(grace_s=30.0))
        await asyncio.sleep(0)
        served.shard.gate.set()
        assert [each.values[0] for each in await asyncio.gather(*waiting)] == list(range(5))
        await closing


def write(pair: Pair, to: Pair) -> None:
    shutil.copy(pair.cert, to.cert)
    shutil.copy(pair.key, to.key)


@pytest.mark.medium
@pytest.mark.parametrize("mutual", [False, True])
async def test_certificates_are_exchanged_under_load(certificates: Certificates, tmp_path: Path, mutual: bool) -> None:
    """One file after the other, with pulls on new and on old connections between any two steps: none fails."""
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    write(certificates.server, pair)
    files = pair.files(certificates.ca if mutual else None)
    ours = LiveTls(files)
    async with serving(files) as served, connected(served, ours) as old:

        async def works() -> str:
            async with connected(served, ours) as new:
                for connection in (old, new):
                    assert (await asked(connection, pull_of(4))).values[0] == 4
                assert new._transport is not None
                shown = new._transport.get_extra_info("ssl_object").getpeercert()
                return str(dict(shown["subject"][0])["commonName"])

        assert await works() == "server"
        for now, other in ((certificates.renewed, "renewed"), (certificates.server, "server")) * 2:
            for source, target in ((now.cert, pair.cert), (now.key, pair.key)):
                content = source.read_bytes()
                target.write_bytes(content[: len(content) // 2])
                await works()
                target.write_bytes(content)
                last = await works()
            assert last == other
        assert served.server.handshakes_refused == 0


async def test_files_that_change_between_the_looks_of_both_ends_cost_no_connection(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    write(certificates.server, pair)
    ours = LiveTls(pair.files())
    async with serving(pair.files()) as served:
        looked = ours.members  # ... and then both files are exchanged
        write(certificates.renewed, pair)
        served.server._handshakes._context()  # type: ignore[union-attr]
        first = [looked]
        monkeypatch.setattr(LiveTls, "members", property(lambda self: first.pop() if first else real(self)))
        async with connected(served, ours) as connection:
            assert (await asked(connection, pull_of(8))).values[0] == 8


real = LiveTls.members.fget  # type: ignore[attr-defined]
