"""The hello: a connection begins with who is meant and who answers, and a stranger is hung up on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, LimitExceeded, ProtocolError, Stranger
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.wire.codec import CONNECTION_ID, decode_hello, encode_hello, encode_reply, encode_request
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.error_codes import error_reply
from ringpull.ps.wire.frames import REPLIES, REPLY_LIMITS, REQUEST_LIMITS, REQUESTS, Decoder, Frame, Kind
from ringpull.ps.wire.messages import ANY_SHARD, ANYONE, ErrorReply, Hello, StatisticsRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.conftest import Served
from tests.ps.wire.fake_shard import FakeShard, pull_of, soon
from tests.ps.wire.feeding import feed, joined
from tests.ps.wire.test_connection import ME, Peer, peer, read_request_id, reply_to
from tests.ps.wire.test_server import stranger

hellos = st.builds(
    Hello,
    deployment=st.text(max_size=20),
    shard=st.integers(ANY_SHARD, 2**63 - 1),
    incarnation=st.text(max_size=20),
)

OTHERS = [
    Hello("another deployment", 3, "this life"),
    Hello("deployment", 2, "this life"),
    Hello("deployment", 3, "an earlier life"),
    Hello("another deployment", 7, "another life"),
]
"""Whoever may have got the port of `ME`."""


# -- the frame ---------------------------------------------------------------------------------------------------------


def test_bytes_of_a_hello_are_fixed() -> None:
    """Golden: a change here is a new protocol version."""
    assert joined(encode_hello(Hello("d1", 3, "i2"))).hex(" ", 8) == (
        "52504c3102050000 0000000000000000 0900000000000000 0000000000000000 "  # prelude
        "9490a2643103a269 3200000000000000"  # header: 9 bytes, padded to 16
    )
    assert joined(encode_hello(ANYONE, reply=True)).hex(" ", 8) == (
        "52504c3102850000 0000000000000000 0500000000000000 0000000000000000 9490a0ffa0000000"
    )


@given(hellos)
def test_a_hello_comes_back(hello: Hello) -> None:
    [asked] = feed(Decoder(REQUESTS, REQUEST_LIMITS), joined(encode_hello(hello)))
    [answered] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_hello(hello, reply=True)))
    assert decode_hello(asked, Kind.HELLO) == decode_hello(answered, Kind.HELLO_REPLY) == hello


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "ends before the field deployment"),
        ([1, 3, "i"], "deployment is 1; it must be text"),
        (["d", -2, "i"], "shard is -2; it must be an integer from -1"),
        (["d", True, "i"], "shard is True"),
        (["d", 3, None], "incarnation is None; it must be text"),
        (["d", 3, "i", 0], "has 4 fields; it must have 3"),
    ],
)
def test_a_hello_that_is_none_is_refused_with_its_reason(fields: list[Any], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_hello(Frame(Kind.HELLO, CONNECTION_ID, 0, fields, ()), Kind.HELLO)


plain = st.one_of(st.integers(), st.booleans(), st.text(max_size=3), st.binary(max_size=3), st.floats(), st.none())


@given(st.lists(plain, max_size=5), st.sampled_from(sorted(Kind)), st.integers(0, 2))
def test_any_first_frame_is_a_hello_or_refused(fields: list[Any], kind: Kind, request_id: int) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode_hello(Frame(kind, request_id, 0, fields, ()), Kind.HELLO), Hello)


@given(hellos)
def test_everyone_fits_itself_and_anyone(hello: Hello) -> None:
    assert hello.fits(hello)
    assert hello.fits(ANYONE)
    assert ANYONE.fits(hello)


@pytest.mark.parametrize("other", OTHERS)
def test_whoever_differs_in_what_both_say_does_not_fit(other: Hello) -> None:
    assert not ME.fits(other)
    assert not other.fits(ME)


def test_what_one_side_leaves_open_fits() -> None:
    assert ME.fits(Hello(shard=3))
    assert not ME.fits(Hello(shard=2))
    assert Hello(incarnation="this life").fits(ME)
    assert not Hello(deployment="another").fits(ME)


# -- the shard's end ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def shard_with_hello(hello: Hello) -> AsyncIterator[tuple[FakeShard, str, int]]:
    shard = FakeShard()
    with LookupThreads() as threads:
        server = ShardServer(shard, threads, hello=hello)
        yield shard, *await server.start()
        await server.close()


@pytest.mark.net
@pytest.mark.parametrize("meant", [ME, ANYONE, Hello(shard=3), Hello("deployment"), Hello(incarnation="this life")])
async def test_who_means_this_shard_is_served(meant: Hello) -> None:
    async with shard_with_hello(ME) as (_, host, port):
        connection = await Connection.connect(host, port, hello=meant)
        assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)
        await connection.close()


@pytest.mark.net
@pytest.mark.parametrize("meant", OTHERS)
async def test_who_means_another_is_hung_up_on_and_no_row_is_read(meant: Hello) -> None:
    async with shard_with_hello(ME) as (shard, host, port):
        connection = await Connection.connect(host, port, hello=meant)
        # Behind the hello, before its answer: none of them may be carried out.
        outcomes = await asyncio.gather(
            *(connection.request(pull_of(key), deadline_s=soon()) for key in range(3)),
            connection.request(StatisticsRequest(), deadline_s=soon()),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {Stranger}
        assert len({id(outcome) for outcome in outcomes}) == 4
        assert f"this is {ME}; {meant} was meant" in str(outcomes[0])
        assert connection.closed
        with pytest.raises(Stranger, match="hung up"):
            await connection.request(pull_of(1), deadline_s=soon())
        assert shard.pulls == 0
        await connection.close()


@pytest.mark.net
async def test_nothing_is_answered_before_the_hello(served: Served) -> None:
    """As a caller of an earlier build would ask."""
    async with stranger(served, greets=False) as caller:
        caller.writer.write(joined(encode_request(pull_of(1), 1, 60_000_000)) * 2)
        replies = await caller.read()
    assert list(replies) == [CONNECTION_ID]
    reply = replies[CONNECTION_ID]
    assert isinstance(reply, ErrorReply)
    assert reply.code == "PROTOCOL_ERROR"
    assert reply.message == "a connection begins with HELLO of the request id 0; this one began with PULL of 1"
    assert served.shard.pulls == 0


@pytest.mark.net
async def test_a_second_hello_ends_the_connection(served: Served) -> None:
    async with stranger(served) as caller:
        caller.writer.write(joined(encode_hello(ANYONE)))
        reply = (await caller.read())[CONNECTION_ID]
    assert isinstance(reply, ErrorReply)
    assert reply.message == "HELLO is not a request"


@pytest.mark.net
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=32, max_size=200), cut=st.integers(0, 60))
async def test_a_fuzzed_hello_harms_no_other(served: Served, data: bytes, cut: int) -> None:
    healthy = served.connections[0] if served.connections else await served.connect()
    async with stranger(served, greets=False) as caller:
        caller.writer.write(joined(encode_hello(ME))[:cut] + data)
        caller.writer.write_eof()
        with suppress(ProtocolError):  # the whole hello may be there, and its answer is no reply to a request
            assert (await caller.read()).keys() <= {CONNECTION_ID}
    assert isinstance(await healthy.request(pull_of(1), deadline_s=soon()), PullReply)


# -- the caller's end --------------------------------------------------------------------------------------------------


@pytest.mark.net
async def test_a_request_need_not_wait_for_the_answer_to_the_hello() -> None:
    """It costs no round trip; but an answer before it counts for nothing."""

    async def answers_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await read_request_id(reader) == CONNECTION_ID
        asked = await read_request_id(reader)
        writer.write(joined(encode_hello(ME, reply=True)) + reply_to(pull_of(1), asked))
        await reader.read()

    async with peer(answers_late, greets=False) as connection:
        assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)


def saying(data: bytes) -> Peer:
    """Say this once something has come, whatever it is."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        await reader.read()

    return say


