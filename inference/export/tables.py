"""Writing the tables of a version: weights, streamed in chunks into `ringpull.ps.store`, with a progress bar.

A table is six files or more, each of which is waited for until the disk has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ringpull.inference.export.keys import Keys, RowKeys
from ringpull.inference.export.stages import counted
from ringpull.inference.export.table_options import TableOptions, row_type_of
from ringpull.inference.export.table_progress import table_progress
from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import OnUnavailable, RowType, TableSpec
from ringpull.ps.store.row_codec import decode, encode
from ringpull.ps.store.writer import TableWriter

CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Bytes of rows handed to the writer at a time; a weight of float32 on the CPU is not copied for it."""

_OWN_TYPES: Final = {
    torch.float32: RowType.FLOAT32,
    torch.float16: RowType.FLOAT16,
    torch.bfloat16: RowType.BFLOAT16,
}
"""Row types by the type of the weight: they hold its numbers exactly, and so does float32; none does float64's."""

SMALL_BYTES: Final = 4 * 1024 * 1024
"""Largest table that is written beside others."""
SMALL_AT_A_TIME: Final = 16
"""Small tables that are written at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class TablePlan:
    """One table to be written."""

    weight: Tensor
    """Weight (rows, dim) of floats: the module's own or computed of its weights, on any device."""
    keys: RowKeys
    default: Literal["zeros", "mean"] | NDArray[np.float32]
    """Vector of unknown ids, settled."""
    options: TableOptions
    row_type: RowType

    @classmethod
    def make(cls, table: str, weight: Tensor, keys: Keys | None, options: TableOptions) -> TablePlan:
        """Settle what the exporter left open.

        Raises:
            ExportError: The keys do not fit the rows, or the default vector not their dimension.
            InvalidInput: There is no such row type.
        """
        row_type = row_type_of(table, options, _OWN_TYPES.get(weight.dtype, RowType.FLOAT32))
        row_keys = RowKeys.read(table, len(weight), keys, unknown_is_row_0=options.default is None)
        default = options.default
        if default is None:
            default = "zeros" if row_keys.vocabulary is None else _rows(weight[:1])[0].copy()
        elif not isinstance(default, str):
            default = np.asarray(default, np.float32)
            if default.shape != weight.shape[1:]:
                raise ExportError(
                    f"table {table}: default has the shape {default.shape}; it must be ({weight.shape[1]},)"
                )
        return cls(weight, row_keys, default, options, row_type)

    @property
    def spec(self) -> TableSpec:
        """The table's, its default vector left to the writer."""
        return TableSpec(
            name=self.keys.table,
            dim=self.weight.shape[1],
            row_type=self.row_type,
            key_type=self.keys.key_type,
            replicas=self.options.replicas,
            on_unavailable=OnUnavailable(self.options.on_unavailable),
        )

    @property
    def rounds(self) -> bool:
        """Whether the table holds other numbers than the weight."""
        own = _OWN_TYPES.get(self.weight.dtype)
        return own is None or self.row_type not in (own, RowType.FLOAT32)

    def served_rows(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of the weight, float32 (n, dim), as serving gives them: those with a key rounded by the row type.

        Raises:
            InvalidInput: The row type cannot hold a number.
        """
        rows = self._picked(numbers)
        keyed = numbers >= self.keys.first
        rows[keyed] = decode(encode(rows[keyed], self.spec), self.spec)
        return rows

    def stored_rows(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return rows of the weight as a table stores them, uint8 (n, row_bytes).

        Raises:
            InvalidInput: The row type cannot hold a number.
        """
        return encode(self._picked(numbers), self.spec)

    def _picked(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of the weight, a copy."""
        weight = self.weight.detach()
        if (weight.device.type, weight.dtype) == ("cpu", torch.float32):
            # torch would start all of its threads and wait for the last, however few the rows are.
            picked: NDArray[np.float32] = weight.numpy()[numbers]
            return picked
        return _rows(weight[torch.from_numpy(numbers).to(weight.device)])

    @property
    def zero_default(self) -> bool:
        """Whether unknown ids give zeros."""
        return self.default == "zeros" if isinstance(self.default, str) else not self.default.any()

    @property
    def default_described(self) -> str:
        """The vector of unknown ids, for people."""
        if self.options.default is None and self.keys.vocabulary is not None:
            return "row 0"
        return self.default if isinstance(self.default, str) else "given"


def write_tables(version_dir: Path, plans: Iterable[TablePlan], console: Console | None) -> tuple[TableEntry, ...]:
    """Write tables to `version_dir / tables`, with progress on `console` if there is one.

    Small ones are written several at a time: what they take is waiting for the disk, a file after the other.

    Raises:
        DuplicateKey, HashCollision: Two rows of a table have one key.
        InvalidInput: A row type cannot hold a number.
        ExportError: The disk is full.
    """
    order = list(plans)
    small = [plan for plan in order if plan.keys.rows * plan.spec.row_bytes <= SMALL_BYTES]
    entries: dict[str, TableEntry] = {}
    with (
        counted(console, "tables", len(small)) as one_more,
        ThreadPoolExecutor(SMALL_AT_A_TIME, thread_name_prefix="ringpull-tables") as pool,
    ):
        pending = [pool.submit(write_table, version_dir, plan, None) for plan in small]
        try:
            for plan, entry in zip(small, pending, strict=True):
                entries[plan.keys.table] = entry.result()
                one_more()
        finally:
            for entry in pending:
                entry.cancel()
    for plan in order:
        if plan.keys.table not in entries:
            entries[plan.keys.table] = write_table(version_dir, plan, console)
    return tuple(entries[plan.keys.table] for plan in order)


def write_table(version_dir: Path, plan: TablePlan, console: Console | None) -> TableEntry:
    """Write one table to `version_dir / tables / NAME`, with progress on `console` if there is one.

    Raises:
        DuplicateKey, HashCollision: Two rows have one key.
        InvalidInput: The row type cannot hold a number.
        ExportError: The disk is full.
    """
    keys = plan.keys
    spec = plan.spec
    path = f"tables/{keys.table}"
    folder = version_dir / path
    folder.parent.mkdir(exist_ok=True)
    chunk = max(1, CHUNK_BYTES // spec.row_bytes)
    with (
        TableWriter(folder, spec, default=plan.default) as writer,
        table_progress(console, spec.name, keys.rows * spec.row_bytes) as progress,
    ):
        for begin in range(keys.first, keys.rows, chunk):
            end = min(begin + chunk, keys.rows)
            writer.add(keys.of(begin, end), _rows(plan.weight[begin:end]))
            progress((end - begin) * spec.row_bytes)
        written = writer.finish()
    return TableEntry(spec=written.spec, path=path, rows=written.rows, bytes=written.bytes, live=plan.options.live)


def _rows(weight: Tensor) -> NDArray[np.float32]:
    """Return rows of a weight as float32; on the CPU, those of float32 are not copied."""
    rows: NDArray[np.float32] = weight.detach().to("cpu", torch.float32).numpy()
    return rows
