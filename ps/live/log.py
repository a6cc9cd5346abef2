"""Log: the pushes of one shard on disk, in the order of their stamps, in files of bounded size.

A group of records is one write (`ringpull.ps.live.block_file`) and, if its owner wants it to survive a power cut, one
`fdatasync`. What was not synced is written again elsewhere before anything else is acknowledged, if a sync fails: the
kernel forgets then which pages it has not written. What was only half written, on a full disk, is cut off, and the log
goes on when there is room. Opening reads all files, and cuts the last one where a crash left it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData, LimitExceeded, Unavailable
from ringpull.ps.live.block_file import BlockFile, new_buffer
from ringpull.ps.live.log_file import (
    LogFileHeader,
    LogFileReader,
    create_log_file,
    log_file_numbers,
    log_file_path,
    read_ahead,
    sync_folder,
)
from ringpull.ps.live.record import LiveName, Read, Record, RecordKind, encode, encode_table, named_in
from ringpull.ps.live.stamp import NO_STAMP
from ringpull.ps.private_files import make_private_folder

FILE_BYTES: Final = 64 << 20
"""Size from which on the next group begins another file."""

FULL_AGAIN_AFTER_S: Final = 5.0
"""Time after which a push may be tried again that found the disk full."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LOG: Final = logging.getLogger(__name__)

Replay = Callable[[LiveName, int, Read], None]
"""Function that takes in one record: table, bytes of a row of it, and the record."""

_PUSHES: Final = (RecordKind.ROWS, RecordKind.GONE)


