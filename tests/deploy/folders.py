"""Model folders made by hand: real tables and manifests; the dense program is only bytes. Enough but for predicting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.ps.spec import Pooling, Replicas, TableSpec
from ringpull.ps.store.writer import TableWriter


def write_version(
    model_dir: Path,
    number: int,
    tables: Mapping[str, Replicas] = {"user": 1},
    *,
    rows: int = 100,
    value: float = 0.5,
) -> Path:
    """Write `model_dir/number/` with tables of dim 4, keys 0 to `rows`, all of them `value`; return it."""
    folder = model_dir / str(number)
    (folder / "tables").mkdir(parents=True)
    (folder / "schema.json").write_text("{}")
    (folder / "dense.pt2").write_bytes(b"program")
    entries = []
    for name, replicas in tables.items():
        spec = TableSpec(name=name, dim=4, replicas=replicas)
        with TableWriter(folder / "tables" / name, spec) as writer:
            writer.add(np.arange(rows), np.full((rows, 4), value, np.float32))
            writer.finish()
        size = sum(path.stat().st_size for path in (folder / "tables" / name).iterdir())
        entries.append(TableEntry(spec=spec, path=f"tables/{name}", rows=rows, bytes=size))
    Manifest(
        model=model_dir.name,
        version=number,
        created="2026-01-01T00:00:00+00:00",
        schema=FileEntry.of(folder, "schema.json"),
        program=FileEntry.of(folder, "dense.pt2"),
        tables=tuple(entries),
        lookups=tuple(LookupSpec(table=name, feature=f"{name}_id", pooling=Pooling.SUM) for name in tables),
        inputs=tuple(ProgramInput(kind="lookup", lookup=i) for i in range(len(tables))),
        outputs=(ProgramOutput(name="score", shape=()),),
    ).save(folder)
    return folder


def flip_byte(path: Path, at: int = -1) -> None:
    """Damage one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
