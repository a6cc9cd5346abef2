"""A model of one large table, kept in the cache between runs: what memory and time to ready are measured on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from ringpull import Schema, Sparse, export_model
from ringpull.inference.model.manifest import Manifest, versions
from ringpull.loadtest.bench.harness import QUICK
from ringpull.loadtest.bench.tables import write_table
from ringpull.loadtest.dlrm import cache_folder

ROWS = 200_000 if QUICK else 10_000_000
DIM = 64
EMPTY_ROWS = 8
"""Rows of the model that is taken for empty: a table cannot have none."""
VERSION = 1


class Summed(nn.Module):
    """One bag, summed, and a weight per number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(EMPTY_ROWS, DIM, mode="sum", include_last_offset=True)
        self.top = nn.Linear(DIM, 1)

    def forward(self, ids: Tensor, ids_offsets: Tensor) -> Tensor:
        scores: Tensor = self.top(self.table(ids, ids_offsets)).squeeze(1)
        return scores


def one_table_model(rows: int) -> Path:
    """Return the model folder of a table of `rows` rows x 64 float32, exporting it first if this machine has none."""
    folder = cache_folder() / "one-table" / f"rows-{rows}"
    version_dir = folder / str(VERSION)
    if VERSION in versions(folder) and Manifest.load(version_dir).tables[0].rows == rows:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    # Without the samples of a self-check: they would be held against the table that is put in its place.
    export_model(Summed(), Schema([Sparse("ids", many=True)]), folder, VERSION, check_rows=0, quiet=True)
    if rows > EMPTY_ROWS:
        _replace_table(version_dir, rows)
    return folder


def _replace_table(version_dir: Path, rows: int) -> None:
    """Put a table of `rows` rows in place of the exported one: a torch module of that size would need it in memory."""
    manifest = Manifest.load(version_dir)
    (entry,) = manifest.tables
    table_dir = manifest.table_folder(version_dir, entry.spec.name)
    shutil.rmtree(table_dir)
    replaced = dataclasses.replace(entry, rows=rows, bytes=write_table(table_dir, entry.spec, rows))
    dataclasses.replace(manifest, tables=(replaced,)).save(version_dir)
