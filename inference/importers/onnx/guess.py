"""Guess of a schema: from names, types and shapes of a graph's inputs, and from what it looks up by which column.

Every column of integers, or of floats that become ids, is probed as if it were a feature of its own; what is looked up
in the same way in one table is a sequence, what is not is features side by side. The guess is printed, to be corrected
and given back (`--schema`): a name of a column, a length or a vocabulary cannot be guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onnx import AttributeProto, GraphProto, TensorProto, ValueInfoProto

from ringpull.inference.importers.onnx.binding import bind_inputs, bound_model, graph_inputs
from ringpull.inference.importers.onnx.cutting import CutGraph, cut_graph
from ringpull.inference.importers.onnx.probing import probe_lookups
from ringpull.inference.importers.onnx.sessions import GraphFailed
from ringpull.inference.importers.onnx.source import SourceGraph, all_nodes, subgraphs
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.ps.spec import NAME_PATTERN

MAX_COLUMNS: Final = 1024
"""Columns of an input up to which each is probed."""

GUESSED_LENGTH: Final = 50
"""Length of sequences where a graph takes any."""

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True)
class Guess:
    """A schema that was guessed, and the argument of it that each input is given, where these are not called alike."""

    schema: Schema
    arguments: dict[str, str]
    notes: tuple[str, ...]
    """What could not be seen, for people."""

    @property
    def text(self) -> str:
        """The schema as JSON, one feature a line."""
        body = json.loads(self.schema.to_json())
        lines = ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in body["features"])
        stacks = json.dumps(body["stacks"], ensure_ascii=False)
        return f'{{"format": {body["format"]}, "features": [\n  {lines}\n ],\n "stacks": {stacks}}}'


@dataclass(frozen=True, slots=True)
class _Input:
    """One input of a graph."""

    name: str
    """Name of its argument."""
    type: int
    rank: int
    columns: int | None
    """Size of its second dimension; None: it has none, or of any size."""

    @classmethod
    def of(cls, value: ValueInfoProto) -> _Input:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        fixed = len(dims) == 2 and dims[1].HasField("dim_value")
        return cls(plain_name(value.name), tensor.elem_type, len(dims), dims[1].dim_value if fixed else None)


def plain_name(name: str) -> str:
    """Return a name that a feature can have."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.removesuffix(":0")).strip("._-")
    return plain if NAME_PATTERN.fullmatch(plain) else "input"


def guess_schema(source: SourceGraph) -> Guess:
    """Guess the schema of a graph.

    Raises:
        InvalidInput: An input is none that a schema can describe.
    """
    inputs = {each.name: _Input.of(each) for each in graph_inputs(source)}
    if len({each.name for each in inputs.values()}) < len(inputs):
        raise InvalidInput(f"{source.where}: names of its inputs are too much alike; give a schema, and arguments")
    for name, each in inputs.items():
        if each.rank not in (1, 2):
            raise InvalidInput(
                f"{source.where}: input {name} has {each.rank} dimensions; features are (batch,) or (batch, columns)"
            )
    arguments = {name: each.name for name, each in inputs.items() if name != each.name}
    notes: list[str] = []
    described = list(inputs.values())
    names = {each.name for each in described}
    features, stacks = _features(source, described, names, None, notes)
    first = Schema(features, stacks)
    try:
        bound = bind_inputs(source, first, arguments)
        model = bound_model(source, bound, first)
        model, probed = probe_lookups(model, bound, first)
        cut = cut_graph(model, first, probed.readings, probed.elements, bound.within())
    except (GraphFailed, RingpullError) as exc:
        features, stacks = _features(source, described, names, {}, notes)
        notes.append(f"what it looks up was not seen: {exc}")
        return Guess(Schema(features, stacks), arguments, tuple(dict.fromkeys(notes)))
    features, stacks = _features(source, described, names, _looked_up(cut), notes := [])
    return Guess(Schema(features, stacks), arguments, tuple(notes))


def _looked_up(cut: CutGraph) -> dict[str, set[tuple[str, str]]]:
    """Return what is looked up by each feature: tables, and by which expressions."""
    found: dict[str, set[tuple[str, str]]] = {}
    for use in cut.uses:
        for name in use.features:
            found.setdefault(name, set()).add((use.table, str(use.expression)))
    for limit in cut.limits:
        for name in limit.features:
            found.setdefault(name, set()).add(("", str(limit.key)))
    return found


def _features(
    source: SourceGraph,
    inputs: Sequence[_Input],
    names: set[str],
    looked_up: dict[str, set[tuple[str, str]]] | None,
    notes: list[str],
) -> tuple[list[Feature], dict[str, list[str]]]:
    """Return features and stacks; before anything is known to be looked up, every column is one."""
    features: list[Feature] = []
    stacks: dict[str, list[str]] = {}
    for each in inputs:
        if _is_part(each.name, names):
            continue
        made, stacked = _guessed(source, each, names, looked_up, notes)
        features += made
        if stacked:
            stacks[each.name] = stacked
    return features, stacks


