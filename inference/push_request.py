"""A push of rows to a table, whatever protocol it comes over, and what is checked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.key_types import check_key_type
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.identity import number_of
from ringpull.ps.spec import MAX_BYTES_ROW, Float32Array, KeyType, TableSpec
from ringpull.ps.store.row_codec import encode
from ringpull.ps.wire.push_messages import NAMELESS
from ringpull.router.pushed_rows import PushedRows

MAX_NUMBER: Final = (1 << 63) - 1
MAX_NAME: Final = 128
"""Characters of the longest name of a writer."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PushRequest:
    """Request to write rows by their keys, or to take keys out."""

    model: str
    table: str
    keys: NDArray[np.uint64]
    """(N,): keys. An int64 is taken bit for bit, a string is hashed. Of one that is there twice the last row counts."""
    key_type: KeyType | None = None
    """Type in which keys were sent; None: not told, and not held against the table's."""
    rows: Float32Array | BytesRows | None
    """float32 (N, dim), or N rows of bytes; None: the keys are taken out."""
    version: int = 0
    """Version whose lineage is meant; 0: the live one."""
    label: str = ""
    """Label of that version; empty: none."""
    lineage: str = ""
    """Lineage that is meant, 16 hex digits; empty: that of the version."""
    only_live: bool = False
    """Whether a lineage that is named has to be the live one."""
    writer: int = 0
    """Who pushes, see `named_writer` and `nameless_writer`; 0: nobody who counts."""
    number: int = 0
    """Number of the push, at least 1; 0: its writer counts none."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Push that was acknowledged."""

    model: str
    version: int
    """Version whose table it was checked against."""
    lineage: str
    stamp: str
    """Where it is in the order of all pushes: `SHARD:STAMP,...`."""
    rows: int
    new_keys: int
    repeated: int
    copies: int
    request_id: str = ""


def named_writer(name: str) -> int:
    """Return the id of a writer that has a name.

    Raises:
        InvalidInput: The name is empty, too long, or no text.
    """
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput(f"named: a writer's name has {len(name)} characters; it must have 1 to {MAX_NAME}")
    writer = int(keys_of_strings([name], "named")[0]) & ~NAMELESS
    return writer or 1


def nameless_writer(number: int) -> int:
    """Return the id of a writer that has a random number in place of a name."""
    return number | NAMELESS


def check(request: PushRequest, spec: TableSpec) -> None:
    """Check a push against the table that it writes to.

    Raises:
        InvalidInput: Keys, rows and the writer's number do not fit each other, or the table; the message names which.
    """
    keys, rows = request.keys, request.rows
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise InvalidInput(f"keys: are {keys.dtype} {keys.shape}; they must be uint64 (N,)")
    if len(keys):
        check_key_type("keys", request.key_type, spec)
    if not 0 <= request.number <= MAX_NUMBER or bool(request.writer) is not bool(request.number):
        raise InvalidInput(
            f"number: is {request.number}; it must be from 1 to {MAX_NUMBER} where there is a writer, and else 0"
        )
    if rows is None or len(keys) == len(rows) == 0:
        return
    if isinstance(rows, BytesRows):
        _check_bytes(rows, keys, spec)
    else:
        _check_vectors(rows, keys, spec)


def _check_bytes(rows: BytesRows, keys: NDArray[np.uint64], spec: TableSpec) -> None:
    if spec.dim:
        raise InvalidInput(f"bytes: table {spec.name} has vectors of {spec.dim} numbers; send vectors")
    if len(rows) != len(keys):
        raise InvalidInput(f"bytes: {len(rows)} rows for {len(keys)} keys; there must be one each")
    lengths = np.diff(rows.offsets)
    if len(lengths) and int(lengths.max()) > MAX_BYTES_ROW:
        row = int(lengths.argmax())
        raise InvalidInput(
            f"bytes: row {row}, of key {int(keys[row])}, has {int(lengths[row])} bytes; the most is {MAX_BYTES_ROW}"
        )


def _check_vectors(rows: Float32Array, keys: NDArray[np.uint64], spec: TableSpec) -> None:
    if not spec.dim:
        raise InvalidInput(f"vectors: table {spec.name} has rows of bytes; send bytes")
    if rows.dtype != np.float32:
        raise InvalidInput(f"vectors: are {rows.dtype}; they must be float32")
    if rows.ndim != 2 or rows.shape != (len(keys), spec.dim):
        raise InvalidInput(
            f"vectors: have the shape {rows.shape}; they must be ({len(keys)}, {spec.dim}): a row of table {spec.name}"
            " for each key"
        )
    finite = np.isfinite(rows)
    if not finite.all():
        row = int((~finite).any(axis=1).argmax())
        raise InvalidInput(
            f"vectors: table {spec.name}: row {row}, of key {int(keys[row])}, has a number that is NaN or infinite"
        )


def stored(request: PushRequest, spec: TableSpec) -> NDArray[np.uint8] | BytesRows:
    """Return the rows of a push that `check` has passed as the table stores them: (n, row_bytes), or rows of bytes.

    Raises:
        InvalidInput: The table's row type cannot hold a number.
    """
    rows = request.rows
    if rows is None or not len(rows):
        return np.empty((0, spec.row_bytes), np.uint8) if spec.dim else BytesRows.of([])
    if isinstance(rows, BytesRows):
        return rows
    try:
        return encode(rows, spec)
    except InvalidInput as exc:
        row, key = next(
            (row, int(key)) for row, key in enumerate(request.keys) if not _can_be_stored(rows[row : row + 1], spec)
        )
        raise InvalidInput(f"vectors: row {row}, of key {key}: {exc}") from exc


def _can_be_stored(rows: Float32Array, spec: TableSpec) -> bool:
    try:
        encode(rows, spec)
    except InvalidInput:
        return False
    return True


def rows_to_push(request: PushRequest, spec: TableSpec, lineage: str) -> PushedRows:
    """Return a push as a router takes it, checked against the table that it writes to, and as that stores rows.

    Args:
        lineage: Lineage that is written to, 16 hex digits.

    Raises:
        InvalidInput: Keys, rows and the writer's number do not fit each other, or the table; the message names which.
    """
    check(request, spec)
    return PushedRows(
        model=request.model,
        table=request.table,
        lineage=number_of(lineage),
        writer=request.writer,
        number=request.number,
        remove=request.rows is None,
        keys=request.keys,
        rows=stored(request, spec),
    )
