"""Checkpoint of a table that is being written: what of a writer's temporary files counts, so that another goes on.

Files grow at their ends only. What a writer appended behind its last checkpoint is cut off by the one that goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from ringpull.ps.errors import CorruptData


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """State of a writer whose buffer is empty, and whose files are on the disk."""

    run_ends: tuple[int, ...]
    """Rows before the end of each sorted run; the first is 0, the last the number of rows that were added."""
    texts_bytes: int = 0
    """Bytes of the strings of keys."""
    heap_bytes: int = 0
    """Bytes of rows of bytes."""
    sum: tuple[float, ...] | None = None
    """Sum of all rows, where their mean is asked for; None: it is not."""

    @property
    def rows(self) -> int:
        """Rows that were added."""
        return self.run_ends[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            CorruptData: It did not write that.
        """
        try:
            ends = tuple(int(end) for end in fields["run_ends"])
            total = None if fields["sum"] is None else tuple(float(each) for each in fields["sum"])
            found = cls(
                run_ends=ends, texts_bytes=int(fields["texts_bytes"]), heap_bytes=int(fields["heap_bytes"]), sum=total
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise CorruptData(f"checkpoint of a table: {exc!r}") from exc
        if ends[:1] != (0,) or any(end < begin for begin, end in pairwise(ends)):
            raise CorruptData("checkpoint of a table: its runs do not ascend from 0")
        return found


def grown_file(path: Path, size: int | None) -> BinaryIO:
    """Open a file that grows: a new one, or one of a checkpoint, cut to the bytes that count.

    Args:
        size: Its bytes at the checkpoint; None: it is new.

    Raises:
        CorruptData: It has fewer.
        OSError: A new one exists, or another does not.
    """
    if size is None:
        return cast(BinaryIO, path.open("x+b"))
    file = cast(BinaryIO, path.open("r+b"))
    try:
        if file.seek(0, os.SEEK_END) < size:
            raise CorruptData(f"{path}: has fewer bytes than at its checkpoint, {size}")
        file.truncate(size)
        file.seek(size)
    except BaseException:
        file.close()
        raise
    return file


def on_disk(file: BinaryIO) -> int:
    """Wait until all that was written to a file is on the disk; return its bytes."""
    file.flush()
    os.fsync(file.fileno())
    return file.tell()
