"""The DLRM of the benches as an exported model folder, kept in the cache between runs."""

from __future__ import annotations

from pathlib import Path

from ringpull import Dense, Schema, Sparse, export_model
from ringpull.loadtest.bench import dlrm
from ringpull.loadtest.bench.tables import cache_folder


def dlrm_folder(rows: int) -> Path:
    """Return the model folder `.../dlrm` with `rows` rows per table, exporting it first if this machine has none."""
    folder = cache_folder() / f"rows-{rows}" / dlrm.MODEL
    if not (folder / "1" / "manifest.json").exists():
        names = dlrm.CONTEXT + dlrm.CANDIDATE
        schema = Schema(features=[Dense("dense", width=dlrm.DENSE), *(Sparse(name, many=True) for name in names)])
        print(f"exporting a DLRM of {len(names)} tables x {rows:,} rows", flush=True)
        export_model(dlrm.make_model(rows), schema, folder, 1, quiet=True)
    return folder
