"""Log file: one file of a log, read whole and checked.

    offset size  field
    0      8     magic, b"RPLOGSEG"
    8      4     u32 format version, 1
    12     4     u32 bytes of the body
    16     8     u64 xxh3_64 of the body
    24           the body, a msgpack map: deployment, shard, number of the file, first stamp that it may have;
                 zero-padded to a multiple of 8, where the first record begins (`ringpull.ps.live.record`)

A file appears with its header, synced, or not at all. Records that are no whole ones end the last file of a log, if
they are what a crash leaves: nothing after them was written once they were known to be on disk. All else is damage.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
import xxhash

from ringpull.ps.errors import CorruptData
from ringpull.ps.live.block_file import BLOCK_BYTES, BlockFile
from ringpull.ps.live.record import ALIGNMENT, MAGIC, Read, decode
from ringpull.ps.private_files import open_private
from ringpull.ps.store.file_errors import opened
from ringpull.ps.store.mapping import MADV_POPULATE_READ, mapped

FILE_MAGIC: Final = b"RPLOGSEG"
FORMAT_VERSION: Final = 1
PRELUDE: Final = struct.Struct("<8sIIQ")
PREFIX: Final = "log-"
MAX_BODY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class LogFileHeader:
    """Header of a log file."""

    deployment: str
    shard: int
    number: int
    first_stamp: int

    def to_bytes(self) -> bytes:
        """Return the beginning of the file."""
        body: bytes = msgpack.packb([self.deployment, self.shard, self.number, self.first_stamp])
        plain = PRELUDE.pack(FILE_MAGIC, FORMAT_VERSION, len(body), xxhash.xxh3_64_intdigest(body)) + body
        return plain + bytes(-len(plain) % ALIGNMENT)


def log_file_path(folder: Path, number: int) -> Path:
    """Return the path of a log file."""
    return folder / f"{PREFIX}{number:06d}"


def log_file_numbers(folder: Path) -> list[int]:
    """Return the numbers of the files of a folder, ascending; none where it is not there."""
    if not folder.is_dir():
        return []
    names = [path.name.removeprefix(PREFIX) for path in folder.iterdir() if path.name.startswith(PREFIX)]
    return sorted(int(name) for name in names if name.isdecimal())


def create_log_file(folder: Path, header: LogFileHeader, buffer: memoryview, *, direct: bool) -> BlockFile:
    """Make a log file and return it, open for appending; see `BlockFile`.

    Raises:
        OSError: It cannot be made; then there is none.
    """
    path, content = log_file_path(folder, header.number), header.to_bytes()
    hidden = folder / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with open_private(hidden, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(hidden, path)
        sync_folder(folder)
        return BlockFile(path, len(content), buffer, direct=direct)
    except BaseException:
        for made in (hidden, path):  # One that stays would end the log before what is still written to the last one.
            with suppress(OSError):
                made.unlink()
                sync_folder(folder)
        raise


def read_ahead(path: Path) -> None:
    """Have the kernel read a file, if it is there, while others are worked at: the log was written past its cache."""
    with suppress(OSError), opened(path) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk.

    Raises:
        OSError: They cannot be.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LogFileReader:
    """Log file as it is on disk."""

    def __init__(self, path: Path, number: int, *, last: bool) -> None:
        """Open a file.

        Args:
            last: Whether it is the last of its log, which a crash may have left with an end that is not whole.

        Raises:
            CorruptData: Its header is damaged, or of another format.
            OSError: It cannot be read.
        """
        self.path = path
        self._last = last
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < PRELUDE.size:
                raise CorruptData(f"{path}: the header of the log ends at byte {size}")
            self._mapping = mapped(file.fileno(), size)
        with suppress(OSError):  # an older kernel: pages come one by one
            self._mapping.madvise(MADV_POPULATE_READ)
        self._content = memoryview(self._mapping)
        self.header, self.begin = self._read_header()
        if self.header.number != number:
            raise CorruptData(f"{path}: is segment {self.header.number} of a log, by its header")
        self.end = self.begin
        """Byte after the last whole record, once `records` is exhausted."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._content)

    @property
    def ends_in_zeros(self) -> bool:
        """Whether behind the last whole record there is no more than the rest of a block that had not been full."""
        rest = self._content[self.end :]
        return len(rest) < BLOCK_BYTES and not any(rest)

    def records(self) -> Iterator[Read]:
        """Yield all whole records.

        Raises:
            CorruptData: There is one that is not whole, and no crash leaves that.
        """
        while self.end < self.size:
            try:
                read = decode(self._content, self.end)
            except CorruptData as exc:
                raise CorruptData(f"{self.path}: {exc}") from exc
            if read is None:
                self._check_torn()
                return
            yield read
            self.end += read.size

    def _check_torn(self) -> None:
        """Check that what follows the last whole record is what a crash may leave."""
        damaged = CorruptData(f"{self.path}: the record at byte {self.end} is damaged, and pushes came after it")
        if not self._last:
            raise damaged
        at = self._mapping.find(MAGIC, self.end + 1)
        while at >= 0:
            if at % ALIGNMENT == 0 and self._synced_at(at) > self.end:
                raise damaged
            at = self._mapping.find(MAGIC, at + 1)

    def _synced_at(self, begin: int) -> int:
        """Return how much was on disk when the record there was written; 0 where there is none."""
        try:
            read = decode(self._content, begin)
        except CorruptData:
            return 0
        return 0 if read is None else read.synced

    def _read_header(self) -> tuple[LogFileHeader, int]:
        magic, version, size, checksum = PRELUDE.unpack_from(self._content)
        if magic != FILE_MAGIC:
            raise CorruptData(f"{self.path}: begins with {magic!r}; a log begins with {FILE_MAGIC!r}")
        if version != FORMAT_VERSION:
            raise CorruptData(f"{self.path}: is a log of format {version}; this build reads {FORMAT_VERSION}")
        body = self._content[PRELUDE.size : PRELUDE.size + min(size, MAX_BODY_BYTES)]
        if len(body) != size or xxhash.xxh3_64_intdigest(body) != checksum:
            raise CorruptData(f"{self.path}: the header of the log is damaged")
        try:
            deployment, shard, number, first_stamp = msgpack.unpackb(body)
        except (ValueError, TypeError) as exc:
            raise CorruptData(f"{self.path}: the header of the log does not have its fields: {exc}") from exc
        begin = PRELUDE.size + size
        begin += -begin % ALIGNMENT
        if begin > self.size:
            raise CorruptData(f"{self.path}: the header of the log ends at byte {self.size}")
        return LogFileHeader(deployment, shard, number, first_stamp), begin