class Log:
    """Log of one shard. Used by one thread at a time. Made by `open`."""

    def __init__(
        self, folder: Path, shard: int, deployment: str, *, durable: bool = True, file_bytes: int = FILE_BYTES
    ) -> None:
        self.folder = folder
        self._shard, self._deployment = shard, deployment
        self._durable, self._file_bytes = durable, file_bytes
        self._sizes: dict[int, int] = {}
        self._file: BlockFile | None = None
        """The last file; None: there is none yet."""
        self._buffer: memoryview | None = None
        self._number = 0
        self._synced = 0
        self._tables: dict[LiveName, int] = {}
        self._unsynced: list[Record] = []
        self._doubtful = self._ragged = False
        self._begun_after = NO_STAMP
        self.last_stamp = NO_STAMP
        self.had_pushes = False
        """Whether there was a log when it was opened."""

    def __repr__(self) -> str:
        return f"<Log {self.folder} {len(self._sizes)} files, {self.bytes} bytes, last stamp {self.last_stamp}>"

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        shard: int,
        deployment: str,
        replay: Replay,
        durable: bool = True,
        file_bytes: int = FILE_BYTES,
    ) -> Log:
        """Read a log from its beginning, and go on with it; begin one where there is none.

        Args:
            replay: Called with each record, in their order.
            durable: Whether what was not synced is written anew if a sync fails: the owner of the log acknowledges
                nothing before. Else a record counts as kept once it was written.

        Raises:
            CorruptData: It is damaged before its end, or is another shard's; names the file and where.
            Unavailable: The folder cannot be used.
        """
        log = cls(folder, shard, deployment, durable=durable, file_bytes=file_bytes)
        try:
            make_private_folder(folder)
            for hidden in folder.glob(".log-*.tmp"):
                hidden.unlink()
            numbers = log_file_numbers(folder)
            for number in range(numbers[0], numbers[-1] + 1) if numbers else ():
                if number not in numbers:
                    raise CorruptData(f"{folder}: segment {number} of the log is missing")
                read_ahead(log_file_path(folder, number + 1))
                log._read(number, replay, last=number == numbers[-1])
            log.had_pushes = bool(numbers)
            log.last_stamp = max(log.last_stamp, log._begun_after)
            if numbers:
                log._go_on(numbers[-1])
        except OSError as exc:
            log.close()
            raise Unavailable(f"{folder}: the log cannot be opened: {exc}") from exc
        except BaseException:
            log.close()
            raise
        return log

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    @property
    def files(self) -> list[int]:
        """Numbers of the files, ascending."""
        return sorted(self._sizes)

    def bytes_from(self, number: int) -> int:
        """Return the bytes of the files from this one on."""
        return sum(size for each, size in self._sizes.items() if each >= number)

    def append(self, records: Sequence[Record]) -> None:
        """Write a group of records, one at least; if it fails, the log is as it was before.

        Raises:
            LimitExceeded: The disk is full.
            Unavailable: It fails.
        """
        try:
            self._mend()
            if self._file is None or self._file.end >= self._file_bytes:
                self._write(self._begin_file(), records)
            else:
                self._write(self._file, records)
        except OSError as exc:
            raise _refusal(self.folder, exc) from exc
        if self._durable:
            self._unsynced.extend(records)
        for record in records:
            self.last_stamp = max(self.last_stamp, record.stamp)

    def sync(self) -> None:
        """Return when all records are on disk.

        Raises:
            LimitExceeded: The disk is full. They may not be; the next `append` or `sync` writes them anew.
            Unavailable: It fails. Likewise.
        """
        try:
            self._mend()
            if self._file is not None and self._synced < self._file.end:
                self._sync(self._file)
        except OSError as exc:
            raise _refusal(self.folder, exc) from exc

    def roll(self) -> int:
        """Have the next group begin another file; return the number of that.

        Raises:
            LimitExceeded, Unavailable: It cannot, as of `append`.
        """
        try:
            self._mend()
            self._begin_file()
        except OSError as exc:
            raise _refusal(self.folder, exc) from exc
        return self._number

    def drop_below(self, number: int) -> None:
        """Delete the files before this one: what they say is said elsewhere, on disk.

        Raises:
            Unavailable: One cannot be deleted.
        """
        try:
            for old in [each for each in self.files if each < min(number, self._number)]:
                size = self._sizes.pop(old)  # first: whoever looks at files takes one for lost that should be there
                try:
                    log_file_path(self.folder, old).unlink(missing_ok=True)
                    sync_folder(self.folder)  # one after the other: a power cut leaves no gaps
                except OSError:
                    self._sizes[old] = size
                    raise
        except OSError as exc:
            raise _refusal(self.folder, exc) from exc

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _read(self, number: int, replay: Replay, *, last: bool) -> None:
        reader = LogFileReader(log_file_path(self.folder, number), number, last=last)
        if reader.header.shard != self._shard:
            raise CorruptData(f"{reader.path}: is the log of shard {reader.header.shard}, not of {self._shard}")
        self._begun_after = reader.header.first_stamp
        self._tables = {}
        tables: list[tuple[LiveName, int]] = []
        for read in reader.records():
            if read.kind is RecordKind.TABLE:
                self._tables[named_in(read)[0]] = len(tables)
                tables.append(named_in(read))
                continue
            if read.table >= len(tables) or (read.kind in _PUSHES and read.stamp <= self.last_stamp):
                raise CorruptData(f"{reader.path}: the record at byte {reader.end} does not follow those before it")
            self.last_stamp = max(self.last_stamp, read.stamp)
            replay(*tables[read.table], read)
        self._sizes[number] = reader.end
        if reader.end < reader.size:
            if not reader.ends_in_zeros:
                _LOG.warning("%s: cut at byte %d of %d, where a crash left it", reader.path, reader.end, reader.size)
            with open(reader.path, "r+b") as file:
                os.ftruncate(file.fileno(), reader.end)
                os.fsync(file.fileno())

    def _go_on(self, number: int) -> None:
        end = self._sizes[number]
        self._file = BlockFile(log_file_path(self.folder, number), end, self._memory(), direct=self._durable)
        self._file.sync()  # What a killed process wrote was perhaps never synced, and is served now.
        self._number, self._synced = number, end

    def _memory(self) -> memoryview:
        if self._buffer is None:
            self._buffer = new_buffer()
        return self._buffer

    def _begin_file(self) -> BlockFile:
        if self._file is not None:
            self._file.cut(self._file.end)  # Only the last file of a log may end in anything but a record.
            self._sync(self._file)
        number = self._number + 1
        header = LogFileHeader(self._deployment, self._shard, number, self.last_stamp)
        begun = create_log_file(self.folder, header, self._memory(), direct=self._durable)
        self.close()
        self._file, self._number, self._tables = begun, number, {}
        self._sizes[number] = self._synced = begun.end
        return begun

    def _write(self, file: BlockFile, records: Sequence[Record]) -> None:
        tables = dict(self._tables)
        pieces: list[bytes | memoryview] = []
        for record in records:
            table = tables.get(record.name)
            if table is None:
                table = tables[record.name] = len(tables)
                pieces += encode_table(record.name, record.row_bytes, table, synced=self._synced)
            pieces += encode(record, table, synced=self._synced)
        try:
            file.append(pieces)
        except OSError:
            self._ragged = True
            with suppress(OSError):
                self._cut(file, file.end)
            raise
        self._tables = tables
        self._sizes[self._number] = file.end

    def _cut(self, file: BlockFile, end: int) -> None:
        file.cut(end)
        self._sizes[self._number] = end
        self._ragged = False

    def _sync(self, file: BlockFile) -> None:
        try:
            file.sync()
        except OSError:
            self._doubtful = self._durable
            raise
        self._synced = file.end
        self._unsynced.clear()

    def _mend(self) -> None:
        """Make good what failed before: cut what was half written, write anew what may not be on disk."""
        if self._file is None:
            return
        if self._ragged:
            self._cut(self._file, self._file.end)
        if not self._doubtful:
            return
        records = list(self._unsynced)
        self._cut(self._file, self._synced)  # The records that are known to be there stay; no others may be in doubt.
        self._doubtful = False
        try:
            begun = self._begin_file()
            if records:
                self._write(begun, records)
                self._sync(begun)
        except OSError:
            self._doubtful = True
            self._unsynced = records
            raise


def _refusal(folder: Path, error: OSError) -> LimitExceeded | Unavailable:
    why = (
        f"{folder}: pushes are refused, and nothing that was acknowledged is lost: {error.strerror or error};"
        " they are taken again as soon as the disk takes them"
    )
    return LimitExceeded(why, retry_after_s=FULL_AGAIN_AFTER_S) if error.errno in _FULL else Unavailable(why)
