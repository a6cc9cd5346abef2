"""Columns of Arrow as keys, vectors and rows of bytes: by their buffers, without a Python object a row.

Nothing is guessed of values: a null, a vector of another length or a type that is no number is an error that names the
row. Rows are counted from the first of the array; the caller's `at` says where in the source that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringpull.inference.importers.tables.columns import Column, Kind
from ringpull.inference.importers.tables.source import PieceKeys
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import MAX_DIM, Float32Array, RowType

At = Callable[[int], str]
"""Place that a row came from, for messages."""

UDT_FIELDS: Final = frozenset({"type", "size", "indices", "values"})
"""Fields of the struct that Spark stores a vector as: type 1 is dense, 0 sparse."""
_DENSE: Final = 1

_OWN_TYPES: Final = {pa.float16(): RowType.FLOAT16}


def column_of(field: pa.Field) -> Column:
    """Return what a column may be taken for."""
    return Column(field.name, kind_of(field.type), str(field.type))


def kind_of(kind: pa.DataType) -> Kind:
    """Return what values of a type may be taken for."""
    plain = plain_type(kind)
    if pa.types.is_decimal(plain):  # as databases write their integers of many digits
        return Kind.NUMBER if plain.scale > 0 else Kind.INTEGER
    if pa.types.is_integer(plain):
        return Kind.INTEGER
    if is_text(plain):
        return Kind.TEXT
    if is_binary(plain):
        return Kind.BYTES
    if pa.types.is_floating(plain):
        return Kind.NUMBER
    if is_list(plain) and pa.types.is_floating(plain.value_type):
        return Kind.VECTOR
    if pa.types.is_struct(plain) and {plain.field(i).name for i in range(plain.num_fields)} == UDT_FIELDS:
        return Kind.VECTOR
    return Kind.OTHER


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values, or what an extension lies as, such as a tensor of one axis."""
    if isinstance(kind, pa.BaseExtensionType) and len(getattr(kind, "shape", ())) <= 1:
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def row_type_of(kinds: Sequence[pa.DataType]) -> RowType:
    """Return the shortest row type that holds the numbers of columns exactly, or float32."""
    plain = [plain_type(kind) for kind in kinds]
    own = {_OWN_TYPES.get(kind.value_type if is_list(kind) else kind, RowType.FLOAT32) for kind in plain}
    return own.pop() if len(own) == 1 else RowType.FLOAT32


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_list_of_integers(kind: pa.DataType) -> bool:
    """Whether values are lists of integers, which are vectors where somebody says so."""
    plain = plain_type(kind)
    return is_list(plain) and bool(pa.types.is_integer(plain.value_type))


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def keys_of(array: pa.Array, column: str, at: At) -> PieceKeys:
    """Return the keys of a column: int64, uint64, or texts end to end.

    Raises:
        InvalidInput: One is null, or they are neither integers nor texts.
    """
    array = _plain(array)
    _refuse_nulls(array, f"key (column {column})", at)
    if pa.types.is_integer(array.type):
        wide = np.uint64 if array.type == pa.uint64() else np.int64
        return np.ascontiguousarray(array.to_numpy(zero_copy_only=False).astype(wide, copy=False))
    unmarked = is_binary(array.type) and not pa.types.is_fixed_size_binary(array.type)
    if is_text(array.type) or unmarked:  # old writers do not say that their bytes are texts
        return _end_to_end(array)
    if pa.types.is_decimal(array.type):
        return _integers_of(array, column, at)
    raise InvalidInput(f"{at(0)}: keys (column {column}) are {array.type}; they must be integers or strings")


