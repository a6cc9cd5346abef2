"""Frames of pushes: their bytes are fixed, and what cannot be a push, or its answer, is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringpull.ps.errors import ProtocolError
from ringpull.ps.pull_messages import Op, PullRequest, SubLookup
from ringpull.ps.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from ringpull.ps.wire.frames import LAYOUT, Frame, Kind
from ringpull.ps.wire.push_messages import PushReply, PushRequest

PUSH = PushRequest(
    model="ranker",
    table="user",
    epoch=3,
    lineage=0x0123456789ABCDEF,
    writer=1 << 63,
    number=7,
    remove=False,
    positions=np.array([1, 1 << 63], np.uint64),
    rows=np.arange(8, dtype=np.uint8),
)


def test_the_frames_of_a_push_are_fixed() -> None:
    assert b"".join(encode_request(PUSH, 5, 1000)).hex() == (
        "52504c3102080000050000000000000027000000e803000018000000000000009993020800a672616e6b6572a47573657203cf0123456789"
        "abcdefcf800000000000000007000000010000000000000000000000000000800001020304050607"
    )
    assert b"".join(encode_reply(PushReply(3 << 40, 2, 1, 0), 5)).hex() == (
        "52504c31028b000005000000000000000e0000000000000000000000000000009590cf00000300000000000201000000"
    )


def test_a_pull_as_exported_takes_a_bit_that_earlier_builds_take_for_a_limit() -> None:
    none = np.empty(0, np.uint32)
    plain = PullRequest("m", 1, 1, (SubLookup("t", Op.ROWS, 1, 0, False),), np.zeros(1, np.uint64), none, none)
    as_exported = PullRequest(
        "m", 1, 1, plain.lookups, plain.positions, none, none.astype(np.float32), as_exported=True, max_reply_bytes=9
    )
    before = b"".join(encode_request(plain, 5, 1000))
    after = b"".join(encode_request(as_exported, 5, 1000))
    assert b"\xcf\x20\0\0\0\0\0\0\x09" in after
    assert len(after) > len(before)


def frame_of(kind: Kind, fields: list[Any], *arrays: list[int]) -> Frame:
    typed = [np.array(array, dtype) for array, dtype in zip(arrays, LAYOUT[kind], strict=True)]
    return Frame(kind, 1, 0, fields, tuple(typed))


FIELDS = ["ranker", "user", 3, 9, 4, 7, 0, 0]


@pytest.mark.parametrize(
    ("fields", "arrays", "reason"),
    [
        (FIELDS[:-1], ([1], [2], []), "ends before the field identity"),
        ([*FIELDS, 1, 1], ([1], [2], []), "has 10 fields"),
        ([*FIELDS[:6], 2, 0], ([1], [], []), "remove is 2"),
        ([*FIELDS[:5], 0, 0, 0], ([1], [5], []), "writer 0000000000000004 sends number 0; numbers begin at 1"),
        ([*FIELDS[:4], 0, 7, 0, 0], ([1], [5], []), "writer 0000000000000000 sends number 7"),
        ([*FIELDS[:6], 1, 0], ([1], [5], []), "1 bytes of rows come with keys that are to be removed"),
        ([*FIELDS[:3], -1, *FIELDS[4:]], ([1], [5], []), "lineage is -1"),
        ([*FIELDS[:3], 1 << 64, *FIELDS[4:]], ([1], [5], []), "lineage is 184467440"),
        ([*FIELDS[:2], 1 << 63, *FIELDS[3:]], ([1], [5], []), "epoch is 92233720"),
        ([*FIELDS[:6], False, 0], ([1], [5], []), "remove is False"),
        ([*FIELDS[:4], 4.0, *FIELDS[5:]], ([1], [5], []), "writer is 4.0"),
        ([9, *FIELDS[1:]], ([1], [5], []), "model is 9"),
        (["ranker", None, *FIELDS[2:]], ([1], [5], []), "table is None"),
        ([], ([1], [5], []), "ends before the field model"),
        (FIELDS, ([1], [5, 6], [1]), "1 lengths with 2 bytes of rows"),
        (FIELDS, ([1, 2], [5, 6], [2]), "1 lengths with 2 bytes of rows"),
        (FIELDS, ([1, 2], [5, 6], [2**32 - 1, 3]), "2 lengths with 2 bytes of rows"),
    ],
)
def test_a_push_that_is_none_is_refused_with_its_reason(
    fields: list[Any], arrays: tuple[list[int], ...], reason: str
) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_request(frame_of(Kind.PUSH, fields, *arrays))


@pytest.mark.parametrize("fields", [[1, 1, 0, 0], [1, 1, 2, 1], [1, 2, 0, 1], [1, 2**63 - 1, 0, 3]])
def test_an_answer_must_fit_the_push(fields: list[int]) -> None:
    with pytest.raises(ProtocolError, match="the request has 2"):
        decode_reply(frame_of(Kind.PUSH_REPLY, fields), PUSH)
    assert decode_reply(frame_of(Kind.PUSH_REPLY, [9, 1, 1, 1]), PUSH) == PushReply(9, 1, 1, 1)
