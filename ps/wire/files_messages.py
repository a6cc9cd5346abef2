"""Messages by which a shard tells where the files are that it serves, for callers that may be on its machine.

The question travels as a `DESCRIBE` of a table without a name, which no table has: a shard of an earlier build answers
that there is none, and the connection goes on. The answer has a kind of its own, which nobody else is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import SLOTS
from ringpull.ps.store.file_stamp import FileStamp

MAX_FILES_BYTES: Final = 16 << 20
"""Most bytes of an answer: a table has some hundred."""


@dataclass(frozen=True, slots=True)
class FilesRequest:
    """Ask a shard which files it serves a version from; without a version, only whether that has changed."""

    model: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class TableFiles:
    """Folder that a shard serves a table from."""

    table: str
    folder: bytes
    """Absolute path, as its file system has it."""
    within: bytes
    """Folder that no file may lead out of; empty: its own."""
    identity: int
    """Identity of the table."""
    header: FileStamp
    """Stamp of its header, by which a caller knows that its own file system shows it the same file."""
    unanswered: tuple[tuple[int, int], ...] = ()
    """Ranges [begin, end) of slots whose rows are not in the folder, or damaged."""


@dataclass(frozen=True, slots=True)
class FilesReply:
    """The answer to a `FilesRequest`."""

    machine: str
    """Identity of the running kernel that the files are read by; empty: it is not known, so nobody shares it."""
    change: int
    """Number that is another one whenever anything below has changed, of any version."""
    versions: tuple[tuple[str, int], ...] = ()
    """Versions that are open, as (model, version)."""
    identity: int = 0
    """Identity of the version that was asked for; 0: it is not open, or that is not known."""
    tables: tuple[TableFiles, ...] = ()
    """Tables of the version that was asked for."""

    def packed(self) -> NDArray[np.uint8]:
        """Return the bytes that `unpacked` reads."""
        tables = [
            (each.table, each.folder, each.within, each.identity, each.header, each.unanswered) for each in self.tables
        ]
        return np.frombuffer(msgpack.packb((self.machine, self.change, self.versions, self.identity, tables)), np.uint8)

    @classmethod
    def unpacked(cls, data: NDArray[np.uint8]) -> FilesReply:
        """Read what `packed` returned.

        Raises:
            ProtocolError: It is something else.
        """
        try:
            machine, change, versions, identity, tables = msgpack.unpackb(data.tobytes(), use_list=False)
            reply = cls(
                _typed(machine, str),
                _typed(change, int),
                tuple((_typed(model, str), _typed(version, int)) for model, version in versions),
                _typed(identity, int),
                tuple(_table(*each) for each in tables),
            )
        except (ValueError, TypeError) as exc:
            raise ProtocolError(f"FILES_REPLY: {exc}") from exc
        return reply


def _table(
    table: Any, folder: Any, within: Any, identity: Any, header: Any, unanswered: tuple[tuple[Any, Any], ...]
) -> TableFiles:
    for begin, end in unanswered:
        if not 0 <= _typed(begin, int) < _typed(end, int) <= SLOTS:
            raise ValueError(f"slots are {begin} to {end}; they must be [begin, end) within 0..{SLOTS}")
    return TableFiles(
        _typed(table, str),
        _path(folder),
        _path(within) if within != b"" else b"",
        _typed(identity, int),
        FileStamp(*(_typed(each, int) for each in header)),
        unanswered,
    )


def _path(value: Any) -> bytes:
    path: bytes = _typed(value, bytes)
    if not path.startswith(b"/") or b"\0" in path:
        raise ValueError(f"a folder is {brief(path)}; it must be an absolute path")
    return path


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a field is {brief(value)}; it must be {kind.__name__}")
    return value
