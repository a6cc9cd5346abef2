"""Graphs that were exported for one row: shapes that say so in a Reshape are opened to any number of rows.

Which dimension of such a shape the batch is part of is found by running: once row by row, once with all rows through
what was opened so far. The dimension is one along which the rows' own tensors lie behind each other then, or in turns;
where that holds of several, what follows decides, and in the end the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.rest import pruned
from ringpull.inference.importers.onnx.sessions import GraphFailed, Session, with_outputs
from ringpull.inference.importers.onnx.source import SourceGraph

Array = NDArray[Any]

_ROWS: Final = 3
_MAX_RUNS: Final = 512
"""Runs of a graph in which its Reshapes must be opened."""


def open_reshapes(source: SourceGraph) -> SourceGraph:
    """Return a graph that takes any number of rows, of one whose inputs say that they have one.

    What does not take inputs of made-up small numbers, or has other constants of one row, is returned as it is.
    """
    feeds = _made_feeds(source)
    shaped = _constant_reshapes(source)
    if feeds is None or not shaped or len(shaped) > _MAX_RUNS:
        return source
    outputs = [each.name for each in source.graph.output]
    try:
        own = _by_row(source, feeds, [*(each.output[0] for each in shaped), *outputs])
    except GraphFailed:
        return source
    pending: list[dict[int, list[int]]] = [{}]
    for _ in range(_MAX_RUNS):
        if not pending:
            break
        shapes = pending.pop()
        opened = _opened(source, shaped, shapes)
        number = len(shapes)
        names = [shaped[number].input[0]] if number < len(shaped) else outputs
        try:
            values = _values(opened, names, feeds)
        except GraphFailed:
            continue
        if number < len(shaped):
            fitting = _fitting(values[0], _shape_of(source, shaped[number]) or [], own[shaped[number].output[0]])
            pending += [{**shapes, number: each} for each in reversed(fitting)]
        elif all(_is_stacked(each, own[name]) for name, each in zip(outputs, values, strict=True)):
            return opened
    return source


def _opened(source: SourceGraph, shaped: Sequence[NodeProto], shapes: Mapping[int, list[int]]) -> SourceGraph:
    """Return the graph with other shapes of some of its Reshapes, by their number."""
    model = _copy(source.model)
    nodes = {each.output[0]: each for each in model.graph.node if each.op_type == "Reshape"}
    for number, shape in shapes.items():
        name = f"{FRONT}rows/{number}"
        nodes[shaped[number].output[0]].input[1] = name
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    return SourceGraph(source.where, model, source.weights)


def _fitting(values: Array, said: list[int], rows: list[Array]) -> list[list[int]]:
    """Return the shapes of a Reshape that may be meant, the likely ones first."""
    if _is_stacked(_reshaped(values, said), rows):
        return [said]
    tried = list(_shapes(rows[0]))
    blocks = [each for each in tried if _is_stacked(_reshaped(values, each), rows)]
    mixed = [each for each in tried if each not in blocks and _is_mixed(_reshaped(values, each), rows)]
    return [*blocks, *mixed]


def _copy(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def _made_feeds(source: SourceGraph) -> dict[str, Array] | None:
    """Return small numbers for the inputs, of several rows; None: they do not say that they have one row each."""
    filled = {each.name for each in source.graph.initializer}
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in source.graph.input:
        if value.name in filled:
            continue
        dims = [each.dim_value for each in value.type.tensor_type.shape.dim]
        try:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        except (KeyError, ValueError):
            return None
        if not dims or dims[0] != 1 or kind.kind not in "iufb" or math.prod(dims) not in range(1, 1 << 20):
            return None
        shape = (_ROWS, *dims[1:])
        feeds[value.name] = (random.random(shape) if kind.kind == "f" else random.integers(0, 2, shape)).astype(kind)
    return feeds or None


def _constant_reshapes(source: SourceGraph) -> list[NodeProto]:
    return [
        node
        for node in source.graph.node
        if node.op_type == "Reshape" and len(node.input) > 1 and _shape_of(source, node) is not None
    ]


def _shape_of(source: SourceGraph, node: NodeProto) -> list[int] | None:
    """Return the shape that a Reshape has for a constant; None: it is computed."""
    for tensor in source.graph.initializer:
        if tensor.name == node.input[1] and tensor.name not in source.weights:
            return list(numpy_helper.to_array(tensor).tolist())
    for maker in source.graph.node:
        if maker.op_type == "Constant" and maker.output[0] == node.input[1]:
            for each in maker.attribute:
                if each.name == "value":
                    return list(numpy_helper.to_array(each.t).reshape(-1).tolist())
                if each.name == "value_ints":
                    return list(each.ints)
    return None


def _by_row(source: SourceGraph, feeds: Mapping[str, Array], names: list[str]) -> dict[str, list[Array]]:
    session = Session(with_outputs(source.model, names), source.weights, source.where, optimised=False)
    runs = [session.run({name: each[row : row + 1] for name, each in feeds.items()}, names) for row in range(_ROWS)]
    return {name: [run[place] for run in runs] for place, name in enumerate(names)}


def _values(opened: SourceGraph, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """Return tensors of the graph so far, of all rows."""
    if names[0] in feeds:
        return [feeds[each] for each in names]
    constants = opened.constants()
    if names[0] in constants:
        return [constants[each] for each in names]
    model = _copy(opened.model)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in feeds or value.name in names:
            for each in value.type.tensor_type.shape.dim[:1]:
                each.dim_param = "rows"
    del model.graph.value_info[:]
    part = pruned(SourceGraph(opened.where, model, opened.weights), names)
    session = Session(part.model, part.weights, opened.where, optimised=False)
    return [np.asarray(each) for each in session.run(feeds, names)]


def _reshaped(values: Array, shape: list[int]) -> Array | None:
    sizes = [values.shape[place] if each == 0 and place < values.ndim else each for place, each in enumerate(shape)]
    try:
        return values.reshape(sizes)
    except ValueError:
        return None


def _shapes(one: Array) -> Iterator[list[int]]:
    """Yield the shape of a tensor of one row with each of its dimensions open, those of 1 first."""
    for place in sorted(range(one.ndim), key=lambda each: one.shape[each] != 1):
        yield [-1 if each == place else size for each, size in enumerate(one.shape)]


def _is_stacked(values: Array | None, rows: list[Array]) -> bool:
    """Return whether a tensor is that of each row, one behind the other along some dimension, or that of any."""
    if values is None:
        return False
    alike = all(np.array_equal(each, rows[0]) for each in rows)
    if alike and values.shape == rows[0].shape:
        return np.array_equal(values, rows[0])
    for axis in range(values.ndim):
        joined = np.concatenate(rows, axis)
        if joined.shape == values.shape and np.allclose(joined, values, rtol=1e-4, atol=1e-5):
            return True
    return False


def _is_mixed(values: Array | None, rows: list[Array]) -> bool:
    """Return whether the rows' tensors lie in turns along some dimension."""
    if values is None:
        return False
    for axis in range(values.ndim):
        whole = [size * (len(rows) if place == axis else 1) for place, size in enumerate(rows[0].shape)]
        turns = np.stack(rows, axis + 1).reshape(whole)
        if turns.shape == values.shape and np.allclose(turns, values, rtol=1e-4, atol=1e-5):
            return True
    return False
