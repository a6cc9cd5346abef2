"""`export_model`: from a torch module to a version folder that serves.

    module -> call of a method (calls) -> graph (capture) -> tables + dense graph (cut) -> look-ups in keys (serving)
           -> files -> self-check -> renamed

The version is written beside its place under a hidden name and renamed when its self-check has passed: a failed
export leaves nothing behind, and no half version is ever seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import ArrayLike
from rich.console import Console
from torch import nn

from ringpull.inference.degrade.levels import check_steps
from ringpull.inference.degrade.steps import Step
from ringpull.inference.export.calls.bind import bind
from ringpull.inference.export.calls.call import Call
from ringpull.inference.export.calls.ready import ready
from ringpull.inference.export.capture import Captured, capture
from ringpull.inference.export.classes import with_classes
from ringpull.inference.export.cost import COST_ROWS, CheckData, measure_cost, refuse_above
from ringpull.inference.export.cut import MAX_DENSE_BYTES, Cut, cut
from ringpull.inference.export.delta.following import Following
from ringpull.inference.export.diagnosis.errors import named_errors
from ringpull.inference.export.diagnosis.graph import check_graph
from ringpull.inference.export.estimators import estimators_too
from ringpull.inference.export.examples import TRACED_ROWS, example
from ringpull.inference.export.indices.fixed_rows import round_fixed_rows
from ringpull.inference.export.keys import Keys
from ringpull.inference.export.one_at_a_time import one_at_a_time
from ringpull.inference.export.passes.plain import make_plain
from ringpull.inference.export.passes.queries import take_queries
from ringpull.inference.export.precision import DensePrecision, Measured, check_precision
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.program import write_program
from ringpull.inference.export.ranges import check_held, limits_of
from ringpull.inference.export.ranked_scores import RankedScores
from ringpull.inference.export.report import CheckReport, ExportReport, TableDelta, TableReport
from ringpull.inference.export.rows import as_served, make_rows
from ringpull.inference.export.selfcheck import SelfCheck
from ringpull.inference.export.serving import Serving, plan_serving
from ringpull.inference.export.stages import stage
from ringpull.inference.export.table_options import TableOptions, check_options
from ringpull.inference.export.tables import TablePlan, write_tables
from ringpull.inference.export.uses import Use
from ringpull.inference.export.version_folder import SCHEMA_FILE, new_version, written_beside
from ringpull.inference.model.manifest import FileEntry, Manifest, ProgramInput, ProgramOutput, TableEntry, time_of_now
from ringpull.inference.model.manifest_chain import NO_CHAIN
from ringpull.inference.model.samples import FILE as SAMPLES_FILE
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.kinds import IdSequence, MadeFeature
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput

PROGRAM_FILE: Final = "dense.pt2"


@estimators_too
@one_at_a_time
def export_model(
    module: Any,
    schema: Schema | None,
    out_dir: str | Path,
    version: int,
    keys: Mapping[str, Keys] | None = None,
    *,
    name: str | None = None,
    method: str = "forward",
    arguments: Mapping[str, Any] | None = None,
    once: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    max_dense_bytes: int = MAX_DENSE_BYTES,
    check_rows: int = 64,
    check_columns: Mapping[str, Column] | None = None,
    check_labels: ArrayLike | None = None,
    max_diff: float | None = None,
    dense_precision: DensePrecision = "float32",
    degrade: Sequence[Step] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
    ranked: Sequence[str] = (),
    following: Following | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Split a module into tables and a dense program, and write them as `out_dir/VERSION/`.

    What is looked up, by `nn.Embedding`, `nn.EmbeddingBag`, `w[ids]` or in any other way, becomes a table, called by
    its module path, when its index is computed of ids of one row: moved, cast, clamped, hashed, several put together
    (`KeyExpression`). The others stay in the dense program, up to `max_dense_bytes`.

    Args:
        module: An ordinary module, run in evaluation mode and left as it was, without `torch.compile` or DataParallel.
        schema: Schema of its features.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        keys: Per table the raw id of each row, or the features' Vocabulary, to look up raw ids; others: row numbers.
        name: The model's name; default: that of `out_dir`.
        method: The method that scores; `ringpull.inference.export.calls.bind` says what it is given.
        arguments: What a parameter, or a key that it reads, is given, where that differs: `{"n": "item_lengths"}`.
        once: Methods without inputs, run once: their results are weights. `once=["forward"]`: a graph's propagation.
        outputs: Names of the outputs that are served: keys or fields, or output_0, output_1; default: all.
        tables: Options per table: how it is deployed, and how its rows are stored.
        max_dense_bytes: The largest embedding that may stay in the dense program: `max_dense_bytes=256 << 20`.
        check_rows: Made-up rows for the self-check; 0 skips it. Heads hold the version against a few of them.
        check_columns: Rows, as training takes them: for half of the self-check, to measure row types and bfloat16 on.
        check_labels: 0 or 1 for each row of `check_columns`: reports the difference in AUC of the first output.
        max_diff: The most that short row types may change a score, and the most that bfloat16 may.
        dense_precision: "bfloat16": heads must run the dense program in it (`ringpull.inference.model.bfloat16`).
        degrade: What a head does under load before it refuses requests, step by step.
        classes: Names of the classes of an output (B, C), by output: TensorFlow Serving's clients are told.
        ranked: Outputs that are scores of all rows of a weight (a tied layer): queries instead, for `Client.top_k`.
        following, quiet: What `export_delta` gives; print no report and no progress.

    Raises:
        InvalidInput: The name, the version or an option is not valid, or does not fit the model.
        ExportError: The module cannot be called or split, a key is wrong, or scores are not what they should be.
    """
    name = Path(out_dir).resolve().name if name is None else name
    schema = _checked_schema(schema)
    check_precision(dense_precision, check_rows, check_columns, max_diff)
    target = new_version(Path(out_dir), name, version)
    call = bind(module, schema, method=method, arguments=arguments, once=once, outputs=outputs)
    console = None if quiet else Console()
    with _tracing(call, console), named_errors(call.described, "splitting it"):
        split = _Split.of(name, call, schema, keys or {}, tables or {}, max_dense_bytes, ranked).following(following)
    served = split.ranked.told(with_classes(split.captured.outputs, classes or {}))
    steps = check_steps(degrade, split.serving.schema, [each.feature for each in split.serving.lookups], version)
    checks = _Checks(check_rows, split.given_rows(check_columns, check_labels), max_diff, dense_precision)
    return _export(split, target, served, steps, checks, console, following)


