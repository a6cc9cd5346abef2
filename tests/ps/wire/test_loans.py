"""Connections that only push are read by the push thread; whatever else comes of them is settled as it is of others."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from ringpull.ps.errors import Unavailable
from ringpull.ps.live import push_thread
from ringpull.ps.live.push_thread import PushThread
from ringpull.ps.live.record import LiveName
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.tls import LiveTls
from ringpull.ps.wire import loans, served
from ringpull.ps.wire.admission import AdmissionLimits
from ringpull.ps.wire.codec import CONNECTION_ID, encode_hello, encode_request
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.ledger import Patience
from ringpull.ps.wire.messages import ANYONE, ErrorReply
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally
from ringpull.ps.wire.threads import LookupThreads
from tests.certificates import Certificates
from tests.ps.wire.fake_shard import GATED, FakeShard, pull_of, soon
from tests.ps.wire.feeding import joined
from tests.ps.wire.test_held import AT_ONCE, FOREVER, MIB, Peer, until

pytestmark = [pytest.mark.net, pytest.mark.medium]

USERS, OTHERS = LiveName("ranker", 9, "user"), LiveName("ranker", 9, "other")
ROW_BYTES = 8


def push_of(number: int, rows: int = 1, name: LiveName = USERS, writer: int = 4) -> PushRequest:
    positions, sent = np.arange(rows, dtype=np.uint64), np.zeros(rows * ROW_BYTES, np.uint8)
    return PushRequest(name.model, name.table, 1, name.lineage, writer, number, False, positions, sent, only_live=True)


def frame_of(push: PushRequest, request_id: int = 0, remaining_us: int = 600_000_000) -> bytes:
    return joined(encode_request(push, request_id or push.number, remaining_us))


class Commits:
    """Commits that note what is pushed, in its order; while the gate is closed a group waits there."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int]] = []
        """Writer and number of each."""
        self.gate, self.waits = threading.Event(), threading.Event()
        self.gate.set()
        self.marked = threading.Event()
        self.sizes: list[int] = []
        """Bytes of each group."""

    def commit(self, requests: Sequence[PushRequest]) -> list[PushReply]:
        self.waits.set()
        self.gate.wait()
        self.sizes.append(sum(each.nbytes for each in requests))
        self.applied += [(each.writer, each.number) for each in requests]
        return [PushReply(each.number, len(each.positions), 0, 0) for each in requests]

    def mark(self, _: object) -> None:
        self.marked.set()


@dataclass
class Here:
    """A fake shard that takes pushes behind a server, and whoever talks to it."""

    commits: Commits
    pushes: PushThread
    server: ShardServer
    shard: FakeShard
    tally: ServerTally
    address: tuple[str, int]
    peers: list[Peer] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    async def peer(self) -> Peer:
        """Return a peer whose connection is lent, which has pushed number 1."""
        peer = Peer(*await asyncio.open_connection(*self.address))
        self.peers.append(peer)
        peer.send(joined(encode_hello(ANYONE)))
        lent = self.server.lent
        peer.send(frame_of(push_of(1)))
        assert isinstance((await peer.replies(1))[1], PushReply)
        await until(lambda: self.server.lent == lent + 1)
        return peer

    async def connection(self) -> Connection:
        """Return a connection that is lent, on which number 1 was pushed."""
        connection = await Connection.connect(*self.address)
        self.connections.append(connection)
        lent = self.server.lent
        await connection.request(push_of(1), deadline_s=soon())
        await until(lambda: self.server.lent == lent + 1)
        return connection


@asynccontextmanager
async def serving(
    limit: int = 256 * MIB, patience: Patience = FOREVER, *, tls: LiveTls | None = None
) -> AsyncIterator[Here]:
    """Serve; afterwards everybody leaves, and nothing may be held any more."""
    commits, shard, tally = Commits(), FakeShard(), ServerTally()
    pushes = PushThread(0, commits, lambda request: request)  # type: ignore[arg-type, return-value]
    pushes.confirm([USERS])
    limits = AdmissionLimits(max_in_flight_bytes=limit)
    with LookupThreads(1) as threads:
        server = ShardServer(
            shard, threads, pushes=pushes, admission_limits=limits, patience=patience, tally=tally, tls=tls
        )
        here = Here(commits, pushes, server, shard, tally, await server.start())
        try:
            yield here
            commits.gate.set()
            shard.gate.set()
            for peer in here.peers:
                peer.writer.transport.abort()
            for connection in here.connections:
                await connection.close()
            await until(lambda: server.connections == 0 and server.in_flight == 0 and server.lent == 0)
            await until(lambda: server.ledger.held == 0)
        finally:
            commits.gate.set()
            shard.gate.set()
            pushes.close()
            await server.close()


