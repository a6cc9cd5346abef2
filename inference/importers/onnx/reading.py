"""Reading of a graph: it is run once with every tensor as output, and its integer tensors are read as expressions.

What depends on no input but for its size is known from the run. What is computed of ids by operators of key expressions
is an array of elements (`elements`); what only moves elements is run by onnxruntime itself, on their numbers, so every
version of every such operator is read as it is meant. All else is *opaque*: it stays in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.elements import Elements, Numbers
from ringpull.inference.importers.onnx.operators import (
    MOVES,
    TYPES,
    TYPES_OF_ARRAYS,
    NotRead,
    Operand,
    attribute,
    computed,
)
from ringpull.inference.importers.onnx.sessions import GraphFailed, Session, with_outputs
from ringpull.inference.importers.onnx.source import SourceGraph, subgraphs
from ringpull.inference.schema.key_expressions import NumberType

Array = NDArray[Any]

MAX_ELEMENTS: Final = 1 << 18
"""Elements of a tensor from which on it is not read."""

MAX_GAPS: Final = 16
"""Integers from the lowest to the highest that an encoder knows, for each of them, up to which it is read."""

SIZES: Final = ("Shape", "Size")
"""Operators that read nothing of a tensor but its size."""

_SIZED_BY_VALUES: Final = frozenset(
    (
        *("NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit", "StringNormalizer", "ImageDecoder"),
        *("Loop", "If", "Scan", "SequenceMap", "SequenceAt", "SequenceErase", "SequenceInsert"),
        *("SplitToSequence", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"),
    )
)
"""Operators whose outputs' sizes depend on the values of what they take."""
_SIZED_BY: Final = {
    **dict.fromkeys(("ConstantOfShape", "Range"), 0),
    **dict.fromkeys(("Reshape", "Slice", "Expand", "Tile", "Pad", "TopK", "Split", "Resize", "Upsample"), 1),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "OneHot", "CenterCropPad", "AffineGrid", "Col2Im", "DFT", "STFT"), 1),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), 1),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"), 1),
    "MaxUnpool": 2,
}
"""Operators whose outputs' sizes depend on the values of their operands from this one on."""
_MICROSOFT: Final = "com.microsoft"
"""Domain of operators of which it isn't known here what their outputs' sizes depend on."""


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """One input of a graph in a run: what it is given, and the elements that this stands for."""

    values: Array
    elements: Numbers | None = None
    """None: it is no ids."""


