"""Keys with their rows, as a client takes them from its caller and cuts them into messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.plain_values import as_array, says_array
from ringpull.inference.wire.lookup_codec import read_keys
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOT_SHIFT, as_keys, check_texts, keys_of_strings, positions_without_compiler
from ringpull.ps.spec import MAX_BYTES_ROW, Float32Array

_KEY_BYTES = 8
_NUMBERS_AT_ONCE = 1 << 20
"""Numbers that are looked at at a time: there may be gigabytes of them."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyedRows:
    """Keys, and a row for each; or keys that are to be taken out."""

    keys: NDArray[Any]
    """(N,): integers, or objects that are strings."""
    rows: Float32Array | BytesRows | None
    """float32 (N, dim), or N rows of bytes; None: the keys are taken out."""

    @classmethod
    def of(cls, keys: Any, rows: Any, *, remove: bool = False) -> KeyedRows:
        """Return what a caller gives, checked as far as the table need not be known.

        Raises:
            InvalidInput: Keys or rows are none, or do not fit each other; the message names which.
        """
        if bool(remove) is not (rows is None):
            raise InvalidInput(
                "rows: are given, and remove takes the keys out; give one of both"
                if remove
                else "rows: are missing; give a row for each key, or remove=True"
            )
        if rows is not None and isinstance(keys, set | frozenset):
            raise InvalidInput(
                f"keys: is a {type(keys).__name__}, which has no order to put rows in; it must be a list, or an array"
            )
        read = read_keys(keys)
        found = None if rows is None else _read_rows(rows)
        if found is not None and len(found) != len(read):
            raise InvalidInput(f"rows: {len(found)} rows for {len(read)} keys; there must be one each")
        return cls(read, found)

    def __len__(self) -> int:
        return len(self.keys)

    def owned(self) -> KeyedRows:
        """Return a copy, which stays as it is whatever the caller does with its arrays."""
        rows = self.rows
        return KeyedRows(self.keys.copy(), rows.copy() if isinstance(rows, np.ndarray) else rows)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and rows, about."""
        rows = self.rows
        keys = sum(map(len, self.keys.tolist())) if self.keys.dtype.kind in "UO" else 0
        own = 0 if rows is None else rows.data.nbytes if isinstance(rows, BytesRows) else rows.nbytes
        return own + keys + _KEY_BYTES * len(self.keys)

    def sizes(self) -> NDArray[np.int64] | None:
        """Return bytes of each key and row, about, (N,); None: all have as many."""
        rows, strings = self.rows, self.keys.dtype.kind in "UO"
        if not strings and not isinstance(rows, BytesRows):
            return None
        sizes = np.full(len(self.keys), _KEY_BYTES, np.int64)
        if strings:
            sizes += np.fromiter(map(len, self.keys.tolist()), np.int64, len(self.keys))
        if isinstance(rows, BytesRows):
            sizes += np.diff(rows.offsets)
        elif rows is not None:
            sizes += rows[:1].nbytes
        return sizes

    def slots(self) -> NDArray[np.uint16]:
        """Return the slot of each key, (N,)."""
        return (positions_without_compiler(self.hashed()) >> np.uint64(SLOT_SHIFT)).astype(np.uint16)

    def hashed(self) -> NDArray[np.uint64]:
        """Return the keys as tables know them, uint64 (N,): strings are hashed.

        Raises:
            NoText: A key holds half a character; the message says which.
        """
        if self.keys.dtype.kind in "iu":
            return as_keys(self.keys)
        return keys_of_strings(self.keys.tolist(), "keys")

    def check_texts(self) -> None:
        """Check that keys that are strings can be hashed and sent.

        Raises:
            NoText: One holds half a character; the message says which.
        """
        if self.keys.dtype.kind in "UO":
            check_texts("keys", self.keys.tolist())

    def check_rows(self, table: str) -> None:
        """Check what is known of rows without their table: heads would see it of those of one message only.

        Raises:
            InvalidInput: A number is not finite, or a row of bytes is too long; the message says which row.
        """
        rows = self.rows
        if isinstance(rows, BytesRows):
            lengths = np.diff(rows.offsets)
            if lengths.max(initial=0) > MAX_BYTES_ROW:
                row = int(lengths.argmax())
                raise InvalidInput(
                    f"bytes: table {table}: row {row}, of key {self._shown(row)}, has {int(lengths[row])} bytes; the"
                    f" most is {MAX_BYTES_ROW}"
                )
        elif rows is not None and rows.size:
            at_once = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
            for begin in range(0, len(rows), at_once):
                finite = np.isfinite(rows[begin : begin + at_once])
                if not finite.all():
                    row = begin + int(finite.all(axis=1).argmin())
                    raise InvalidInput(
                        f"vectors: table {table}: row {row}, of key {self._shown(row)}, has a number that is NaN or"
                        " infinite"
                    )

    def _shown(self, row: int) -> str:
        return f"{self.keys[row].item() if self.keys.dtype.kind in 'iu' else str(self.keys[row])!r:.80}"

    def at(self, places: NDArray[np.int64] | slice) -> KeyedRows:
        """Return those at some places, in that order."""
        rows = self.rows
        if isinstance(rows, BytesRows):
            rows = rows.at(np.arange(len(rows))[places])
        elif rows is not None:
            rows = rows[places]
        return KeyedRows(self.keys[places], rows)

    @classmethod
    def joined(cls, parts: list[KeyedRows]) -> KeyedRows:
        """Return parts of one table end to end."""
        if len(parts) == 1:
            return parts[0]
        keys = np.concatenate([each.keys for each in parts])
        if parts[0].rows is None:
            return cls(keys, None)
        if isinstance(parts[0].rows, BytesRows):
            return cls(keys, BytesRows.of([row for each in parts for row in each.rows or ()]))
        return cls(keys, np.concatenate([each.rows for each in parts if each.rows is not None]))

    def fits(self, other: KeyedRows) -> bool:
        """Return whether another part may go into one message behind this one."""
        if self.keys.dtype != other.keys.dtype or type(self.rows) is not type(other.rows):
            return False
        if isinstance(self.rows, np.ndarray) and isinstance(other.rows, np.ndarray):
            return self.rows.shape[1:] == other.rows.shape[1:]
        return True


def _read_rows(given: Any) -> Float32Array | BytesRows:
    if isinstance(given, BytesRows):
        return given
    if isinstance(given, list | tuple) and given and isinstance(given[0], bytes | bytearray | memoryview):
        if not all(isinstance(each, bytes | bytearray | memoryview) for each in given):  # bytes(5) is 5 zeros
            raise InvalidInput("rows: must be all bytes, or all vectors")
        return BytesRows.of([bytes(each) for each in given])
    if isinstance(given, list | tuple) and not given:
        return np.empty((0, 1), np.float32)
    try:
        rows = as_array("rows", given) if says_array(type(given)) else np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as exc:
        raise InvalidInput(f"rows: must be vectors of one length, or bytes: {exc}") from exc
    if rows.dtype.kind not in "iuf":
        raise InvalidInput(f"rows: are {rows.dtype}; they must be float32 numbers, or a list of bytes")
    if rows.ndim != 2:
        raise InvalidInput(f"rows: have the shape {rows.shape}; they must be (N, dim), a row for each key")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite: the server refuses it by name
        return np.ascontiguousarray(rows, np.float32)
