"""`TensorProto`s of every type and form, read and compared with what numpy says they hold; and what is none."""

from __future__ import annotations

import math
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.tensor_codec import MAX_FILLED_BYTES, read_tensors, write_tensor
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError
from tests.inference.tfs.tensors import NAMES, dims, tensor
from tests.mangling import mangled

NUMBERS = [name for name in NAMES if name != "object"]
SHAPES = [(), (1,), (4,), (2, 3), (0,), (0, 3), (2, 0)]


def read(message):
    return read_tensors({"x": message})["x"]


def refusal(message, kind: type[RingpullError] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        read(message)
    assert str(caught.value).startswith("input x: ")
    return str(caught.value)


def sample(dtype: str, shape: tuple[int, ...]):
    rng = np.random.default_rng(3)
    return (rng.normal(size=shape) * 100).astype(dtype) if dtype != "bool" else rng.random(shape) > 0.5


@pytest.mark.parametrize("listed", [False, True], ids=["content", "list"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_every_type_and_form(dtype: str, shape: tuple[int, ...], listed: bool) -> None:
    values = sample(dtype, shape)
    found = read(tensor(values, listed=listed))
    assert found.shape == shape
    assert found.dtype == (np.uint8 if dtype == "bool" else dtype)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "int16", "int8", "uint8", "uint16", "uint32"])
def test_the_bounds_of_integers_are_kept(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    values = np.array([bounds.min, bounds.max], dtype)
    assert read(tensor(values, listed=True)).tolist() == read(tensor(values)).tolist() == [bounds.min, bounds.max]


def test_bfloat16_is_float32() -> None:
    values = np.array([1.0, -2.5, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    shape = dims(3)
    listed = messages.TensorProto(dtype="DT_BFLOAT16", tensor_shape=shape, half_val=bits.tolist())
    content = messages.TensorProto(dtype="DT_BFLOAT16", tensor_shape=shape, tensor_content=bits.tobytes())
    for message in (listed, content):
        assert read(message).dtype == np.float32
        assert read(message).tolist() == values.tolist()


def test_one_value_of_a_type_that_numpy_has_not_is_an_array() -> None:
    for dtype, content in (("DT_BFLOAT16", b"\x80\x3f"), ("DT_BOOL", b"\x01")):
        found = read(messages.TensorProto(dtype=dtype, tensor_content=content))
        assert isinstance(found, np.ndarray)
        assert (found.shape, found.tolist()) == ((), 1)


def varints(*lengths: int) -> bytes:
    """Lengths as varints: seven bits a byte, lowest first, the highest bit set in all but the last."""
    text = b""
    for length in lengths:
        while length > 127:
            text += bytes([length & 127 | 128])
            length >>= 7
        text += bytes([length])
    return text


@pytest.mark.parametrize(
    "strings", [[b"a"], [b"", b"\xff\x00", "é".encode()], [b"x" * 300, b"y"]], ids=["1", "3", "long"]
)
def test_strings_lie_in_a_list_or_in_the_content(strings: list[bytes]) -> None:
    listed = messages.TensorProto(dtype="DT_STRING", tensor_shape=dims(len(strings)), string_val=strings)
    packed = varints(*map(len, strings)) + b"".join(strings)
    content = messages.TensorProto(dtype="DT_STRING", tensor_shape=dims(len(strings)), tensor_content=packed)
    assert read(listed).tolist() == read(content).tolist() == strings


@pytest.mark.parametrize(
    "packed",
    [b"\x02a", b"\x01ab", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\x01a", b"\xff\xff\xff\xff\x7fa"],
    ids=["short", "long", "open", "endless", "huge"],
)
def test_strings_whose_lengths_lie(packed: bytes) -> None:
    refusal(messages.TensorProto(dtype="DT_STRING", tensor_shape=dims(1), tensor_content=packed))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_fewer_values_than_the_shape_repeat_the_last_and_none_are_zeros(dtype: str) -> None:
    values = sample(dtype, (2,))
    message = tensor(values, listed=True)
    message.tensor_shape.CopyFrom(messages.TensorProto(tensor_shape=dims(2, 3)).tensor_shape)
    assert read(message).tolist() == [[values[0], values[1], values[1]], [values[1]] * 3]
    name, _ = NAMES[dtype]
    assert read(messages.TensorProto(dtype=name, tensor_shape=dims(2))).tolist() == [0, 0]


def test_strings_too() -> None:
    assert read(messages.TensorProto(dtype="DT_STRING", tensor_shape=dims(2))).tolist() == [b"", b""]
    message = messages.TensorProto(dtype="DT_STRING", tensor_shape=dims(3), string_val=[b"a", b"b"])
    assert read(message).tolist() == [b"a", b"b", b"b"]


def test_without_a_shape_it_is_one_value() -> None:
    assert read(messages.TensorProto(dtype="DT_INT64", int64_val=[7])).shape == ()
    assert read(messages.TensorProto(dtype="DT_INT64")).tolist() == 0


def fields(dtype: str, *sizes: int, **content):
    return {"dtype": f"DT_{dtype}", "tensor_shape": dims(*sizes), **content}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dtype": "DT_COMPLEX64"}, "dtype is DT_COMPLEX64"),
        ({"dtype": "DT_INVALID"}, "dtype is DT_INVALID"),
        ({"dtype": 4711}, "dtype is 4711"),
        ({}, "dtype is DT_INVALID"),
        (fields("INT64", 2, int64_val=[1, 2, 3]), "int64_val has 3 values; the shape [2]"),
        (fields("INT64", -1), "tensor_shape is [-1]"),
        (fields("INT64", -2, -3, int64_val=[1] * 6), "tensor_shape is [-2, -3]"),
        ({"dtype": "DT_INT64", "tensor_shape": {"unknown_rank": True}}, "tensor_shape must have"),
        (fields("INT64", 1, 1, 1), "tensor_shape must have 2 dimensions at most"),
        (fields("INT64", 2, tensor_content=b"x"), "tensor_content has 1 bytes"),
        (fields("INT64", 2**31 - 1, 4, tensor_content=b"x" * 8), "tensor_content has 8 bytes"),
        (fields("INT64", 0, 2**62), "must be from 0 to 2147483647"),
        (fields("UINT8", 1, int_val=[256]), "int_val holds 256 to 256; DT_UINT8 takes 0"),
        (fields("INT8", 1, int_val=[-129]), "int_val holds -129"),
        (fields("HALF", 1, half_val=[65536]), "half_val holds 65536"),
        (fields("HALF", 1, half_val=[-1]), "half_val holds -1"),
        (fields("STRING", 2**30, tensor_content=b"\x00"), "must be 1073741824 strings"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(fields, says: str) -> None:
    assert says in refusal(messages.TensorProto(**fields))


@pytest.mark.parametrize("dtype", ["DT_INT64", "DT_STRING", "DT_BOOL"])
@pytest.mark.parametrize("sizes", [(2**31 - 1,), (2**31 - 1, 2**31 - 1)], ids=["1", "2"])
def test_a_small_message_takes_little_memory(dtype: str, sizes: tuple[int, ...]) -> None:
    message = messages.TensorProto(dtype=dtype, tensor_shape=dims(*sizes))
    tracemalloc.start()
    refusal(message, LimitExceeded)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 16


def test_nor_do_many_of_them() -> None:
    half = messages.TensorProto(dtype="DT_INT64", tensor_shape=dims(MAX_FILLED_BYTES // 16), int64_val=[7])
    assert read_tensors({"x": half, "y": half})["y"].sum() == 7 * MAX_FILLED_BYTES // 16
    with pytest.raises(LimitExceeded):
        read_tensors({"x": half, "y": half, "z": messages.TensorProto(dtype="DT_BOOL", tensor_shape=dims(17))})


WHOLE = [
    tensor(sample(dtype, (2, 3)), listed=listed).SerializeToString() for dtype in NUMBERS for listed in (False, True)
]


@pytest.mark.medium
@settings(max_examples=300)
@given(st.sampled_from(WHOLE).flatmap(mangled))
def test_any_bytes_are_a_tensor_or_refused(body: bytes) -> None:
    try:
        message = messages.TensorProto.FromString(body)
    except Exception:  # protobuf's own refusal, before anything is read here
        return
    with suppress(RingpullError):
        found = read(message)
        assert found.size == math.prod(dim.size for dim in message.tensor_shape.dim)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 3), (2, 2, 2), (0, 4)], ids=str)
def test_outputs_are_written_as_they_are_read(shape: tuple[int, ...]) -> None:
    values = sample("float32", shape)
    message = messages.TensorProto()
    write_tensor(message, values)
    assert [dim.size for dim in message.tensor_shape.dim] == list(shape)
    assert list(message.float_val) == values.ravel().tolist()
    assert message.dtype == messages.DTYPES["DT_FLOAT"]


def test_nan_and_infinity_are_written() -> None:
    message = messages.TensorProto()
    write_tensor(message, np.array([np.nan, np.inf, -np.inf], np.float32))
    np.testing.assert_array_equal(read(message), np.array([np.nan, np.inf, -np.inf], np.float32))