def _tracing(call: Call, console: Console | None) -> AbstractContextManager[object]:
    return stage(console, f"tracing {call.described} with {len(call.arguments):,} arguments")


@dataclass(frozen=True, slots=True)
class _Checks:
    """What is measured and checked before a version is there."""

    rows: int
    """Made-up rows for the self-check; 0: none."""
    data: CheckData | None
    """Rows of the exporter's own."""
    max_diff: float | None
    precision: DensePrecision


def _export(
    split: _Split,
    target: Path,
    outputs: tuple[ProgramOutput, ...],
    steps: tuple[Step, ...],
    checks: _Checks,
    console: Console | None,
    following: Following | None,
) -> ExportReport:
    """Measure what rounding costs, write the version, and report."""
    data = checks.data
    if data is None and checks.rows > 0:
        data = CheckData(split.made_rows(COST_ROWS)[0], given=False)
    with named_errors(split.call.described, "measuring what row types cost"):
        cost = measure_cost(split.parts.plain, split.schema, split.captured.outputs, split.plans, data, split.ranked)
    refuse_above(cost, checks.max_diff)
    with named_errors(split.call.described, "writing it"):
        manifest, check, deltas = _write(split, target, outputs, steps, checks, data, console, following)
    uses: dict[str, list[Use]] = {}
    for use in split.parts.uses:
        uses.setdefault(use.table, []).append(use)
    report = ExportReport(
        path=target,
        manifest=manifest,
        tables=tuple(_table_report(entry, split, uses.get(entry.spec.name, [])) for entry in manifest.tables),
        kept=split.parts.kept,
        large=split.parts.large,
        check=check,
        cost=cost,
        deltas=deltas,
    )
    if console is not None:
        report.print(console)
    return report


