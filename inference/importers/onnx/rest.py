"""Rest of a graph: look-ups are inputs of it, in the place of what made them; what nobody needs is gone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.cutting import CutGraph, CutSite
from ringpull.inference.importers.onnx.layout import in_order
from ringpull.inference.importers.onnx.reading import SIZES, Reading, captured
from ringpull.inference.importers.onnx.source import SourceGraph

Array = NDArray[Any]

LOOKUP: Final = f"{FRONT}lookup/"
"""Beginning of the names of inputs that are look-ups; their number follows."""


@dataclass(frozen=True, slots=True)
class LookupInput:
    """One look-up as an input."""

    dim: int
    length: int
    """Places of its sequence; 0: it is a vector a row."""
    ragged: bool = False
    """Whether it is the vectors of ids end to end, which no version has: it must be pooled."""

    def info(self, number: int) -> Any:
        """Return its declaration."""
        shape: list[Any] = ["ids" if self.ragged else "batch", *([self.length] if self.length else []), self.dim]
        return helper.make_tensor_value_info(f"{LOOKUP}{number}", TensorProto.FLOAT, shape)


class GraphEditor:
    """Nodes and constants that are added to a graph, under names of their own."""

    def __init__(self, model: ModelProto, begin: str) -> None:
        self.model = model
        self.nodes: list[NodeProto] = []
        self._begin = begin
        self._count = 0

    def constant(self, value: Array) -> str:
        """Return the name of a constant."""
        name = self._name()
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def numbers(self, values: Iterable[int]) -> str:
        """Return the name of a constant of int64 (n,)."""
        return self.constant(np.array(list(values), np.int64))

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Return the name of what a new node gives."""
        name = self._name()
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def concat(self, inputs: Sequence[str], axis: int) -> str:
        """Return the name of tensors put together."""
        return inputs[0] if len(inputs) == 1 else self.node("Concat", inputs, axis=axis)

    def _name(self) -> str:
        self._count += 1
        return f"{self._begin}{self._count}"


def rest_of(
    source: SourceGraph, cut: CutGraph, inputs: Mapping[int, LookupInput], outputs: Sequence[str]
) -> SourceGraph:
    """Return the rest of a graph: the look-ups that it needs first among its inputs, then such arguments."""
    model = ModelProto()
    model.CopyFrom(source.model)
    replaced: dict[str, list[NodeProto]] = {}
    for number, site in enumerate(cut.sites):
        editor = GraphEditor(model, f"{FRONT}site{number}/")
        made = _assembled(editor, cut, site, inputs)
        editor.nodes.append(helper.make_node("Identity", [made], [site.site.output], f"{FRONT}site{number}"))
        replaced[site.site.output] = editor.nodes
    for number, pool in enumerate(cut.pools):
        editor = GraphEditor(model, f"{FRONT}pool{number}/")
        shape = editor.numbers([-1, *pool.tail])
        name = f"{LOOKUP}{pool.use}"
        replaced[pool.output] = [helper.make_node("Reshape", [name, shape], [pool.output], f"{FRONT}pool{number}")]
    nodes: list[NodeProto] = []
    for node in source.graph.node:
        names = [each for each in node.output if each in replaced]
        nodes += [made for each in names for made in replaced[each]]
        kept = NodeProto.FromString(node.SerializeToString())
        kept.output[:] = [f"{FRONT}was/{each}" if each in replaced else each for each in node.output]
        nodes.append(kept)
    set_nodes(model.graph, nodes)
    arguments = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend([inputs[number].info(number) for number in sorted(inputs)])
    model.graph.input.extend(arguments)
    return pruned(SourceGraph(source.where, model, source.weights), outputs)


