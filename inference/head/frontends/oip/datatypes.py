"""The datatypes of tensors: what numpy calls them, and how their values are written as bytes and in typed fields.

Bytes are little-endian, row by row. BYTES are strings, each behind its length as uint32. Sizes are held against shapes
before anything is made of either: a shape is only a claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput

MAX_DIMENSIONS: Final = 2
MAX_DIMENSION: Final = 2**63 - 1
"""Largest dimension, of gRPC's messages. An integer of JSON may have thousands of digits, and a product of two has more
than Python writes out."""
MAX_EMPTY_ROWS: Final = 1 << 20
"""Rows of a tensor that has no values; of others the number is bound by their bytes."""
LENGTH_BYTES: Final = 4

BYTES: Final = "BYTES"


class NumberType(NamedTuple):
    """Type of numbers."""

    dtype: np.dtype[Any]
    """Type in numpy; of BF16, which it does not have, that of its bits."""
    contents: str
    """Field of typed contents; empty: there is none, they come as bytes only."""


NUMBERS: Final = {
    "BOOL": NumberType(np.dtype("u1"), "bool_contents"),
    "UINT8": NumberType(np.dtype("u1"), "uint_contents"),
    "UINT16": NumberType(np.dtype("<u2"), "uint_contents"),
    "UINT32": NumberType(np.dtype("<u4"), "uint_contents"),
    "UINT64": NumberType(np.dtype("<u8"), "uint64_contents"),
    "INT8": NumberType(np.dtype("i1"), "int_contents"),
    "INT16": NumberType(np.dtype("<i2"), "int_contents"),
    "INT32": NumberType(np.dtype("<i4"), "int_contents"),
    "INT64": NumberType(np.dtype("<i8"), "int64_contents"),
    "FP16": NumberType(np.dtype("<f2"), ""),
    "FP32": NumberType(np.dtype("<f4"), "fp32_contents"),
    "FP64": NumberType(np.dtype("<f8"), "fp64_contents"),
    "BF16": NumberType(np.dtype("<u2"), ""),
}
NAMES: Final = (*NUMBERS, BYTES)


def check_shape(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Return the number of values of a tensor of this shape.

    Raises:
        InvalidInput: It is no type, or no shape, that an input can have; the message names the input.
    """
    if datatype not in NUMBERS and datatype != BYTES:
        raise InvalidInput(f"input {name}: datatype is {datatype!r}; it must be one of {', '.join(NAMES)}")
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise InvalidInput(
            f"input {name}: its shape is {_shown(shape)}; it must have one dimension or two, the first of which is the"
            " row, and none may be negative"
        )
    if max(shape) > MAX_DIMENSION:
        raise InvalidInput(f"input {name}: its shape has a dimension above {MAX_DIMENSION}")
    values = math.prod(shape)
    if not values and max(shape) > MAX_EMPTY_ROWS:
        raise InvalidInput(f"input {name}: its shape is {_shown(shape)}, and it has no values")
    return values


def read_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> NDArray[Any]:
    """Return a tensor from its bytes: a view of them where they are numbers of a type that numpy has.

    Args:
        name: Name of the input, for messages.
        raw: Its values, row by row.

    Returns:
        Array of that shape; strings as they came, in an array of objects.

    Raises:
        InvalidInput: The bytes are not such a tensor; the message names the input.
    """
    values = check_shape(name, datatype, shape)
    if datatype == BYTES:
        return _as_objects(_split(name, values, raw)).reshape(shape)
    dtype = NUMBERS[datatype].dtype
    if len(raw) != values * dtype.itemsize:
        raise InvalidInput(
            f"input {name}: {len(raw)} bytes of data; {datatype} of shape {_shown(shape)} takes"
            f" {values * dtype.itemsize}"
        )
    return _meant(datatype, np.frombuffer(raw, dtype)).reshape(shape)


def read_contents(name: str, datatype: str, shape: Sequence[int], contents: Any) -> NDArray[Any]:
    """Return a tensor from its typed contents.

    Args:
        contents: Message `InferTensorContents`.

    Raises:
        InvalidInput: They are not such a tensor; the message names the input.
    """
    values = check_shape(name, datatype, shape)
    field = "bytes_contents" if datatype == BYTES else NUMBERS[datatype].contents
    if not field:
        raise InvalidInput(f"input {name}: {datatype} has no typed contents; send its bytes in raw_input_contents")
    for other, _ in contents.ListFields():
        if other.name != field:
            raise InvalidInput(f"input {name}: has {other.name}; the contents of {datatype} are {field}")
    return from_list(name, datatype, shape, list(getattr(contents, field)), values)


def from_list(
    name: str, datatype: str, shape: Sequence[int], given: list[Any], values: int | None = None
) -> NDArray[Any]:
    """Return a tensor from a flat list of its values.

    Args:
        given: Numbers, booleans, or strings as `str` or `bytes`, as the datatype asks for.
        values: What `check_shape` has returned for it; None: it is asked.

    Raises:
        InvalidInput: The list is not such a tensor; the message names the input.
    """
    values = check_shape(name, datatype, shape) if values is None else values
    if len(given) != values:
        raise InvalidInput(f"input {name}: {len(given)} values of data; shape {_shown(shape)} takes {values}")
    kinds = set(map(type, given))
    if datatype == BYTES and kinds in ({str}, {bytes}, set()):
        return _as_objects(given).reshape(shape)
    wrong = kinds - _python_types(datatype)
    if wrong:
        shown = ", ".join(sorted(_SHOWN_TYPES.get(each, each.__name__) for each in wrong))
        raise InvalidInput(f"input {name}: its datatype is {datatype}, and its data has values of type {shown}")
    kind = np.dtype("<f4") if datatype == "BF16" else NUMBERS[datatype].dtype
    try:
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the schema refuses it by name
            array = np.array(given, kind)
    except OverflowError as exc:
        raise InvalidInput(f"input {name}: an integer of its data is beyond {datatype}") from exc
    return array.reshape(shape)


_SHOWN_TYPES: Final = {
    dict: "object",
    list: "list",
    str: "string",
    type(None): "null",
    bool: "boolean",
    float: "number",
    int: "integer",
}


def _python_types(datatype: str) -> set[type]:
    """Return the types that values of a datatype of numbers come in, in a list."""
    if datatype in ("BOOL", BYTES):
        return {bool} if datatype == "BOOL" else {str}
    return {int, float} if datatype in ("FP16", "FP32", "FP64", "BF16") else {int}


def _meant(datatype: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of a type that numpy has for those that it has not."""
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return array != 0 if datatype == "BOOL" else array


def _split(name: str, values: int, raw: bytes | memoryview) -> list[bytes]:
    """Return so many strings, each behind its length."""
    if values * LENGTH_BYTES > len(raw):
        raise InvalidInput(f"input {name}: {len(raw)} bytes of data; {values} strings take 4 each, and their own")
    data, end = bytes(raw), len(raw)
    strings: list[bytes] = []
    at = 0
    for _ in range(values):
        begin = at + LENGTH_BYTES
        length = int.from_bytes(data[at:begin], "little")
        at = begin + length
        if begin > end or at > end:
            raise InvalidInput(f"input {name}: string {len(strings)} is to have {length} bytes, and the data ends")
        strings.append(data[begin:at])
    if at != end:
        raise InvalidInput(f"input {name}: {end - at} bytes of data are left after its {values} strings")
    return strings


def _as_objects(values: Sequence[str] | Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _shown(shape: Sequence[int]) -> str:
    shown = ", ".join(map(str, shape[:8]))
    return f"[{shown}, ...]" if len(shape) > 8 else f"[{shown}]"
