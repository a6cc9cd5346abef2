"""A version that was written and is not yet there: asked for scores as a head asks, over its tables and dense program.

The look-ups are the head's own (`ringpull.inference.head.request.lookups`); the pull is a slow loop over the tables'
files. Whatever runs the dense program, torch or onnxruntime, is loaded as a head loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.made_lists import part_of
from ringpull.inference.export.stored_rows import rows_at
from ringpull.inference.export.table_samples import sample_table
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.dense_program import DenseProgram, ProgramTensor, load_program
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import Samples, agree, differences
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.schema import Schema
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import Float32Array, Pooling, UInt64Array
from ringpull.ps.store.row_codec import decode
from ringpull.ps.store.table import Table
from ringpull.router.lookup import Lookup, LookupResult

TOLERANCE: Final = 1e-5
"""Largest difference allowed, times max(1, |a|, largest intermediate magnitude): ARCHITECTURE.md, "Exactly"."""

SAMPLE_ROWS: Final = 16

RowsOf = Callable[[UInt64Array], tuple[Float32Array, NDArray[np.bool_]]]
"""Rows of a table for keys (n,): float32 (n, dim), the default vector where there is none, and where there is one."""


def rows_of(table: Table) -> RowsOf:
    """Return the rows of a table's files."""
    spec = table.spec

    def rows(keys: UInt64Array) -> tuple[Float32Array, NDArray[np.bool_]]:
        found, stored = rows_at(table, positions_of(keys))
        assert not isinstance(stored, BytesRows), "no program looks up rows of bytes"
        values = np.tile(spec.default_vector(), (len(keys), 1))
        values[found] = decode(stored, spec)
        return values, found

    return rows


def pull(source: RowsOf, lookup: Lookup) -> LookupResult:
    """Answer a look-up slowly: rows one by one, sums in float64."""
    rows, found = source(lookup.keys)
    missing = int((~found).sum())
    if lookup.offsets is None:
        return LookupResult(rows, missing, found)
    out = np.zeros((lookup.outputs, rows.shape[1]), np.float32)
    for bag, (begin, end) in enumerate(zip(lookup.offsets[:-1], lookup.offsets[1:], strict=True)):
        if begin < end:
            members = rows[begin:end].astype(np.float64)
            if lookup.weights is not None:
                members *= lookup.weights[begin:end, None].astype(np.float64)
            pooled = members.max(axis=0) if lookup.pooling is Pooling.MAX else members.sum(axis=0)
            out[bag] = pooled / (end - begin) if lookup.pooling is Pooling.MEAN else pooled
    return LookupResult(out, missing)


def lookups_of(manifest: Manifest, schema: Schema, served: Prepared) -> list[tuple[FeatureLookup, Lookup]]:
    """Return what a version looks up for prepared rows, as bound and as asked for, in the order of its look-ups."""
    found = []
    for spec in manifest.lookups:
        by = None if spec.kept_by is None else spec.kept_by.feature
        keeper = None if by is None else schema[by]
        bound = FeatureLookup(spec, schema[spec.feature], manifest.table(spec.table).spec, keeper)
        prepared = served.features[spec.feature]
        found.append((bound, bound.lookup(prepared, None if by is None else served.features[by])))
    return found


