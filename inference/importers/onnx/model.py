"""`import_onnx`: from an ONNX graph to a version folder that serves.

    file -> graph (source) -> its inputs bound to a schema (binding) -> run and read (probing) -> cut (cutting, bags, pools)
         -> rest, look-ups in keys (rest, serving) -> held against the source, written (version_writer)
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

from ringpull.inference.export.keys import Keys
from ringpull.inference.export.kept_weight import LARGE_BYTES, KeptWeight
from ringpull.inference.export.ranges import IdRange
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.stages import stage
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.onnx.bags import add_bags
from ringpull.inference.importers.onnx.binding import FRONT, Bound, bind_inputs, bound_model
from ringpull.inference.importers.onnx.check_rows import as_served, ids_of, make_rows
from ringpull.inference.importers.onnx.cutting import CutGraph, Use, cut_graph, table_names
from ringpull.inference.importers.onnx.guess import guess_schema
from ringpull.inference.importers.onnx.outputs import chosen_outputs, plain_outputs, program_outputs
from ringpull.inference.importers.onnx.pools import add_pools, lookup_inputs
from ringpull.inference.importers.onnx.probing import Probed, probe
from ringpull.inference.importers.onnx.proof import prove_keys
from ringpull.inference.importers.onnx.rest import LOOKUP, numbered, pruned, rest_of, whole, with_free_sizes
from ringpull.inference.importers.onnx.serving import ServedTable, Serving, plan_serving, served_tables
from ringpull.inference.importers.onnx.sessions import GraphFailed, Session, with_outputs
from ringpull.inference.importers.onnx.source import SourceGraph, read_source
from ringpull.inference.importers.version_writer import CheckRows, OnnxVersion, Reference, write_onnx_version
from ringpull.inference.model.manifest import ProgramInput, ProgramOutput
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.schema import Schema
from ringpull.ps.byte_size import size
from ringpull.ps.errors import ExportError, InvalidInput

Array = NDArray[Any]
RowReader = Callable[[int, int], Array]
"""What gives rows [begin, end) of a table that is not in the graph, (n, ...)."""

MAX_DENSE_BYTES: Final = 64 << 20


def import_onnx(
    model: ModelProto | str | Path,
    schema: Schema | None,
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    keys: Mapping[str, Keys] | None = None,
    arguments: Mapping[str, str] | None = None,
    outputs: Sequence[str] | Mapping[str, str] | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    max_dense_bytes: int = MAX_DENSE_BYTES,
    reference: Reference | None = None,
    weights: Mapping[str, RowReader] | None = None,
    folder: Path | None = None,
    check_rows: int = 64,
    check_columns: Mapping[str, Column] | None = None,
    check_scores: Mapping[str, Array] | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Split an ONNX graph into tables and a dense program, and write them as `out_dir/VERSION/`.

    Args:
        model: The graph, or its file. External data is mapped, never loaded whole.
        schema: Schema of its features, whose arguments its inputs are called like; None: it is guessed, and printed.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        keys: Per table the raw id of each row, or the features' Vocabulary, as in `export_model`.
        arguments: Argument of the schema by name of an input, where they are not called alike.
        outputs: Names of the outputs that are served, or what each is to be called; default: all that are numbers.
        tables: Options per table. Ids that a table has no row for are refused, as the graph fails on them, but where
            `TableOptions(default=...)` says what they get.
        max_dense_bytes: The largest table that may stay in the dense program.
        reference: The source's own scoring; default: onnxruntime on the graph as it was.
        weights: What gives the rows of initializers that are not in the graph, by name; it needs a `reference`.
        folder: Folder of external data, where the graph is not given as a file.
        check_rows: Made-up rows for the check; 0: none.
        check_columns: Rows of the source's own, by feature: checked too.
        check_scores: Scores of these rows, by output: compared too.
        quiet: Print no report, no progress and no guess.

    Raises:
        InvalidInput: An argument is not valid, or the graph has what cannot be imported; the message names it.
        CorruptData: The file is damaged.
        ExportError: The graph cannot be split, or what was made of it gives other scores. Nothing is written then.
    """
    console = None if quiet else Console()
    source = plain_outputs(read_source(model, folder))
    if schema is None:
        guess = guess_schema(source)
        schema, arguments = guess.schema, {**guess.arguments, **(arguments or {})}
        if console is not None:
            console.print("guessed this schema; save it, correct it, and give it as --schema:", style="bold")
            console.print(guess.text, markup=False, highlight=False, soft_wrap=True)
            for note in guess.notes:
                console.print(note, markup=False, style="yellow")
    given = None if check_columns is None else _given(schema, check_columns)
    with stage(console, f"probing {len(source.graph.node):,} nodes"):
        split = _Split.of(source, schema, arguments or {}, outputs, keys or {}, tables or {}, max_dense_bytes, weights)
    if reference is None:
        if weights:
            raise InvalidInput("weights: rows that are not in the graph need a reference, the source's own scoring")
        reference = _Reference(source, split.bound, split.outputs)
    check = _checks(split, reference, check_rows, given, check_scores)
    return write_onnx_version(split.parts(), out_dir, version, reference=reference, check=check, name=name, quiet=quiet)