@dataclass(slots=True, eq=False)
class Reading:
    """One run of a graph, read."""

    rows: int
    """Rows of the batch."""
    elements: Elements
    values: dict[str, Array] = field(default_factory=dict)
    """What each tensor was in the run: those of the main graph."""
    read: dict[str, Operand] = field(default_factory=dict)
    """Elements of each tensor of ids, with their type."""
    short: set[str] = field(default_factory=set)
    """Tensors that are read and hold the same numbers in a type that key expressions do not have: the graph's inputs of
    uint8, float16 and the like, and what is moved of them."""
    asked: set[str] = field(default_factory=set)
    """Tensors that depend on more of the inputs than their sizes."""
    sized_by_values: set[str] = field(default_factory=set)
    """Tensors whose sizes depend on more of the inputs than their sizes."""
    varying: set[str] = field(default_factory=set)
    """Tensors that are constant here, and others where there are more rows or ids (`tell_apart`)."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a tensor that is computed of ids is not read."""

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is the same whatever ids and numbers a batch of so many rows has."""
        return name in self.values and name not in self.asked

    def is_fixed(self, name: str) -> bool:
        """Return whether a tensor is the same in every request, of however many rows."""
        return self.is_constant(name) and name not in self.varying

    def reason(self, name: str) -> str:
        """Return why a tensor is not read."""
        return self.reasons.get(name, "it is computed of more than ids")


def read_graph(source: SourceGraph, fed: Mapping[str, Fed], rows: int, elements: Elements) -> Reading:
    """Run a graph on `fed`, and read it.

    Raises:
        GraphFailed: It fails on these inputs.
    """
    reading = Reading(rows, elements, asked=set(fed))
    names = list(dict.fromkeys(each for node in source.graph.node for each in node.output if each))
    session = Session(with_outputs(source.model, names), source.weights, source.where, optimised=False)
    found = session.run({name: each.values for name, each in fed.items()}, names)
    reading.values.update({name: each for name, each in zip(names, found, strict=True) if isinstance(each, np.ndarray)})
    reading.values.update({name: each.values for name, each in fed.items()})
    reading.values.update(source.constants())
    for name, each in fed.items():
        number_type = TYPES_OF_ARRAYS.get(each.values.dtype)
        if each.elements is not None and number_type is not None:
            reading.read[name] = (each.elements, number_type)
    for node in source.graph.node:
        _read_node(source, reading, node)
    return reading


def tell_apart(readings: Sequence[Reading]) -> None:
    """Say in each reading which of its constants are not the same in all of them: they follow the size of a batch."""
    first, *others = readings
    varying = {
        name
        for name, values in first.values.items()
        if first.is_constant(name) and not all(_is_same(values, each.values.get(name)) for each in others)
    }
    for each in readings:
        each.varying.update(varying)


def _is_same(values: Array, other: Array | None) -> bool:
    if values is other or other is None:
        return values is other
    if values.dtype != other.dtype or values.shape != other.shape:
        return False
    return np.array_equal(values, other, equal_nan=values.dtype.kind == "f")


def _read_node(source: SourceGraph, reading: Reading, node: NodeProto) -> None:
    taken = [*node.input, *captured(node)]
    by_values = [each for each in taken if each in reading.sized_by_values]
    if node.op_type in SIZES:
        reading.asked.update(node.output if by_values else ())
        return
    if not any(each in reading.asked for each in taken):
        return
    reading.asked.update(each for each in node.output if each)
    sizing = node.input[_SIZED_BY.get(node.op_type, len(node.input)) :]
    unknown = node.op_type in _SIZED_BY_VALUES or node.domain == _MICROSOFT
    if by_values or unknown or any(each in reading.asked for each in sizing):
        reading.sized_by_values.update(node.output)
    if not any(each in reading.read for each in node.input):
        told = next((reading.reasons[each] for each in taken if each in reading.reasons), None)
        if told is not None:
            reading.reasons.update(dict.fromkeys(node.output, told))
        return
    try:
        if (mapped := _mapped(source, reading, node)) is not None:
            made: list[Operand | None] = [mapped]
        else:
            made = _moved(source, reading, node) if node.op_type in MOVES else [_computed(reading, node)]
    except (NotRead, GraphFailed) as exc:
        reading.reasons.update(dict.fromkeys(node.output, str(exc)))
        return
    for name, each in zip(node.output, made, strict=False):
        if name and each is not None:
            reading.read[name] = each


def captured(node: NodeProto) -> list[str]:
    """Return the tensors of outside that the graphs inside a node take."""
    found: list[str] = []
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            found += [name for name in (*inner.input, *captured(inner)) if name and name not in own]
            own.update(inner.output)
        found += [value.name for value in graph.output if value.name not in own]
    return found


def _mapped(source: SourceGraph, reading: Reading, node: NodeProto) -> Operand | None:
    """Return what a constant of integers or strings maps ids to, or a node makes of such strings; None: neither."""
    if node.op_type == "Gather" and node.input[1] in reading.read and reading.is_constant(node.input[0]):
        values = reading.values[node.input[0]]
        if values.ndim == 1 and values.dtype.kind in "iuO" and values.size:
            return reading.elements.map(reading.read[node.input[1]][0], values, node.input[0]), "int64"
    if node.op_type == "LabelEncoder" and node.input[0] in reading.read:
        found = reading.elements.mapped(reading.read[node.input[0]][0])
        if found is not None:
            strings, _, operands = found
            (labels,) = run_node(source, node, {node.input[0]: strings})
            return reading.elements.map(operands, labels, node.output[0]), "int64"
        return _labelled(source, reading, node)
    return None


def _labelled(source: SourceGraph, reading: Reading, node: NodeProto) -> Operand | None:
    """Return what an encoder makes of integers: what a constant maps them to, one for each from the lowest it knows."""
    keys = np.array(attribute(node, "keys_int64s", ()), np.int64)
    numbers, number_type = reading.read[node.input[0]]
    if number_type != "int64" or not len(keys):
        return None
    low, high = int(keys.min()), int(keys.max())
    if high - low >= MAX_GAPS * len(keys) + MAX_ELEMENTS:
        raise NotRead(f"LabelEncoder numbers {len(keys):,} integers that lie too far apart, from {low:,} to {high:,}")
    unknown = low - 1 if low > np.iinfo(np.int64).min else high + 1
    known = np.concatenate([np.arange(low, high + 1), [unknown]])
    (labels,) = run_node(source, node, {node.input[0]: known})
    if labels.dtype.kind not in "iu":
        return None
    elements = reading.elements
    first, last, none = (elements.constants(np.array(each), "int64") for each in (low, high, len(known) - 1))
    held = elements.apply(
        "and", [elements.apply("ge", [numbers, first], "bool"), elements.apply("le", [numbers, last], "bool")], "bool"
    )
    places = elements.apply("where", [held, elements.apply("sub", [numbers, first], "int64"), none], "int64")
    return elements.map(places, labels, node.output[0]), "int64"


def _computed(reading: Reading, node: NodeProto) -> Operand:
    if not reading.short.isdisjoint(node.input) and node.op_type != "Cast":
        raise NotRead(f"{node.op_type} takes ids of the type {reading.values[node.input[0]].dtype}")
    operands = [_operand(reading, each) if each else None for each in node.input]
    if _is_front_cast(node) and operands[0] is not None:
        reading.short.add(node.output[0])
        return operands[0]
    if any(each is not None and each[0].size > MAX_ELEMENTS for each in operands):
        raise NotRead("it has too many elements")
    made, number_type = computed(node, operands, reading.elements)
    if made.shape != reading.values[node.output[0]].shape:
        raise NotRead(f"{node.op_type} gives another shape than it was read to")
    return made, number_type


def _is_front_cast(node: NodeProto) -> bool:
    """Return whether a node casts what is sent to a type of few numbers: others are refused before (`Bound.within`)."""
    return node.op_type == "Cast" and node.name.startswith(FRONT) and attribute(node, "to") not in TYPES


def _operand(reading: Reading, name: str, *, opaque: bool = False) -> Operand:
    """Return the elements of a tensor: read ones, or constants; where it may be `opaque`, others too."""
    if name in reading.read:
        return reading.read[name]
    if not reading.is_constant(name) and not (opaque and name in reading.values):
        raise NotRead(reading.reason(name))
    values = reading.values[name]
    number_type = TYPES_OF_ARRAYS.get(values.dtype)
    if number_type is not None and values.size <= MAX_ELEMENTS and not reading.is_constant(name):
        return np.full(values.shape, reading.elements.opaque(number_type), np.int64), number_type
    if number_type is None or values.size > MAX_ELEMENTS:
        raise NotRead(f"it is computed of a constant of type {values.dtype}, of {values.size:,} numbers")
    return reading.elements.constants(values, number_type), number_type


def _moved(source: SourceGraph, reading: Reading, node: NodeProto) -> list[Operand | None]:
    """Return what a node moves where, by having onnxruntime move the numbers of elements."""
    data = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
    if not any(each in reading.read for each in data):
        raise NotRead(f"{node.op_type} takes by ids what is the same for all of them")
    operands = [_operand(reading, each, opaque=True) for each in data]
    if not reading.short.isdisjoint(data):
        reading.short.update(node.output)
    others = [each for each in node.input if each and each not in data]
    for each in others:
        if not reading.is_constant(each):
            raise NotRead(f"{node.op_type} moves it to where other ids say")
    if node.op_type == "Identity" or node.op_type == "Dropout":
        return [operands[0]]
    feeds = {name: numbers for name, (numbers, _) in zip(data, operands, strict=True)}
    feeds |= {name: reading.values[name] for name in others}
    found = run_node(source, node, feeds)
    number_type: NumberType = operands[0][1]
    return [(each.astype(np.int64), number_type) for each in found]


def run_node(source: SourceGraph, node: NodeProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run one node by itself."""
    model = small_model(source, [node], feeds, [each for each in node.output if each])
    return Session(model, {}, f"{source.where}: {node.op_type}", optimised=False).run(feeds)


def small_model(
    source: SourceGraph, nodes: Iterable[NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str]
) -> ModelProto:
    """Return a graph of some nodes of another, whose inputs are `feeds`."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), [None] * each.ndim)
        for name, each in feeds.items()
    ]
    graph = GraphProto(name="part", node=nodes, input=inputs, output=[ValueInfoProto(name=each) for each in outputs])
    return ModelProto(ir_version=source.model.ir_version, opset_import=source.model.opset_import, graph=graph)
