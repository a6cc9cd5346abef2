"""Log check: finds damaged records in a log file that was whole before, and goes on behind them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgpack
import xxhash

from ringpull.ps.live.block_file import BLOCK_BYTES
from ringpull.ps.live.log_file import FILE_MAGIC, FORMAT_VERSION, MAX_BODY_BYTES, PRELUDE
from ringpull.ps.live.record import ALIGNMENT, CHECKED_FROM, HEADER, MAGIC, MAX_RECORD_BYTES
from ringpull.ps.store.file_errors import DAMAGED

_UNCHECKED: Final = struct.Struct("<4sIQ")
"""The part of a record's header that its checksum does not cover: magic, size, and that checksum."""
WINDOW_BYTES: Final = 1 << 20
"""Bytes that are read at a time, but for larger records."""

MAX_HEADER_BYTES: Final = PRELUDE.size + MAX_BODY_BYTES
_LOST: Final = b"lost" * (BLOCK_BYTES // 4)
NO_END: Final = 1 << 48
"""End of what is damaged up to the end of a log file, or beyond, where it was cut short."""

Damaged = tuple[int, int]
"""Bytes [begin, end) of a file."""


def header_in(content: bytes) -> tuple[int, int]:
    """Return the number of a log file, and where its first record begins; (0, 0): its header is damaged."""
    if len(content) < PRELUDE.size:
        return 0, 0
    magic, version, size, checksum = PRELUDE.unpack_from(content)
    body = content[PRELUDE.size : PRELUDE.size + min(size, MAX_BODY_BYTES)]
    known = magic == FILE_MAGIC and version == FORMAT_VERSION and len(body) == size
    if not known or xxhash.xxh3_64_intdigest(body) != checksum:
        return 0, 0
    return msgpack.unpackb(body)[2], PRELUDE.size + size + -(PRELUDE.size + size) % ALIGNMENT


def damaged_in(path: Path, pace: Callable[[int], None], through: int | None = None) -> list[Damaged]:
    """Return the parts of a log file that are no whole records.

    Args:
        pace: Called before so many bytes are read; it may wait, or raise.
        through: Offset that the last record has that is looked at; None: all of them.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _damaged(_Window(descriptor, pace), through)
    finally:
        os.close(descriptor)


def _damaged(window: _Window, through: int | None) -> list[Damaged]:
    last = window.size - 1 if through is None else through
    _, at = header_in(window.bytes(0, MAX_HEADER_BYTES).tobytes())
    if not at:
        at = window.next_whole(0, last)
        return [(0, at), *_damaged_from(window, at, last)]
    return _damaged_from(window, at, last)


def _damaged_from(window: _Window, at: int, last: int) -> list[Damaged]:
    found: list[Damaged] = []
    while at <= last:
        size = window.whole(at)
        if size:
            at += size
            continue
        after = window.next_whole(at + ALIGNMENT, last)
        found.append((at, after if after <= last else NO_END))
        at = after
    return found


class _Window:
    """The part of a log file that was read last."""

    def __init__(self, descriptor: int, pace: Callable[[int], None]) -> None:
        self.size = os.fstat(descriptor).st_size
        """Bytes of the file."""
        self._descriptor, self._pace = descriptor, pace
        self._begin, self._data = 0, memoryview(b"")

    def whole(self, at: int) -> int:
        """Return the size of the record that begins there; 0: it is not whole."""
        head = self.bytes(at, HEADER.size)
        if len(head) < HEADER.size:
            return 0
        magic, size, checksum = _UNCHECKED.unpack_from(head)
        if magic != MAGIC or not HEADER.size <= size <= min(MAX_RECORD_BYTES, self.size - at):
            return 0
        return size if xxhash.xxh3_64_intdigest(self.bytes(at, size)[CHECKED_FROM:]) == checksum else 0

    def next_whole(self, at: int, last: int) -> int:
        """Return where the next whole record begins; behind `last` if there is none."""
        while at <= last:
            data = self.bytes(at, WINDOW_BYTES).tobytes()
            if not data:
                break
            found = data.find(MAGIC)
            while found >= 0:
                if found % ALIGNMENT == 0 and self.whole(at + found):
                    return at + found
                found = data.find(MAGIC, found + 1)
            at += max(ALIGNMENT, (len(data) - len(MAGIC)) // ALIGNMENT * ALIGNMENT)
        return max(at, last + 1)

    def bytes(self, at: int, count: int) -> memoryview:
        """Return bytes of the file, fewer at its end."""
        begin = at - self._begin
        if begin < 0 or begin + count > len(self._data):
            size = min(max(count, WINDOW_BYTES), max(0, self.size - at))
            self._pace(size)
            self._begin, self._data, begin = at, self._read(at, size), 0
        return self._data[begin : begin + count]

    def _read(self, at: int, size: int) -> memoryview:
        """Read bytes, fewer where the file is shorter by now; what the storage has lost is read as no record has it."""
        data, done = memoryview(bytearray(size)), 0
        while done < size:
            try:
                count = os.preadv(self._descriptor, [data[done:]], at + done)
            except OSError as exc:
                if exc.errno not in DAMAGED:
                    raise
                self._pace(0)  # Such a read may have taken seconds.
                count = min(BLOCK_BYTES - (at + done) % BLOCK_BYTES, size - done)
                data[done : done + count] = _LOST[:count]
            if not count:
                break
            done += count
        return data[:done]
