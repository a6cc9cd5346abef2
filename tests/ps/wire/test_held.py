"""What peers make a shard hold: halves of frames, requests, replies that nobody reads. It stays within one limit, who
is slow is ended, and everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import msgpack
import pytest

from ringpull.ps.errors import Unavailable
from ringpull.ps.memory import resident_bytes
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.ps.wire.codec import CONNECTION_ID, decode_reply, encode_hello, encode_request
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.frames import PRELUDE, REPLIES, REPLY_LIMITS, Decoder, Kind, padded
from ringpull.ps.wire.ledger import Patience
from ringpull.ps.wire.messages import ANYONE, ErrorReply, Reply, ShardStatistics, StatisticsRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon
from tests.ps.wire.feeding import feed, joined

pytestmark = [pytest.mark.net, pytest.mark.medium]

MIB = 1 << 20
FOREVER = Patience(hello_s=1e6, idle_s=1e6, short_s=1e6)
AT_ONCE = Patience(hello_s=1e6, idle_s=0.05, short_s=0.05, check_s=0.01)
"""Only with frames: those who greet may be held up before they do."""


class Peer:
    """Peer that writes any bytes it likes, and reads when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder(REPLIES, REPLY_LIMITS)

    def send(self, data: bytes | memoryview) -> None:
        self.writer.write(data)

    async def replies(self, count: int | None = None) -> dict[int, Reply]:
        """Return request id -> reply of the next `count` frames but the hello, or of all until the end."""
        found: dict[int, Reply] = {}
        while count is None or len(found) < count:
            try:
                data = await self.reader.read(MIB)
            except ConnectionError:
                break
            if not data:
                break
            frames = feed(self._decoder, data)
            found |= {each.request_id: decode_reply(each) for each in frames if each.kind is not Kind.HELLO_REPLY}
        return found


@dataclass
class Held:
    """A fake shard behind a server with a limit, and whoever talks to it."""

    shard: FakeShard
    server: ShardServer
    address: tuple[str, int]
    peers: list[Peer] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    async def peer(self, *, greets: bool = True) -> Peer:
        peer = Peer(*await asyncio.open_connection(*self.address))
        self.peers.append(peer)
        if greets:
            peer.send(joined(encode_hello(ANYONE)))
        return peer

    async def connection(self) -> Connection:
        connection = await Connection.connect(*self.address)
        self.connections.append(connection)
        return connection


@asynccontextmanager
async def held(
    limit: int, patience: Patience = FOREVER, *, max_connections: int = 1024, threads: int = 1
) -> AsyncIterator[Held]:
    """Serve; afterwards everybody leaves, and nothing may be held any more."""
    shard = FakeShard()
    limits = AdmissionLimits(max_in_flight_bytes=limit, max_connections=max_connections)
    with LookupThreads(threads) as running:
        server = ShardServer(shard, running, admission_limits=limits, patience=patience)
        everything = Held(shard, server, await server.start())
        try:
            yield everything
            shard.gate.set()
            await leave(everything)
            await until(lambda: server.connections == 0 and server.in_flight == 0)
            await until(lambda: server.ledger.held == 0)
        finally:
            shard.gate.set()
            await leave(everything)
            await server.close()


async def leave(here: Held) -> None:
    for peer in here.peers:
        peer.writer.transport.abort()
    for connection in here.connections:
        await connection.close()


async def first_told(peers: list[Peer], request_id: int) -> ErrorReply:
    """Return the first error in reply to a request of any of these."""
    asks = [asyncio.create_task(peer.replies(1)) for peer in peers]
    done, rest = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
    for each in rest:
        each.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    told = done.pop().result()[request_id]
    assert isinstance(told, ErrorReply)
    return told


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def begun(payload_bytes: int, request_id: int = 1) -> bytes:
    """Return the beginning of a pull, up to its payload."""
    whole = pull_of(1)
    keys = payload_bytes // 8
    header = msgpack.packb([[keys, 0, 0], whole.model, 1, 1, [["table", 0, keys, 0, False]], 0])
    prelude = PRELUDE.pack(b"RPL1", 2, Kind.PULL, 0, request_id, len(header), 60_000_000, payload_bytes)
    return prelude + header.ljust(padded(len(header)), b"\0")


