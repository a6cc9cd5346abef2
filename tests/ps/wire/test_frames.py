"""The frame codec: bytes in fixed places, any cut of the stream, only ProtocolError for bytes that are no frame."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.errors import LimitExceeded, ProtocolError
from ringpull.ps.wire.codec import encode_reply, encode_request
from ringpull.ps.wire.frames import (
    AHEAD_BYTES,
    MAX_ITEMS,
    PRELUDE,
    REPLIES,
    REPLY_LIMITS,
    REQUEST_LIMITS,
    REQUESTS,
    SCRATCH_BYTES,
    Decoder,
    Frame,
    Kind,
    Limits,
    Refusal,
    encode,
)
from tests.ps.wire.feeding import feed, joined
from tests.ps.wire.strategies import replies, requests

EVERYTHING = REQUESTS | REPLIES


def decoder(limits: Limits = REPLY_LIMITS) -> Decoder:
    return Decoder(EVERYTHING, limits)


def pull_frame(keys: int = 3) -> bytes:
    positions = np.arange(keys, dtype=np.uint64)
    return joined(encode(Kind.PULL, 7, ["m"], [positions, np.ones(1, np.uint32), np.zeros(0, np.float32)]))


def frame_with(**changes: int | bytes) -> bytes:
    """A small valid frame with some fields of its prelude replaced."""
    header = msgpack.packb([[]])
    fields = {
        "magic": b"RPL1",
        "version": 2,
        "kind": Kind.STATISTICS,
        "reserved": 0,
        "request_id": 1,
        "header_bytes": len(header),
        "remaining_us": 0,
        "payload_bytes": 0,
    }
    return PRELUDE.pack(*(fields | changes).values()) + header.ljust(8, b"\0")


def header_frame(kind: Kind, header: bytes, payload: bytes = b"") -> bytes:
    prelude = PRELUDE.pack(b"RPL1", 2, kind, 0, 1, len(header), 0, len(payload))
    return prelude + header + bytes(-len(header) % 8) + payload


def test_bytes_of_a_frame_are_fixed() -> None:
    """Golden: a change here is a new protocol version."""
    pieces = encode(
        Kind.PULL,
        0x1122334455667788,
        ["m", 3, 9, [("t", 1, 2, 1, True)], 0],
        [np.array([1, 2**63], np.uint64), np.array([2], np.uint32), np.array([1.0, -2.0], np.float32)],
        remaining_us=1_000_000,
    )
    assert joined(pieces).hex(" ", 8) == (
        "52504c3102010000 8877665544332211 1200000040420f00 2000000000000000 "  # prelude
        "9693020102a16d03 099195a174010201 c300000000000000 "  # header: 18 bytes, padded to 24
        "0100000000000000 0000000000000080 0200000000000000 0000803f000000c0"  # buffers
    )


@pytest.mark.medium
@given(
    st.lists(
        st.one_of(
            requests.map(lambda m: joined(encode_request(m, 5, 10))), replies.map(lambda m: joined(encode_reply(m, 6)))
        ),
        max_size=4,
    ),
    st.data(),
)
def test_any_cut_of_the_stream_gives_the_same_frames(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cut = decoder()
    got = []
    rest = stream
    while rest:
        take = data.draw(st.integers(1, len(rest)))
        got += feed(cut, rest[:take])
        rest = rest[take:]
    assert [frame.kind for frame in got] == [frame.kind for frame in feed(decoder(), stream)]
    assert len(got) == len(frames)
    assert not cut.mid_frame


def test_every_split_point_of_one_frame() -> None:
    stream = pull_frame()
    for split in range(1, len(stream)):
        cut = decoder()
        assert feed(cut, stream[:split]) == []
        assert cut.mid_frame
        [frame] = feed(cut, stream[split:])
        assert (frame.request_id, frame.fields) == (7, ["m"])
        assert frame.arrays[0].tolist() == [0, 1, 2]
        assert not cut.mid_frame


def test_one_byte_at_a_time() -> None:
    frames = feed(decoder(), pull_frame() * 3, at_most=1)
    assert [frame.arrays[0].tolist() for frame in frames] == [[0, 1, 2]] * 3


def test_arrays_are_aligned_writable_and_of_their_own() -> None:
    first, second = feed(decoder(), pull_frame() * 2)
    first.arrays[0][:] = 99
    assert second.arrays[0].tolist() == [0, 1, 2]
    for frame in (first, second):
        for array in frame.arrays:
            assert array.flags.aligned
            assert array.ctypes.data % 8 == 0 or array.size == 0


def test_a_big_payload_is_received_in_place() -> None:
    """Past the scratch, the transport writes into the memory that the arrays then view."""
    values = np.arange(4 * SCRATCH_BYTES, dtype=np.float32)
    stream = joined(encode(Kind.PULL_REPLY, 1, [], [values, np.zeros(0, np.uint32), np.zeros(0, np.uint8)]))
    receiving = decoder()
    assert feed(receiving, stream[:SCRATCH_BYTES]) == []
    target = receiving.get_buffer()
    assert len(target) == len(stream) - SCRATCH_BYTES
    address = np.frombuffer(target, np.uint8).ctypes.data
    [frame] = feed(receiving, stream[SCRATCH_BYTES:])
    np.testing.assert_array_equal(frame.arrays[0], values)
    assert frame.arrays[0].ctypes.data <= address < frame.arrays[0].ctypes.data + values.nbytes


def test_after_a_big_payload_little_is_received_ahead_of_the_next_one() -> None:
    """What is read along with a header is copied to its arrays, which costs more the more it is."""
    none = [np.zeros(0, np.uint32), np.zeros(0, np.uint8)]
    values = np.arange(SCRATCH_BYTES, dtype=np.float32)
    big, small = (joined(encode(Kind.PULL_REPLY, 1, [], [each, *none])) for each in (values, values[:1]))
    receiving = decoder()
    for _ in range(3):
        for stream, ahead in ((big, AHEAD_BYTES), (big, AHEAD_BYTES), (small, SCRATCH_BYTES)):
            [frame] = feed(receiving, stream)
            assert frame.arrays[0].tolist() == values[: frame.arrays[0].size].tolist()
            assert len(receiving.get_buffer()) == ahead
    assert len(feed(receiving, big + 100 * small + big + small)) == 103


def test_what_is_refused_is_dropped_in_large_pieces() -> None:
    has_room = iter([True, False])
    receiving = Decoder(EVERYTHING, REPLY_LIMITS, lambda *_: next(has_room))
    values = np.arange(SCRATCH_BYTES, dtype=np.float32)
    stream = joined(encode(Kind.PULL_REPLY, 1, [], [values, np.zeros(0, np.uint32), np.zeros(0, np.uint8)]))
    taken, refused = feed(receiving, stream + stream[:SCRATCH_BYTES])
    assert (type(taken), type(refused)) == (Frame, Refusal)
    assert len(receiving.get_buffer()) == SCRATCH_BYTES


def test_big_arrays_leave_without_a_copy() -> None:
    values = np.arange(100_000, dtype=np.float32)
    pieces = encode(Kind.PULL_REPLY, 1, [], [values, np.zeros(0, np.uint32), np.zeros(0, np.uint8)])
    assert any(
        isinstance(piece, memoryview) and np.frombuffer(piece, np.uint8).ctypes.data == values.ctypes.data
        for piece in pieces
    )


@pytest.mark.parametrize("size", range(10))
def test_buffers_are_padded_to_eight(size: int) -> None:
    found = np.arange(size, dtype=np.uint8)
    stream = joined(encode(Kind.PULL_REPLY, 1, [], [np.ones(size, np.float32), np.ones(size, np.uint32), found]))
    assert len(stream) % 8 == 0
    [frame] = feed(decoder(), stream)
    assert frame.arrays[2].tolist() == found.tolist()


def test_a_header_larger_than_the_scratch() -> None:
    text = "x" * (3 * SCRATCH_BYTES)
    [frame] = feed(decoder(), joined(encode(Kind.ERROR, 1, [text])), at_most=1000)
    assert frame.fields == [text]


@pytest.mark.parametrize("remaining_us", [-5, 0, 1, 2**32 - 1, 2**40])
def test_remaining_time_saturates(remaining_us: int) -> None:
    [frame] = feed(decoder(), joined(encode(Kind.STATISTICS, 1, [], remaining_us=remaining_us)))
    assert frame.remaining_us == min(max(remaining_us, 0), 2**32 - 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": b"HTTP"}, "begins with b'HTTP'"),
        ({"version": 1}, "version is 1; this build speaks version 2"),
        ({"kind": 77}, "kind 77 is not accepted"),
        ({"reserved": 1}, "reserved field is 1"),
        ({"header_bytes": 0}, "header has 0 bytes"),
        ({"header_bytes": 2**32 - 1}, "header has 4294967295 bytes"),
        ({"payload_bytes": 2**64 - 1}, "buffers have 18446744073709551615 bytes"),
        ({"payload_bytes": 8}, "describes 0 payload bytes, the prelude 8"),
    ],
)
def test_a_bad_prelude_is_refused_with_its_reason(changes: dict[str, int | bytes], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        feed(decoder(), frame_with(**changes))


def test_a_kind_of_the_wrong_direction_is_refused() -> None:
    with pytest.raises(ProtocolError, match="kind STATISTICS is not accepted"):
        feed(Decoder(REPLIES, REPLY_LIMITS), frame_with())


@pytest.mark.parametrize(
    ("kind", "header", "reason"),
    [
        (Kind.STATISTICS, b"\xc1", "not valid msgpack"),
        (Kind.STATISTICS, b"\x91\x90\x00", "not valid msgpack"),  # a value too many
        (Kind.STATISTICS, b"\x81\x01\x02", "not valid msgpack"),  # a map
        (Kind.STATISTICS, b"\xd6\xff\0\0\0\0", "not valid msgpack"),  # a timestamp
        (Kind.STATISTICS, b"\xdd\xff\xff\xff\xff", "not valid msgpack"),  # an array that claims 4 billion items
        (Kind.STATISTICS, b"\x91" * 2000, "not valid msgpack"),  # nested too deep
        (Kind.STATISTICS, b"\xa1x", "must be an array"),
        (Kind.STATISTICS, b"\x90", "must be an array"),
        (Kind.STATISTICS, b"\x91\x01", "must be an array"),
        (Kind.STATISTICS, msgpack.packb([[1]]), "STATISTICS has 0 buffers"),
        (Kind.PULL, msgpack.packb([[0, 0]]), "PULL has 3 buffers"),
        (Kind.PULL, msgpack.packb([[0, 0, -1]]), "count is -1"),
        (Kind.PULL, msgpack.packb([[0, True, 0]]), "count is True"),
        (Kind.PULL, msgpack.packb([[0, 0, 0.0]]), "count is 0.0"),
        (Kind.PULL, msgpack.packb([[2**63, 2**63, 2**63]]), "the prelude 0"),
    ],
)
def test_a_bad_header_is_refused_with_its_reason(kind: Kind, header: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        feed(decoder(), header_frame(kind, header))


def test_no_payload_is_allocated_before_its_header_fits() -> None:
    """A prelude may claim up to the limit; memory is taken only when the header describes just as much."""
    claim = 512 << 20
    header = msgpack.packb([[0, 0, 0]])
    prelude = PRELUDE.pack(b"RPL1", 2, Kind.PULL_REPLY, 0, 1, len(header), 0, claim)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="describes 0 payload bytes"):
            feed(decoder(), prelude + header.ljust(8, b"\0"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_arrays_of_headers_are_bounded() -> None:
    """Nested arrays may each claim many items: the bound keeps their sum in megabytes."""
    claim = b"\xdd" + struct.pack(">I", MAX_ITEMS + 1)
    with pytest.raises(ProtocolError, match="max_array_len"):
        feed(decoder(), header_frame(Kind.STATISTICS, claim * 100))


def test_what_is_dropped_counts_as_arrived() -> None:
    refusing = Decoder(EVERYTHING, REPLY_LIMITS, lambda *_: False)
    stream = pull_frame(100_000)
    assert isinstance(feed(refusing, stream[:70_000])[0], Refusal)
    before = refusing.arrived
    assert feed(refusing, stream[70_000:500_000]) == []
    assert refusing.arrived - before == 430_000
    assert len(feed(refusing, stream[500_000:] + pull_frame())) == 1
    assert refusing.arrived == 0


def test_elements_of_headers_are_bounded_all_together() -> None:
    with pytest.raises(ProtocolError, match="elements"):
        feed(decoder(), header_frame(Kind.STATISTICS, msgpack.packb([[], *[[[]] * MAX_ITEMS] * 15])))


def test_the_largest_honest_headers_pass() -> None:
    tables = [["model", 1, f"table {number}", 1, 2, 3, 4] for number in range(MAX_ITEMS)]
    [frame] = feed(decoder(), joined(encode(Kind.STATISTICS_REPLY, 1, [0, 1, 2, 3, 4, tables])))
    assert frame.fields[-1] == tables
    lookups = [[f"table {number}", 1, 2**20, 2**20, False] for number in range(MAX_ITEMS)]
    arrays = [np.arange(9, dtype=np.uint64), np.ones(1, np.uint32), np.zeros(0, np.float32)]
    stream = joined(encode(Kind.PULL, 1, ["m", 1, 1, lookups, 0], arrays))
    for at_most in (1 << 30, 1000):  # so that the payload comes with the header, and after it
        [frame] = feed(decoder(), stream * 2, at_most=at_most)[1:]
        assert frame.fields[3] == lookups
        assert frame.arrays[0].tolist() == list(range(9))


def test_what_the_peer_would_refuse_is_not_sent() -> None:
    limits = Limits(header_bytes=100, payload_bytes=80)
    buffers = [np.zeros(11, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.float32)]
    with pytest.raises(LimitExceeded, match="buffers take 88 bytes; the limit is 80"):
        encode(Kind.PULL, 1, [], buffers, limits=limits)
    with pytest.raises(LimitExceeded, match=r"header takes \d+ bytes; the limit is 100"):
        encode(Kind.STATISTICS, 1, ["x" * 100], limits=limits)


@given(st.binary(max_size=300), st.integers(1, 300))
def test_random_bytes_are_refused_or_wait(data: bytes, at_most: int) -> None:
    with suppress(ProtocolError):
        assert feed(decoder(), data, at_most=at_most) == []


@given(st.binary(max_size=200), st.sampled_from(sorted(EVERYTHING)))
def test_random_headers_are_refused_or_read(header: bytes, kind: Kind) -> None:
    with suppress(ProtocolError):
        feed(decoder(), header_frame(kind, b"\x92\x90" + header))


@given(
    st.one_of(
        requests.map(lambda m: joined(encode_request(m, 5, 10))), replies.map(lambda m: joined(encode_reply(m, 6)))
    ),
    st.data(),
)
def test_mutated_frames_are_refused_read_or_wait(stream: bytes, data: st.DataObject) -> None:
    mutated = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["flip", "insert", "delete"])):
            case "flip":
                mutated[place] = data.draw(st.integers(0, 255))
            case "insert":
                mutated.insert(place, data.draw(st.integers(0, 255)))
            case _ if len(mutated) > 1:
                del mutated[place]
    with suppress(ProtocolError):
        for frame in feed(decoder(REQUEST_LIMITS), bytes(mutated)):
            assert all(array.flags.aligned for array in frame.arrays)