def _assembled(editor: GraphEditor, cut: CutGraph, site: CutSite, inputs: Mapping[int, LookupInput]) -> str:
    """Add what lays look-ups out as the site's output, and return its name."""
    shape = site.site.row_shape(_original(cut, site))
    dim = math.prod(shape)
    if site.layout is None:
        name = f"{LOOKUP}{site.uses[0]}"
        laid, before, after = name, 0, 0
        if shape != (dim,):
            laid = editor.node("Reshape", [name, editor.numbers([-1, *shape])])
        rank = 1
    else:
        laid = _laid_out(editor, site, inputs, _by_row(editor, cut, site, inputs), dim, shape)
        rank = len(site.layout.before) + 1 + len(site.layout.after)
    before, after = site.site.axis, len(shape) - site.site.axis
    if before:  # the dimensions of a row that come before its index in the table
        order = [*range(rank, rank + before), *range(rank), *range(rank + before, rank + before + after)]
        laid = editor.node("Transpose", [laid], perm=order)
    kind = _original(cut, site).dtype
    if kind != np.float32:
        laid = editor.node("Cast", [laid], to=helper.np_dtype_to_tensor_dtype(kind))
    return laid


def _original(cut: CutGraph, site: CutSite) -> Array:
    return cut.originals[site.site.table]


def _by_row(editor: GraphEditor, cut: CutGraph, site: CutSite, inputs: Mapping[int, LookupInput]) -> str:
    """Return the vectors of a row's elements, (B, K, D)."""
    dim = math.prod(site.site.row_shape(_original(cut, site)))
    parts: list[str] = []
    starts: dict[int, int] = {}
    size = 0
    for use in dict.fromkeys(each for each in site.uses if each >= 0):
        name = f"{LOOKUP}{use}"
        starts[use] = size
        if inputs[use].length:
            size += inputs[use].length
        else:
            name, size = editor.node("Reshape", [name, editor.numbers([-1, 1, dim])]), size + 1
        parts.append(name)
    fixed = list(dict.fromkeys(place for use, place in zip(site.uses, site.places, strict=True) if use < 0))
    if fixed:
        rows = cut.tables[site.site.table][fixed].astype(np.float32)
        batch = editor.node("Gather", [editor.node("Shape", parts[:1]), editor.numbers([0])], axis=0)
        shape = editor.node("Concat", [batch, editor.numbers([len(fixed), dim])], axis=0)
        parts.append(editor.node("Expand", [editor.constant(rows[None]), shape]))
    joined = editor.concat(parts, 1)
    chosen = np.array(
        [
            size + fixed.index(place) if use < 0 else starts[use] + max(place, 0)
            for use, place in zip(site.uses, site.places, strict=True)
        ],
        np.int64,
    )
    if len(chosen) == size + len(fixed) and in_order(chosen):
        return joined
    return editor.node("Gather", [joined, editor.constant(chosen)], axis=1)


def _laid_out(
    editor: GraphEditor,
    site: CutSite,
    inputs: Mapping[int, LookupInput],
    taken: str,
    dim: int,
    row: tuple[int, ...],
) -> str:
    """Return vectors (B, K, D) of the elements in the shape of the index."""
    layout = site.layout
    assert layout is not None
    if not layout.before and not layout.tiled:
        if row == (dim,) and layout.times == 1 and layout.after == (len(layout.looked),):
            return taken
        return editor.node("Reshape", [taken, editor.numbers([-1, *layout.after, *row])])
    before, after = len(layout.before), len(layout.after) + len(row)
    apart = editor.numbers([-1, layout.times, *layout.before, *layout.after, *row])
    batch = [1, 0] if layout.tiled else [0, 1]
    order = [*range(2, 2 + before), *batch, *range(2 + before, 2 + before + after)]
    moved = editor.node("Transpose", [editor.node("Reshape", [taken, apart])], perm=order)
    return editor.node("Reshape", [moved, editor.numbers([*layout.before, -1, *layout.after, *row])])