# -- frames that never end ---------------------------------------------------------------------------------------------


async def test_halves_of_frames_stay_within_the_limit_and_hold_up_no_other() -> None:
    part = bytes(4 * MIB)
    async with held(16 * MIB) as here:
        healthy = await here.connection()
        assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)
        before = resident_bytes()
        peers = [await here.peer() for _ in range(50)]
        for peer in peers:
            peer.send(begun(200 * MIB))
            peer.send(part)
            await peer.writer.drain()
            assert here.server.ledger.held <= 16 * MIB
            assert isinstance(await healthy.request(pull_of(*range(100)), deadline_s=soon()), PullReply)
        assert resident_bytes() - before < 100 * MIB, "they have sent 200"
        # Those for which there was no room have heard so, each in reply to its request.
        told = await first_told(peers, 1)
        assert told.code == "UNAVAILABLE"
        assert "bytes that arrive" in told.message


def with_header_of_nothing(header_bytes: int) -> bytes:
    """Return a pull up to its payload, whose header is full of empty arrays: each is a byte, and 72 in memory."""
    rows = header_bytes // 4100
    header = msgpack.packb([[1, 0, 0], "m", 1, 1, [[[]] * 4096] * rows])
    prelude = PRELUDE.pack(b"RPL1", 2, Kind.PULL, 0, 1, len(header), 60_000_000, 8)
    return prelude + header.ljust(padded(len(header)), b"\0")


async def test_a_header_weighs_no_more_than_its_bytes_before_its_frame_is_complete() -> None:
    async with held(64 * MIB) as here:
        healthy = await here.connection()
        assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)
        before = resident_bytes()
        peers = [await here.peer() for _ in range(8)]
        for peer in peers:
            peer.send(with_header_of_nothing(MIB))
            await peer.writer.drain()
        await until(lambda: here.server.ledger.receiving >= 8 * 0.9 * MIB)
        assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)
        assert resident_bytes() - before < 64 * MIB, "as objects they have 500"
        peers[0].send(bytes(8))
        assert "elements" in str((await peers[0].replies())[CONNECTION_ID])


async def test_before_the_hello_only_a_small_one_is_accepted() -> None:
    async with held(64 * MIB) as here:
        early = await here.peer(greets=False)
        early.send(with_header_of_nothing(MIB)[:32])
        assert "a connection begins with HELLO" in str((await early.replies())[CONNECTION_ID])
        large = await here.peer(greets=False)
        large.send(PRELUDE.pack(b"RPL1", 2, Kind.HELLO, 0, 0, 5000, 0, 0))
        assert "a hello has a header of 5000 bytes" in str((await large.replies())[CONNECTION_ID])
        assert here.server.ledger.held == 0


async def test_what_was_refused_is_read_to_its_end_and_the_connection_lives_on() -> None:
    async with held(16 * MIB) as here:
        hog = await here.peer()
        hog.send(begun(200 * MIB))
        hog.send(bytes(12 * MIB))
        await hog.writer.drain()
        await until(lambda: here.server.ledger.receiving >= 4 * MIB)
        here.server.ledger.receiving += 10 * MIB  # so that there is no room whatever of it has arrived
        other = await here.peer()
        other.send(begun(8 * MIB))
        other.send(bytes(8 * MIB))
        other.send(joined(encode_request(pull_of(1, 2), 2, 60_000_000)))
        replies = await other.replies(2)
        here.server.ledger.receiving -= 10 * MIB
        assert isinstance(replies[1], ErrorReply)
        assert isinstance(replies[2], PullReply)
        assert replies[2].values.tolist() == [1, 2]


