"""Tables that are tensors of a file with several: one has the vectors; keys are row numbers, another tensor, or a file.

Readers of such files (`safetensors_file`, `torch_file`, `dcp`) say which tensors there are and how rows of one are
read; the rest is here. Numbers stay where they are until their piece is read.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.files import SourceFile, find_files, fingerprint_of, storage_errors
from ringpull.inference.importers.tables.ids_file import read_ids_file
from ringpull.inference.importers.tables.source import ReadOptions, TablePiece
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType, RowType

PIECE_BYTES: Final = 8 << 20
"""Bytes of rows of one piece, as float32."""

NUMPY_TYPES: Final = {
    **{name: np.dtype(name).newbyteorder("<") for name in ("float64", "float32", "float16")},
    **{
        f"{sign}int{bits}": np.dtype(f"{sign}int{bits}").newbyteorder("<")
        for sign in ("", "u")
        for bits in (16, 32, 64)
    },
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}
"""Types of numbers that are read, and what they lie as."""
_ROW_TYPES: Final = {"float32": RowType.FLOAT32, "float16": RowType.FLOAT16, "bfloat16": RowType.BFLOAT16}
_FLOATS: Final = ("float64", "float32", "float16", "bfloat16")
_LISTED: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name of its type: float32, bfloat16, int64."""
    where: str
    """File, for messages."""
    read: Callable[[int, int], NDArray[Any]]
    """Return entries [begin, end) of the first dimension as they lie; bfloat16 as uint16."""

    @property
    def is_table(self) -> bool:
        """Whether it could be the rows of a table."""
        return len(self.shape) == 2 and self.dtype in _FLOATS and min(self.shape) > 0

    @property
    def described(self) -> str:
        """Name, type and shape, for people."""
        return f"{self.name} {self.dtype} {list(self.shape)}"


def tensor_of(
    name: str,
    shape: Sequence[int],
    dtype: str,
    where: str,
    content: memoryview,
    *,
    first: int = 0,
    strides: Sequence[int] | None = None,
) -> StoredTensor:
    """Return a tensor whose numbers lie in memory, or in a file that is mapped.

    Args:
        content: What they lie in.
        first: Number of the first, counted in numbers of its type.
        strides: Steps of each dimension, counted so; None: one row after the other.

    Raises:
        CorruptData: It does not fit in there, or its numbers lie over each other.
    """
    size = prod(shape)
    kind = NUMPY_TYPES.get(dtype)
    what = f"{where}: tensor {name}"
    if kind is None:
        return StoredTensor(name, tuple(shape), dtype, where, lambda begin, end: _unread(what, dtype))
    if strides is None:
        strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if len(strides) != len(shape) or min([first, *strides, *shape], default=0) < 0:
        raise CorruptData(f"{what}: its shape is {list(shape)}, its steps {list(strides)}, from {first} on")
    held = len(content) // kind.itemsize
    last = first + sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) if size else first - 1
    if last >= held or size > held:
        raise CorruptData(
            f"{what}: its shape {list(shape)} reaches up to number {last}, and has {size} of them; the file holds"
            f" {held} for it. It is truncated, or spread out of fewer numbers: save a copy, tensor.contiguous()"
        )
    byte_strides = [step * kind.itemsize for step in strides]
    array: NDArray[Any] = np.ndarray(tuple(shape), kind, content, first * kind.itemsize, byte_strides)
    return StoredTensor(name, tuple(shape), dtype, where, lambda begin, end: array[begin:end])


def _unread(what: str, dtype: str) -> NDArray[Any]:
    raise InvalidInput(f"{what}: is of type {dtype}; types that are read are {', '.join(NUMPY_TYPES)}")


def as_float32(values: NDArray[Any], dtype: str, where: str) -> NDArray[np.float32]:
    """Return numbers that lie as torch's type `dtype`, as float32; float64's are rounded.

    Raises:
        InvalidInput: One is beyond float32.
    """
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values, np.float32)
    if dtype == "float64" and bool((np.isinf(rows) & np.isfinite(values)).any()):
        raise InvalidInput(f"{where}: holds a number beyond float32; scale the vectors before")
    return rows


