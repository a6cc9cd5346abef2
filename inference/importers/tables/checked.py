"""Pieces of a source as a table takes them: of the kind it said, every number finite, every text UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.source import PieceKeys, TablePiece, TableSource
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput, NoText
from ringpull.ps.hashing import are_utf8, as_keys, check_texts, keys_of_strings, keys_of_texts
from ringpull.ps.spec import MAX_BYTES_ROW, KeyType, UInt64Array
from ringpull.ps.store.raw_rows import lengths_of


def checked_pieces(source: TableSource, start: int = 0) -> Iterator[TablePiece]:
    """Yield the pieces of a source but the first `start` rows, each of which was looked at.

    Raises:
        InvalidInput: A number is not finite, a key is no text, a row of bytes is too long: the message names key and
            place. Or a piece is not of the kind that the source said.
    """
    strings = source.key_type is KeyType.STRING
    for piece in source.pieces(start):
        _check_kind(piece, source, strings=strings)
        if isinstance(piece.keys, BytesRows):
            _check_texts(piece, piece.keys)
        elif strings:
            _check_characters(piece, piece.keys)
        if isinstance(piece.rows, BytesRows):
            _check_lengths(piece, piece.rows)
        else:
            _check_finite(piece, piece.rows)
        yield piece


def hashed_keys(keys: PieceKeys) -> UInt64Array:
    """Return the keys of a piece as uint64 (n,): integers bit for bit, strings hashed."""
    if isinstance(keys, BytesRows):
        return keys_of_texts(keys.data.tobytes(), lengths_of(keys))
    return keys_of_strings(keys.tolist(), "keys") if keys.dtype.kind in "UO" else as_keys(keys)


def shown_key(keys: PieceKeys, row: int) -> str:
    """Return one key for people."""
    key = keys[row]
    if isinstance(key, bytes):
        return repr(key.decode(errors="backslashreplace"))
    return repr(str(key)) if isinstance(key, str) else str(key)


def _check_kind(piece: TablePiece, source: TableSource, *, strings: bool) -> None:
    keys: Any = piece.keys
    are_strings = isinstance(keys, BytesRows) or keys.dtype.kind in "UO"
    if are_strings is not strings:
        kinds = "strings", "integers"
        was, now = kinds if strings else kinds[::-1]
        raise InvalidInput(f"{piece.at(0)}: keys are {now}; those before are {was}")
    dim = 0 if isinstance(piece.rows, BytesRows) else piece.rows.shape[1]
    if dim != source.dim or len(keys) != len(piece.rows):
        raise InvalidInput(
            f"{piece.at(0)}: {len(keys)} keys and {len(piece.rows)} rows of {dim} numbers; rows have {source.dim}"
        )


def _check_finite(piece: TablePiece, rows: NDArray[np.float32]) -> None:
    finite = np.isfinite(rows)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        number = int(np.argmin(finite[row]))
        raise InvalidInput(
            f"{piece.at(row)}: number {number} of the vector of key {shown_key(piece.keys, row)} is"
            f" {rows[row, number]}; it must be a finite float32"
        )


def _check_lengths(piece: TablePiece, rows: BytesRows) -> None:
    lengths = np.diff(rows.offsets)
    if len(lengths) and int(lengths.max()) > MAX_BYTES_ROW:
        row = int(np.argmax(lengths))
        raise InvalidInput(
            f"{piece.at(row)}: the row of key {shown_key(piece.keys, row)} has {int(lengths[row])} bytes; a row may"
            f" have at most {MAX_BYTES_ROW}"
        )


def _check_characters(piece: TablePiece, keys: NDArray[Any]) -> None:
    """Refuse keys with half a character, which have no UTF-8."""
    try:
        check_texts("keys", keys.tolist())
    except NoText as exc:
        raise InvalidInput(f"{piece.at(exc.place)}: the key {exc.why}") from exc


def _check_texts(piece: TablePiece, keys: BytesRows) -> None:
    """Refuse keys that are not UTF-8: all end to end, and none of which begins within a sign."""
    if are_utf8(keys.data.tobytes(), lengths_of(keys)):
        return
    for row, key in enumerate(keys):
        try:
            key.decode()
        except UnicodeDecodeError as exc:
            raise InvalidInput(f"{piece.at(row)}: the key {shown_key(keys, row)} is no UTF-8: {exc.reason}") from exc