async def test_pushes_of_a_lent_connection_are_answered_in_order_whatever_their_size() -> None:
    async with serving() as here:
        peer = await here.peer()
        sizes = [1, 5, 20_000, 3, 100_000, 1, 30_000]
        peer.send(b"".join(frame_of(push_of(number, rows)) for number, rows in enumerate(sizes, start=2)))
        replies = await peer.replies(len(sizes))
        assert [reply.rows for reply in replies.values() if isinstance(reply, PushReply)] == sizes
        assert here.commits.applied == [(4, number) for number in range(1, len(sizes) + 2)]
        assert here.server.lent == 1
        assert here.tally.requests == {("push", "OK"): len(sizes) + 1}


@pytest.mark.parametrize("cut", [1, 31, 33, 100, 70_000])
async def test_a_frame_may_come_in_pieces(cut: int) -> None:
    async with serving() as here:
        peer = await here.peer()
        frame = frame_of(push_of(2, 10_000))
        for begin in range(0, len(frame), max(cut, len(frame) // 50)):
            peer.send(frame[begin : begin + max(cut, len(frame) // 50)])
            await asyncio.sleep(0)
        assert (await peer.replies(1))[2] == PushReply(2, 10_000, 0, 0)
        assert here.server.lent == 1


async def test_another_verb_ends_the_loan_for_good_and_no_answer_is_lost() -> None:
    async with serving() as here:
        peer = await here.peer()
        here.commits.gate.clear()
        here.commits.waits.clear()
        pull = joined(encode_request(pull_of(7), 3, 600_000_000))
        peer.send(frame_of(push_of(2)) + pull + frame_of(push_of(4)))
        assert isinstance((await peer.replies(1))[3], PullReply), "it passes the push before it"
        here.commits.gate.set()
        assert [*await peer.replies(2)] == [2, 4]
        assert here.server.lent == 0
        peer.send(frame_of(push_of(5)))
        assert [*await peer.replies(1)] == [5]
        assert here.server.lent == 0
        assert here.commits.applied == [(4, number) for number in (1, 2, 4, 5)]


async def test_pushes_through_a_head_are_not_lent() -> None:
    async with serving() as here:
        connection = await Connection.connect(*here.address)
        here.connections.append(connection)
        for number in range(1, 4):
            await connection.request(push_of(number)._replace(only_live=False), deadline_s=soon())
        assert here.server.lent == 0


async def test_tls_is_not_lent(certificates: Certificates) -> None:
    tls = LiveTls.of(certificates.tls)
    async with serving(tls=tls) as here:
        connection = await Connection.connect(*here.address, tls=tls)
        here.connections.append(connection)
        for number in range(1, 4):
            await connection.request(push_of(number), deadline_s=soon())
        assert here.server.lent == 0
        assert here.commits.applied == [(4, number) for number in range(1, 4)]


async def test_nonsense_is_answered_with_a_reason_and_the_end_and_harms_no_other() -> None:
    async with serving() as here:
        peer, other = await here.peer(), await here.connection()
        peer.send(frame_of(push_of(2)) + b"no frame at all, which is told so".ljust(64))
        told = (await peer.replies())[CONNECTION_ID]
        assert isinstance(told, ErrorReply)
        assert told.code == "PROTOCOL_ERROR"
        await until(lambda: (4, 2) in here.commits.applied)
        assert isinstance(await other.request(push_of(2), deadline_s=soon()), PushReply)


async def test_a_frame_that_does_not_end_ends_its_connection() -> None:
    async with serving(patience=AT_ONCE) as here:
        peer, other = await here.peer(), await here.connection()
        peer.send(frame_of(push_of(2, 100_000))[:200_000])
        told = (await peer.replies())[CONNECTION_ID]
        assert isinstance(told, ErrorReply)
        assert "a frame is not complete after" in told.message
        await until(lambda: here.server.ledger.receiving == 0)
        assert isinstance(await other.request(push_of(2), deadline_s=soon()), PushReply)


async def stuck(here: Here) -> tuple[Peer, int]:
    """Return a peer that has not read until its loan ended, and the number of its last push."""
    peer, number = await here.peer(), 1
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for connection in here.server._connections:
        assert connection._transport is not None
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    while here.server.lent:
        for _ in range(100):
            number += 1
            peer.send(frame_of(push_of(number)))
        while here.server.lent and len(here.commits.applied) < number:
            await asyncio.sleep(0.001)
    return peer, number


async def test_who_does_not_read_is_read_no_more_and_loses_no_answer() -> None:
    async with serving() as here:
        peer, number = await stuck(here)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert [*await peer.replies(number - 1)] == list(range(2, number + 1))
        assert here.commits.applied == [(4, each) for each in range(1, number + 1)]


async def test_who_does_not_read_is_ended() -> None:
    async with serving(patience=AT_ONCE) as here:
        peer, number = await stuck(here)
        while here.server.connections:
            for _ in range(100):
                number += 1
                peer.send(frame_of(push_of(number)))
            await asyncio.sleep(0.001)


async def test_closing_answers_what_was_read_and_reads_no_more() -> None:
    async with serving() as here:
        peer = await here.peer()
        here.commits.gate.clear()
        here.commits.waits.clear()
        peer.send(frame_of(push_of(2)))
        await asyncio.to_thread(here.commits.waits.wait)
        closing = asyncio.create_task(here.server.close(grace_s=1e6))
        await until(lambda: here.server.lent == 0)
        peer.send(frame_of(push_of(3)))
        here.commits.gate.set()
        assert [*await peer.replies()] == [2]
        await closing


async def test_who_leaves_is_forgotten_and_what_it_pushed_is_applied() -> None:
    async with serving() as here:
        peer = await here.peer()
        here.commits.gate.clear()
        here.commits.waits.clear()
        peer.send(frame_of(push_of(2)) + frame_of(push_of(3, 100_000))[:300_000])
        await asyncio.to_thread(here.commits.waits.wait)
        peer.writer.transport.abort()
        here.commits.gate.set()
        await until(lambda: here.server.connections == 0)
        assert here.commits.applied == [(4, 1), (4, 2)]


async def test_a_push_whose_time_is_up_is_answered_so_and_not_applied() -> None:
    async with serving() as here:
        peer = await here.peer()
        peer.send(frame_of(push_of(2), remaining_us=0) + frame_of(push_of(3)))
        replies = await peer.replies(2)
        assert isinstance(replies[2], ErrorReply)
        assert replies[2].code == "DEADLINE_EXCEEDED"
        assert here.commits.applied == [(4, 1), (4, 3)]


async def test_pushes_that_wait_for_the_coordinator_stay_in_order_and_are_answered() -> None:
    async with serving() as here:
        peer = await here.peer()
        peer.send(frame_of(push_of(2, name=OTHERS)) + frame_of(push_of(3)) + frame_of(push_of(4, name=OTHERS)))
        assert [*await peer.replies(1)] == [3]
        await until(lambda: here.pushes.wanted == {OTHERS})
        peer.send(frame_of(push_of(5, name=OTHERS)))
        here.pushes.confirm([USERS, OTHERS])
        assert sorted(await peer.replies(3)) == [2, 4, 5]
        assert here.commits.applied == [(4, number) for number in (1, 3, 2, 4, 5)]


async def test_large_frames_and_long_headers_are_for_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "LENT_FRAME_BYTES", 100_000)
    async with serving() as here:
        peer = await here.peer()
        peer.send(frame_of(push_of(2)) + frame_of(push_of(3, 10_000)) + frame_of(push_of(4)))
        assert [*await peer.replies(3)] == [2, 3, 4]
        assert here.server.lent == 0
        long = LiveName("ranker", 9, "t" * 500)
        here.pushes.confirm([USERS, long])
        peer = await here.peer()
        peer.send(frame_of(push_of(2, name=long)) + frame_of(push_of(3, name=long)))
        assert [*await peer.replies(2)] == [2, 3]


async def test_a_frame_for_which_there_is_no_room_is_refused_and_the_connection_goes_on() -> None:
    async with serving(limit=2 * MIB) as here:
        peer, holder = await here.peer(), await here.connection()
        asked = asyncio.create_task(holder.request(pull_of(*range(150_000), model=GATED), deadline_s=soon()))
        await until(here.shard.entered.is_set)
        peer.send(frame_of(push_of(2, 60_000)) + frame_of(push_of(3)))
        replies = await peer.replies(2)
        assert isinstance(replies[2], ErrorReply)
        assert replies[2].code == "UNAVAILABLE"
        assert isinstance(replies[3], PushReply)
        here.shard.gate.set()
        assert isinstance(await asked, PullReply)


async def test_a_push_thread_that_hangs_holds_up_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loans, "BUSY_AFTER_S", 0.01)
    async with serving(patience=Patience(check_s=0.01)) as here:
        connection = await here.connection()
        here.commits.gate.clear()
        here.commits.waits.clear()
        stuck = asyncio.create_task(connection.request(push_of(2), deadline_s=soon()))
        await asyncio.to_thread(here.commits.waits.wait)
        await until(lambda: here.server.lent == 0)
        assert isinstance(await connection.request(pull_of(1), deadline_s=soon()), PullReply)
        here.commits.gate.set()
        assert await stuck == PushReply(2, 1, 0, 0)


async def test_a_shard_that_ends_its_pushes_says_so() -> None:
    async with serving() as here:
        connection = await here.connection()
        here.pushes.close()
        for number in (2, 3):
            with pytest.raises(Unavailable, match="the shard ends"):
                await connection.request(push_of(number), deadline_s=soon())
        assert here.server.lent == 0


async def test_no_connection_waits_for_one_that_always_has_more() -> None:
    async with serving() as here:
        flooding, other = await here.peer(), await here.connection()
        for number in range(2, 300):
            flooding.send(frame_of(push_of(number, 60_000)))
        for number in range(2, 20):
            await other.request(push_of(number, writer=5), deadline_s=soon())
        assert len(here.commits.applied) < 300, "those of the other came before the last ones of the first"
        assert len(await flooding.replies(298)) == 298


async def test_whatever_comes_each_push_is_applied_once_in_order_and_answered() -> None:
    draw = random.Random(3)
    async with serving() as here:
        here.pushes.confirm([USERS, OTHERS])

        async def pushes(writer: int) -> None:
            connection = await Connection.connect(*here.address)
            here.connections.append(connection)
            number = 0
            until_s = time.monotonic() + 1.0
            while time.monotonic() < until_s:
                asked = []
                for _ in range(draw.randrange(1, 9)):
                    if draw.random() < 0.02:
                        asked.append(connection.request(pull_of(5), deadline_s=soon()))
                        continue
                    number += 1
                    rows = draw.choice([1, 10, 1_000, 20_000])
                    push = push_of(number, rows, draw.choice([USERS, OTHERS]), writer)
                    push = push._replace(only_live=draw.random() < 0.9)
                    asked.append(connection.request(push, deadline_s=soon()))
                for reply in await asyncio.gather(*asked):
                    assert isinstance(reply, PushReply | PullReply)
            assert [each for of, each in here.commits.applied if of == writer] == list(range(1, number + 1))

        await asyncio.gather(*(pushes(writer) for writer in range(1, 9)))


async def test_who_cannot_be_lent_for_want_of_descriptors_is_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    async with serving() as here:
        monkeypatch.setattr(loans.os, "dup", none_left)
        connection = await Connection.connect(*here.address)
        here.connections.append(connection)
        for number in range(1, 4):
            assert isinstance(await connection.request(push_of(number), deadline_s=soon()), PushReply)
        assert here.server.lent == 0


async def test_loans_leave_descriptors_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loans, "part_of_descriptors", lambda part, at_most: 1)
    async with serving() as here:
        await here.peer()
        connection = await Connection.connect(*here.address)
        here.connections.append(connection)
        for number in range(1, 4):
            assert isinstance(await connection.request(push_of(number), deadline_s=soon()), PushReply)
        assert here.server.lent == 1


async def test_replies_that_cannot_be_sent_from_the_thread_are_sent_by_the_event_loop() -> None:
    class NoBuffers(socket.socket):
        def send(self, *_: object) -> int:
            raise OSError(errno.ENOBUFS, "no buffers")

    async with serving() as here:
        peer = await here.peer()
        (loan,) = (connection._loan for connection in here.server._connections)
        assert loan is not None
        loan._socket = NoBuffers(fileno=loan._socket.detach())
        peer.send(frame_of(push_of(2)) + frame_of(push_of(3)))
        assert [*await peer.replies(2)] == [2, 3]


async def test_who_sent_nonsense_and_is_gone_is_forgotten() -> None:
    class Reset:
        """Transport of which the kernel learns that its peer is gone just before it is shut down."""

        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> object:
            return getattr(self._transport, name)

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "not connected")

    async with serving() as here:
        peer = await here.peer()
        (connection,) = here.server._connections
        assert connection._transport is not None
        connection._transport = Reset(connection._transport)  # type: ignore[assignment]
        other = await here.connection()
        peer.send(b"no frame at all, which is told so".ljust(64))
        await until(lambda: connection._poisoned)
        peer.writer.transport.abort()
        await until(lambda: here.server.connections == 1)
        assert isinstance(await other.request(push_of(2), deadline_s=soon()), PushReply)


async def test_however_many_are_lent_a_group_is_not_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_thread, "MOST_OF_LOANS_BYTES", 200_000)
    async with serving() as here:
        first, *others = [await here.peer() for _ in range(10)]
        here.commits.gate.clear()
        here.commits.waits.clear()
        first.send(frame_of(push_of(2)))
        await asyncio.to_thread(here.commits.waits.wait)
        for peer in others:  # so that all wait in the kernel when the thread looks again
            peer.send(frame_of(push_of(2, 5_000)))
        here.commits.gate.set()
        for peer in others:
            assert [*await peer.replies(1)] == [2]
        assert max(here.commits.sizes) <= 200_000 + 5_000 * 16
        assert here.server.lent == 10