def set_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Replace the nodes of a graph, some of which may be its own."""
    copies = [NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def pruned(source: SourceGraph, outputs: Sequence[str]) -> SourceGraph:
    """Return a graph without the nodes, tensors and inputs that its outputs do not need."""
    model = ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    needed = set(outputs)
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(each for each in (*node.input, *captured(node)) if each)
            kept.append(node)
    set_nodes(graph, kept[::-1])
    initializers = [each for each in graph.initializer if each.name in needed]
    inputs = [each for each in graph.input if each.name in needed]
    typed = {each.name: each for each in graph.output}
    chosen = [typed.get(each) or helper.make_empty_tensor_value_info(each) for each in outputs]
    kept_tensors = [TensorProto.FromString(each.SerializeToString()) for each in initializers]
    kept_inputs = [ValueInfoProto.FromString(each.SerializeToString()) for each in inputs]
    kept_outputs = [ValueInfoProto.FromString(each.SerializeToString()) for each in chosen]
    del graph.initializer[:], graph.input[:], graph.output[:]
    graph.initializer.extend(kept_tensors)
    graph.input.extend(kept_inputs)
    graph.output.extend(kept_outputs)
    del graph.value_info[:]
    weights = {each.name: source.weights[each.name] for each in graph.initializer if each.name in source.weights}
    return SourceGraph(source.where, model, weights)


def with_free_sizes(source: SourceGraph, readings: Sequence[Reading]) -> SourceGraph:
    """Return a graph in which sizes of ids are said by the number of rows of a look-up, where they follow from it.

    The rest would take ids whose size is all that it needs.
    """
    lookup = next((each.name for each in source.graph.input if each.name.startswith(LOOKUP)), None)
    if lookup is None:
        return source
    model = ModelProto()
    model.CopyFrom(source.model)
    editor = GraphEditor(model, f"{FRONT}size/")
    batch = editor.node("Gather", [editor.node("Shape", [lookup]), editor.numbers([0])], axis=0)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        sizes = _linear(node, readings)
        if sizes is None:
            nodes.append(node)
            continue
        factors, added = sizes
        product = editor.node("Mul", [batch, editor.constant(factors)])
        made = editor.node("Add", [product, editor.constant(added)])
        shape = editor.numbers(readings[0].values[node.output[0]].shape)
        editor.nodes.append(helper.make_node("Reshape", [made, shape], list(node.output), node.name))
        nodes += editor.nodes
        editor.nodes = []
    if len(nodes) == len(model.graph.node):
        return source
    set_nodes(model.graph, nodes)
    return SourceGraph(source.where, model, source.weights)


def _linear(node: NodeProto, readings: Sequence[Reading]) -> tuple[Array, Array] | None:
    """Return by which a size grows with the number of rows, and what it is without any; None: it is no such size."""
    if node.op_type not in SIZES or not all(each.is_constant(node.output[0]) for each in readings):
        return None
    sizes = [(each.values[node.output[0]].reshape(-1), each.rows) for each in readings]
    (first, few), (second, many), *_ = sizes
    if any(each.shape != first.shape for each, _ in sizes):
        return None
    factors, left = np.divmod(second - first, many - few)
    added = first - factors * few
    if left.any() or any((factors * rows + added != each).any() for each, rows in sizes):
        return None
    ids = any(each.values[node.input[0]].shape[:1] in ((0,), ()) for each in readings)
    return None if ids else (factors, added)


def whole(source: SourceGraph) -> ModelProto:
    """Return a graph with the tensors that were kept apart in it."""
    model = ModelProto()
    model.CopyFrom(source.model)
    for tensor in model.graph.initializer:
        if tensor.name in source.weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(source.weights[tensor.name]), tensor.name))
    return model


def numbered(source: SourceGraph) -> tuple[SourceGraph, list[int]]:
    """Return a graph whose look-ups are numbered from 0 on, in their order, and the numbers that they had."""
    model = ModelProto()
    model.CopyFrom(source.model)
    had = [each.name for each in model.graph.input if each.name.startswith(LOOKUP)]
    names = {name: f"{LOOKUP}{number}" for number, name in enumerate(had)}
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
    made = SourceGraph(source.where, model, source.weights)
    return made, [int(each.removeprefix(LOOKUP)) for each in had]
