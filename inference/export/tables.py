"""Writing the tables of a version: the module's weights, streamed in chunks into `ps.store`, with a progress bar for large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from inference.export.keys import RowKeys
from inference.manifest import TableEntry
from ps.errors import ExportError
from ps.spec import KeyType, OnUnavailable, Replicas, TableSpec
from ps.store.writer import TableWriter

CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Rows handed to the writer at a time; a weight on the CPU is not copied for it."""

PROGRESS_BYTES: Final = 256 * 1024 * 1024
"""Tables from this size on show a progress bar: smaller ones take less than about a second."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableOptions:
    """What a deployment wants of a table; none of it changes what known ids give."""

    replicas: Replicas = 1
    default: Literal["zeros", "mean"] | NDArray[np.float32] | None = None
    """The vector of unknown ids: zeros, the mean of all rows, or float32 (dim,). None: zeros; for a table keyed by a Vocabulary,
    row 0, which is what the model has for unknown ids."""
    on_unavailable: Literal["error", "default"] = "error"
    """When no live shard has a key: fail, or use the default vector and say so."""


def default_of(options: TableOptions, weight: Tensor, keys: RowKeys) -> Literal["zeros", "mean"] | NDArray[np.float32]:
    """Return the default vector of a table, settled."""
    if isinstance(options.default, str):
        return options.default
    if options.default is not None:
        given = np.asarray(options.default, np.float32)
        if given.shape != (weight.shape[1],):
            raise ExportError(
                f"table {keys.table}: default has the shape {given.shape}; it must be ({weight.shape[1]},)"
            )
        return given
    if keys.vocabulary is None:
        return "zeros"
    row: NDArray[np.float32] = weight[0].detach().cpu().numpy().copy()
    return row


def write_table(
    version_dir: Path, weight: Tensor, keys: RowKeys, options: TableOptions, console: Console | None
) -> TableEntry:
    """Write one table to `version_dir / tables / NAME`.

    Args:
        version_dir: The version being written.
        weight: (rows, dim) float32, on any device.
        keys: Of its rows.
        options: Wishes for it.
        console: Where to show progress; None: nowhere.

    Raises:
        DuplicateKey, HashCollision: Two rows have one key.
        ExportError: The disk is full.
    """
    spec = TableSpec(
        name=keys.table,
        dim=weight.shape[1],
        key_type=keys.key_type if keys.raw else KeyType.INT64,
        replicas=options.replicas,
        on_unavailable=OnUnavailable(options.on_unavailable),
    )
    path = f"tables/{keys.table}"
    folder = version_dir / path
    folder.parent.mkdir(exist_ok=True)
    chunk = max(1, CHUNK_BYTES // spec.row_bytes)
    with (
        TableWriter(folder, spec, default=default_of(options, weight, keys)) as writer,
        _progress(console, spec, keys.rows) as progress,
    ):
        for begin in range(keys.first, keys.rows, chunk):
            end = min(begin + chunk, keys.rows)
            writer.add(keys.of(begin, end), weight[begin:end].detach().cpu().numpy())
            progress(end - begin)
        facts = writer.finish()
    return TableEntry(spec=facts.spec, path=path, rows=facts.rows, bytes=facts.bytes)


@contextmanager
def _progress(console: Console | None, spec: TableSpec, rows: int) -> Iterator[Callable[[int], None]]:
    """Show how many bytes of rows were handed over, and that the writer sorts them after the last."""
    if console is None or rows * spec.row_bytes < PROGRESS_BYTES:
        yield lambda added: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"table {spec.name}", total=rows * spec.row_bytes)

        def advance(added: int) -> None:
            progress.advance(task, added * spec.row_bytes)
            if progress.tasks[0].finished:
                progress.update(task, description=f"table {spec.name}: sorting", total=None)

        yield advance
