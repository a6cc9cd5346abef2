"""Small tables on disk with the reference beside them, and pulls by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import positions_of
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import flat
from ringpull.ps.store.row_codec import decode, encode
from ringpull.ps.store.writer import TableWriter
from tests.reference import ReferenceBytes, ReferenceTable

MODEL, VERSION = "model", 3


@dataclass(frozen=True)
class WrittenTable:
    """A table's folder, and what it must answer."""

    folder: Path
    keys: NDArray[np.uint64]
    rows: NDArray[Any]
    """As the table gives them: float32 (N, D), rounded by its row type, or bytes objects (N,)."""
    reference: ReferenceTable | ReferenceBytes

    def row_bytes(self, which: NDArray[Any] | int | slice = slice(None)) -> bytes:
        """Return rows as a pull or, of bytes and float32, a stream gives them: end to end."""
        rows = self.rows[which]
        if isinstance(rows, bytes):
            return rows
        return b"".join(rows.tolist()) if rows.dtype == object else rows.tobytes()


def bytes_row(base: Base, number: int) -> bytes:
    """Return one row of a table of bytes."""
    return flat(base.raw_rows(number, number + 1)).tobytes()


def pulled(reply: PullReply) -> bytes:
    """Return the rows of an answer, all of one table, end to end."""
    return reply.values.tobytes() + reply.data.tobytes()


def write_table(
    folder: Path, *, rows: int = 500, dim: int = 5, seed: int = 1, row_type: RowType = RowType.FLOAT32
) -> WrittenTable:
    """Write a table of random keys and rows with a default vector that is not zero; its name is the folder's.

    Args:
        dim: Numbers per row; of rows of bytes they have 0 to 8 * dim bytes.
    """
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, 2**64, rows, np.uint64, endpoint=False))
    if row_type is RowType.BYTES:
        lists = np.array([*map(rng.bytes, rng.integers(0, 8 * dim, len(keys), endpoint=True).tolist()), b""], object)
        lists = lists[:-1]
        with TableWriter(folder, TableSpec(name=folder.name, dim=0, row_type=row_type)) as writer:
            writer.add_bytes(keys, BytesRows.of(lists.tolist()))
            writer.finish()
        return WrittenTable(folder, keys, lists, ReferenceBytes(dict(zip(keys.tolist(), lists, strict=True))))
    values = rng.normal(size=(len(keys), dim)).astype(np.float32)
    default = tuple(float(x) for x in rng.normal(size=dim).astype(np.float32))
    spec = TableSpec(name=folder.name, dim=dim, row_type=row_type, default=default)
    with TableWriter(folder, spec) as writer:
        writer.add(keys, values)
        writer.finish()
    values = decode(encode(values, spec), spec)
    return WrittenTable(folder, keys, values, ReferenceTable.from_arrays(keys, values, spec.default_vector()))


def pull_request(
    lookups: Sequence[tuple[str, Op, NDArray[np.uint64], Sequence[int], NDArray[np.float32] | None]],
    *,
    model: str = MODEL,
    version: int = VERSION,
) -> PullRequest:
    """Return the pull of these (table, op, keys, lengths of bags, weights)."""
    keys = [keys for _, _, keys, _, _ in lookups]
    lengths = [length for _, _, _, lengths, _ in lookups for length in lengths]
    weights = [weights for *_, weights in lookups if weights is not None]
    return PullRequest(
        model=model,
        version=version,
        epoch=1,
        lookups=tuple(
            SubLookup(table, op, len(keys), len(lengths), weights is not None)
            for table, op, keys, lengths, weights in lookups
        ),
        positions=positions_of(np.concatenate([*keys, np.empty(0, np.uint64)])),
        lengths=np.array(lengths, np.uint32),
        weights=np.concatenate([*weights, np.empty(0, np.float32)]),
    )


def rows_request(table: str, keys: NDArray[np.uint64], *, model: str = MODEL, version: int = VERSION) -> PullRequest:
    """Return the pull of unpooled rows."""
    return pull_request([(table, Op.ROWS, keys, (), None)], model=model, version=version)
