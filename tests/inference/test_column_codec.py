"""Columns and tensors as messages: golden bytes, round trips, and buffers that lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.wire.column_codec import DataType, decode_column, encode_column
from ringpull.inference.wire.messages import decode_tensor, read_column, write_tensor
from ringpull.ps.errors import InvalidInput, ProtocolError

VALUES = st.one_of(
    arrays.arrays(np.int64, st.integers(0, 12)),
    arrays.arrays(np.uint64, st.integers(0, 12)),
    arrays.arrays(np.float32, st.integers(0, 12), elements=st.floats(width=32)),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=12).map(lambda texts: np.array(texts, object)),
)


def round_trip(column: Column) -> Column:
    return decode_column("a", encode_column("a", column))


def read(message: pb.Column) -> Column:
    return decode_column("a", read_column("a", message))


@given(VALUES)
def test_flat_columns_come_back(values) -> None:
    back = round_trip(values)
    np.testing.assert_array_equal(back, values)
    assert back.dtype == values.dtype


@pytest.mark.medium
@given(VALUES, st.data())
def test_ragged_columns_come_back(values, data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    offsets = [0, *cuts, len(values)]
    weights = data.draw(st.none() | st.just(np.arange(len(values)) / 2)) if len(values) else None
    back = round_trip(Ragged(values, offsets, weights))
    np.testing.assert_array_equal(back.values, values)
    assert back.offsets.tolist() == offsets
    assert (back.weights is None) == (weights is None)
    if weights is not None:
        np.testing.assert_array_equal(back.weights, weights)


def test_other_numpy_types_are_sent_as_the_contracts() -> None:
    for values, dtype in [
        (np.array([1, 2], np.int16), np.int64),
        (np.array([1, 2], np.uint32), np.int64),
        (np.array([True, False]), np.int64),
        (np.array([0.5], np.float64), np.float32),
        (np.array([1, 2], ">i8"), np.int64),
        (np.arange(6)[::2], np.int64),
        (np.array(["a", "größe"]), object),
    ]:
        back = round_trip(values)
        assert back.dtype == dtype
        assert back.tolist() == values.tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_matrices_come_back(width) -> None:
    values = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    np.testing.assert_array_equal(round_trip(values), values)


def test_types_have_the_numbers_of_the_contract() -> None:
    unset = {"DATA_TYPE_UNSPECIFIED": 0}
    assert dict(pb.DataType.items()) == unset | {each.name: each.value for each in DataType}


def test_golden_bytes() -> None:
    """The bytes of the public contract."""
    column = encode_column("a", Ragged(np.array(["ab", "ö"], object), [0, 1, 2], [0.5, 1]))
    assert (column.dtype, column.values, column.rows) == (pb.STRING, 2, 2)
    assert column.data == b"ab\xc3\xb6"
    assert column.lengths == bytes([2, 0, 0, 0, 2, 0, 0, 0])
    assert column.offsets == b"".join(n.to_bytes(8, "little") for n in (0, 1, 2))
    assert column.weights == bytes.fromhex("0000003f 0000803f")
    assert encode_column("a", np.array([-2])).data == bytes.fromhex("feffffffffffffff")
    assert encode_column("a", np.array([1.0])).data == bytes.fromhex("0000803f")


def test_golden_bytes_of_a_raw_column() -> None:
    message = raw(
        pb.STRING,
        b"ab\xc3\xb6",
        bytes([2, 0, 0, 0, 2, 0, 0, 0]),
        raw_offsets=b"".join(n.to_bytes(8, "little") for n in (0, 1, 2)),
        raw_weights=bytes.fromhex("0000003f 0000803f"),
    )
    column = read(message)
    assert column.values.tolist() == ["ab", "ö"]
    assert column.offsets.tolist() == [0, 1, 2]
    assert column.weights.tolist() == [0.5, 1]
    assert read(raw(pb.INT64, bytes.fromhex("feffffffffffffff"))).tolist() == [-2]
    assert read(raw(pb.FLOAT32, bytes.fromhex("0000803f"))).tolist() == [1.0]
    assert read(raw(pb.UINT64, bytes.fromhex("feffffffffffffff" * 2), width=2)).tolist() == [[2**64 - 2] * 2]


def test_raw_numbers_are_not_copied() -> None:
    column = decode_column("a", encode_column("a", np.arange(3)))
    assert not column.flags.owndata


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (pb.Column(int64s={"values": [1, -2]}), [1, -2]),
        (pb.Column(uint64s={"values": [2**64 - 1]}), [2**64 - 1]),
        (pb.Column(floats={"values": [0.5]}), [0.5]),
        (pb.Column(strings={"values": ["a", ""]}), ["a", ""]),
        (pb.Column(int64s={}), []),
        (pb.Column(floats={"values": [1, 2, 3, 4]}, width=2), [[1, 2], [3, 4]]),
    ],
)
def test_typed_columns(message, expected) -> None:
    assert read(message).tolist() == expected


def test_typed_ragged_columns() -> None:
    column = read(pb.Column(int64s={"values": [1, 2]}, offsets=[0, 2, 2], weights=[0.5, 1]))
    assert (column.values.tolist(), column.offsets.tolist(), column.weights.tolist()) == ([1, 2], [0, 2, 2], [0.5, 1])


def raw(dtype, data=b"", lengths=b"", **fields) -> pb.Column:
    return pb.Column(raw=pb.RawBuffer(dtype=dtype, data=data, lengths=lengths), **fields)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.Column(), "has no values"),
        (raw(pb.DATA_TYPE_UNSPECIFIED), "raw.dtype is 0"),
        (raw(99), "raw.dtype is 99"),
        (raw(pb.INT64, b"1234567"), "7 bytes is no whole number of int64"),
        (raw(pb.FLOAT32, b"123"), "3 bytes is no whole number of float32"),
        (raw(pb.INT64, raw_offsets=b"123"), "raw_offsets of 3 bytes"),
        (raw(pb.INT64, raw_weights=b"123"), "raw_weights of 3 bytes"),
        (raw(pb.STRING, b"abc", bytes([2, 0, 0, 0])), "add up to 2 bytes; there are 3"),
        (raw(pb.STRING, b"", bytes([255] * 8)), "add up to 8589934590 bytes; there are 0"),
        (raw(pb.STRING, b"a", b"\1"), "raw lengths of 1 bytes"),
        (raw(pb.STRING, b"\xff", bytes([1, 0, 0, 0])), "not UTF-8"),
        (raw(pb.STRING, "ö".encode(), bytes([1, 0, 0, 0, 1, 0, 0, 0])), "not UTF-8"),
        (pb.Column(int64s={"values": [1]}, weights=[1]), "weights without offsets"),
        (pb.Column(int64s={"values": [1]}, offsets=[0, 1], width=1), "both offsets and a width"),
        (pb.Column(floats={"values": [1, 2, 3]}, width=2), "no whole number of rows of width 2"),
        (pb.Column(int64s={"values": [1]}, offsets=[0, 1], weights=[1, 2]), "2 weights for 1 values"),
    ],
)
def test_buffers_that_do_not_fit_are_refused_by_name(message, reason) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        read(message)
    assert str(caught.value).startswith("feature a: ")


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (np.array([b"x"]), "numpy type"),
        (np.array([object()]), "numpy type object"),
        (np.zeros((1, 1, 1)), "a column is"),
        (np.zeros((2, 0)), "a column is"),
        (np.array(["\ud800"], object), "cannot be written as UTF-8"),
        (Ragged([1], [0, 2]), "offsets must start at 0"),
    ],
)
def test_columns_that_cannot_be_sent(column, reason) -> None:
    with pytest.raises(InvalidInput, match=f"feature a: .*{reason}"):
        encode_column("a", column)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)), st.booleans())
def test_tensors_come_back(values, typed) -> None:
    message = pb.Tensor()
    write_tensor(message, values, typed=typed)
    back = decode_tensor("score", pb.Tensor.FromString(message.SerializeToString()))
    np.testing.assert_array_equal(back, values)
    assert back.flags.writeable


@pytest.mark.parametrize("shape", [[2], [-1], [2**62, 4]])
def test_tensors_that_do_not_fit_their_shape(shape) -> None:
    with pytest.raises(ProtocolError, match="output score"):
        decode_tensor("score", pb.Tensor(shape=shape, data=b"\0" * 12))


@pytest.mark.parametrize(
    ("column", "row"),
    [
        (np.array(["a", "b", "\ud800"], object), 2),
        (np.array([["a", "b"], ["\ud800", "c"]], object), 1),
        (Ragged(["a", "b", "\ud800"], [0, 0, 1, 3]), 2),
    ],
)
def test_a_string_that_cannot_be_sent_is_named_by_its_row(column, row: int) -> None:
    with pytest.raises(
        InvalidInput, match=f"^feature a: row {row}: a string cannot be written as UTF-8: .*half a char"
    ):
        encode_column("a", column)
