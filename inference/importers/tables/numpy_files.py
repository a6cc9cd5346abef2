"""NumPy: `.npz`, or a folder or pattern of two `.npy`, of which one has keys; or one array, keyed by row number.

Headers are read by numpy's own reader of them, which evaluates nothing; arrays of objects, which are pickles, are
refused. A header's claim is held against the size of its file before anything is read of it.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, cast

import numpy as np

from ringpull.inference.importers.tables.arrays import BFLOAT16, ArrayFile, ArrayTable
from ringpull.inference.importers.tables.files import (
    SourceFile,
    find_files,
    fingerprint_of,
    read_exactly,
    storage_errors,
)
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError

_MAX_HEADER_BYTES: Final = 1 << 16
_READERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_table(where: str, options: ReadOptions) -> ArrayTable:
    """Open arrays of NumPy; see `open_source`."""
    if options.value is not None:
        raise InvalidInput(f"{where}: arrays of NumPy hold no rows of bytes; leave value out")
    files = find_files(where)
    found = [array for file in files for array in (_of_zip(file) if file.name.endswith(".npz") else [_of_file(file)])]
    keys, vectors = _chosen(found, options, where)
    fingerprint = fingerprint_of(files, vectors.name, keys and keys.name)
    table = ArrayTable.make(f"{where}: NumPy", keys, vectors, fingerprint)
    options.check_own_type(table.key_type, where)
    return table


def _chosen(found: list[ArrayFile], options: ReadOptions, where: str) -> tuple[ArrayFile | None, ArrayFile]:
    """Return the arrays of keys and of vectors, named by the caller or the only ones of their shapes."""
    listed = f"its arrays are {', '.join(array.described for array in found)}"
    if len(options.vector) > 1:
        raise InvalidInput(f"{where}: vectors are one array, not {len(options.vector)}; {listed}")

    def named(name: str) -> ArrayFile:
        fitting = [array for array in found if array.name == name]
        if len(fitting) != 1:
            raise InvalidInput(f"{where}: there is no array {name!r}; {listed}")
        return fitting[0]

    matrices = [array for array in found if len(array.shape) == 2]
    if options.vector:
        vectors = named(options.vector[0])
    elif len(matrices) == 1:
        vectors = matrices[0]
    else:
        raise InvalidInput(f"{where}: say which array holds the vectors, with vector; {listed}")
    if options.id is not None:
        return named(options.id), vectors
    lists = [array for array in found if len(array.shape) == 1 and array.dtype.kind in "iuU"]
    if len(lists) > 1:
        raise InvalidInput(f"{where}: say which array holds the keys, with id; {listed}")
    if not lists and len(found) > 1:
        raise InvalidInput(f"{where}: no array holds keys, which are integers or strings (rows,); {listed}")
    return (lists[0] if lists else None), vectors


def _of_file(file: SourceFile) -> ArrayFile:
    return _read_header(PurePosixPath(file.name).stem, file.path, file.open, file.size)


def _of_zip(file: SourceFile) -> list[ArrayFile]:
    with _zip_errors(file.path), file.open() as opened, zipfile.ZipFile(opened) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if not members:
        raise InvalidInput(f"{file.path}: holds no arrays")
    return [
        _read_header(
            info.filename.removesuffix(".npy"),
            f"{file.path}: {info.filename}",
            partial(_open_member, file, info.filename),
            info.file_size,
        )
        for info in members
    ]


def _read_header(name: str, where: str, open_file: Callable[[], BinaryIO], size: int) -> ArrayFile:
    """Return the array whose header is at the beginning of a file.

    Raises:
        CorruptData: There is none, or its file has more or fewer bytes than that.
        InvalidInput: Its rows lie in no order that can be read one by one, or are objects.
    """
    with open_file() as file:
        limited = _Limited(file, where)
        try:
            version = np.lib.format.read_magic(limited)
            reader = _READERS.get(version)
            if reader is None:
                raise InvalidInput(
                    f"{where}: is of the version {version} of its format; save it again, with numpy.save"
                )
            shape, fortran, dtype = reader(limited)
        except RingpullError:
            raise
        except Exception as exc:  # of numpy's parser, and of Python's, which it uses: of any root
            raise CorruptData(f"{where}: is no array of NumPy: {exc}") from exc
    data_pos = limited.read_bytes
    if dtype.hasobject:
        raise InvalidInput(f"{where}: holds Python objects, which are pickled; save numbers or strings")
    if dtype.names is not None or dtype.subdtype is not None or (dtype.kind == "V" and dtype != BFLOAT16):
        raise InvalidInput(f"{where}: holds records ({dtype}); save keys and vectors as arrays of their own")
    if any(side < 0 for side in shape) or data_pos + math.prod(shape) * dtype.itemsize != size:
        raise CorruptData(
            f"{where}: its header says {shape} of {dtype}, which does not fit its {size - data_pos:,} bytes; it is"
            " damaged or truncated"
        )
    if fortran and len(shape) > 1:
        raise InvalidInput(f"{where}: lies column by column; save it with numpy.ascontiguousarray")

    def at_first_row() -> BinaryIO:
        opened = open_file()
        read_exactly(opened, data_pos, where)
        return opened

    return ArrayFile(name, where, at_first_row, dtype, tuple(shape))


class _Limited:
    """A file of which no more than a header is read, whatever it claims."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self.read_bytes = 0

    def read(self, size: int = _MAX_HEADER_BYTES, /) -> bytes:
        if self.read_bytes + size > _MAX_HEADER_BYTES:
            raise CorruptData(f"{self._where}: its header claims {size:,} bytes")
        with _zip_errors(self._where):
            data = self._file.read(size)
        self.read_bytes += len(data)
        return data


class _Member:
    """A member of an archive, opened; closing it closes the archive's file."""

    def __init__(self, file: SourceFile, name: str) -> None:
        self._where = f"{file.path}: {name}"
        self._file = file.open()
        with _zip_errors(self._where):
            self._member = zipfile.ZipFile(self._file).open(name)  # noqa: SIM115 - see `__exit__`

    def seekable(self) -> bool:
        return False  # it can, by reading all that is before

    def read(self, size: int) -> bytes:
        with _zip_errors(self._where):
            return self._member.read(size)

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *error: object) -> None:
        self._member.close()
        self._file.close()


def _open_member(file: SourceFile, name: str) -> BinaryIO:
    return cast(BinaryIO, _Member(file, name))


@contextmanager
def _zip_errors(where: str) -> Iterator[None]:
    with storage_errors(where):
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as exc:
            raise CorruptData(f"{where}: cannot be read: {exc or type(exc).__name__}; it is damaged") from exc
