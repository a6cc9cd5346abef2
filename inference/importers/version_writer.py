"""`write_onnx_version`: from tables, look-ups and the ONNX rest of a model to a version that serves, proven first.

Whatever a model was made with, its importer ends here. Rows go through the source's own scoring and through what was
written, as a head does it: an import whose scores differ leaves nothing behind (`version_folder`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from rich.console import Console

from ringpull.inference.degrade.levels import check_steps
from ringpull.inference.degrade.steps import Step
from ringpull.inference.export.kept_weight import KeptWeight
from ringpull.inference.export.report import CheckReport, CostReport, ExportReport, TableReport
from ringpull.inference.export.stages import stage
from ringpull.inference.export.version_folder import SCHEMA_FILE, new_version, written_beside
from ringpull.inference.export.written_version import TOLERANCE, RowsOf, WrittenVersion, compare, lookups_of
from ringpull.inference.importers.imported_tables import ImportedTable, write_tables
from ringpull.inference.importers.intermediates import largest_intermediate
from ringpull.inference.importers.onnx_files import write_rest
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import (
    FileEntry,
    IdLimit,
    LookupSpec,
    Manifest,
    ProgramInput,
    ProgramOutput,
    TableEntry,
    time_of_now,
)
from ringpull.inference.model.onnx_inputs import as_float32
from ringpull.inference.model.onnx_program import OnnxProgram
from ringpull.inference.model.samples import FILE as SAMPLES_FILE
from ringpull.inference.model.samples import RELATIVE_TOLERANCE, differences
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.kinds import Dense
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput
from ringpull.ps.spec import Float32Array

__all__ = ["CheckRows", "ImportedTable", "OnnxVersion", "Reference", "write_onnx_version"]

GIVEN_TOLERANCE: Final = 1e-4
"""Largest difference from scores that came with the rows, or that part of them."""

Reference = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Source's own scoring: outputs by name, the first dimension the row, of the schema's arguments by name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxVersion:
    """A model in parts, as it is to be served."""

    schema: Schema
    """Schema of the features that requests bring."""
    rest: ModelProto | Path
    """Graph that is the dense program, or its file; its inputs are `inputs` in their order, its outputs `outputs`."""
    rest_data: Path | None = None
    """Folder of the rest's external data; None: that of its file."""
    tables: Mapping[str, ImportedTable]
    lookups: tuple[LookupSpec, ...]
    inputs: tuple[ProgramInput, ...]
    outputs: tuple[ProgramOutput, ...]
    limits: tuple[IdLimit, ...] = ()
    degrade: tuple[Step, ...] = ()
    """What a head does under load before it refuses requests, step by step."""
    kept: tuple[KeptWeight, ...] = ()
    """Weights that ids are looked up in and that stay in the dense program, and why."""
    large: tuple[KeptWeight, ...] = ()
    """Other large weights of the dense program."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckRows:
    """Rows that an import is held against its source with."""

    served: Prepared
    """Rows as serving prepares them."""
    arguments: Mapping[str, NDArray[Any]] | None = None
    """What the source is given for these rows; None: the schema's arguments of `served`, which differ from that where
    serving takes raw ids and the source their numbers."""
    expected: Mapping[str, NDArray[Any]] | None = None
    """Scores of these rows that came with them, by output; None: only the source is asked."""
    described: str = "made-up rows"
    """What they are, for messages."""


def write_onnx_version(
    parts: OnnxVersion,
    out_dir: str | Path,
    version: int,
    *,
    reference: Reference,
    check: Sequence[CheckRows],
    name: str | None = None,
    tolerance: float | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Write a model in parts as `out_dir/VERSION/`, held against its source before it is there.

    Args:
        parts: The model.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        reference: The source's own scoring.
        check: Rows to check; the first ones are kept as samples for the self-check of heads. None: nothing is checked.
        name: The model's name; default: the name of `out_dir`.
        tolerance: Largest difference of an output; None: as float32 sums in another order may differ.
        quiet: Print no report and no progress.

    Raises:
        InvalidInput: The name or the version is not valid.
        DuplicateKey, HashCollision: Two rows of a table have one key.
        ExportError: The parts do not fit each other, the source fails on the rows, or what was written gives other
            scores; the message names output and row, and both values. Nothing is written then.
    """
    name = Path(out_dir).resolve().name if name is None else name
    target = new_version(Path(out_dir), name, version)
    console = None if quiet else Console()
    with written_beside(target) as hidden:
        manifest, exact = _write(parts, hidden, name, int(target.name), check, console)
        checked = cost = None
        if check:
            with stage(console, f"checking {sum(each.served.rows for each in check):,} rows"):
                checker = _Check(hidden, manifest, parts.schema, exact, tolerance)
                checked, cost = checker.run(check, reference)
                (hidden / SAMPLES_FILE).write_bytes(checker.samples(check[0].served))
            manifest = replace(manifest, samples=FileEntry.of(hidden, SAMPLES_FILE))
            manifest.save(hidden)
    report = ExportReport(
        path=target,
        manifest=manifest,
        tables=tuple(_table_report(entry, parts) for entry in manifest.tables),
        kept=parts.kept,
        large=parts.large,
        check=checked,
        cost=cost,
        ids=not all(isinstance(each, Dense) for each in parts.schema.features),
    )
    if console is not None:
        report.print(console)
    return report