class _Reference:
    """The graph as it was, run by onnxruntime."""

    def __init__(self, source: SourceGraph, bound: Bound, outputs: Mapping[str, str]) -> None:
        self._bound = bound
        self._outputs = dict(outputs)
        tensors = list(dict.fromkeys(self._outputs.values()))
        self._session = Session(with_outputs(source.model, tensors), source.weights, source.where)
        self._tensors = tensors

    def __call__(self, arguments: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, of the schema's arguments."""
        found = dict(zip(self._tensors, self._session.run(self._bound.feeds(arguments), self._tensors), strict=True))
        return {name: found[tensor] for name, tensor in self._outputs.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """A graph in two parts, and how they serve."""

    source: SourceGraph
    schema: Schema
    """Schema that the graph takes."""
    bound: Bound
    outputs: Mapping[str, str]
    """Tensors that are served, by name."""
    program_outputs: tuple[ProgramOutput, ...]
    cut: CutGraph
    uses: tuple[Use, ...]
    """Look-ups of the rest, in the order of its inputs."""
    rest: SourceGraph
    tables: Mapping[str, ServedTable]
    serving: Serving
    kept: tuple[KeptWeight, ...]
    large: tuple[KeptWeight, ...]
    type_limits: tuple[IdRange, ...]

    @classmethod
    def of(
        cls,
        source: SourceGraph,
        schema: Schema,
        arguments: Mapping[str, str],
        outputs: Sequence[str] | Mapping[str, str] | None,
        keys: Mapping[str, Keys],
        options: Mapping[str, TableOptions],
        max_dense_bytes: int,
        weights: Mapping[str, RowReader] | None,
    ) -> _Split:
        """Split a graph."""
        chosen = chosen_outputs(source, outputs)
        tensors = list(dict.fromkeys(chosen.values()))
        bound = bind_inputs(source, schema, arguments)
        model = bound_model(source, bound, schema)
        try:
            probed = probe(model, bound, schema)
        except GraphFailed as exc:
            raise ExportError(f"{exc}. It was given ids 0 and 1 of every feature: does the schema fit the graph?") from exc
        described = program_outputs(chosen, probed.readings)
        cut = cut_graph(model, schema, probed.readings, probed.elements, {})
        schema = _never_empty(schema, add_bags(model, cut, schema, probed))
        prove_keys(model, cut, schema)
        add_pools(model, cut, schema, tensors)
        rest = rest_of(model, cut, lookup_inputs(cut, schema), tensors)
        rest = pruned(with_free_sizes(rest, probed.readings), tensors)
        rest, numbers = numbered(rest)
        uses = tuple(cut.uses[number] for number in numbers)
        names = table_names([tensor for tensor in cut.tables if any(use.table == tensor for use in uses)])
        kept, large = _kept(probed, cut, rest, names, max_dense_bytes)
        reasons = {each.name: each.reason for each in kept if not each.copy}
        served = served_tables(cut, names, keys, options, reasons)
        served = {tensor: replace(each, read=(weights or {}).get(tensor)) for tensor, each in served.items()}
        taken = [_feature(schema, each.name) for each in rest.graph.input if not each.name.startswith(LOOKUP)]
        serving = plan_serving(cut, uses, schema, served, taken)
        limits = tuple(_type_limits(bound))
        return cls(
            source, schema, bound, chosen, described, cut, uses, rest, served, serving, kept, large, limits
        )  # fmt: skip

    def parts(self) -> OnnxVersion:
        """Return what is written."""
        inputs = []
        for each in self.rest.graph.input:
            if each.name.startswith(LOOKUP):
                inputs.append(ProgramInput(kind="lookup", lookup=int(each.name.removeprefix(LOOKUP))))
            else:
                inputs.append(ProgramInput(kind="argument", argument=each.name.removeprefix(FRONT)))
        features = {
            tensor: list(dict.fromkeys(self.cut.feature_of(use) for use in self.uses if use.table == tensor))
            for tensor in self.tables
        }
        rest = whole(self.rest)
        for tensor, name in zip(rest.graph.output, self.outputs, strict=False):
            tensor.name = tensor.name if tensor.name in self.outputs.values() else name
        return OnnxVersion(
            schema=self.serving.schema,
            rest=rest,
            tables={each.name: each.imported(features[tensor]) for tensor, each in self.tables.items()},
            lookups=self.serving.lookups,
            inputs=tuple(inputs),
            outputs=self.program_outputs,
            limits=self.limits(),
            kept=self.kept,
            large=self.large,
        )

    def limits(self) -> Any:
        """Return the ids that the graph takes, of features that are not looked up by raw ids."""
        opened = frozenset(
            tensor for tensor, each in self.tables.items() if each.keys.raw or each.options.default is not None
        )
        cut = replace_limits(self.cut, [*self.cut.limits, *self.type_limits])
        return cut.all_limits(self.serving.schema, opened)
