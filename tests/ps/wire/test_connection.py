"""The caller's end: one outcome per request, whatever the shard and the network do."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from ringpull.ps.errors import (
    ConnectionLost,
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotOwner,
    ProtocolError,
    RingpullError,
    Unavailable,
)
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.wire.codec import CONNECTION_ID, encode_hello, encode_reply
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.frames import PRELUDE
from ringpull.ps.wire.messages import (
    ErrorReply,
    Hello,
    RangePullReply,
    RangePullRequest,
    ShardStatistics,
    StatisticsRequest,
    range_checksum,
)
from tests.ps.wire.conftest import Served
from tests.ps.wire.fake_shard import GATED, pull_of, soon
from tests.ps.wire.feeding import joined

pytestmark = pytest.mark.net

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ME = Hello("deployment", 3, "this life")


@asynccontextmanager
async def peer(behave: Peer, *, greets: bool = True) -> AsyncIterator[Connection]:
    """A connection to a server that does what `behave` says with the first connection, after the hello."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if greets:
                assert await read_request_id(reader) == CONNECTION_ID
                writer.write(joined(encode_hello(ME, reply=True)))
            await behave(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    connection = await Connection.connect(host, port, hello=ME)
    try:
        yield connection
    finally:
        await connection.close()
        server.close()
        await server.wait_closed()


async def read_request_id(reader: asyncio.StreamReader) -> int:
    """Read one whole request."""
    _, _, _, _, request_id, header_bytes, _, payload_bytes = PRELUDE.unpack(await reader.readexactly(PRELUDE.size))
    await reader.readexactly(header_bytes + -header_bytes % 8 + payload_bytes)
    return int(request_id)


def reply_to(request: PullRequest, request_id: int) -> bytes:
    size = len(request.positions)
    reply = PullReply(np.zeros(size, np.float32), np.zeros(len(request.lookups), np.uint32), np.ones(size, np.uint8))
    return joined(encode_reply(reply, request_id))


async def test_every_verb_is_answered(served: Served) -> None:
    connection = await served.connect()
    pulled = await connection.request(pull_of(3, 1), deadline_s=soon())
    assert isinstance(pulled, PullReply)
    assert pulled.values.tolist() == [3, 1]
    ranged = await connection.request(RangePullRequest("m", 1, "t", 10, 20, 0, 1000), deadline_s=soon())
    assert isinstance(ranged, RangePullReply)
    assert ranged.positions.tolist() == list(range(10, 20))
    assert ranged.checksum == range_checksum(ranged.positions, ranged.rows)
    assert await connection.request(StatisticsRequest(), deadline_s=soon()) == ShardStatistics(4, 2, 1, 65_536, 1, ())


async def test_many_requests_at_once_each_get_their_own_answer(served: Served) -> None:
    connection = await served.connect()
    sizes = [(number * 7919) % 3000 for number in range(200)]
    replies = await asyncio.gather(
        *(connection.request(pull_of(*range(size, 2 * size)), deadline_s=soon()) for size in sizes)
    )
    for size, reply in zip(sizes, replies, strict=True):
        assert isinstance(reply, PullReply)
        assert reply.values.tolist() == list(range(size, 2 * size))
    assert connection.in_flight == 0


async def test_a_payload_of_megabytes_arrives_whole(served: Served) -> None:
    connection = await served.connect()
    served.shard.values_per_key = 64
    keys = range(50_000)
    reply = await connection.request(pull_of(*keys), deadline_s=soon())
    assert isinstance(reply, PullReply)
    np.testing.assert_array_equal(reply.values, np.repeat(np.arange(50_000, dtype=np.float32), 64))


async def test_a_slow_request_does_not_hold_up_a_later_one(served: Served) -> None:
    connection = await served.connect()
    slow = asyncio.create_task(connection.request(pull_of(1, model=GATED), deadline_s=soon()))
    fast = await connection.request(pull_of(2), deadline_s=soon())
    assert isinstance(fast, PullReply)
    assert not slow.done()
    served.shard.gate.set()
    assert isinstance(await slow, PullReply)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("lengths"),
        NotFound("no such model"),
        LimitExceeded("too large"),
        CorruptData("a bad block"),
        DeadlineExceeded("late"),
        Unavailable("quarantined"),
        NotOwner("moved", epoch=77),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_shards_errors_arrive_in_their_class(served: Served, error: RingpullError) -> None:
    connection = await served.connect()
    served.shard.failures["bad"] = error
    with pytest.raises(type(error)) as raised:
        await connection.request(pull_of(1, model="bad"), deadline_s=soon())
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "epoch", None) == getattr(error, "epoch", None)
    assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_an_unforeseen_error_is_told_and_harms_nothing(served: Served) -> None:
    connection = await served.connect()
    served.shard.failures["bad"] = ZeroDivisionError("oops")
    with pytest.raises(RingpullError, match="ZeroDivisionError: oops") as raised:
        await connection.request(pull_of(1, model="bad"), deadline_s=soon())
    assert type(raised.value) is RingpullError
    assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_a_late_answer_is_dropped_by_its_id(served: Served) -> None:
    connection = await served.connect()
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        await connection.request(pull_of(1, model=GATED), deadline_s=time.monotonic() + 0.05)
    assert connection.in_flight == 0
    served.shard.gate.set()
    for key in range(20):
        reply = await connection.request(pull_of(key), deadline_s=soon())
        assert isinstance(reply, PullReply)
        assert reply.values.tolist() == [key]


