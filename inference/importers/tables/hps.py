"""Folders as HugeCTR writes a sparse model and HPS loads it: `key`, int64 end to end, and `emb_vector`, float32.

Neither has a header: how long a vector is, the sizes of the two tell.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np

from ringpull.inference.importers.tables.arrays import ArrayFile, ArrayTable
from ringpull.inference.importers.tables.files import SourceFile, find_files, fingerprint_of
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType

_KEY: Final = np.dtype("<i8")
_NUMBER: Final = np.dtype("<f4")


def open_table(where: str, options: ReadOptions) -> ArrayTable:
    """Open such a folder; see `open_source`."""
    if options.id is not None or options.vector or options.value is not None:
        raise InvalidInput(f"{where}: key and emb_vector have no columns; leave id, vector and value out")
    options.check_own_type(KeyType.INT64, where)
    found = {file.name: file for file in find_files(where)}
    missing = [name for name in ("key", "emb_vector") if name not in found]
    if missing:
        raise InvalidInput(f"{where}: there is no file {missing[0]} in it")
    keys, vectors = found["key"], found["emb_vector"]
    rows, rest = divmod(keys.size, _KEY.itemsize)
    if rest or not rows:
        raise CorruptData(f"{keys.path}: has {keys.size:,} bytes, which are no int64 keys; it is empty or truncated")
    dim, rest = divmod(vectors.size, rows * _NUMBER.itemsize)
    if rest or not dim:
        raise CorruptData(
            f"{vectors.path}: has {vectors.size:,} bytes, which are no vectors for {rows:,} keys; one of the two"
            " is truncated"
        )
    return ArrayTable.make(
        f"{where}: HPS",
        _array(keys, _KEY, (rows,)),
        _array(vectors, _NUMBER, (rows, dim)),
        fingerprint_of([keys, vectors]),
    )


def _array(file: SourceFile, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> ArrayFile:
    return ArrayFile(file.name, file.path, partial(SourceFile.open, file), dtype, shape)