def _write(
    parts: OnnxVersion, hidden: Path, name: str, version: int, check: Sequence[CheckRows], console: Console | None
) -> tuple[Manifest, dict[str, RowsOf]]:
    """Write all but samples; return the manifest, and rows before rounding of the tables that round."""
    if list(parts.tables) != [each.spec.name for each in parts.tables.values()]:
        raise ExportError("tables: each must be under the name that its specification has")
    program, data = write_rest(hidden, parts.rest, parts.rest_data)
    (hidden / SCHEMA_FILE).write_text(parts.schema.to_json(), encoding="utf-8")
    manifest = Manifest(
        model=name,
        version=version,
        created=time_of_now(),
        schema=FileEntry.of(hidden, SCHEMA_FILE),
        program=program,
        program_data=data,
        runtime="onnxruntime",
        tables=tuple(TableEntry(spec=each.spec, path="", rows=0, bytes=0) for each in parts.tables.values()),
        lookups=parts.lookups,
        inputs=parts.inputs,
        outputs=parts.outputs,
        limits=parts.limits,
        degrade=check_steps(parts.degrade, parts.schema, [each.feature for each in parts.lookups], version),
    )
    wanted: dict[str, set[int]] = {}
    for rows in check:
        for bound, lookup in lookups_of(manifest, parts.schema, rows.served):
            wanted.setdefault(bound.spec.table, set()).update(lookup.keys.tolist())
    tables, exact = write_tables(hidden, parts.tables, wanted, console)
    manifest = replace(manifest, tables=tables)
    manifest.save(hidden)
    return manifest, exact


