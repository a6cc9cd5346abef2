"""Checkpoints of torch.distributed.checkpoint, as of torchrec: a folder of chunks of tensors, whatever cut them.

Chunks of one table may be rows, columns, both, or the whole table, in as many files as there were processes. They are
mapped and put together piece by piece; no more than a piece is in memory, beside what the system keeps of the files.
Each chunk is what torch.save writes of one tensor, with checksums, which are read when its first rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.dcp_metadata import FILE, Chunk, SavedTensor, read_metadata
from ringpull.inference.importers.tables.files import SourceFile, find_files, storage_errors
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.inference.importers.tables.tensors import (
    NUMPY_TYPES,
    StoredTensor,
    TensorSource,
    mapped_file,
    open_tensors,
)
from ringpull.inference.importers.tables.torch_file import read_tensors
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.transfer.remote import as_path, is_url

MAX_CHUNKS: Final = 20_000
"""Largest number of chunks of one tensor."""


def open_table(where: str, options: ReadOptions) -> TensorSource:
    """Open the table that a tensor of a checkpoint is.

    Raises:
        InvalidInput: There is no such tensor, or several could be it, or the folder is elsewhere.
        CorruptData: The checkpoint is damaged or incomplete.
    """
    folder = Path(as_path(where))
    if is_url(where):
        raise InvalidInput(f"{where}: a checkpoint is mapped, so it must be on this machine: copy it here")
    if not (folder / FILE).is_file():
        raise InvalidInput(f"{where}: there is no {FILE} in it: it is no checkpoint, or was not written to its end")
    with storage_errors(str(folder)):
        saved = read_metadata((folder / FILE).read_bytes(), str(folder / FILE))
    files = {each.name: each for each in [*_found(folder, saved), *find_files(str(folder / FILE))]}
    with ExitStack() as opened:
        chunks = _Chunks(folder, files, opened)
        tensors = {each.name: _stored(folder, each, chunks) for each in saved}
        return open_tensors(where, tensors, list(files.values()), options, opened.pop_all().close)


def _found(folder: Path, saved: Sequence[SavedTensor]) -> list[SourceFile]:
    """Return the files of all chunks.

    Raises:
        CorruptData: One is missing.
    """
    names = sorted({chunk.file for each in saved for chunk in each.chunks})
    for name in names:
        if not (folder / name).is_file():
            raise CorruptData(f"{folder}: the file {name} is missing, which {FILE} says a chunk lies in: copy it here")
    return [file for name in names for file in find_files(str(folder / name))]


class _Chunks:
    """The chunks of a checkpoint; a file is mapped, and a chunk looked through, when it is first read."""

    def __init__(self, folder: Path, files: dict[str, SourceFile], opened: ExitStack) -> None:
        self._folder = folder
        self._files = files
        self._opened = opened
        self._mapped: dict[str, memoryview] = {}

    def open(self, name: str, dtype: str, chunk: Chunk) -> StoredTensor:
        """Return one chunk of the tensor `name`.

        Raises:
            CorruptData: It is damaged, or another tensor than the metadata says.
        """
        where = f"{self._folder / chunk.file}: chunk of {name} at {list(chunk.offsets)}"
        if chunk.file not in self._mapped:
            self._mapped[chunk.file] = mapped_file(self._files[chunk.file], self._opened)
        content = self._mapped[chunk.file]
        if chunk.begin + chunk.length > len(content):
            raise CorruptData(
                f"{where}: the file is truncated: {len(content)} bytes, and it ends at {chunk.begin + chunk.length}"
            )
        found = read_tensors(content[chunk.begin : chunk.begin + chunk.length], where)
        if len(found) != 1 or found[0].shape != chunk.sizes or found[0].dtype != dtype:
            described = ", ".join(f"{each.dtype} {list(each.shape)}" for each in found) or "no tensor"
            raise CorruptData(f"{where}: is {described}; {FILE} says {dtype} {list(chunk.sizes)}")
        return found[0]


def _stored(folder: Path, saved: SavedTensor, chunks: _Chunks) -> StoredTensor:
    where = str(folder)
    if len(saved.shape) not in (1, 2) or saved.dtype not in NUMPY_TYPES:
        return StoredTensor(saved.name, saved.shape, saved.dtype, where, _unread)
    return StoredTensor(saved.name, saved.shape, saved.dtype, where, _Rows(where, saved, chunks.open))


def _unread(begin: int, end: int) -> NDArray[Any]:
    raise AssertionError("is no table")


@dataclass(slots=True)
class _Band:
    """Rows [begin, end) that the same chunks have, beside each other."""

    begin: int
    end: int
    chunks: list[int]


class _Rows:
    """Rows of one tensor, put together of its chunks. Those of the newest rows stay open, and no others."""

    def __init__(self, where: str, saved: SavedTensor, opener: Callable[[str, str, Chunk], StoredTensor]) -> None:
        self._where = f"{where}: tensor {saved.name}"
        self._saved = saved
        self._open = partial(opener, saved.name, saved.dtype)
        self._bands: list[_Band] | None = None
        self._opened: dict[int, StoredTensor] = {}

    def __call__(self, begin: int, end: int) -> NDArray[Any]:
        """Return rows [begin, end) as they lie."""
        saved = self._saved
        if self._bands is None:
            self._bands = _bands(self._where, saved)
        rows: NDArray[Any] = np.empty((end - begin, *saved.shape[1:]), NUMPY_TYPES[saved.dtype])
        bands = [each for each in self._bands if each.begin < end and each.end > begin]
        wanted = {number for band in bands for number in band.chunks}
        self._opened = {number: each for number, each in self._opened.items() if number in wanted}
        for number in sorted(wanted):
            chunk = saved.chunks[number]
            if number not in self._opened:
                self._opened[number] = self._open(chunk)
            low, high = max(begin, chunk.offsets[0]), min(end, chunk.offsets[0] + chunk.sizes[0])
            part = self._opened[number].read(low - chunk.offsets[0], high - chunk.offsets[0])
            if len(saved.shape) == 1:
                rows[low - begin : high - begin] = part
            else:
                rows[low - begin : high - begin, chunk.offsets[1] : chunk.offsets[1] + chunk.sizes[1]] = part
        return rows


def _bands(where: str, saved: SavedTensor) -> list[_Band]:
    """Return the rows of a tensor in bands, each of which has every column once.

    Raises:
        CorruptData: A number is in two chunks, or in none.
    """
    if len(saved.chunks) > MAX_CHUNKS:
        raise CorruptData(f"{where}: {len(saved.chunks)} chunks; at most {MAX_CHUNKS} are read")
    columns = saved.shape[1] if len(saved.shape) == 2 else 1
    order = sorted(range(len(saved.chunks)), key=lambda number: saved.chunks[number].offsets)
    edges = sorted(
        {0, saved.shape[0]}
        | {edge for each in saved.chunks for edge in (each.offsets[0], each.offsets[0] + each.sizes[0])}
    )
    bands, active, place = [], list[int](), 0
    for begin, end in pairwise(edges):
        active = [each for each in active if saved.chunks[each].offsets[0] + saved.chunks[each].sizes[0] > begin]
        while place < len(order) and saved.chunks[order[place]].offsets[0] == begin:
            active.append(order[place])
            place += 1
        filled = 0
        for number in sorted(active, key=lambda each: saved.chunks[each].offsets):
            chunk = saved.chunks[number]
            at, width = (chunk.offsets[1], chunk.sizes[1]) if len(saved.shape) == 2 else (0, 1)
            if at != filled:
                filled = min(at, filled)
                break
            filled += width
        if filled != columns or len(active) > columns:
            raise CorruptData(
                f"{where}: its chunks have rows {begin} to {end - 1} not once: up to column {filled} of {columns}. The"
                " checkpoint is incomplete"
            )
        bands.append(_Band(begin, end, list(active)))
    return bands