async def test_a_pull_larger_than_the_limit_passes_alone_both_ways() -> None:
    async with held(MIB) as here:
        connection = await here.connection()
        here.shard.values_per_key = 8
        for _ in range(3):
            reply = await connection.request(pull_of(*range(600_000)), deadline_s=soon())
            assert isinstance(reply, PullReply)
            assert len(reply.values) == 8 * 600_000


async def test_large_pulls_side_by_side_end_all_and_some_with_rows() -> None:
    """Neither of two limits waits for the other: what has no room is refused, and what has it goes on."""
    async with held(12 * MIB, threads=2) as here:
        connections = [await here.connection() for _ in range(6)]
        request = pull_of(*range(MIB))
        for _ in range(3):
            outcomes = await asyncio.gather(
                *(each.request(request, deadline_s=soon()) for each in connections), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} <= {PullReply, Unavailable}
            assert any(isinstance(outcome, PullReply) for outcome in outcomes)


@pytest.mark.parametrize("sent", [b"", b"RPL", begun(8 * MIB)[:40], begun(8 * MIB) + bytes(3 * MIB)])
async def test_a_frame_that_does_not_end_ends_its_connection(sent: bytes) -> None:
    async with held(16 * MIB, AT_ONCE) as here:
        idle = await here.connection()
        peer = await here.peer()
        peer.send(joined(encode_request(pull_of(1), 7, 60_000_000)))
        assert isinstance((await peer.replies(1))[7], PullReply)
        if not sent:  # Between two frames it may be silent for as long as it likes.
            for _ in range(20):
                await asyncio.sleep(0.01)
                peer.send(joined(encode_request(pull_of(1), 7, 60_000_000)))
                assert isinstance((await peer.replies(1))[7], PullReply)
            return
        peer.send(sent)
        told = (await peer.replies())[CONNECTION_ID]
        assert isinstance(told, ErrorReply)
        assert "a frame is not complete after" in told.message
        assert here.server.ledger.receiving == 0
        assert isinstance(await idle.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_a_frame_that_trickles_is_no_better() -> None:
    async with held(16 * MIB, AT_ONCE) as here:
        peer = await here.peer()
        peer.send(begun(8 * MIB))
        trickling = asyncio.create_task(_trickle(peer))
        assert "not complete" in str((await peer.replies())[CONNECTION_ID])
        trickling.cancel()


async def _trickle(peer: Peer) -> None:
    while True:
        peer.send(b"\0")
        await asyncio.sleep(0.001)


async def test_who_is_slow_makes_room_for_a_pull_that_needs_it() -> None:
    patience = Patience(hello_s=1e6, idle_s=1e6, short_s=0.05)
    async with held(8 * MIB, patience) as here:
        peer = await here.peer()
        peer.send(begun(200 * MIB))
        peer.send(bytes(6 * MIB))
        await until(lambda: here.server.ledger.receiving > MIB)
        began_s = time.monotonic()
        connection = await here.connection()
        while True:
            try:
                reply = await connection.request(pull_of(*range(MIB // 2)), deadline_s=soon())
                break
            except Unavailable:
                await asyncio.sleep(0.001)
        assert isinstance(reply, PullReply)
        assert time.monotonic() - began_s >= 0.0
        assert CONNECTION_ID in await peer.replies()


async def test_a_long_header_grows_with_what_arrives() -> None:
    async with held(16 * MIB) as here:
        peers = [await here.peer() for _ in range(30)]
        for peer in peers:
            peer.send(PRELUDE.pack(b"RPL1", 2, Kind.STATISTICS, 0, 5, MIB, 1_000_000, 0))
            peer.send(bytes(MIB - 100))
            await peer.writer.drain()
        assert here.server.ledger.held <= 16 * MIB
        assert "bytes that arrive" in (await first_told(peers, 5)).message


async def test_long_headers_of_requests_in_flight_count() -> None:
    """Seven bytes of a header make a look-up, many times as large, though it has no keys."""
    header = msgpack.packb([[0, 0, 0], GATED, 1, 1, [["t", 0, 0, 0, False]] * 4000, 0])
    frame = PRELUDE.pack(b"RPL1", 2, Kind.PULL, 0, 3, len(header), 60_000_000, 0) + header.ljust(padded(len(header)))
    frame = frame[: PRELUDE.size + len(header)].ljust(PRELUDE.size + padded(len(header)), b"\0")
    async with held(16 * MIB) as here:
        peer = await here.peer()
        for _ in range(100):
            peer.send(frame)
        told = (await peer.replies(1))[3]
        assert isinstance(told, ErrorReply)
        assert "overloaded" in told.message
        assert here.server.ledger.requests <= 16 * MIB


# -- who says nothing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"RPL1", joined(encode_hello(ANYONE))[:-1]])
async def test_who_does_not_say_whom_it_means_is_ended(said: bytes) -> None:
    async with held(MIB, replace(AT_ONCE, hello_s=0.05)) as here:
        peer = await here.peer(greets=False)
        peer.send(said)
        assert "no hello came for" in str((await peer.replies())[CONNECTION_ID])


async def test_silent_connections_count_and_give_way() -> None:
    async with held(MIB, Patience(short_s=0.0), max_connections=3) as here:
        kept = await here.connection()
        assert isinstance(await kept.request(pull_of(1), deadline_s=soon()), PullReply)
        silent = [await here.peer(greets=False) for _ in range(2)]
        await until(lambda: here.server.connections == 3)
        newcomer = await here.connection()
        assert isinstance(await newcomer.request(pull_of(1), deadline_s=soon()), PullReply)
        assert await silent[0].replies() == {}, "hung up on"
        assert isinstance(await kept.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_greeted_connections_that_are_idle_give_way_to_a_newcomer_the_longest_idle_first() -> None:
    async with held(MIB, Patience(short_s=0.0), max_connections=4) as here:
        busy = await here.connection()
        asked = asyncio.create_task(busy.request(pull_of(1, model=GATED), deadline_s=soon()))
        idle = [await here.peer() for _ in range(3)]
        for peer in (idle[1], idle[2], idle[0]):
            peer.send(joined(encode_request(pull_of(1), 1, 60_000_000)))
        await until(lambda: here.server.connections == 4 and here.server.in_flight == 4)
        here.shard.gate.set()
        assert isinstance(await asked, PullReply)
        here.shard.gate.clear()
        for peer in idle:
            await peer.replies(1)
        asked = asyncio.create_task(busy.request(pull_of(1, model=GATED), deadline_s=soon()))
        await until(lambda: here.server.in_flight == 1)
        newcomers = []
        for _ in range(2):
            each = await here.connection()
            newcomers.append(each)
            assert isinstance(await each.request(StatisticsRequest(), deadline_s=soon()), ShardStatistics)
        assert await idle[1].replies() == {}
        assert await idle[2].replies() == {}
        here.shard.gate.set()
        assert isinstance(await asked, PullReply)
        for each in newcomers:
            assert isinstance(await each.request(pull_of(2), deadline_s=soon()), PullReply)


async def test_what_makes_room_leaves_the_ledger_and_the_places_at_once() -> None:
    async with held(8 * MIB, Patience(hello_s=1e6, idle_s=1e6, short_s=0.0), max_connections=3) as here:
        here.shard.values_per_key = 1000
        peer = await here.peer()
        for number in range(40):
            peer.send(joined(encode_request(pull_of(*range(200)), number + 1, 60_000_000)))
        await until(lambda: here.server.ledger.unsent > 0)
        assert here.server.make_room()
        assert here.server.ledger.unsent == 0
        assert here.server.connections == 0


# -- replies that nobody reads -----------------------------------------------------------------------------------------


async def test_unread_replies_of_one_connection_are_bounded_and_come_when_it_reads() -> None:
    asked = 300
    async with held(64 * MIB) as here:
        here.shard.values_per_key = 1000
        healthy = await here.connection()
        peer = await here.peer()
        before = resident_bytes()
        for number in range(asked):  # 240 MB of replies
            peer.send(joined(encode_request(pull_of(*range(200)), number + 1, 60_000_000)))
        await peer.writer.drain()
        await until(lambda: here.server.ledger.replies > 4 * MIB)
        for _ in range(200):
            assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)
        assert here.server.ledger.replies < 10 * MIB
        assert here.shard.pulls < 200 + asked / 4
        assert resident_bytes() - before < 80 * MIB
        replies = await peer.replies(asked)
        assert all(isinstance(reply, PullReply) for reply in replies.values())
        assert len(replies) == asked


async def small_buffers(here: Held, connections: int) -> None:
    """Have the kernel take little of what a shard sends, or it takes most."""
    await until(lambda: here.server.connections == connections)
    for connection in here.server._connections:
        assert connection._transport is not None
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)


async def test_unread_replies_of_many_connections_are_bounded() -> None:
    async with held(16 * MIB) as here:
        here.shard.values_per_key = 1000
        healthy = await here.connection()
        peers = [await here.peer() for _ in range(60)]
        await small_buffers(here, 61)
        before = resident_bytes()
        asked = 0
        while not here.server.ledger.replies_full:
            asked += 1
            for peer in peers:
                peer.send(joined(encode_request(pull_of(*range(200)), asked, 60_000_000)))
            await asyncio.sleep(0.001)
        for _ in range(100):
            with suppress(Unavailable):
                await healthy.request(pull_of(*range(200)), deadline_s=soon())
        assert isinstance(await healthy.request(StatisticsRequest(), deadline_s=soon()), ShardStatistics)
        assert here.server.ledger.held < 20 * MIB, "the limit, and the largest"
        assert resident_bytes() - before < 150 * MIB
        for peer in peers:
            await peer.replies(asked)
        assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_who_does_not_read_gets_no_statistics_while_there_is_no_room() -> None:
    async with held(8 * MIB) as here:
        here.shard.values_per_key = 1000
        healthy = await here.connection()
        peer = await here.peer()
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        await small_buffers(here, 2)
        for number in range(40):
            peer.send(joined(encode_request(pull_of(*range(200)), number, 60_000_000)))
        await until(lambda: here.shard.pulls > 1 and here.server.ledger.unsent > 0)
        here.server.ledger.unsent += 16 * MIB  # so that there is no room
        served = here.shard.statistics_asked
        for number in range(1000):
            peer.send(joined(encode_request(StatisticsRequest(), 10_000 + number, 60_000_000)))
        for _ in range(200):
            assert isinstance(await healthy.request(StatisticsRequest(), deadline_s=soon()), ShardStatistics)
        assert here.shard.statistics_asked == served + 200
        here.server.ledger.unsent -= 16 * MIB
        assert len(await peer.replies(1040)) == 1040


@pytest.mark.parametrize("for_room", [False, True])
async def test_who_does_not_read_is_ended(for_room: bool) -> None:
    async with held(8 * MIB, Patience(idle_s=1e6, short_s=0.05) if for_room else AT_ONCE) as here:
        here.shard.values_per_key = 1000
        healthy = await here.connection()
        peers = [await here.peer() for _ in range(6)]
        for number in range(40):
            for peer in peers:
                peer.send(joined(encode_request(pull_of(*range(200)), number + 1, 60_000_000)))
        await until(lambda: here.server.ledger.unsent > 0)
        here.shard.values_per_key = 1
        if for_room:
            here.server.ledger.receiving += 8 * MIB  # so that there is no room for what comes
        keys = range(200_000 if for_room else 1)
        while here.server.ledger.unsent > 0:
            try:
                await healthy.request(pull_of(*keys), deadline_s=soon())
            except Unavailable:
                await asyncio.sleep(0.001)
        if for_room:
            here.server.ledger.receiving -= 8 * MIB
        assert isinstance(await healthy.request(pull_of(*keys), deadline_s=soon()), PullReply)