async def test_a_cancelled_request_leaves_no_trace(served: Served) -> None:
    connection = await served.connect()
    task = asyncio.create_task(connection.request(pull_of(1, model=GATED), deadline_s=soon()))
    while connection.in_flight == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.in_flight == 0
    served.shard.gate.set()
    assert isinstance(await connection.request(pull_of(2), deadline_s=soon()), PullReply)


async def test_no_time_left_sends_nothing(served: Served) -> None:
    connection = await served.connect()
    with pytest.raises(DeadlineExceeded, match="no time was left"):
        await connection.request(pull_of(1), deadline_s=time.monotonic())
    assert served.shard.pulls == 0


async def test_a_request_over_the_limit_is_refused_before_it_is_sent(served: Served) -> None:
    connection = await served.connect()
    with pytest.raises(LimitExceeded, match="header takes"):
        await connection.request(pull_of(1, model="m" * (2 << 20)), deadline_s=soon())
    with pytest.raises(LimitExceeded, match="array of 4097 items; the limit is 4096"):
        await connection.request(replace(pull_of(1), lookups=pull_of(1).lookups * 4097), deadline_s=soon())
    assert connection.in_flight == 0
    assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)


async def test_a_lost_connection_fails_all_in_flight_and_stays_closed() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await read_request_id(reader)

    async with peer(hang_up) as connection:
        outcomes = await asyncio.gather(
            *(connection.request(pull_of(key), deadline_s=soon()) for key in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert connection.closed
        with pytest.raises(ConnectionLost, match="closed the connection between replies"):
            await connection.request(pull_of(1), deadline_s=soon())


async def test_a_half_read_reply_is_a_lost_connection() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = reply_to(pull_of(1), await read_request_id(reader))
        writer.write(whole[: len(whole) // 2])
        await writer.drain()

    async with peer(half) as connection:
        with pytest.raises(ConnectionLost, match="in the middle of a reply"):
            await connection.request(pull_of(1), deadline_s=soon())


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(32), "begins with b'HTTP'"),
        (reply_to(pull_of(1), 1000), "answered request 1000: never sent"),
        (joined(encode_reply(ErrorReply("PROTOCOL_ERROR", "your frame is odd"), CONNECTION_ID)), "your frame is odd"),
        (joined(encode_reply(ShardStatistics(0, 0, 0, 0, 0, ()), CONNECTION_ID)), "a reply to no request"),
        (joined(encode_reply(ShardStatistics(0, 0, 0, 0, 0, ()), 1)), "answered with a ShardStatistics"),
        (reply_to(pull_of(1, 2), 1), "2 found flags"),
    ],
)
async def test_a_peer_that_talks_nonsense_is_left_with_a_reason(nonsense: bytes, reason: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request_id(reader)
        writer.write(nonsense)
        await reader.read()

    async with peer(talk) as connection:
        with pytest.raises(ProtocolError, match=reason):
            await connection.request(pull_of(1), deadline_s=soon())
        assert connection.closed


async def test_good_replies_before_the_nonsense_count() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, _ = await read_request_id(reader), await read_request_id(reader)
        writer.write(reply_to(pull_of(1), first) + b"nonsense" * 8)
        await reader.read()

    async with peer(talk) as connection:
        good, bad = await asyncio.gather(
            *(connection.request(pull_of(1), deadline_s=soon()) for _ in range(2)), return_exceptions=True
        )
        assert isinstance(good, PullReply)
        assert isinstance(bad, ProtocolError)


async def test_a_peer_that_reads_nothing_costs_no_more_than_the_deadline() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    hung: list[asyncio.Task[None]] = []

    async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        hung.append(task)
        await deaf(reader, writer)

    async with peer(remember) as connection:
        big = pull_of(*range(1_000_000))
        deadline_s = time.monotonic() + 0.3
        outcomes = await asyncio.gather(
            *(connection.request(big, deadline_s=deadline_s) for _ in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 3
        with pytest.raises(DeadlineExceeded, match="took no bytes until the deadline"):
            await connection.request(big, deadline_s=time.monotonic() + 0.05)
        for task in hung:
            task.cancel()


async def test_closing_fails_what_is_in_flight(served: Served) -> None:
    connection = await served.connect()
    task = asyncio.create_task(connection.request(pull_of(1, model=GATED), deadline_s=soon()))
    while connection.in_flight == 0:
        await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(ConnectionLost, match="closed by its owner"):
        await task
    await connection.close()
    assert "closed by its owner" in repr(connection)


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            await Connection.connect("127.0.0.1", port)


async def test_a_listener_that_accepts_nothing_is_unavailable() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [await Connection.connect("127.0.0.1", port)]

        async def fill() -> None:
            while True:  # the kernel's backlog takes a few before it is full
                fillers.append(await Connection.connect("127.0.0.1", port, timeout_s=0.1))

        with pytest.raises(Unavailable, match=r"within 0\.1 s"):
            await fill()
        for filler in fillers:
            await filler.close()
