"""Safetensors: a header that names tensors, then their bytes, which are mapped. One file, or several of one model.

    8 bytes: length of the header (little-endian)
    header, JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}}
    bytes of the tensors

An index (`model.safetensors.index.json`) says which file has which tensor; files of one folder are taken together.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from math import prod
from typing import Any, Final

from ringpull.inference.importers.tables.files import SourceFile, find_files, storage_errors
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.inference.importers.tables.tensors import (
    NUMPY_TYPES,
    StoredTensor,
    TensorSource,
    local_path,
    mapped_file,
    open_tensors,
    tensor_of,
)
from ringpull.ps.errors import CorruptData, InvalidInput

MAX_HEADER: Final = 100_000_000
"""Bytes of the largest header, as the format's own library has it."""
SUFFIX: Final = ".safetensors"
INDEX_SUFFIX: Final = ".safetensors.index.json"

_TYPES: Final = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
}


def open_table(where: str, options: ReadOptions) -> TensorSource:
    """Open the table that a tensor of these files is.

    Raises:
        InvalidInput: There is no such tensor, or several could be it.
        CorruptData: A file is damaged, truncated or none.
    """
    files = _files(where)
    with ExitStack() as opened:
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in _tensors(file, opened).items():
                if name in tensors:
                    raise InvalidInput(
                        f"{where}: tensor {name} is in {tensors[name].where} and in {file.name}; give one of the files"
                    )
                tensors[name] = tensor
        return open_tensors(where, tensors, files, options, opened.pop_all().close)


def _files(where: str) -> list[SourceFile]:
    found = find_files(where)
    if len(found) == 1 and found[0].name.endswith(INDEX_SUFFIX):
        return _indexed(found[0])
    return [each for each in found if each.name.endswith(SUFFIX)] or found


def _indexed(index: SourceFile) -> list[SourceFile]:
    """Return the files that an index names, all of which lie beside it."""
    path = local_path(index)
    with storage_errors(index.path):
        try:
            names = set(json.loads(path.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise CorruptData(f"{path}: no index of safetensors, which has a weight_map: {exc}") from exc
    files = []
    for name in sorted(map(str, names)):
        if "/" in name or "\\" in name or not name.endswith(SUFFIX):
            raise CorruptData(f"{path}: names the file {name!r}; files of an index lie beside it and end in {SUFFIX}")
        files += find_files(str(path.with_name(name)))
    if not files:
        raise CorruptData(f"{path}: names no files")
    return files


def _tensors(file: SourceFile, opened: ExitStack) -> dict[str, StoredTensor]:
    """Return the tensors of one file, which stays mapped as long as they are read."""
    path = local_path(file)
    if file.size < 8:
        raise CorruptData(f"{path}: {file.size} bytes; too short for safetensors")
    content = mapped_file(file, opened)
    length = int.from_bytes(content[:8], "little")
    if length > min(MAX_HEADER, len(content) - 8):
        raise CorruptData(f"{path}: its header has {length} bytes, and the file {len(content)}: truncated, or none")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
    except (ValueError, RecursionError) as exc:
        raise CorruptData(f"{path}: its header is no JSON: {exc}") from exc
    if not isinstance(header, dict):
        raise CorruptData(f"{path}: its header is no mapping of tensors")
    data = content[8 + length :]
    return {name: _tensor(name, entry, data, str(path)) for name, entry in header.items() if name != "__metadata__"}


def _tensor(name: str, entry: Any, data: memoryview, where: str) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        right = all(type(each) is int and 0 <= each < 2**62 for each in [*shape, begin, end]) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise CorruptData(f"{where}: tensor {name}: its entry in the header is {str(entry)[:200]}")
    if begin > end or end > len(data):
        raise CorruptData(
            f"{where}: tensor {name}: lies from {begin} to {end} of {len(data)} bytes; the file is truncated"
        )
    own = _TYPES.get(dtype, dtype)
    if own in NUMPY_TYPES and prod(shape) * NUMPY_TYPES[own].itemsize != end - begin:
        raise CorruptData(f"{where}: tensor {name}: {dtype} {shape} has not the {end - begin} bytes that it is given")
    return tensor_of(name, shape, own, where, data[begin:end])
