"""File stamp: what a file system says of a file, by which it is known again without being read."""

from __future__ import annotations

import os
from typing import NamedTuple


class FileStamp(NamedTuple):
    """Stamp of a file as it was when it was opened."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    """Time of the last change of content or name; unlike `mtime_ns` it cannot be set back."""

    @classmethod
    def of(cls, found: os.stat_result) -> FileStamp:
        """Return the stamp in what `os.stat` or `os.fstat` found."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_file_of(self, found: os.stat_result) -> bool:
        """Return whether this is the same file, whatever was written to it since."""
        return (self.device, self.inode) == (found.st_dev, found.st_ino)
