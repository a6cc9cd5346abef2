"""What a shard makes its callers hold: no more than they asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgpack
import numpy as np
import pytest

from ringpull.ps.errors import DeadlineExceeded, ProtocolError
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.wire.codec import encode_hello, encode_reply
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.frames import PRELUDE, REPLIES, REPLY_LIMITS, Decoder, Frame, Kind, padded
from ringpull.ps.wire.messages import ANYONE, RangePullRequest, StatisticsRequest
from tests.ps.wire.fake_shard import pull_of, soon
from tests.ps.wire.feeding import feed, joined

pytestmark = [pytest.mark.net, pytest.mark.medium]

MIB = 1 << 20


@asynccontextmanager
async def answering(said: Callable[[Frame], bytes]) -> AsyncIterator[Connection]:
    """Connect to a peer that answers the hello, and every request with any bytes it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder(frozenset(Kind) - REPLIES, REPLY_LIMITS)
        while data := await reader.read(MIB):
            for frame in feed(decoder, data):
                hello = frame.kind is Kind.HELLO
                writer.write(joined(encode_hello(ANYONE, reply=True)) if hello else said(frame))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = await Connection.connect(*server.sockets[0].getsockname()[:2])
    try:
        yield connection
    finally:
        await connection.close()
        server.close()
        await server.wait_closed()


def pull_reply_begun(request_id: int, values: int) -> bytes:
    header = msgpack.packb([[values, 2, 0]])
    payload = padded(4 * values) + 8
    prelude = PRELUDE.pack(b"RPL1", 2, Kind.PULL_REPLY, 0, request_id, len(header), 0, payload)
    return prelude + header.ljust(padded(len(header)), b"\0")


@pytest.mark.parametrize("request_", [StatisticsRequest(), RangePullRequest("m", 1, "t", 0, 9, 0, 1000), pull_of(1)])
async def test_a_reply_is_no_larger_than_what_was_asked_for(request_: object) -> None:
    async with answering(lambda frame: pull_reply_begun(frame.request_id, 200 * MIB)) as connection:
        with pytest.raises(ProtocolError, match="which asked for"):
            await connection.request(request_, deadline_s=soon())  # type: ignore[arg-type]
        assert connection.closed


async def test_a_reply_that_comes_late_is_dropped_as_it_comes() -> None:
    late: list[int] = []

    def said(frame: Frame) -> bytes:
        if not late:
            late.append(frame.request_id)
            return b""
        values = np.zeros(4 * MIB, np.float32)
        none = np.zeros(0, np.uint8)
        missing = np.zeros(1, np.uint32)
        there = joined(encode_reply(PullReply(values, missing, none), late[0]))
        ones = PullReply(np.ones(2, np.float32), missing, np.ones(2, np.uint8))
        return there + joined(encode_reply(ones, frame.request_id))

    async with answering(said) as connection:
        with pytest.raises(DeadlineExceeded):
            await connection.request(pull_of(1, 2), deadline_s=time.monotonic() + 0.05)
        reply = await connection.request(pull_of(1, 2), deadline_s=soon())
        assert isinstance(reply, PullReply)
        assert reply.values.tolist() == [1, 1]


async def test_a_large_reply_to_nothing_is_no_reply() -> None:
    async with answering(lambda frame: pull_reply_begun(frame.request_id + 5, MIB)) as connection:
        with pytest.raises(ProtocolError, match="never sent"):
            await connection.request(pull_of(1), deadline_s=soon())