class _Check:
    """The check of a version that was written, against the source of it."""

    def __init__(
        self,
        version_dir: Path,
        manifest: Manifest,
        schema: Schema,
        exact: Mapping[str, RowsOf],
        tolerance: float | None,
    ) -> None:
        self._folder = version_dir
        self._manifest = manifest
        self._schema = schema
        self._exact = exact
        self._tolerance = tolerance
        try:
            self._written = WrittenVersion(version_dir, manifest, schema)
            self._program = OnnxProgram.load(version_dir, manifest, "cpu")
        except CorruptData as exc:
            raise ExportError(f"the rest of the model does not run, or does not fit its tables: {exc}") from exc

    def run(self, check: Sequence[CheckRows], reference: Reference) -> tuple[CheckReport, CostReport | None]:
        """Hold rows against the source."""
        worst = largest = 0.0
        costs: list[NDArray[np.float64]] = []
        for rows in check:
            expected = self._expected(rows, reference)
            inputs = self._written.inputs(rows.served, self._exact)
            tolerance = self._tolerance_of(inputs, rows.served.rows, TOLERANCE)
            found = self._outputs(rows, inputs)
            what = f"of {rows.described}: what was written differs from the source's"
            worst = max(worst, compare(found, expected, tolerance, TOLERANCE, what, "the source's"))
            self._written.check_parts(rows.served, expected, tolerance, TOLERANCE, self._exact)
            if rows.expected is not None:
                self._compare_given(rows, found)
            if self._exact:
                rounded = self._outputs(rows, self._written.inputs(rows.served))
                costs += [differences(rounded[name], values) for name, values in found.items()]
            finite = [np.abs(values[np.isfinite(values)]).max(initial=0.0) for values in expected.values()]
            largest = max([largest, *map(float, finite)])
        count = sum(each.served.rows for each in check)
        report = CheckReport(rows=count, largest_difference=worst, largest_output=largest)
        return report, _cost(costs, count, given=any(each.expected is not None for each in check))

    def samples(self, served: Prepared) -> bytes:
        """Return the file of samples."""
        found = self._written.samples(
            served, lambda inputs: self._tolerance_of(inputs, len(_spread(inputs[0])), RELATIVE_TOLERANCE)
        )
        return found.to_bytes()

    def _outputs(self, rows: CheckRows, inputs: list[ProgramTensor]) -> dict[str, Float32Array]:
        try:
            return self._written.run(inputs, rows.served.rows)
        except Exception as exc:  # of any root: whatever onnxruntime raises
            raise ExportError(f"self-check: the rest of the model fails on {rows.described}: {exc}") from exc

    def _expected(self, rows: CheckRows, reference: Reference) -> dict[str, Float32Array]:
        arguments = rows.arguments
        if arguments is None:
            arguments = self._schema.arguments(rows.served)
        try:
            scores = reference(arguments)
            return {each.name: as_float32(each.name, np.asarray(scores[each.name])) for each in self._manifest.outputs}
        except KeyError as exc:
            raise ExportError(f"self-check: the source gives no output {exc}") from exc
        except InvalidInput as exc:
            raise ExportError(f"self-check: {exc}; leave this output out") from exc
        except Exception as exc:  # of any root: the source's own
            raise ExportError(f"self-check: the source fails on {rows.described}: {type(exc).__name__}: {exc}") from exc

    def _compare_given(self, rows: CheckRows, found: Mapping[str, Float32Array]) -> None:
        given = {name: np.asarray(values, np.float32) for name, values in (rows.expected or {}).items()}
        if unknown := sorted(given.keys() - found.keys()):
            raise ExportError(
                f"the scores of {rows.described} name the output {unknown[0]}; there is {', '.join(found)}"
            )
        what = f"differs from the scores of {rows.described}"
        compare(found, given, GIVEN_TOLERANCE, GIVEN_TOLERANCE, what, "that of the scores")

    def _tolerance_of(self, inputs: list[ProgramTensor], rows: int, relative: float) -> float:
        """Return the largest difference allowed: a part of the largest intermediate."""
        if self._tolerance is not None:
            return self._tolerance
        assert self._manifest.program is not None
        data = {each.path: each.bytes for each in self._manifest.program_data}
        file = self._folder / self._manifest.program.path
        try:
            return relative * largest_intermediate(file, data, self._program.given(inputs, rows))
        except Exception as exc:  # of any root: whatever onnxruntime raises
            raise ExportError(f"self-check: the rest of the model fails: {exc}") from exc


def _spread(tensor: ProgramTensor) -> NDArray[Any]:
    return tensor.values if tensor.row_index is None else tensor.row_index


def _cost(costs: Sequence[NDArray[np.float64]], rows: int, *, given: bool) -> CostReport | None:
    """Return what short row types cost."""
    if not costs:
        return None
    apart = np.concatenate([each.reshape(-1) for each in costs])
    return CostReport(
        rows=rows,
        given=given,
        largest_difference=float(apart.max(initial=0.0)),
        mean_difference=float(apart.mean()),
        auc=None,
        auc_difference=None,
    )


def _table_report(entry: TableEntry, parts: OnnxVersion) -> TableReport:
    spec, table = entry.spec, parts.tables[entry.spec.name]
    poolings = [each.pooling.value for each in parts.lookups if each.table == spec.name]
    return TableReport(
        name=spec.name,
        rows=entry.rows,
        dim=spec.dim,
        row_type=spec.row_type.value,
        bytes=entry.bytes,
        keyed_by=table.keyed_by,
        features=table.features,
        poolings=tuple(dict.fromkeys(poolings)),
        default=table.default_described,
    )
