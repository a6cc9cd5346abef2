"""Rows of a file as `ringpull push` sends them, block by block, the same blocks each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ringpull.extras import needing
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import KeyType

if TYPE_CHECKING:
    from ringpull.inference.importers.tables.source import ReadOptions, TableSource
    from ringpull.inference.proto import ringpull_pb2 as pb

KEYS_OF_A_BLOCK: Final = 1 << 18
"""Keys of a block of those that are to be taken out."""
COLUMNS_ENDINGS: Final = (".csv", ".tsv")
"""Ends of names of texts that have columns."""
_DELIMITERS: Final = (",", "\t", ";")


@dataclass(slots=True)
class FileOfRows:
    """Source of keys and rows, or of keys to take out. Opened; `close` ends that."""

    source: TableSource
    remove: bool

    @property
    def described(self) -> str:
        """What was taken for what."""
        return self.source.described

    @property
    def rows(self) -> int | None:
        """Number of rows; None: not known before they are read."""
        return self.source.rows

    @property
    def fingerprint(self) -> str | None:
        """What stays the same as long as the same blocks are given; None: they may be others the next time."""
        return self.source.fingerprint

    def blocks(self) -> Iterator[KeyedRows]:
        """Yield all rows, each looked at.

        Raises:
            InvalidInput: A value is none that a table can hold; the message names the place.
        """
        from ringpull.inference.importers.tables.checked import checked_pieces

        for piece in checked_pieces(self.source):
            keys: Any = piece.keys
            if isinstance(keys, BytesRows):
                keys = np.array([key.decode() for key in keys], object)
            yield KeyedRows(keys, None if self.remove else piece.rows)

    def close(self) -> None:
        """Close what is open."""
        self.source.close()


@dataclass(slots=True)
class FileOfKeys:
    """Keys to take out, a line each, or an array."""

    where: str
    keys: np.ndarray[Any, np.dtype[Any]]

    @property
    def described(self) -> str:
        """What was taken for what."""
        kind = "strings" if self.keys.dtype == object else "integers"
        first = f", the first {self.keys[:1].tolist()[0]!r}" if len(self.keys) else ""  # which may be a column's name
        return f"{self.where}: {len(self.keys):,} keys, {kind}{first}"

    @property
    def rows(self) -> int:
        """Number of keys."""
        return len(self.keys)

    @property
    def fingerprint(self) -> str:
        """What stays the same as long as the same blocks are given."""
        from ringpull.inference.importers.tables.files import find_files, fingerprint_of

        return fingerprint_of(find_files(self.where), self.where)

    def blocks(self) -> Iterator[KeyedRows]:
        """Yield all keys."""
        bounds = [*range(0, len(self.keys), KEYS_OF_A_BLOCK), len(self.keys)]
        for begin, end in pairwise(bounds):
            yield KeyedRows(self.keys[begin:end], None)

    def close(self) -> None:
        """Do nothing: all is read."""


def open_file(where: str, options: ReadOptions, *, remove: bool, table: pb.TableInfo | None) -> FileOfRows | FileOfKeys:
    """Open a file of rows, or of keys to take out.

    Args:
        table: The table that they are for; None: it is not told to this caller.

    Raises:
        InvalidInput: There is nothing that is known how to read, or it does not fit the table.
    """
    with needing("import", "ringpull push"):
        from ringpull.inference.importers.tables.formats import open_source
        from ringpull.inference.importers.tables.source import ReadOptions as Options
    alone = remove and options == Options(id=options.id)
    if alone and (keys := _keys_alone(where, options.id)) is not None:
        if table is not None:
            strings = table.key_type == KeyType.STRING
            if not strings and options.id is None:
                _check_first_line(where, keys)
            if strings and keys.dtype != object:
                keys = np.array([str(key) for key in keys.tolist()], object)
            _check_key_type(where, strings=keys.dtype == object, table=table)
        return FileOfKeys(where, keys)
    try:
        source = open_source(where, options)
    except InvalidInput as exc:
        if not remove:
            raise
        raise InvalidInput(
            f"{exc}; a file of keys alone has a key a line, or is a .npy or a Parquet of one column"
        ) from exc
    try:
        if table is not None:
            _check_key_type(where, strings=source.key_type is KeyType.STRING, table=table)
            if source.dim != table.dim and not remove:
                has = f"vectors of {table.dim} numbers" if table.dim else "rows of bytes"
                found = f"vectors of {source.dim} numbers" if source.dim else "rows of bytes"
                raise InvalidInput(f"{where} has {found}; table {table.name} has {has}")
    except BaseException:
        source.close()
        raise
    return FileOfRows(source, remove)


def _keys_alone(where: str, column: str | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the keys of a file that has nothing else, perhaps below their column's name; None: it has."""
    from ringpull.inference.importers.tables.formats import format_of
    from ringpull.inference.importers.tables.ids_file import first_line, read_ids_file

    kind = format_of(where)
    if kind == "parquet":
        with needing("import", "ringpull push"):
            from ringpull.inference.importers.tables.parquet import read_keys_alone
        return read_keys_alone(where, column)
    if column is not None:
        several = kind != "text" or any(each in first_line(where) for each in _DELIMITERS)
        return None if several else read_ids_file(where, column)
    if kind not in ("text", "npy") or where.endswith(".npz"):
        return None
    keys = read_ids_file(where)
    _check_columns(where, keys)
    return keys


def _check_first_line(where: str, keys: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Refuse integers below the name of their column, by which they can be read."""
    from ringpull.inference.importers.tables.cells import INTEGER

    if keys.dtype == object and len(keys) > 1 and all(map(INTEGER.fullmatch, keys[1:])):
        raise InvalidInput(
            f"{where}: its first line is {keys[0]!r:.80}, and all others are integers; if that is the name of their"
            f" column, say so: --id {keys[0]:.80}"
        )


def _check_columns(where: str, keys: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Refuse a table of several columns, whose lines would be keys that no row has."""
    if not where.lower().endswith(COLUMNS_ENDINGS) or keys.dtype != object or not len(keys):
        return
    for delimiter in _DELIMITERS:
        if all(delimiter in key for key in keys):
            raise InvalidInput(
                f"{where}: its lines have several columns, such as {keys[0]!r:.80}; say which one has the keys, with"
                " --id; a file whose lines are keys as they are is called .txt"
            )


def _check_key_type(where: str, *, strings: bool, table: pb.TableInfo) -> None:
    wanted = table.key_type == KeyType.STRING
    if strings is not wanted:
        has, are = ("strings", "integers") if wanted else ("integers", "strings")
        raise InvalidInput(f"{where}: its keys are {are}; table {table.name} is keyed by {has} (--id, --id-type)")
