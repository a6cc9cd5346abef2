"""Sections: the mapped files of a table, checked so that kernels stay within them."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import MAX_BYTES_ROW, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.file_errors import opened, unreadable
from ringpull.ps.store.file_stamp import FileStamp
from ringpull.ps.store.format import Header
from ringpull.ps.store.mapping import advise, mapped_array

_HUGE_PAGES_SHARE: Final = 0.5
"""Share of physical memory. A larger file is read in small pages: where a table does not fit, a key costs 2 MiB."""

_CHECKED_AT_ONCE: Final = 1 << 20
"""Starts of rows that are checked at a time."""

_NOTHING: Final = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Sections:
    """The mapped arrays of a base."""

    index: NDArray[Any]
    """uint32 or uint64 ((1 << index_bits) + 1,): how many positions lie below each bucket."""
    positions: UInt64Array
    """(rows,), ascending."""
    rows: NDArray[np.uint8]
    """(rows, row_bytes); of a table of bytes (total,), its rows end to end."""
    blocks: UInt64Array
    """(blocks, 2): first row and xxh3_64 of each block. In memory, 16 bytes a MiB: what happens to the file later harms
    no check."""
    starts: UInt64Array
    """(rows + 1,): where each row of bytes begins in `rows`, and at the end where the last one ends; else (0,)."""
    start_blocks: UInt64Array
    """(blocks, 2): where each block of rows of bytes begins, and xxh3_64 of its starts; in memory. Else (0, 2)."""


def map_sections(folder: Path, header: Header) -> tuple[dict[str, FileStamp], Sections]:
    """Map the files that a header describes, and check them; return the stamp of each, and the maps.

    Raises:
        CorruptData: A file is missing, damaged or truncated; the message names it and what is wrong.
        Unavailable: A file cannot be read now, which says nothing of what is in it.
    """
    stamps, arrays = {}, {}
    for name, section in header.sections.items():
        arrays[name], stamps[name] = _map(folder / name, section.bytes)
    for array in arrays.values():
        if 0 < array.size <= _physical_bytes() * _HUGE_PAGES_SHARE:
            _prefer_huge_pages(array)
    for name, section in header.sections.items():
        if section.checksum is not None and xxhash.xxh3_64_intdigest(arrays[name].data) != section.checksum:
            raise CorruptData(f"{folder / name}: the checksum does not match; the file is damaged")
    rows = arrays[fmt.ROWS]
    sections = Sections(
        index=arrays[fmt.INDEX].view(np.uint32 if fmt.index_entry_bytes(header.rows) == 4 else np.uint64),
        positions=arrays[fmt.POSITIONS].view(np.uint64),
        rows=rows if header.spec.is_bytes else rows.reshape(header.rows, header.spec.row_bytes),
        blocks=arrays[fmt.BLOCKS].view(np.uint64).reshape(-1, 2).copy(),
        starts=arrays.get(fmt.STARTS, _NOTHING).view(np.uint64),
        start_blocks=arrays.get(fmt.START_BLOCKS, _NOTHING).view(np.uint64).reshape(-1, 2).copy(),
    )
    _check_numbers(folder, header, sections)
    return stamps, sections


def _map(path: Path, due_bytes: int) -> tuple[NDArray[np.uint8], FileStamp]:
    """Map a file that must have exactly `due_bytes`."""
    try:
        with opened(path) as file:
            stamp = FileStamp.of(os.fstat(file.fileno()))
            size = stamp.size
            if size != due_bytes:
                raise CorruptData(
                    f"{path}: {size} bytes, but the header says {due_bytes}; the file is truncated or foreign"
                )
            if size == 0:  # an empty file cannot be mapped
                return np.empty(0, np.uint8), stamp
            return mapped_array(file.fileno(), size), stamp
    except OSError as exc:
        raise unreadable(path, exc) from exc


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _prefer_huge_pages(array: NDArray[np.uint8]) -> None:
    """Have what is read from disk from now on kept in huge pages, where the file system can: far fewer page walks."""
    with contextlib.suppress(OSError):  # a kernel without them
        advise(array, mmap.MADV_HUGEPAGE)


def _check_numbers(folder: Path, header: Header, sections: Sections) -> None:
    """Check what kernels rely on: with it no file, however its checksums were made, can lead them out of the maps."""
    index, firsts = sections.index, sections.blocks[:, 0]
    if index[0] != 0 or index[-1] != header.rows or bool((index[1:] < index[:-1]).any()):
        raise CorruptData(f"{folder / fmt.INDEX}: entries must ascend from 0 to the number of rows, {header.rows}")
    check_first_rows(firsts, header.rows, str(folder / fmt.BLOCKS))
    if header.spec.is_bytes:
        _check_starts(folder, header, sections)


def _check_starts(folder: Path, header: Header, sections: Sections) -> None:
    """Check where rows of bytes start, in little memory."""
    starts, size = sections.starts, header.sections[fmt.ROWS].bytes
    where = folder / fmt.STARTS
    if starts[0] != 0 or starts[-1] != size:
        raise CorruptData(f"{where}: starts must ascend from 0 to the number of bytes of rows, {size}")
    for begin in range(0, header.rows, _CHECKED_AT_ONCE):
        some = starts[begin : begin + _CHECKED_AT_ONCE + 1]
        if bool((some[1:] < some[:-1]).any()):
            raise CorruptData(f"{where}: starts must ascend from 0 to the number of bytes of rows, {size}")
        if int(np.diff(some).max()) > MAX_BYTES_ROW:
            raise CorruptData(f"{where}: a row has more than {MAX_BYTES_ROW} bytes")
    if bool((starts[sections.blocks[:, 0].astype(np.int64)] != sections.start_blocks[:, 0]).any()):
        raise CorruptData(f"{folder / fmt.START_BLOCKS}: a block begins where none of its rows does")


def check_first_rows(firsts: UInt64Array, rows: int, where: str) -> None:
    """Check the first rows of a table's blocks, as `where` has them.

    Raises:
        CorruptData: They are not such as cut `rows` rows into blocks.
    """
    if (rows > 0) != (len(firsts) > 0):
        raise CorruptData(f"{where}: {len(firsts)} blocks for {rows} rows")
    if len(firsts) and (firsts[0] != 0 or int(firsts[-1]) >= rows or bool((firsts[1:] <= firsts[:-1]).any())):
        raise CorruptData(f"{where}: first rows must ascend from 0 and stay below {rows}")
