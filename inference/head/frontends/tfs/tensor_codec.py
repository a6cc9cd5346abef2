"""`tensorflow.TensorProto` to arrays, and back.

A tensor's values lie in `tensor_content`, as they lie in memory, or in the list of its type. A list may be shorter than
the shape: its last value stands for the rest, and zero where there is none. So a tensor may be larger than its message;
how much is limited, for the tensors of a request together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.plans import Plans, TensorKind, kind_of
from ringpull.inference.head.frontends.tensors import CHUNK
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.ps.errors import InvalidInput, LimitExceeded

MAX_DIMENSIONS: Final = 2
"""Dimensions of a tensor: rows, and values of a row. No feature takes more."""
MAX_DIMENSION: Final = 2**31 - 1
"""Largest dimension: also beside one of 0, numpy takes no product that overflows."""
MAX_FILLED_BYTES: Final = 1 << 20
"""Bytes of the tensors of one request that stand in no list: a small message must not take much memory."""
_OBJECT: Final = np.dtype(object)
_OBJECT_BYTES: Final = _OBJECT.itemsize
_MAX_VARINT_BYTES: Final = 5


class _Type(NamedTuple):
    """Type of values."""

    field: str
    """List of the message that holds them."""
    numpy: np.dtype[Any]
    """Numpy type of `tensor_content`; objects for strings."""
    listed: np.dtype[Any]
    """Numpy type of the list, wider for small integers."""


def _types() -> dict[int, _Type]:
    def each(field: str, numpy: str, listed: str = "") -> _Type:
        return _Type(field, np.dtype(numpy), np.dtype(listed or numpy))

    named = {
        "DT_FLOAT": each("float_val", "<f4"),
        "DT_DOUBLE": each("double_val", "<f8"),
        "DT_HALF": each("half_val", "<f2", "<i4"),
        "DT_BFLOAT16": each("half_val", "<u2", "<i4"),
        "DT_INT64": each("int64_val", "<i8"),
        "DT_UINT64": each("uint64_val", "<u8"),
        "DT_INT32": each("int_val", "<i4"),
        "DT_UINT32": each("uint32_val", "<u4"),
        "DT_INT16": each("int_val", "<i2", "<i4"),
        "DT_UINT16": each("int_val", "<u2", "<i4"),
        "DT_INT8": each("int_val", "i1", "<i4"),
        "DT_UINT8": each("int_val", "u1", "<i4"),
        "DT_BOOL": each("bool_val", "u1", "?"),
        "DT_STRING": each("string_val", "O"),
    }
    return {messages.DTYPES[name]: kind for name, kind in named.items()}


_TYPES: Final = _types()
_PLANNED: Final = {
    messages.DTYPES["DT_INT64"]: "INT64",
    messages.DTYPES["DT_UINT64"]: "UINT64",
    messages.DTYPES["DT_FLOAT"]: "FP32",
}
"""Types that columns have, by the names that plans have for them."""
_HALF: Final = messages.DTYPES["DT_HALF"]
_BFLOAT16: Final = messages.DTYPES["DT_BFLOAT16"]
_STRING: Final = messages.DTYPES["DT_STRING"]
_BOOL: Final = messages.DTYPES["DT_BOOL"]
_ODD: Final = (_BFLOAT16, _BOOL)
"""Types that numpy has not, or not in every byte."""
_FLOAT: Final = messages.DTYPES["DT_FLOAT"]


def shapes_of(inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a request, by name.

    Raises:
        InvalidInput: One is no shape of a feature; the message names it.
    """
    return {name: _shape(name, message.tensor_shape) for name, message in inputs.items()}


def planned_columns(
    inputs: Mapping[str, Any], served: ServedVersion, limits: Limits, plans: Plans
) -> ReceivedColumns | None:
    """Return the tensors of a request as columns by a plan; None: there is none for them, or it does not fit.

    Only what lies in `tensor_content`, in types that columns have, has one.

    Raises:
        InvalidInput, LimitExceeded: See `Plan.columns`.
    """
    kinds: list[TensorKind] = []
    shapes: list[tuple[int, ...]] = []
    contents: list[bytes] = []
    for name in sorted(inputs):
        message = inputs[name]
        datatype, content = _PLANNED.get(message.dtype), message.tensor_content
        if datatype is None or not content:
            return None
        shape = _shape(name, message.tensor_shape)
        kinds.append(kind_of(name, datatype, shape))
        shapes.append(shape)
        contents.append(content)
    plan = plans.find(served, tuple(kinds))
    return None if plan is None else plan.columns(shapes, contents, limits)