class TensorSource:
    """A table of one tensor's rows."""

    def __init__(
        self,
        described: str,
        tensor: StoredTensor,
        ids: StoredTensor | NDArray[Any] | None,
        fingerprint: str,
        close: Callable[[], None],
    ) -> None:
        """Use `open_tensors`."""
        self.described = described
        self.rows: int | None = tensor.shape[0]
        self.dim = tensor.shape[1]
        self.row_type = _ROW_TYPES.get(tensor.dtype, RowType.FLOAT32)
        self.fingerprint: str | None = fingerprint
        self.close = close
        self._tensor = tensor
        self._ids = ids
        if isinstance(ids, np.ndarray):
            self.key_type = KeyType.STRING if ids.dtype == object else KeyType(ids.dtype.name)
        else:
            self.key_type = KeyType.UINT64 if ids is not None and ids.dtype == "uint64" else KeyType.INT64

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield all rows but the first `start`."""
        rows, dim = self._tensor.shape
        step = max(1, PIECE_BYTES // (4 * dim))
        place = f"{self._tensor.where}: {self._tensor.name} row"
        for begin in range(start, rows, step):
            end = min(begin + step, rows)
            vectors = as_float32(self._tensor.read(begin, end), self._tensor.dtype, f"{place} {begin} to {end - 1}")
            yield TablePiece(self._keys(begin, end), vectors, place, begin)

    def _keys(self, begin: int, end: int) -> NDArray[Any]:
        if self._ids is None:
            return np.arange(begin, end, dtype=np.int64)
        if isinstance(self._ids, np.ndarray):
            return self._ids[begin:end]
        return self._ids.read(begin, end).astype(self.key_type.value)


def open_tensors(
    where: str,
    tensors: Mapping[str, StoredTensor],
    files: Sequence[SourceFile],
    options: ReadOptions,
    close: Callable[[], None],
) -> TensorSource:
    """Return the table that the options name among some tensors.

    Raises:
        InvalidInput: They name none, or several could be it; the message lists them.
    """
    if options.value is not None:
        raise InvalidInput(f"{where}: value is {options.value!r}; tensors hold numbers, no texts or bytes")
    ids = _ids(where, tensors, options)
    tensor = _chosen(where, tensors, options, options.id)
    if ids is not None and len(ids.shape) == 2 and ids.shape[1] == 1 and isinstance(ids, StoredTensor):
        read = ids.read
        ids = replace(ids, shape=ids.shape[:1], read=lambda begin, end: read(begin, end)[:, 0])
    if ids is not None and ids.shape != tensor.shape[:1]:
        named = options.id if options.ids is None else options.ids
        raise InvalidInput(
            f"{where}: {named} has the shape {list(ids.shape)}, and {tensor.name} {list(tensor.shape)}; there must be"
            " one id a row"
        )
    keyed = "row number" if ids is None else options.id if options.ids is None else f"the lines of {options.ids}"
    described = f"{where}: {tensor.described}, keyed by {keyed}"
    extra = [] if options.ids is None else find_files(options.ids)
    fingerprint = fingerprint_of([*files, *extra], tensor.name, options.id, options.ids)
    source = TensorSource(described, tensor, ids, fingerprint, close)
    options.check_own_type(source.key_type, where)
    return source


def _ids(where: str, tensors: Mapping[str, StoredTensor], options: ReadOptions) -> StoredTensor | NDArray[Any] | None:
    if options.ids is not None:
        if options.id is not None:
            raise InvalidInput(f"{where}: id is {options.id!r} and ids is {options.ids!r}; give one of them")
        return read_ids_file(options.ids)
    if options.id is None:
        return None
    ids = _named(where, tensors, "id", options.id)
    if not ids.dtype.removeprefix("u").startswith("int"):
        raise InvalidInput(f"{where}: id {ids.described} has no integers")
    return ids


def _chosen(where: str, tensors: Mapping[str, StoredTensor], options: ReadOptions, ids: str | None) -> StoredTensor:
    if len(options.vector) > 1:
        raise InvalidInput(f"{where}: vector is {', '.join(options.vector)}; name the one tensor that has the rows")
    if options.vector:
        tensor = _named(where, tensors, "vector", options.vector[0])
        if not tensor.is_table:
            raise InvalidInput(f"{where}: vector {tensor.described} is no table: it must be floats (rows, dim)")
        return tensor
    able = [each for name, each in tensors.items() if each.is_table and name != ids]
    if not able:
        raise InvalidInput(
            f"{where}: no tensor could be the rows, which are (rows, dim) of {', '.join(_FLOATS)}; it has"
            f" {_listed(list(tensors.values()))}. Save others as that, where the model is: tensor.float()"
        )
    if len(able) > 1:
        raise InvalidInput(f"{where}: several tensors could be the rows: vector must be one of {_listed(able)}")
    return able[0]


def _named(where: str, tensors: Mapping[str, StoredTensor], what: str, name: str) -> StoredTensor:
    if name not in tensors:
        raise InvalidInput(f"{where}: {what} is {name!r}; there is {_listed(list(tensors.values()))}")
    return tensors[name]


def _listed(tensors: Sequence[StoredTensor]) -> str:
    shown = sorted(tensors, key=lambda each: -prod(each.shape))[:_LISTED]
    more = f" and {len(tensors) - len(shown)} smaller ones" if len(tensors) > len(shown) else ""
    return ", ".join(each.described for each in shown) + more if tensors else "none"


def local_path(file: SourceFile) -> Path:
    """Return the path of a file that is to be mapped.

    Raises:
        InvalidInput: It is not on this machine.
    """
    if file.local is None:
        raise InvalidInput(f"{file.path}: a file with tensors is mapped, so it must be on this machine: copy it here")
    return file.local


def mapped_file(file: SourceFile, opened: ExitStack) -> memoryview:
    """Return the content of a file, mapped until `opened` is closed and nothing of it is held.

    Raises:
        CorruptData: It is empty.
        InvalidInput: It is not on this machine.
    """
    path = local_path(file)
    if not file.size:
        raise CorruptData(f"{path}: is empty")
    with storage_errors(file.path), path.open("rb") as raw:
        mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)

    def unmap() -> None:
        try:
            mapped.close()
        except BufferError:  # an array of it is still held: it goes with that
            return

    opened.callback(unmap)
    return memoryview(mapped)
