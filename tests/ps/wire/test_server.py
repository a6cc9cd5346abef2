"""The shard's end: off the loop, in any order, and one bad connection harms no other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import ConnectionLost, LimitExceeded, ProtocolError, StartupError, Unavailable
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.wire import server as server_module
from ringpull.ps.wire.codec import CONNECTION_ID, decode_hello, decode_reply, encode_hello, encode_request
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.frames import REPLIES, REPLY_LIMITS, Decoder, Frame, Kind, Limits
from ringpull.ps.wire.messages import ANYONE, ErrorReply, RangePullReply, RangePullRequest, Reply, StatisticsRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.conftest import Served
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon
from tests.ps.wire.feeding import feed, joined

pytestmark = pytest.mark.net

BAD_HEADER = joined(encode_request(StatisticsRequest(), 1, 10))[:-8] + b"\x91\x91\x00".ljust(8, b"\0")


class Stranger:
    """A peer that writes any bytes it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._decoder = Decoder(REPLIES, REPLY_LIMITS)

    async def greet(self) -> None:
        """Say hello, and take the answer to it."""
        self.writer.write(joined(encode_hello(ANYONE)))
        frames: list[Frame] = []
        while not frames:
            frames = feed(self._decoder, await self._reader.read(1 << 16))
        assert [decode_hello(frame, Kind.HELLO_REPLY) for frame in frames] == [ANYONE]

    async def read(self, count: int | None = None) -> dict[int, Reply]:
        """Return request id -> reply of the next `count` frames, or of all until the server hangs up."""
        replies: dict[int, Reply] = {}
        while count is None or len(replies) < count:
            data = await self._reader.read(1 << 16)
            if not data:
                break
            replies |= {frame.request_id: decode_reply(frame) for frame in feed(self._decoder, data)}
        return replies


@asynccontextmanager
async def stranger(served: Served, *, greets: bool = True) -> AsyncIterator[Stranger]:
    reader, writer = await asyncio.open_connection(served.host, served.port)
    peer = Stranger(reader, writer)
    try:
        if greets:
            await peer.greet()
        yield peer
    finally:
        writer.close()


async def still_serves(connection: Connection) -> bool:
    return isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_verbs_run_off_the_event_loop(served: Served) -> None:
    connection = await served.connect()
    await connection.request(pull_of(1), deadline_s=soon())
    assert served.shard.threads
    assert threading.current_thread().name not in served.shard.threads


async def test_an_expired_request_is_answered_without_work(served: Served) -> None:
    async with stranger(served) as peer:
        peer.writer.write(joined(encode_request(pull_of(1), 9, 0)))
        [reply] = (await peer.read(1)).values()
    assert isinstance(reply, ErrorReply)
    assert reply.code == "DEADLINE_EXCEEDED"
    assert served.shard.pulls == 0


async def test_time_spent_waiting_for_a_thread_counts(served: Served) -> None:
    async with stranger(served) as peer:
        for number in range(2):  # as many as there are threads
            peer.writer.write(joined(encode_request(pull_of(1, model=GATED), 1 + number, 60_000_000)))
        peer.writer.write(joined(encode_request(pull_of(2), 5, 1)) + joined(encode_request(pull_of(3), 6, 60_000_000)))
        while served.server.in_flight < 4 or served.shard.pulls < 2:
            await asyncio.sleep(0)
        served.shard.gate.set()
        replies = await peer.read(4)
    assert {number: type(reply) for number, reply in replies.items()} == {
        1: PullReply,
        2: PullReply,
        5: ErrorReply,
        6: PullReply,
    }


async def test_statistics_do_not_wait_for_look_ups(served: Served) -> None:
    """They are what a router asks for to learn whether a shard is alive."""
    connection = await served.connect()
    gated = [asyncio.create_task(connection.request(pull_of(key, model=GATED), deadline_s=soon())) for key in range(9)]
    while served.shard.pulls < 2:  # as many as there are threads
        await asyncio.sleep(0)
    assert not isinstance(await connection.request(StatisticsRequest(), deadline_s=soon()), ErrorReply)
    assert not any(pull.done() for pull in gated)
    served.shard.gate.set()
    await asyncio.gather(*gated)


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + bytes(64), "begins with b'GET '"),
        (b"\0" * 1_000_000, "begins with"),
        (BAD_HEADER, "header"),
        (BAD_HEADER + bytes(5_000_000), "header"),
    ],
)
async def test_nonsense_is_answered_with_a_reason_and_the_end(
    served: Served, nonsense: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = await served.connect()
    async with stranger(served) as peer:
        peer.writer.write(nonsense)
        replies = await peer.read()
    reply = replies.pop(CONNECTION_ID)
    assert not replies
    assert isinstance(reply, ErrorReply)
    assert reply.code == "PROTOCOL_ERROR"
    assert reason in reply.message
    assert await still_serves(healthy)
    assert not caplog.records, "the transport found nothing wrong"


async def test_a_peer_that_leaves_mid_frame_is_forgotten(served: Served) -> None:
    async with stranger(served) as peer:
        peer.writer.write(joined(encode_request(pull_of(1), 1, 1_000_000))[:-3])
        peer.writer.write_eof()
        assert await peer.read() == {}
    assert await still_serves(await served.connect())
    assert "1 connections" in repr(served.server)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=32, max_size=200), cut=st.integers(0, 100))