def _checked_schema(schema: object) -> Schema:
    """Return a schema that is one, and none of whose features is called like the offsets that others send of another.

    Versions that were exported before this was looked at are served: requests that could be read in two ways are
    refused by their front-ends.
    """
    if not isinstance(schema, Schema):
        raise InvalidInput(
            f"schema is a {type(schema).__name__}; it must be a ringpull.Schema of the features:"
            ' Schema([Sparse("user_id"), ...])'
        )
    for feature in schema.features:
        other = schema.get(f"{feature.name}_offsets") if isinstance(feature, IdSequence) else None
        if other is not None and not isinstance(other, MadeFeature):
            raise InvalidInput(
                f"feature {other.name}: is called like the offsets of {feature.name}, by which clients of TensorFlow"
                " Serving's API and the Open Inference Protocol say where its rows begin; rename one"
            )
    return schema


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """A module in two parts, and how they serve."""

    name: str
    """Name of the model."""
    call: Call
    schema: Schema
    captured: Captured
    parts: Cut
    plans: Mapping[str, TablePlan]
    serving: Serving
    ranked: RankedScores

    @classmethod
    def of(
        cls,
        name: str,
        call: Call,
        schema: Schema,
        keys: Mapping[str, Keys],
        tables: Mapping[str, TableOptions],
        max_dense_bytes: int,
        ranked: Sequence[str] = (),
    ) -> _Split:
        """Split a module.

        Raises:
            ExportError: It cannot be split, or a key is wrong; the message names module or table and reason.
        """
        arguments = call.arguments
        device = _device_of(call.owner)
        traced = example(schema, arguments, TRACED_ROWS, lambda argument, column: 0, device)
        captured, queries = take_queries(make_plain(capture(call, traced)), ranked)
        parts = cut(captured, Probe(captured, schema, arguments, device), max_dense_bytes)
        parts = replace(parts, tables={**parts.tables, **{each.table: each.weight for each in queries}})
        # A table that is made of another one has its keys, where it is given none.
        keys = {each.table: keys[each.source] for each in queries if each.source in keys} | dict(keys)
        check_graph(call.described, parts.program.graph, lambda: _run_ready(call, traced))
        plans = _plan_tables(parts, keys, tables)
        round_fixed_rows(parts.program, plans)
        schema = schema.with_computed(parts.computed)
        serving = plan_serving(parts, schema, arguments, plans)
        return cls(name, call, schema, captured, parts, plans, serving, RankedScores(queries, plans))

    def following(self, following: Following | None) -> _Split:
        """Return the module as it is written where it follows a version.

        Raises:
            ExportError: Its schema or its tables are others.
        """
        if following is None:
            return self
        following.check(self.plans.values(), self.serving.schema.to_json())
        return replace(self, plans={table: following.settled(plan) for table, plan in self.plans.items()})

    def given_rows(self, columns: Mapping[str, Column] | None, labels: ArrayLike | None) -> CheckData | None:
        """Return the exporter's own rows, if any.

        Raises:
            InvalidInput: They do not fit the schema, or the module has no rows for their ids.
        """
        data = CheckData.read(self.schema, columns, labels)
        if data is not None:
            check_held(data.prepared, self.parts.ranges)
        return data

    def made_rows(self, rows: int, given: Prepared | None = None) -> tuple[Prepared, Prepared]:
        """Return made-up rows, some of them given if there are any, as training and as serving prepare them."""
        keys = {table: plan.keys for table, plan in self.plans.items()}
        return make_rows(self.schema, self.parts, keys, rows, given)

    def served(self, trained: Prepared) -> Prepared:
        """Return rows as serving prepares them, given as training does."""
        return as_served(trained, self.parts, {table: plan.keys for table, plan in self.plans.items()})


def _run_ready(call: Call, arguments: Mapping[str, torch.Tensor]) -> object:
    """Run a call as it is captured: in evaluation mode, and so on."""
    with ready(call.module):
        return call.run(arguments)