def as_of_version_1(frame: bytes) -> bytes:
    return frame[:4] + b"\x01" + frame[5:]


@pytest.mark.net
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((joined(encode_hello(other, reply=True)), "is shard .* was meant") for other in OTHERS),
        (joined(encode_reply(error_reply(Stranger("this is shard 9")), CONNECTION_ID)), "hung up: this is shard 9"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "is no shard of this build: .* b'HTTP'"),
        (b"\x15\x03\x01\x00\x02\x02\x46".ljust(32, b"\0"), "is no shard of this build"),  # TLS
        (reply_to(pull_of(1), 1), "this one began with PULL_REPLY of 1"),
        (joined(encode_reply(ErrorReply("NOT_FOUND", "no"), 1)), "this one began with ERROR of 1"),
        (
            as_of_version_1(joined(encode_reply(ErrorReply("PROTOCOL_ERROR", "version is 2"), CONNECTION_ID))),
            "version is 1; this build speaks version 2",
        ),
        (joined(encode_hello(ME, reply=True))[:4] + bytes(60), "is no shard of this build"),
    ],
)
async def test_whoever_answers_otherwise_is_a_stranger(said: bytes, reason: str) -> None:
    # What follows is right in every byte, and counts for nothing.
    tail = joined(encode_hello(ME, reply=True)) + reply_to(pull_of(1), 1)
    async with peer(saying(said + tail), greets=False) as connection:
        with pytest.raises(Stranger, match=reason):
            await connection.request(pull_of(1), deadline_s=soon())
        assert connection.closed
        with pytest.raises(Stranger, match=reason):
            await connection.request(pull_of(1), deadline_s=soon())


@pytest.mark.net
async def test_who_hangs_up_without_a_word_is_lost() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with peer(hang_up, greets=False) as connection:
        with pytest.raises(ConnectionLost, match="before it said who it is"):
            await connection.request(pull_of(1), deadline_s=soon())


@pytest.mark.net
async def test_who_says_nothing_costs_no_more_than_the_deadline() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(silence, greets=False) as connection:
        with pytest.raises(DeadlineExceeded):
            await connection.request(pull_of(1), deadline_s=time.monotonic() + 0.05)


@pytest.mark.net
async def test_a_shard_that_has_no_room_is_no_stranger() -> None:
    full = joined(encode_reply(error_reply(LimitExceeded("this shard has 1 connections")), CONNECTION_ID))
    async with peer(saying(full), greets=False) as connection:
        with pytest.raises(ProtocolError, match="gave this connection up: this shard has 1 connections"):
            await connection.request(pull_of(1), deadline_s=soon())
