"""What heads hold a compacted version against: samples, computed anew of the rows that it has.

Those of the version before it say what that gave for their rows: rows have changed since, so they would refuse a
version that is right. To leave them out would have a wrong table, or program, go live unseen. So the same sample rows
are asked of the new tables.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ringpull.inference.export.table_samples import sample_table
from ringpull.inference.export.written_version import WrittenVersion
from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.samples import FILE, Samples, differences
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError


def with_samples(version_dir: Path, manifest: Manifest, before: Samples) -> Manifest:
    """Write the samples of a version whose tables and program are there; return its manifest with them.

    Args:
        before: Samples of the version that it was made of.

    Raises:
        ExportError: They cannot be written, or the program gives no finite outputs any more.
        CorruptData: A table or the program is damaged.
    """
    if manifest.schema is None:
        written = VersionOnDisk(version_dir, manifest)
        names = [entry.spec.name for entry in manifest.tables]
        tables = {name: sample_table(written.open_table(name, verify=True)) for name in names}
        return _written(version_dir, manifest, Samples.of_tables(tables))
    version = WrittenVersion(version_dir, manifest, Schema.from_json(manifest.schema.read(version_dir)))
    samples = version.samples(before.prepared, lambda inputs: before.tolerance * _growth(inputs))
    if manifest.bfloat16 is not None:
        short = version.in_bfloat16().run(version.inputs(samples.prepared), samples.prepared.rows)
        apart = [float(differences(short[name], each).max(initial=0.0)) for name, each in samples.outputs.items()]
        if not np.isfinite(apart).all():
            raise ExportError("compaction: in bfloat16 an output is not finite that is so in float32, or the reverse")
        receipt = replace(manifest.bfloat16, sample_difference=max(apart, default=0.0))
        manifest = replace(manifest, bfloat16=receipt)
    return _written(version_dir, manifest, samples)


def _written(version_dir: Path, manifest: Manifest, samples: Samples) -> Manifest:
    (version_dir / FILE).write_bytes(samples.to_bytes())
    return replace(manifest, samples=FileEntry.of(version_dir, FILE))


def _growth(inputs: list[ProgramTensor]) -> float:
    """Return by how much what a program computes on the way may be larger than at its export: products of two inputs.

    Rows themselves are held against their checksums bit for bit, so that it is too much for some does no harm.
    """
    largest = 1.0
    for each in inputs:
        values = np.asarray(each.values)
        if values.dtype.kind == "f" and values.size:
            largest = max(largest, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    return largest**2
