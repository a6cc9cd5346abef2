"""Messages through frames and back, and headers that are frames but no messages."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.errors import ProtocolError
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.top_k_messages import TopKReply
from ringpull.ps.wire.codec import (
    MAX_ROW_BYTES,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    max_reply_bytes,
)
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.frames import LAYOUT, REPLIES, REPLY_LIMITS, REQUEST_LIMITS, REQUESTS, Decoder, Frame, Kind
from ringpull.ps.wire.header_fields import MAX_UINT, HeaderFields
from ringpull.ps.wire.messages import ErrorReply, RangePullReply, Reply, Request, StatisticsRequest, range_checksum
from ringpull.ps.wire.push_messages import PushRequest
from tests.ps.wire.feeding import feed, joined
from tests.ps.wire.strategies import replies, requests, same


@pytest.mark.medium
@given(requests, st.integers(1, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_requests_come_back(request_: Request, request_id: int, remaining_us: int) -> None:
    [frame] = feed(Decoder(REQUESTS, REQUEST_LIMITS), joined(encode_request(request_, request_id, remaining_us)))
    assert (frame.request_id, frame.remaining_us) == (request_id, remaining_us)
    assert same(decode_request(frame), request_)


@pytest.mark.medium
@given(replies, st.integers(0, 2**64 - 1))
def test_replies_come_back(reply: Reply, request_id: int) -> None:
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_reply(reply, request_id)))
    assert frame.request_id == request_id
    assert same(decode_reply(frame), reply)


def test_arrays_in_any_layout_are_sent_as_their_values() -> None:
    positions = np.arange(10, dtype=">u8")[::2]
    lookups = (SubLookup("t", Op.ROWS, 5, 0, False),)
    request = PullRequest("m", 1, 1, lookups, positions, np.zeros(0, np.uint32), np.zeros(0, np.float32))
    [frame] = feed(Decoder(REQUESTS, REQUEST_LIMITS), joined(encode_request(request, 1, 1)))
    assert frame.arrays[0].tolist() == [0, 2, 4, 6, 8]


def test_an_error_message_that_is_no_text_still_arrives() -> None:
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_reply(ErrorReply("INTERNAL", "a\ud800b"), 1)))
    assert decode_reply(frame) == ErrorReply("INTERNAL", "a?b")


def frame_of(kind: Kind, fields: list[Any], sizes: tuple[int, ...] = ()) -> Frame:
    sizes = sizes or (0,) * len(LAYOUT[kind])
    arrays = tuple(np.zeros(size, dtype) for size, dtype in zip(sizes, LAYOUT[kind], strict=True))
    return Frame(kind, 1, 0, fields, arrays)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "ends before the field model"),
        ([1, 1, 1, []], "model is 1; it must be text"),
        (["m", True, 1, []], "version is True"),
        (["m", -1, 1, []], "version is -1"),
        (["m", 2**63, 1, []], "version is 9223372036854775808"),
        (["m", 1, 1.0, []], "epoch is 1.0"),
        (["m", 1, 1, "t"], "look-ups is 't'; it must be an array"),
        (["m", 1, 1, [], 0, 0, 0], "has 7 fields; it must have 6"),
        (["m", 1, 1, [], 0, -1], "max reply bytes is -1"),
        (["m", 1, 1, []], "ends before the field identity"),
        (["m", 1, 1, [], -1], "identity is -1"),
        (["m", 1, 1, [], 2**64], "identity is 18446744073709551616"),
        (["m", 1, 1, [5]], "a look-up is 5"),
        (["m", 1, 1, [["t", 0, 0, 0]]], "a look-up is"),
        (["m", 1, 1, [["t", 7, 0, 0, False]]], "must be .text, Op"),
        (["m", 1, 1, [["t", True, 0, 0, False]]], "must be .text, Op"),
        (["m", 1, 1, [[b"t", 0, 0, 0, False]]], "must be .text, Op"),
        (["m", 1, 1, [["t", 0, -1, 0, False]]], "must be .text, Op"),
        (["m", 1, 1, [["t", 0, 0, 0, 1]]], "must be .text, Op"),
        (["m", 1, 1, [["t", 0, 2, 1, False]]], "forms 1 bags of 2 keys with ROWS"),
        (["m", 1, 1, [["t", 1, 2, 3, False]]], "forms 3 bags of 2 keys with SUM"),
        (["m", 1, 1, [["t", 1, 2, -1, False]]], "forms -1 bags of 2 keys with SUM"),
        (["m", 1, 1, [["t", 2, 2, 1, True]]], "weights with MAX; only SUM has"),
        (["m", 1, 1, [["t", 1, 2, 1, True]]], "2 keys, 1 bags and 2 weights; the buffers have 0, 0 and 0"),
    ],
)
def test_a_pull_that_is_none_is_refused_with_its_reason(fields: list[Any], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_request(frame_of(Kind.PULL, fields))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frame_of(Kind.ERROR, ["X", "y"]), "ends before the field epoch"),
        (frame_of(Kind.STATISTICS_REPLY, [0, 0, 0, 65_537, 0, []]), "slots is 65537"),
        (frame_of(Kind.STATISTICS_REPLY, [0, 0, 0, 0, 0, [1]]), "a table is 1"),
        (frame_of(Kind.STATISTICS_REPLY, [0, 0, 0, 0, 0, [["m", 1]]]), "ends before the field table"),
        (frame_of(Kind.RANGE_PULL_REPLY, [2**64, 0, 0]), "checksum is"),
        (frame_of(Kind.STATISTICS, []), "STATISTICS is not a reply"),
    ],
)
def test_a_reply_that_is_none_is_refused_with_its_reason(frame: Frame, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_reply(frame)


def test_a_reply_is_not_a_request() -> None:
    with pytest.raises(ProtocolError, match="ERROR is not a request"):
        decode_request(frame_of(Kind.ERROR, ["X", "y", 0]))


def test_a_deeply_nested_field_is_refused_like_any_other() -> None:
    """Its repr would overflow the stack."""
    nested: list[Any] = []
    for _ in range(990):
        nested = [nested]
    with pytest.raises(ProtocolError, match="a look-up is"):
        decode_request(frame_of(Kind.PULL, ["m", 1, 1, [nested]]))


def pull_of_rows(keys: int) -> PullRequest:
    lookups = (SubLookup("t", Op.ROWS, keys, 0, False),)
    return PullRequest("m", 1, 1, lookups, np.zeros(keys, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.float32))


def test_a_reply_is_let_come_as_far_as_it_was_asked_for() -> None:
    request = pull_of_rows(100)
    assert max_reply_bytes(request) > 100 * MAX_ROW_BYTES
    assert 5_000 < max_reply_bytes(replace(request, max_reply_bytes=5_000)) < 7_000


def test_a_reply_must_answer_its_request() -> None:
    pulled = frame_of(Kind.PULL_REPLY, [], (0, 1, 3))
    assert isinstance(decode_reply(pulled, pull_of_rows(3)), PullReply)
    with pytest.raises(
        ProtocolError, match="1 missing counts and 3 found flags; the request has 1 look-ups and 2 keys"
    ):
        decode_reply(pulled, pull_of_rows(2))
    with pytest.raises(ProtocolError, match="a StatisticsRequest was answered with a PullReply"):
        decode_reply(pulled, StatisticsRequest())
    error = frame_of(Kind.ERROR, ["NOT_FOUND", "no", 0])
    assert decode_reply(error, pull_of_rows(2)) == ErrorReply("NOT_FOUND", "no")


@pytest.mark.parametrize(
    ("lengths", "size", "reason"),
    [
        ([1, 2, 3], 6, None),
        ([1, 2], 3, None),  # those of other tables have none
        ([1, 2, 3], 5, "3 rows with 5 bytes"),
        ([2**32 - 1, 2**32 - 1], 2**20, "2 rows with 1048576 bytes"),
        ([0, 0, 0, 0], 0, "4 rows with 0 bytes; the request has 3 keys of rows"),
    ],
    ids=["all", "some", "too few bytes", "too long", "too many rows"],
)
def test_lengths_of_rows_of_bytes_must_add_up(lengths: list[int], size: int, reason: str | None) -> None:
    nothing, missing, found = np.empty(0, np.float32), np.zeros(1, np.uint32), np.zeros(3, np.uint8)
    reply = PullReply(nothing, missing, found, np.array(lengths, np.uint32), np.zeros(size, np.uint8))
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_reply(reply, 1)))
    assert frame.kind is Kind.BYTES_REPLY
    if reason is None:
        assert same(decode_reply(frame, pull_of_rows(3)), reply)
    else:
        with pytest.raises(ProtocolError, match=reason):
            decode_reply(frame, pull_of_rows(3))


def test_the_frames_of_rows_of_bytes_are_fixed() -> None:
    """Golden, beside those of `test_frames`: two rows of bytes of a pull, and of a range."""
    nothing, lengths, data = np.empty(0, np.float32), np.array([3, 0], np.uint32), np.frombuffer(b"abc", np.uint8)
    reply = PullReply(nothing, np.array([1], np.uint32), np.array([1, 0], np.uint8), lengths, data)
    assert joined(encode_reply(reply, 7)).hex() == (
        "52504c3102860000070000000000000007000000000000002000000000000000"
        "9195000102020300010000000000000001000000000000000300000000000000"
        "6162630000000000"
    )
    ranged = RangePullReply(np.array([5, 9], np.uint64), data, 17, 2, 4, lengths)
    assert joined(encode_reply(ranged, 7)).hex() == (
        "52504c3102870000070000000000000008000000000000002000000000000000"
        "9493020302110204050000000000000009000000000000006162630000000000"
        "0300000000000000"
    )


def test_the_frame_that_tells_absent_keys_is_fixed() -> None:
    """Golden: keys 1 and 3 of a bag; and how a pull asks, in a field that an earlier build takes for a limit."""
    values, missing, found = np.array([1.0], np.float32), np.array([2], np.uint32), np.empty(0, np.uint8)
    reply = PullReply(values, missing, found, absent=np.array([1, 3], np.uint32))
    assert joined(encode_reply(reply, 7)).hex() == (
        "52504c3102880000070000000000000008000000000000001800000000000000"
        "91960101000000020000803f0000000002000000000000000100000003000000"
    )
    request = replace(pull_of_rows(3), tell_absent=True)
    for most in (0, 100):
        [frame] = feed(
            Decoder(REQUESTS, REQUEST_LIMITS), joined(encode_request(replace(request, max_reply_bytes=most), 1, 1))
        )
        assert frame.fields[-1] == 2**62 + most


def test_absent_keys_that_nobody_asked_for_are_refused() -> None:
    nothing, missing, found = np.empty(0, np.float32), np.zeros(1, np.uint32), np.zeros(3, np.uint8)
    reply = PullReply(nothing, missing, found, absent=np.array([1], np.uint32))
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_reply(reply, 1)))
    assert same(decode_reply(frame, replace(pull_of_rows(3), tell_absent=True)), reply)
    with pytest.raises(ProtocolError, match="1 absent keys, which the request did not ask for"):
        decode_reply(frame, pull_of_rows(3))


def top_k_fields(count: int = 2, among: int = 0, **changed: Any) -> list[Any]:
    fields = {"model": "m", "version": 1, "epoch": 1, "table": "t", "k": 3, "count": count, "cosine": 0}
    return list({**fields, "among": among, "identity": 0, **changed}.values())


def top_k_frame(fields: list[Any], *arrays: list[int]) -> Frame:
    dtypes = LAYOUT[Kind.TOP_K]
    return Frame(
        Kind.TOP_K, 1, 0, fields, tuple(np.array(each, dtype) for each, dtype in zip(arrays, dtypes, strict=True))
    )


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (top_k_frame(top_k_fields(k=0), [], [], [], []), "k is 0"),
        (top_k_frame(top_k_fields(k=10_001), [], [], [], []), "k is 10001; it must be an integer from 1 to 10000"),
        (top_k_frame(top_k_fields(65), [], [], [], []), "queries is 65"),
        (top_k_frame(top_k_fields(cosine=2), [], [], [], []), "cosine is 2"),
        (top_k_frame(top_k_fields(among=True), [], [], [], []), "among is True"),
        (top_k_frame([*top_k_fields(), 0], [], [], [], []), "has 10 fields; it must have 9"),
        (top_k_frame(top_k_fields(), [1] * 5, [], [0] * 4, []), "5 numbers are not 2 queries"),
        (top_k_frame(top_k_fields(0), [1], [], [], []), "1 numbers are not 0 queries"),
        (top_k_frame(top_k_fields(), [], [], [0] * 3, []), "3 lengths of lists with 0 positions"),
        (top_k_frame(top_k_fields(), [], [], [1, 0, 0, 0], [5, 6]), "4 lengths of lists with 2 positions"),
        (top_k_frame(top_k_fields(), [], [], [2**32 - 1] * 4, [5]), "lengths of lists with 1 positions"),
        (top_k_frame(top_k_fields(), [], [], [0, 0, 1, 0], [5]), "never by both"),
        (top_k_frame(top_k_fields(among=1), [], [0, 5], [0] * 4, []), "never by both"),
        (top_k_frame(top_k_fields(), [], [0], [0] * 4, []), "ranges of slots"),
        (top_k_frame(top_k_fields(), [], [5, 5], [0] * 4, []), "ranges of slots"),
        (top_k_frame(top_k_fields(), [], [0, 5, 4, 6], [0] * 4, []), "ranges of slots"),
        (top_k_frame(top_k_fields(), [], [0, 65_537], [0] * 4, []), "ranges of slots"),
    ],
)
def test_a_top_k_that_is_none_is_refused_with_its_reason(frame: Frame, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_request(frame)


@pytest.mark.parametrize(
    ("counts", "scores", "reason"),
    [
        ([2, 1], [2.0, 1.0, 5.0], None),
        ([0, 2], [2.0, 2.0], None),
        ([0, 0], [], None),
        ([1], [2.0], "1 queries with up to 1 rows"),
        ([0, 4], [1.0] * 4, "2 queries with up to 4 rows each; the request has 2, and asks for 3"),
        ([2, 1], [2.0, 1.0], "scores; 3 of each were due"),
        ([2, 1], [1.0, 2.0, 5.0], "do not descend"),
        ([2, 1], [2.0, np.nan, 5.0], "a score is NaN"),
    ],
)
def test_best_rows_must_fit_what_was_asked(counts: list[int], scores: list[float], reason: str | None) -> None:
    request = decode_request(top_k_frame(top_k_fields(), [1, 2], [0, 65_536], [0] * 4, []))
    reply = TopKReply(
        np.array(counts, np.uint32), np.arange(len(scores), dtype=np.uint64), np.array(scores, np.float32)
    )
    frames = joined(encode_reply(reply, 1))
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), frames)
    assert sum(array.nbytes for array in frame.arrays) <= max_reply_bytes(request)
    if reason is None:
        assert same(decode_reply(frame, request), reply)
    else:
        with pytest.raises(ProtocolError, match=reason):
            decode_reply(frame, request)


def test_the_frames_of_top_k_are_fixed() -> None:
    """Golden: one query that excludes a position, and its best row."""
    frame = top_k_frame(top_k_fields(1, identity=9), [1, 2], [0, 65_536], [1, 0], [5])
    assert joined(encode_request(decode_request(frame), 7, 1000)).hex() == (
        "52504c3102060000070000000000000011000000e80300002000000000000000"
        "9a9402020201a16d0101a1740301000009000000000000000000803f00000040"
        "000000000000010001000000000000000500000000000000"
    )
    reply = TopKReply(np.array([1], np.uint32), np.array([6], np.uint64), np.array([2.5], np.float32))
    assert joined(encode_reply(reply, 7)).hex() == (
        "52504c3102890000070000000000000005000000000000001800000000000000"
        "9193010101000000010000000000000006000000000000000000204000000000"
    )


plain = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.text(max_size=3), st.binary(max_size=3), st.floats(), st.none()),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


@pytest.mark.medium
@given(st.sampled_from(sorted(REQUESTS)), st.lists(plain, max_size=8))
def test_any_fields_are_a_request_or_refused(kind: Kind, fields: list[Any]) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode_request(frame_of(kind, fields)), Request)


@pytest.mark.medium
@given(st.sampled_from(sorted(REPLIES)), st.lists(plain, max_size=8))
def test_any_fields_are_a_reply_or_refused(kind: Kind, fields: list[Any]) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode_reply(frame_of(kind, fields)), Reply)


def test_the_checksum_of_a_range_is_fixed() -> None:
    """Golden: xxh3_64 of the positions' bytes followed by the rows', and the lengths' of rows of bytes."""
    positions, rows = np.array([1, 2], np.uint64), np.arange(8, dtype=np.uint8)
    assert range_checksum(positions, rows) == 0xCD29396E1739704E
    assert range_checksum(positions, rows, np.array([3, 5], np.uint32)) == 0x1AC1CA04A7A1BAFA
    assert range_checksum(positions[:0], rows[:0]) == 0x2D06800538D394C2  # xxh3_64 of nothing
    reply = RangePullReply(positions, rows, range_checksum(positions, rows), 2, 2)
    [frame] = feed(Decoder(REPLIES, REPLY_LIMITS), joined(encode_reply(reply, 1)))
    received = decode_reply(frame)
    assert isinstance(received, RangePullReply)
    assert range_checksum(received.positions, received.rows) == received.checksum


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"\xc1",
        msgpack.packb(("machine", 1, [], 5)),
        msgpack.packb(("machine", "1", [], 5, [])),
        msgpack.packb(("machine", 1, [("model", 1.5)], 5, [])),
        msgpack.packb(("machine", 1, [], 5, [("users", "text", b"", 7, (1, 2, 3, 4, 5), ())])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"folder", b"", 7, (1, 2, 3, 4, 5), ())])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"/fol\0der", b"", 7, (1, 2, 3, 4, 5), ())])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"/folder", b"up", 7, (1, 2, 3, 4, 5), ())])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"/folder", b"", 7, (1, 2, 3, 4), ())])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"/folder", b"", 7, (1, 2, 3, 4, 5), ((5, 5),))])),
        msgpack.packb(("machine", 1, [], 5, [("users", b"/folder", b"", 7, (1, 2, 3, 4, 5), ((0, 65_537),))])),
    ],
)
def test_files_that_are_told_wrongly_are_refused(told: bytes) -> None:
    with pytest.raises(ProtocolError, match="FILES_REPLY"):
        FilesReply.unpacked(np.frombuffer(told, np.uint8))


