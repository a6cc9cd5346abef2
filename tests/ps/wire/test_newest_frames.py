"""Frames of newest rows: their bytes are fixed, and what cannot be a block of them, or its question, is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import ProtocolError
from ringpull.ps.wire.codec import decode_reply, decode_request, encode_reply, encode_request, max_reply_bytes
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.frames import LAYOUT, Frame, Kind
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.threads import LookupThreads
from tests.ps.wire.fake_shard import FakeShard, soon

SLOT = 1 << 48
ASKED = NewestRequest("ranker", 7, "user", 1, 3, SLOT + 5, 1 << 20, 0x0123456789ABCDEF)


def test_the_frames_of_newest_rows_are_fixed() -> None:
    assert b"".join(encode_request(ASKED, 5, 1000)).hex() == (
        "52504c31020900000500000000000000"
        "28000000e80300000000000000000000"
        "9990a672616e6b657207a4757365720103cf0001000000000005ce00100000cf"
        "0123456789abcdef"
    )
    reply = NewestReply(3 << 40, True, 9, np.array([SLOT + 5], np.uint64), np.arange(4, dtype=np.uint8))
    assert b"".join(encode_reply(reply, 5)).hex() == (
        "52504c31028c00000500000000000000"
        "10000000000000001000000000000000"
        "9493010400cf00000300000000000109"
        "05000000000001000001020300000000"
    )


@pytest.mark.net
async def test_newest_rows_are_answered_by_the_threads_of_scans() -> None:
    shard = FakeShard()
    with LookupThreads() as threads, LookupThreads(name="scan") as scans:
        server = ShardServer(shard, threads, scans=scans)
        connection = await Connection.connect(*await server.start())
        reply = await connection.request(ASKED, deadline_s=soon())
        assert isinstance(reply, NewestReply)
        assert reply.positions.tolist() == [SLOT + 5, SLOT + 6, SLOT + 7]
        assert shard.threads == {"scan-0"}
        await connection.close()
        await server.close()


def frame_of(kind: Kind, fields: list[Any], *arrays: list[int]) -> Frame:
    typed = [np.array(array, dtype) for array, dtype in zip(arrays, LAYOUT[kind], strict=True)]
    return Frame(kind, 1, 0, fields, tuple(typed))


FIELDS = ["ranker", 7, "user", 1, 3, 5, 100, 0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (FIELDS[:-1], "ends before the field identity"),
        ([*FIELDS, 1], "has 9 fields"),
        ([*FIELDS[:4], 65_537, *FIELDS[5:]], "end is 65537"),
        ([*FIELDS[:5], -1, *FIELDS[6:]], "first is -1"),
        ([*FIELDS[:5], 2**64, *FIELDS[6:]], "first is"),
        ([*FIELDS[:2], 7, *FIELDS[3:]], "table is 7"),
    ],
)
def test_a_question_that_is_none_is_refused_with_its_reason(fields: list[Any], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_request(frame_of(Kind.NEWEST, fields))


@pytest.mark.parametrize(
    ("fields", "arrays", "reason"),
    [
        ([0, 2, 0], ([], [], []), "done is 2"),
        ([0, 0, 0], ([], [], []), "there are no rows, and it is not done"),
        ([0, 0, 0], ([SLOT + 4], [1], []), "do not ascend within the slots 1 to 3"),
        ([0, 0, 0], ([3 * SLOT], [1], []), "do not ascend"),
        ([0, 0, 0], ([SLOT + 6, SLOT + 6], [1, 2], []), "do not ascend"),
        ([0, 0, 0], ([SLOT + 6], [1, 2], [1]), "1 lengths with 2 bytes"),
        ([0, 0, 0], ([SLOT + 6], [1, 2], [1, 1]), "2 lengths with 2 bytes"),
        ([0, 1, 0], ([], [1], []), "1 bytes of no rows"),
    ],
)
def test_a_block_that_does_not_fit_the_question_is_refused(
    fields: list[int], arrays: tuple[list[int], ...], reason: str
) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_reply(frame_of(Kind.NEWEST_REPLY, fields, *arrays), ASKED)


def test_who_asks_for_the_stamp_gets_no_rows() -> None:
    asked = NewestRequest("ranker", 7, "user", 0, 65_536, 0, 0)
    with pytest.raises(ProtocolError, match="only the stamp was asked for"):
        decode_reply(frame_of(Kind.NEWEST_REPLY, [1, 0, 0], [1], [], []), asked)
    reply = decode_reply(frame_of(Kind.NEWEST_REPLY, [7, 0, 0], [], [], []), asked)
    assert isinstance(reply, NewestReply)
    assert reply.stamp == 7


def test_no_block_is_larger_than_its_caller_lets_come() -> None:
    asked = NewestRequest("ranker", 7, "user", 0, 65_536, 0, 2**63 - 1)
    assert max_reply_bytes(asked) < 64 << 20