def _is_part(name: str, names: set[str]) -> bool:
    """Return whether an input is what a schema gives beside another: its lengths, offsets or weights."""
    of, _, part = name.rpartition("_")
    return of in names and part in ("lengths", "offsets", "weights")


def _guessed(
    source: SourceGraph,
    each: _Input,
    names: set[str],
    looked_up: dict[str, set[tuple[str, str]]] | None,
    notes: list[str],
) -> tuple[list[Feature], list[str]]:
    """Return the features of one input, and their names where they lie side by side."""
    name, columns = each.name, each.columns
    if f"{name}_offsets" in names:
        return [Sparse(name, many=True, weighted=f"{name}_weights" in names)], []
    if each.type == TensorProto.STRING:
        words = Vocabulary(tuple(strings_of(source)) or ("unknown",))
        notes.append(f"{name}: its vocabulary is all {len(words.ids):,} strings of the graph")
        if each.rank == 1 or columns == 1:
            return [Sparse(name, "string", transforms=(words,))], []
        return [IdSequence(name, columns or GUESSED_LENGTH, "string", transforms=(words,))], []
    if each.type in _FLOATS:
        return _of_floats(each, looked_up, notes)
    if each.rank == 1 or columns == 1:
        return [Sparse(name)], []
    if columns is None or columns > MAX_COLUMNS or f"{name}_lengths" in names:
        if columns is None:
            notes.append(f"{name}: any length is taken; {GUESSED_LENGTH} was guessed")
        return [IdSequence(name, columns or GUESSED_LENGTH)], []
    parts = [f"{name}_{number}" for number in range(columns)]
    if looked_up is not None and looked_up.get(parts[0]):
        ways = [looked_up.get(part) for part in parts]
        if all(way == ways[0] for way in ways):
            return [IdSequence(name, columns)], []
    if looked_up is not None and not any(looked_up.get(part) for part in parts) and _pools_in_loops(source):
        return [IdSequence(name, columns)], []
    return [Sparse(part) for part in parts], parts


def _pools_in_loops(source: SourceGraph) -> bool:
    """Return whether rows are gathered inside loops, as torch's EmbeddingBag does of all ids of a row."""
    return any(
        node.op_type == "Gather" for outer in source.graph.node for inner in subgraphs(outer) for node in inner.node
    )


def _of_floats(
    each: _Input, looked_up: dict[str, set[tuple[str, str]]] | None, notes: list[str]
) -> tuple[list[Feature], list[str]]:
    name, columns = each.name, each.columns
    if each.rank == 1 or columns == 1:
        return [Sparse(name) if looked_up is None or looked_up.get(name) else Dense(name)], []
    if columns is None:
        notes.append(f"{name}: any number of columns is taken; 1 was guessed")
        return [Dense(name)], []
    parts = [f"{name}_{number}" for number in range(columns)]
    if looked_up is None:
        return ([Sparse(part) for part in parts], parts) if columns <= MAX_COLUMNS else ([Dense(name, columns)], [])
    if not any(looked_up.get(part) for part in parts):
        return [Dense(name, columns)], []
    return _side_by_side(parts, looked_up)


def _side_by_side(parts: Sequence[str], looked_up: dict[str, set[tuple[str, str]]]) -> tuple[list[Feature], list[str]]:
    """Return the features of one matrix of ids and numbers: columns of numbers that follow each other are one."""
    features: list[Feature] = []
    begin = 0
    for place, part in enumerate([*parts, ""]):
        if part and not looked_up.get(part):
            continue
        if place > begin:
            features.append(Dense(parts[begin], place - begin))
        if part:
            features.append(Sparse(part))
        begin = place + 1
    return features, [each.name for each in features]


def strings_of(source: SourceGraph) -> list[str]:
    """Return all strings that a graph has among its constants, each once: what it can tell from others."""
    found: dict[str, None] = {}
    for tensor in _string_tensors(source.graph):
        found.update(dict.fromkeys(each.decode("utf-8", "replace") for each in tensor.string_data))
    for node in all_nodes(source.graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.STRINGS:
                found.update(dict.fromkeys(each.decode("utf-8", "replace") for each in attribute.strings))
    return [each for each in found if each]


def _string_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    pending: list[Any] = [graph]
    while pending:
        each = pending.pop()
        yield from (tensor for tensor in each.initializer if tensor.data_type == TensorProto.STRING)
        for node in each.node:
            pending += subgraphs(node)
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.STRING:
                    yield attribute.t