def test_files_are_asked_for_by_a_table_without_a_name() -> None:
    """A shard of an earlier build reads it as a table that it does not have."""
    [frame] = feed(Decoder(REQUESTS, REQUEST_LIMITS), joined(encode_request(FilesRequest("model", 3), 9, 5)))
    assert (frame.kind, frame.fields) == (Kind.DESCRIBE, ["model", 3, "", 0, 0, 0])


def test_a_push_that_has_to_be_live_is_refused_by_a_shard_that_does_not_know_of_it() -> None:
    """All other pushes are the bytes that they were before there were such; a shard of then ends on one field more."""
    push = PushRequest("m", "t", 7, 1 << 60, 0, 0, True, np.array([5], np.uint64))
    plain = b"".join(map(bytes, encode_request(push, 1, 1_000_000)))
    header = bytes.fromhex("99 93010000 a16d a174 07 cf1000000000000000 00 00 01 00")
    assert plain[16:20] == len(header).to_bytes(4, "little")
    assert plain[32 : 32 + len(header)] == header
    live = b"".join(map(bytes, encode_request(push._replace(only_live=True), 1, 1_000_000)))
    assert live[32 : 33 + len(header)] == b"\x9a" + header[1:] + b"\x01"
    fields = HeaderFields(frame_of(Kind.PUSH, ["m", "t", 7, 1 << 60, 0, 0, 1, 0, 1], (1, 0, 0)))
    for name in ("model", "table"):
        fields.text(name)
    for name in ("epoch", "lineage", "writer", "number", "remove", "identity"):
        fields.number(name, MAX_UINT)
    with pytest.raises(ProtocolError, match="PUSH"):
        fields.end()