class WrittenVersion:
    """A version in its folder, with its tables and its dense program opened."""

    def __init__(self, version_dir: Path, manifest: Manifest, schema: Schema) -> None:
        """Open what was written.

        Args:
            schema: The serving one.
        """
        self.manifest: Final = manifest
        self._schema = schema
        self._version_dir = version_dir
        self._program = load_program(version_dir, manifest, "cpu", precision="float32")
        written = VersionOnDisk(version_dir, manifest)
        self._tables = {entry.spec.name: written.open_table(entry.spec.name, verify=True) for entry in manifest.tables}

    def inputs(self, served: Prepared, other: Mapping[str, RowsOf] | None = None) -> list[ProgramTensor]:
        """Return the inputs of the dense program for rows.

        Args:
            served: Rows as serving prepares them.
            other: Rows of tables that are to be taken in place of those that were written, by table.
        """
        names = [entry.argument for entry in self.manifest.inputs if entry.argument is not None]
        arguments = self._schema.arguments(served, names)
        lookups = lookups_of(self.manifest, self._schema, served)
        inputs = []
        for entry in self.manifest.inputs:
            if entry.lookup is None:
                inputs.append(ProgramTensor(arguments[str(entry.argument)]))
                continue
            bound, wanted = lookups[entry.lookup]
            source = (other or {}).get(bound.spec.table) or rows_of(self._tables[bound.spec.table])
            inputs.append(ProgramTensor(bound.values(served.features[bound.spec.feature], pull(source, wanted))))
        return inputs

    def in_bfloat16(self) -> DenseProgram:
        """Return its dense program, which is of torch, in bfloat16, whatever instructions there are here.

        Raises:
            ExportError: It cannot be rewritten so.
        """
        try:
            return load_program(self._version_dir, self.manifest, "cpu", precision="bfloat16")
        except InvalidInput as exc:
            raise ExportError(f"dense_precision: the dense program cannot be bfloat16: {exc}") from exc

    def run(self, inputs: list[ProgramTensor], rows: int) -> dict[str, Float32Array]:
        """Return the outputs of the dense program, by name."""
        return self._program.run(inputs, rows)

    def check_parts(
        self,
        served: Prepared,
        expected: Mapping[str, Float32Array],
        tolerance: float,
        relative: float,
        other: Mapping[str, RowsOf] | None = None,
    ) -> None:
        """Check that rows have the outputs expected in small parts, too.

        Raises:
            ExportError: A row's depend on the other rows of its batch.
        """
        begin = 0
        for end in sorted({1, min(3, served.rows), served.rows}):
            part = self.run(self.inputs(part_of(served, begin, end), other), end - begin)
            compare(
                part,
                {name: values[begin:end] for name, values in expected.items()},
                tolerance,
                relative,
                "a row's depends on the other rows of its batch, which in serving are those of other requests",
            )
            begin = end

    def samples(self, served: Prepared, tolerance: Callable[[list[ProgramTensor]], float]) -> Samples:
        """Return the first few rows with the outputs that the written version gives, and samples of its tables.

        Args:
            tolerance: Largest difference of an output that a head allows, of the program's inputs for these rows.
        """
        rows = part_of(served, 0, min(SAMPLE_ROWS, served.rows))
        inputs = self.inputs(rows)
        tables = {name: sample_table(table) for name, table in self._tables.items()}
        return Samples(rows, self.run(inputs, rows.rows), tolerance(inputs), tables)


def compare(
    actual: Mapping[str, Float32Array],
    expected: Mapping[str, Float32Array],
    tolerance: float,
    relative: float,
    problem: str,
    whose: str = "the module's",
) -> float:
    """Return the largest difference of outputs.

    Args:
        tolerance: Largest difference allowed, and `relative` the part of what is expected that is allowed.
        problem: What it means where they differ by more.
        whose: What the expected ones are of.

    Raises:
        ExportError: They differ by more; the message names output and row, and both values.
    """
    worst = 0.0
    for name, values in expected.items():
        if actual[name].shape != values.shape:
            raise ExportError(
                f"self-check: output {name} has the shape {actual[name].shape}; {whose} has {values.shape}"
            )
        apart = differences(actual[name], values)
        difference = float(apart.max(initial=0.0))
        same = agree(actual[name], values, tolerance, relative)
        if not same.all():
            at = np.unravel_index(int(np.argmax(np.where(same, -1.0, apart))), same.shape)
            raise ExportError(
                f"self-check: output {name}: {problem}, by up to {difference:.3g} (tolerance {tolerance:.3g}): in row"
                f" {int(at[0])} it is {float(actual[name][at]):.7g}, and should be {float(values[at]):.7g}"
            )
        worst = max(worst, difference)
    return worst