def _write(
    split: _Split,
    target: Path,
    outputs: tuple[ProgramOutput, ...],
    steps: tuple[Step, ...],
    checks: _Checks,
    data: CheckData | None,
    console: Console | None,
    following: Following | None,
) -> tuple[Manifest, CheckReport | None, tuple[TableDelta, ...]]:
    """Write a version beside its place, check it, and rename it.

    Args:
        data: Rows that bfloat16 is measured on, given or made up.
    """
    plans = split.plans.values()
    with written_beside(target) as hidden:
        with stage(console, f"tracing the dense program of {len(split.parts.uses):,} look-ups"):
            write_program(
                hidden / PROGRAM_FILE, split.parts, split.schema, split.call.arguments, _device_of(split.call.owner)
            )
        (hidden / SCHEMA_FILE).write_text(split.serving.schema.to_json(), encoding="utf-8")
        entries, deltas = (
            (write_tables(hidden, plans, console), ()) if following is None else following.write(hidden, plans, console)
        )
        manifest = Manifest(
            model=split.name,
            version=int(target.name),
            created=time_of_now(),
            schema=FileEntry.of(hidden, SCHEMA_FILE),
            program=FileEntry.of(hidden, PROGRAM_FILE),
            tables=entries,
            lookups=split.serving.lookups,
            inputs=_inputs(split.parts),
            outputs=outputs,
            degrade=steps,
            limits=limits_of(split.parts.ranges, split.schema),
            chain=NO_CHAIN if following is None else following.chain,
        )
        manifest.save(hidden)
        check = samples = None
        if checks.rows > 0:
            with stage(console, f"checking {checks.rows:,} rows"):
                given = None if checks.data is None else checks.data.prepared
                trained, served = split.made_rows(checks.rows, given)
                self_check = SelfCheck(hidden, manifest, split.serving.schema, split.parts, plans, split.ranked)
                arguments = split.schema.arguments(trained, list(split.call.arguments))
                check = self_check.run(split.call, trained, served, arguments, given=given is not None)
                samples = self_check.samples(served)
                (hidden / SAMPLES_FILE).write_bytes(samples.to_bytes())
            manifest = replace(manifest, samples=FileEntry.of(hidden, SAMPLES_FILE))
            manifest.save(hidden)
        if checks.precision == "bfloat16" and data is not None:
            with stage(console, f"measuring bfloat16 on {data.prepared.rows:,} rows"):
                measured = Measured(hidden, manifest, split.serving.schema, split.ranked)
                receipt = measured.receipt(data, split.served, samples, checks.max_diff)
            manifest = replace(manifest, bfloat16=receipt)
            manifest.save(hidden)
    return manifest, check, deltas


def _device_of(module: nn.Module) -> torch.device:
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        raise ExportError(
            f"{type(module).__name__}: its weights are on {', '.join(sorted(map(str, devices)))}; they must be on one"
            " device that holds them"
        )
    return devices.pop() if devices else torch.device("cpu")


def _plan_tables(parts: Cut, keys: Mapping[str, Keys], options: Mapping[str, TableOptions]) -> dict[str, TablePlan]:
    check_options(options)
    kept = {each.name: f"; it stays in the dense program, because {each.reason}" for each in parts.kept}
    for table in [*keys, *options]:
        if table not in parts.tables:
            known = ", ".join(parts.tables) or "none"
            raise ExportError(
                f"keys or tables name {table!r}, which is no table of this model{kept.get(table, '')}."
                f" Its tables: {known}"
            )
    return {
        table: TablePlan.make(table, weight, keys.get(table), options.get(table, TableOptions()))
        for table, weight in parts.tables.items()
    }


def _inputs(parts: Cut) -> tuple[ProgramInput, ...]:
    lookups = [ProgramInput(kind="lookup", lookup=number) for number in range(len(parts.uses))]
    return (*lookups, *(ProgramInput(kind="argument", argument=argument) for argument in parts.arguments))


def _table_report(entry: TableEntry, split: _Split, uses: Sequence[Use]) -> TableReport:
    plan = split.plans[entry.spec.name]
    return TableReport(
        name=entry.spec.name,
        rows=entry.rows,
        dim=entry.spec.dim,
        row_type=entry.spec.row_type.value,
        bytes=entry.bytes,
        keyed_by=plan.keys.described,
        features=tuple(dict.fromkeys(use.feature for use in uses)),
        poolings=tuple(dict.fromkeys(use.pooling.value for use in uses)),
        default=plan.default_described,
        computed=split.captured.computed.get(entry.spec.name),
    )
