"""Blocks of a text: bytes that end where a line does, each read once, and read by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.files import SourceFile
from ringpull.inference.importers.tables.parquet import arrow_errors
from ringpull.inference.importers.tables.text_layout import TextLayout
from ringpull.ps.errors import InvalidInput

BLOCK_BYTES: Final = 8 << 20
"""Bytes of text that are read at a time, and of the longest line."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Whole lines of a file."""

    data: NDArray[np.uint8]
    read_bytes: int
    """Bytes of the file that were read when these were."""


def blocks_of(file: SourceFile, text: Any, raw: Any, layout: TextLayout) -> Iterator[Block]:
    """Yield the lines of an open file, without those that are no rows.

    Raises:
        InvalidInput: One is longer than a block.
        CorruptData, NotFound, Unavailable: As `arrow_errors`.
    """
    rest = b""
    skip_lines: int | None = layout.skip_lines
    while True:
        with arrow_errors(file.path):
            data = _filled(rest, text)
            read_bytes = raw.tell()
        more = len(data) == BLOCK_BYTES
        if skip_lines is not None:
            data, skip_lines = _below(data.removeprefix(_BYTE_ORDER_MARK), skip_lines), None
        end = _end_of_lines(data, layout) if more else len(data)
        if not end and more:
            raise InvalidInput(f"{file.path}: a line is longer than {BLOCK_BYTES:,} bytes, or a quote is not closed")
        if end:
            yield Block(np.frombuffer(data, np.uint8, end), read_bytes)
        if not more:
            return
        rest = data[end:]


def _filled(data: bytes, text: Any) -> bytes:
    """Return a block that begins with what is there; a shorter one at the end of a file."""
    parts = [data]
    left = BLOCK_BYTES - len(data)
    while left and (part := text.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _below(data: bytes, lines: int) -> bytes:
    """Return what follows some lines, which are all there, and empty ones before them."""
    for _ in range(lines):
        data = data.lstrip(b"\r\n")
        ends = [place for place in (data.find(b"\n"), data.find(b"\r")) if place >= 0]
        data = data[min(ends) + 1 :] if ends else b""
    return data.removeprefix(b"\n")


def _end_of_lines(data: bytes, layout: TextLayout) -> int:
    """Return where the last whole line ends; 0: none does."""
    if layout.line_ends:
        from ringpull.inference.importers.tables.text_kernels import last_record_end

        return int(last_record_end(np.frombuffer(data, np.uint8), ord(layout.delimiter)))
    # Of files whose lines end with a carriage return alone, the last byte may be the first half of another's end.
    return data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
