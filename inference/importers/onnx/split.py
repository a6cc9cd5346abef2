"""Split of a graph: its tables, the rest of it, and how both serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ringpull.inference.export.kept_weight import LARGE_BYTES, KeptWeight
from ringpull.inference.export.keys import Keys
from ringpull.inference.export.ranges import IdRange
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.onnx.bags import add_bags
from ringpull.inference.importers.onnx.binding import FRONT, Bound, bind_inputs, bound_model
from ringpull.inference.importers.onnx.cutting import CutGraph, Use, cut_graph, table_names
from ringpull.inference.importers.onnx.one_hots import multiplied
from ringpull.inference.importers.onnx.outputs import chosen_outputs, program_outputs
from ringpull.inference.importers.onnx.pools import add_pools, lookup_inputs
from ringpull.inference.importers.onnx.probing import Probed, probe_lookups
from ringpull.inference.importers.onnx.proof import prove_keys
from ringpull.inference.importers.onnx.rest import LOOKUP, numbered, pruned, rest_of, whole, with_free_sizes
from ringpull.inference.importers.onnx.serving import GraphTable, Serving, plan_serving, served_tables
from ringpull.inference.importers.onnx.sessions import GraphFailed, GraphNotLoaded
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.importers.version_writer import OnnxVersion
from ringpull.inference.model.manifest import IdLimit, ProgramInput, ProgramOutput
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from ringpull.ps.text.byte_size import size

_TOLD_REASONS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Split:
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
    tables: Mapping[str, GraphTable]
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
        within: Mapping[str, tuple[int, int]],
    ) -> Split:
        """Split a graph."""
        chosen = chosen_outputs(source, outputs)
        tensors = list(dict.fromkeys(chosen.values()))
        bound = bind_inputs(source, schema, arguments)
        model = bound_model(source, bound, schema)
        try:
            model, probed = probe_lookups(model, bound, schema)
        except GraphNotLoaded:
            raise
        except GraphFailed as exc:
            raise ExportError(
                f"{exc}. It was given small ids of every feature: does the schema fit the graph?"
            ) from exc
        described = program_outputs(chosen, probed.readings)
        cut = cut_graph(model, schema, probed.readings, probed.elements, bound.within())
        _leave_unbounded(cut, {name for name, each in options.items() if each.default is not None})
        _leave_multiplied(cut, model, probed)
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
        taken = [_feature(schema, each.name) for each in rest.graph.input if not each.name.startswith(LOOKUP)]
        serving = plan_serving(cut, uses, schema, served, taken)
        limits = tuple(
            IdRange((each,), 0, None, high, None, low) for each, (low, high) in {**bound.within(), **within}.items()
        )
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
        return OnnxVersion(
            schema=self.serving.schema,
            rest=whole(self.rest),
            tables={
                each.name: each.imported(features[tensor], self._beyond(tensor, features[tensor]))
                for tensor, each in self.tables.items()
            },
            lookups=self.serving.lookups,
            inputs=tuple(inputs),
            outputs=self.program_outputs,
            limits=self.limits(),
            kept=self.kept,
            large=self.large,
        )

    def _beyond(self, table: str, features: Sequence[str]) -> str | None:
        """Return what becomes of ids that a table has no row for, for people; None: its default vector."""
        if not all(use.beyond_fails for use in self.uses if use.table == table):
            return None
        limited = {each.feature for each in self.limits()}
        return "refused" if limited.intersection(features) else "there are none"

    def limits(self) -> tuple[IdLimit, ...]:
        """Return the ids that the graph takes, of features that are not looked up by raw ids."""
        opened = [tensor for tensor, each in self.tables.items() if each.keys.raw or each.options.default is not None]
        return self.cut.all_limits(self.serving.schema, opened, self.type_limits)


def _leave_unbounded(cut: CutGraph, opened: Collection[str]) -> None:
    """Leave look-ups in the graph that fail on ids which no bounds tell: served, they could not be refused.

    Args:
        opened: Tables, by name, whose unknown ids get a default vector instead.
    """
    names = table_names(list(cut.tables))
    for site in list(cut.sites):
        uses = [cut.uses[number] for number in site.uses if number >= 0]
        failing = [use for use in uses if use.beyond_fails and names[use.table] not in opened]
        unbounded = next((use for use in failing if use.fails_without_bounds(cut.feature_of(use))), None)
        if unbounded is not None:
            cut.sites.remove(site)
            reason = (
                f"it fails where {unbounded.expression} of {cut.feature_of(unbounded)} (x) is none of its"
                f" {unbounded.rows:,} rows, and no bounds tell which ids these are; with"
                f" TableOptions(default='zeros') for {names[unbounded.table]} they get a default vector"
            )
            cut.left.append((site.site, reason))


def _leave_multiplied(cut: CutGraph, model: SourceGraph, probed: Probed) -> None:
    """Leave products of weights and long one-hot vectors in the graph: those that are look-ups are changed by now."""
    for site in multiplied(model, probed.readings[0]):
        cut.left.append((site, f"{site.node.op_type} multiplies it by one-hot vectors, which is not read as a look-up"))


def _feature(schema: Schema, argument: str) -> str:
    return schema.argument_names()[argument.removeprefix(FRONT)].features[0]


def _never_empty(schema: Schema, names: set[str]) -> Schema:
    """Return the schema with features whose rows may not be empty: the graph makes no number of an empty bag."""
    features: list[Feature] = [
        replace(each, never_empty=True, missing=None if each.missing == () else each.missing)
        if each.name in names and isinstance(each, Sparse | IdSequence)
        else each
        for each in schema.features
    ]
    return Schema(features, schema.stacks) if names else schema


def _kept(
    probed: Probed, cut: CutGraph, rest: SourceGraph, names: Mapping[str, str], most: int
) -> tuple[tuple[KeptWeight, ...], tuple[KeptWeight, ...]]:
    """Return the weights that are looked up and stay, and other large ones, and why.

    Raises:
        ExportError: What is looked up and stays is too large.
    """
    values = probed.readings[0].values
    there = {each.name for each in rest.graph.initializer} | {each for node in rest.graph.node for each in node.output}
    reasons: dict[str, list[str]] = {}
    for site, reason in cut.left:
        if site.table in there:
            reasons.setdefault(site.table, []).append(f"{reason} (node {site.node.name or site.output})")
    for tensor in names:
        if tensor in there and tensor not in reasons:
            users = list(dict.fromkeys(node.op_type for node in rest.graph.node if tensor in node.input))
            if users:
                reasons[tensor] = [f"all its rows are also used by {', '.join(users)}"]
    kept = []
    plain = table_names(list(dict.fromkeys([*names, *reasons])))
    for tensor, told in reasons.items():
        reason = "; ".join(list(dict.fromkeys(told))[:_TOLD_REASONS])
        weight = KeptWeight(names.get(tensor, plain[tensor]), values[tensor].nbytes, reason, copy=tensor in names)
        if weight.bytes > most:
            problem = (
                "its look-ups are a table, but a copy would have to stay" if weight.copy else "it cannot be a table"
            )
            raise ExportError(
                f"table {weight.name}: {size(weight.bytes)} cannot stay in the dense program (the limit is"
                f" {size(most)}; max_dense_bytes raises it), and {problem}, because {reason}"
            )
        kept.append(weight)
    large = [
        KeptWeight(tensor, array.nbytes, f"all of it is used by {_users(rest, tensor)}", copy=tensor in names)
        for tensor, array in rest.weights.items()
        if array.nbytes >= LARGE_BYTES and tensor not in reasons
    ]
    return tuple(kept), tuple(sorted(large, key=lambda each: -each.bytes))


def _users(rest: SourceGraph, tensor: str) -> str:
    return ", ".join(dict.fromkeys(node.op_type for node in rest.graph.node if tensor in node.input)) or "inner graphs"