def read_tensors(inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a request as arrays, by name; views of `tensor_content` where that is.

    Strings are `bytes` in arrays of objects; bfloat16 is float32; truth values are uint8.

    Raises:
        InvalidInput: Type, shape and values of one do not fit; the message names it.
        LimitExceeded: So many values stand in no list that they would take more than `MAX_FILLED_BYTES`.
    """
    arrays: dict[str, NDArray[Any]] = {}
    room = MAX_FILLED_BYTES
    for name, message in inputs.items():
        arrays[name], filled = _read(name, message, room)
        room -= filled
    return arrays


def _read(name: str, message: Any, room: int) -> tuple[NDArray[Any], int]:
    """Return a tensor, and how many of its bytes stand in no list."""
    number = message.dtype
    kind = _TYPES.get(number)
    if kind is None:
        raise InvalidInput(
            f"input {name}: dtype is {messages.DTYPE_NAMES.get(number, number)}; it must be one of"
            f" {', '.join(messages.DTYPE_NAMES[each] for each in _TYPES)}"
        )
    shape = _shape(name, message.tensor_shape)
    count = math.prod(shape)
    content = message.tensor_content
    if content:
        if number == _STRING:
            return _strings(name, content, count).reshape(shape), 0
        dtype = kind.numpy
        if len(content) != count * dtype.itemsize:
            raise InvalidInput(
                f"input {name}: tensor_content has {len(content)} bytes; {messages.DTYPE_NAMES[number]} of shape"
                f" {_told(shape)} has {count * dtype.itemsize}"
            )
        values = np.ndarray(shape, dtype, content)
        return (_as_values(number, values) if number in _ODD else values), 0
    listed = getattr(message, kind.field)
    given = len(listed)
    if given > count:
        raise InvalidInput(f"input {name}: {kind.field} has {given} values; the shape {_told(shape)} has {count}")
    filled = (count - given) * (_OBJECT_BYTES if number == _STRING else kind.listed.itemsize)
    if filled > room:
        raise LimitExceeded(
            f"input {name}: {kind.field} has {given} values for the shape {_told(shape)}; values that stand in no list"
            f" may take {MAX_FILLED_BYTES} bytes in all tensors of a request: send them"
        )
    values = _listed(name, number, kind, listed)
    if given < count:
        values = np.concatenate((values, np.full(count - given, values[-1] if given else _zero(kind), values.dtype)))
    return values.reshape(shape), filled


def _shape(name: str, message: Any) -> tuple[int, ...]:
    dims = message.dim
    if message.unknown_rank or len(dims) > MAX_DIMENSIONS:
        raise InvalidInput(f"input {name}: tensor_shape must have {MAX_DIMENSIONS} dimensions at most, all known")
    shape = tuple([each.size for each in dims])
    if shape and not 0 <= min(shape) <= max(shape) <= MAX_DIMENSION:
        raise InvalidInput(
            f"input {name}: tensor_shape is {_told(shape)}; a dimension must be from 0 to {MAX_DIMENSION}"
        )
    return shape


def _listed(name: str, number: int, kind: _Type, listed: Any) -> NDArray[Any]:
    """Return the values of a list, in their own type."""
    if number == _STRING:
        return array_of_list(listed, kind.numpy)
    values = array_of_list(listed, kind.listed)
    if kind.listed == kind.numpy or not values.size:
        return values.astype(kind.numpy, copy=False)
    if number == _BOOL:
        return values.astype(kind.numpy)
    bounds = np.iinfo(np.uint16 if kind.field == "half_val" else kind.numpy)
    if values.min() < bounds.min or values.max() > bounds.max:
        raise InvalidInput(
            f"input {name}: {kind.field} holds {values.min()} to {values.max()};"
            f" {messages.DTYPE_NAMES[number]} takes {bounds.min} to {bounds.max}"
        )
    if number == _HALF:
        return values.astype(np.uint16).view(kind.numpy)
    return _as_values(number, values.astype(kind.numpy))


def array_of_list(listed: Sequence[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a list of a message as an array; objects for strings.

    A message gives numpy its numbers as they lie in memory, 2 ns each. Strings become objects one by one: in steps.
    """
    if dtype != _OBJECT:
        return np.array(listed, dtype)
    count = len(listed)
    array = np.empty(count, dtype)
    for at in range(0, count, CHUNK):
        array[at : at + CHUNK] = listed[at : at + CHUNK]
    return array


def _as_values(number: int, values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a type that numpy has not as those of one that it has."""
    if number == _BFLOAT16:
        wide: NDArray[Any] = np.asarray(values.astype(np.uint32) << 16)
        return wide.view(np.float32)
    if number == _BOOL:
        true: NDArray[Any] = np.asarray(np.not_equal(values, 0))
        return true.view(np.uint8)
    return values


def _zero(kind: _Type) -> Any:
    return b"" if kind.field == "string_val" else 0


def _strings(name: str, content: bytes, count: int) -> NDArray[Any]:
    """Return strings of a `tensor_content`: the length of each as a varint, then all of them end to end."""
    lengths, at = [], 0
    if count > len(content):
        raise InvalidInput(
            f"input {name}: tensor_content has {len(content)} bytes; there must be {count} strings in it"
        )
    for _ in range(count):
        length = shift = 0
        while True:
            if at == len(content) or shift == 7 * _MAX_VARINT_BYTES:
                raise InvalidInput(f"input {name}: tensor_content does not begin with the lengths of {count} strings")
            byte = content[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        lengths.append(length)
    if sum(lengths) != len(content) - at:
        raise InvalidInput(
            f"input {name}: tensor_content has {len(content) - at} bytes of strings; their lengths add up to"
            f" {sum(lengths)}"
        )
    strings = np.empty(count, object)
    for place, length in enumerate(lengths):
        strings[place] = content[at : at + length]
        at += length
    return strings


def _told(shape: tuple[int, ...]) -> str:
    return str(list(shape))


def write_tensor(message: Any, values: NDArray[np.float32]) -> None:
    """Write an output into a `TensorProto`, as TensorFlow Serving does: its values in `float_val`.

    By a list: 4 us for 128 values, where an array takes 21 (one core of an Intel Xeon).
    """
    message.dtype = _FLOAT
    dims = message.tensor_shape.dim
    for size in values.shape:
        dims.add(size=size)
    flat = values.ravel()
    for at in range(0, flat.size, CHUNK):
        message.float_val.extend(flat[at : at + CHUNK].tolist())