async def test_a_fuzzed_connection_harms_no_other(served: Served, data: bytes, cut: int) -> None:
    healthy = served.connections[0] if served.connections else await served.connect()
    async with stranger(served) as peer:
        peer.writer.write(joined(encode_request(pull_of(1), 1, 60_000_000))[:cut] + data)
        peer.writer.write_eof()
        assert (await peer.read()).keys() <= {CONNECTION_ID, 1}
    assert await still_serves(healthy)


async def test_a_flood_is_paced_and_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than one connection may have in flight: the server stops reading, then goes on."""
    monkeypatch.setattr(server_module, "MAX_IN_FLIGHT", 4)
    connection = await served.connect()
    gated = [asyncio.create_task(connection.request(pull_of(key, model=GATED), deadline_s=soon())) for key in range(50)]
    big = [
        asyncio.create_task(connection.request(pull_of(*range(50_000), model=GATED), deadline_s=soon()))
        for _ in range(20)
    ]
    while served.shard.pulls < 2:
        await asyncio.sleep(0)
    served.shard.gate.set()
    assert all(isinstance(reply, PullReply) for reply in await asyncio.gather(*gated, *big))


@pytest.mark.medium
async def test_a_peer_that_does_not_read_is_not_read_from(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replies pile up in the sockets' buffers, not in the server; others are served meanwhile."""
    monkeypatch.setattr(server_module, "MAX_IN_FLIGHT", 4)
    served.shard.values_per_key = 100
    healthy = await served.connect()
    count = 150
    async with stranger(served) as peer:
        for number in range(count):  # 60 MB of replies
            peer.writer.write(joined(encode_request(pull_of(*range(1000)), number + 1, 60_000_000)))
        asks = 20
        for _ in range(asks):
            assert await still_serves(healthy)
        assert served.shard.pulls < count + asks
        replies = await peer.read(count)
    assert all(isinstance(reply, PullReply) for reply in replies.values())
    assert served.shard.pulls == count + asks


async def test_streams_and_pulls_do_not_wait_for_each_other() -> None:
    shard = FakeShard()
    with LookupThreads() as threads, LookupThreads() as streams:
        server = ShardServer(shard, threads, streams=streams)
        connection = await Connection.connect(*await server.start())
        stuck = asyncio.create_task(connection.request(pull_of(5, model=GATED), deadline_s=soon()))
        block = await connection.request(RangePullRequest("m", 1, "t", 0, 9, 0, 100), deadline_s=soon())
        assert isinstance(block, RangePullReply)
        assert not stuck.done()
        shard.gate.set()
        assert isinstance(await stuck, PullReply)
        await connection.close()
        await server.close()


async def test_a_reply_over_the_limit_is_an_error_of_that_request() -> None:
    with LookupThreads() as threads:
        server = ShardServer(FakeShard(), threads, reply_limits=Limits(payload_bytes=100))
        connection = await Connection.connect(*await server.start())
        with pytest.raises(LimitExceeded, match="buffers take"):
            await connection.request(pull_of(*range(100)), deadline_s=soon())
        assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)
        await connection.close()
        await server.close()


async def test_a_request_over_the_servers_limit_ends_the_connection() -> None:
    with LookupThreads() as threads:
        server = ShardServer(FakeShard(), threads, request_limits=Limits(payload_bytes=100))
        connection = await Connection.connect(*await server.start())
        with pytest.raises(ProtocolError, match="the limit is 100"):
            await connection.request(pull_of(*range(100)), deadline_s=soon())
        await connection.close()
        await server.close()


async def test_closing_answers_what_is_in_flight(served: Served) -> None:
    connection = await served.connect()
    task = asyncio.create_task(connection.request(pull_of(5, model=GATED), deadline_s=soon()))
    while not served.shard.entered.is_set():
        await asyncio.sleep(0)
    closing = asyncio.create_task(served.server.close(grace_s=30.0))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await still_serves(await served.connect())
    served.shard.gate.set()
    reply = await task
    assert isinstance(reply, PullReply)
    assert reply.values.tolist() == [5]
    await closing
    with pytest.raises(ConnectionLost):
        await connection.request(pull_of(1), deadline_s=soon())


async def test_closing_does_not_wait_beyond_its_grace(served: Served) -> None:
    connection = await served.connect()
    task = asyncio.create_task(connection.request(pull_of(5, model=GATED), deadline_s=soon()))
    while not served.shard.entered.is_set():
        await asyncio.sleep(0)
    await served.server.close(grace_s=0.05)
    with pytest.raises(ConnectionLost):
        await task


async def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken, LookupThreads() as threads:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"127.0.0.1:{port}"):
            await ShardServer(FakeShard(), threads).start("127.0.0.1", port)


async def test_requests_of_random_sizes_at_random_times(served: Served) -> None:
    rng = np.random.default_rng(7)
    connections = [await served.connect() for _ in range(3)]

    async def ask(number: int) -> None:
        keys = rng.integers(0, 2**20, rng.integers(0, 5000)).tolist()
        reply = await connections[number % 3].request(pull_of(*keys), deadline_s=soon())
        assert isinstance(reply, PullReply)
        assert reply.values.tolist() == keys

    await asyncio.gather(*(ask(number) for number in range(100)))