def _integers_of(decimals: pa.Array, column: str, at: At) -> NDArray[np.int64]:
    """Return decimals without places behind the point as int64."""
    if decimals.type.bit_width < 128:  # Arrow casts these to no integer
        decimals = decimals.cast(pa.decimal128(decimals.type.precision, decimals.type.scale))
    try:
        return np.array(decimals.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        values = decimals.to_pylist()
    row = next(row for row, value in enumerate(values) if not -(2**63) <= int(value) < 2**63)
    raise InvalidInput(f"{at(row)}: the key (column {column}) is {values[row]}, beyond int64")


def bytes_of(array: pa.Array, column: str, at: At) -> BytesRows:
    """Return the rows of bytes of a column of bytes or texts.

    Raises:
        InvalidInput: One is null, or they are something else.
    """
    array = _plain(array)
    _refuse_nulls(array, f"value (column {column})", at)
    if not is_text(array.type) and not is_binary(array.type):
        raise InvalidInput(f"{at(0)}: values (column {column}) are {array.type}; they must be bytes or strings")
    return _end_to_end(array)


def dim_of(array: pa.Array, column: str, where: str) -> int:
    """Return how many numbers the first vector of a column has.

    Raises:
        InvalidInput: It is null, or has none, or more than a table can have.
    """
    array = _plain(array)
    _refuse_nulls(array[:1], f"vector (column {column})", lambda _: where)
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    elif is_list(kind):
        dim = len(array[0])
    else:
        fields = array[0].as_py()
        dim = len(fields["values"] or ()) if fields["type"] == _DENSE else fields["size"] or 0
    if not 1 <= dim <= MAX_DIM:
        raise InvalidInput(f"{where}: the vector (column {column}) has {dim} numbers; it must have 1 to {MAX_DIM}")
    return int(dim)


def vectors_of(array: pa.Array, dim: int, column: str, at: At) -> Float32Array:
    """Return the vectors of a column, float32 (n, dim).

    Raises:
        InvalidInput: One is null, or holds a null, or has another length, or they are no vectors of numbers.
    """
    array = _plain(array)
    _refuse_nulls(array, f"vector (column {column})", at)
    kind = array.type
    if pa.types.is_struct(kind):
        return _udt(array, dim, column, at)
    if kind_of(kind) is not Kind.VECTOR and not is_list_of_integers(kind):
        raise InvalidInput(f"{at(0)}: vectors (column {column}) are {kind}; they must be lists of floats")
    if pa.types.is_fixed_size_list(kind):
        _check_lengths(np.full(len(array), kind.list_size), dim, column, at)
    else:
        _check_lengths(np.diff(array.offsets.to_numpy()), dim, column, at)
    return _flat(array, column, at, lambda place: place // dim).reshape(len(array), dim)


def numbers_of(arrays: Sequence[pa.Array], columns: Sequence[str], at: At) -> Float32Array:
    """Return vectors of which each number is a column, float32 (n, dim).

    Raises:
        InvalidInput: One is null, or a column does not hold numbers.
    """
    rows = np.empty((len(arrays[0]), len(arrays)), np.float32)
    for place, (array, column) in enumerate(zip(arrays, columns, strict=True)):
        if not _is_number(array.type):
            raise InvalidInput(f"{at(0)}: column {column} is {array.type}; a vector is of numbers")
        _refuse_nulls(array, f"number (column {column})", at)
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        with np.errstate(over="ignore"):  # what is beyond float32 becomes an infinity, which is refused by its key
            rows[:, place] = array.to_numpy(zero_copy_only=False)
    return rows


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _refuse_nulls(array: pa.Array, what: str, at: At) -> None:
    if array.null_count:
        first = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidInput(f"{at(first)}: the {what} is null")


def _check_lengths(lengths: NDArray[Any], dim: int, column: str, at: At) -> None:
    wrong = lengths != dim
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InvalidInput(
            f"{at(first)}: the vector (column {column}) has {int(lengths[first])} numbers; the first one has {dim}"
        )


def _flat(lists: pa.Array, column: str, at: At, row_of: Callable[[int], int]) -> Float32Array:
    """Return the numbers of lists end to end, float32 (total,)."""
    values = lists.flatten()
    _refuse_nulls(values, f"number in the vector (column {column})", lambda place: at(row_of(place)))
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False))


def _udt(array: pa.StructArray, dim: int, column: str, at: At) -> Float32Array:
    """Return Spark's vectors, those that are sparse with their zeros."""
    if kind_of(array.type) is not Kind.VECTOR:
        raise InvalidInput(f"{at(0)}: vectors (column {column}) are {array.type}; they must be lists of floats")
    fields = array.flatten()
    kinds, sizes, indices, values = (
        fields[array.type.get_field_index(name)] for name in ("type", "size", "indices", "values")
    )
    _refuse_nulls(kinds, f"type of the vector (column {column})", at)
    _refuse_nulls(values, f"list of numbers in the vector (column {column})", at)
    dense = kinds.to_numpy(zero_copy_only=False) == _DENSE
    value_counts = np.diff(values.offsets.to_numpy())
    sparse_sizes = sizes.fill_null(0).to_numpy(zero_copy_only=False)
    _check_lengths(np.where(dense, value_counts, sparse_sizes), dim, column, at)
    index_counts = pc.list_value_length(indices).fill_null(0).to_numpy(zero_copy_only=False)
    uneven = ~dense & (index_counts != value_counts)
    if uneven.any():
        first = int(np.argmax(uneven))
        raise InvalidInput(f"{at(first)}: the sparse vector (column {column}) has other indices than values")
    of_row = np.repeat(np.arange(len(array)), value_counts)
    numbers = _flat(values, column, at, lambda place: int(of_row[place]))
    sparse_rows = np.repeat(np.flatnonzero(~dense), index_counts[~dense])
    all_indices = indices.flatten().fill_null(-1).to_numpy(zero_copy_only=False)
    places = all_indices[np.repeat(~dense, index_counts)]
    out_of_range = (places < 0) | (places >= dim)
    if out_of_range.any():
        first = int(sparse_rows[np.argmax(out_of_range)])
        raise InvalidInput(f"{at(first)}: an index of the sparse vector (column {column}) is not below {dim}")
    rows = np.zeros((len(array), dim), np.float32)
    of_dense = dense[of_row]
    rows[dense] = numbers[of_dense].reshape(-1, dim)
    rows[sparse_rows, places] = numbers[~of_dense]
    return rows


def _end_to_end(array: pa.Array) -> BytesRows:
    """Return texts or bytes without nulls, end to end. The bytes are Arrow's own, not copied."""
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    _, offsets, data = array.buffers()
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    starts = np.zeros(1, np.int64)
    if len(array):
        kind = np.dtype(np.int64 if wide else np.int32)
        starts = np.frombuffer(offsets, kind, len(array) + 1, array.offset * kind.itemsize).astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return BytesRows(content[int(starts[0]) : int(starts[-1])], starts - starts[0])
