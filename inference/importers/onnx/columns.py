"""Columns of a matrix, taken back: what a weight of its columns is for those of the tensors that it is made of.

Of `z = x @ W`, where x is put together, scaled, and some of its columns left out, each part has a weight of its own, so
that z is the sum of the parts times theirs: what one-hot vectors need that are too long to be made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ringpull.inference.importers.onnx.operators import attribute
from ringpull.inference.importers.onnx.reading import Reading

Array = NDArray[Any]
Weights = NDArray[np.float64]

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE)
_SHAPES: Final = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(slots=True, eq=False)
class ColumnParts:
    """What a product of columns and a weight is the sum of."""

    weights: dict[str, Weights]
    """Weight (columns, D) of each tensor."""
    bias: Weights
    """(D,): what is the same in every row."""

    def add(self, tensor: str, weight: Weights) -> None:
        """Add a weight of a tensor's columns, which may have one."""
        self.weights[tensor] = self.weights[tensor] + weight if tensor in self.weights else weight


def columns_of(readings: Iterable[Reading], tensor: str) -> int | None:
    """Return how many columns a tensor (B, n) or (B, 1, n) has; None: it is none."""
    found = set()
    for each in readings:
        values = each.values.get(tensor)
        if values is None or values.ndim < 2 or values.shape[0] != each.rows or math.prod(values.shape[1:-1]) != 1:
            return None
        found.add(int(values.shape[-1]))
    return found.pop() if len(found) == 1 else None


def linear_inputs(node: NodeProto, readings: Sequence[Reading]) -> list[str]:
    """Return the tensors whose columns a node's are made of by weights alone; none where it is no such node."""
    known = all(columns_of(readings, each) is not None for each in node.output if each)
    way = _WAYS.get(node.op_type)
    if not known or way is None:
        return []
    given = [each for each in node.input if each and not readings[0].is_fixed(each)]
    if any(columns_of(readings, each) is None for each in given):
        return []
    outputs = {each: np.zeros((columns_of(readings, each) or 0, 1)) for each in node.output if each}
    return given if way(node, readings[0], outputs) is not None else []


def taken_back(
    nodes: Sequence[NodeProto],
    readings: Sequence[Reading],
    through: Mapping[int, NodeProto],
    tensor: str,
    weight: Array,
) -> ColumnParts:
    """Return what the columns of a tensor times a weight (n, D) are the sum of.

    Args:
        nodes: Nodes of the graph, in their order.
        readings: The graph, read.
        through: Nodes that are gone through, by place: others' tensors are parts.
        tensor: The tensor.
        weight: The weight.
    """
    parts = ColumnParts({tensor: weight.astype(np.float64)}, np.zeros(weight.shape[1]))
    for place in range(len(nodes) - 1, -1, -1):
        if place not in through or not any(each in parts.weights for each in nodes[place].output):
            continue
        node = nodes[place]
        outputs = {
            each: parts.weights.pop(each, np.zeros((columns_of(readings, each) or 0, weight.shape[1])))
            for each in node.output
            if each
        }
        made = _WAYS[node.op_type](node, readings[0], outputs)
        assert made is not None
        for name, each in made[0]:
            parts.add(name, each)
        parts.bias = parts.bias + made[1]
    return parts


_Taken = tuple[list[tuple[str, Weights]], Weights]
"""Weights of a node's inputs, and what is the same in every row."""
_Way = Callable[[NodeProto, Reading, Mapping[str, Weights]], "_Taken | None"]


def _only(outputs: Mapping[str, Weights]) -> Weights:
    return next(iter(outputs.values()))


def _none(weight: Weights) -> Weights:
    return np.zeros(weight.shape[1])


def _width(reading: Reading, name: str) -> int:
    return int(reading.values[name].shape[-1])


def _is_last(reading: Reading, name: str, axis: int) -> bool:
    rank = reading.values[name].ndim
    return axis in (-1, rank - 1)


def _shape(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    weight = _only(outputs)
    same = _width(reading, node.input[0]) == len(weight)
    return ([(node.input[0], weight)], _none(weight)) if same else None


def _cast(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    exact = attribute(node, "to") in _FLOATS or reading.values[node.input[0]].dtype.kind == "b"
    return _shape(node, reading, outputs) if exact else None


def _concat(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    weight = _only(outputs)
    if not _is_last(reading, node.input[0], attribute(node, "axis")):
        return None
    ends = np.cumsum([_width(reading, each) for each in node.input])
    if any(reading.is_fixed(each) for each in node.input):
        return None
    return list(zip(node.input, np.split(weight, ends[:-1]), strict=True)), _none(weight)


def _split(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    if not _is_last(reading, node.input[0], attribute(node, "axis", 0)):
        return None
    weight = np.concatenate(list(outputs.values()))
    return ([(node.input[0], weight)], _none(weight)) if len(weight) == _width(reading, node.input[0]) else None


def _chosen(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    weight, index = _only(outputs), reading.values.get(node.input[1])
    last = node.op_type == "ArrayFeatureExtractor" or _is_last(reading, node.input[0], attribute(node, "axis", 0))
    if index is None or not last or not reading.is_fixed(node.input[1]) or index.size != len(weight):
        return None
    made = np.zeros((_width(reading, node.input[0]), weight.shape[1]))
    np.add.at(made, index.reshape(-1), weight)
    return [(node.input[0], made)], _none(weight)


def _summed(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    weight = _only(outputs)
    given = reading.values.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    axes = attribute(node, "axes", ()) if given is None else given.reshape(-1).tolist()
    if len(axes) != 1 or not _is_last(reading, node.input[0], int(axes[0])) or len(weight) != 1:
        return None
    return [(node.input[0], np.repeat(weight, _width(reading, node.input[0]), axis=0))], _none(weight)


def _scaler(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    weight = _only(outputs)
    scale, offset = (np.asarray(attribute(node, each, [other]), np.float64) for each, other in _SCALER)
    scaled = weight * scale[:, None]
    return [(node.input[0], scaled)], -(np.broadcast_to(offset, len(weight)) @ scaled)


_SCALER: Final = (("scale", 1.0), ("offset", 0.0))


def _with_constant(node: NodeProto, reading: Reading, outputs: Mapping[str, Weights]) -> _Taken | None:
    """Take a sum or product with a constant back, or a sum of two tensors."""
    weight, kind = _only(outputs), node.op_type
    constants = [reading.is_fixed(each) for each in node.input]
    if not any(constants):
        same = all(reading.values[each].shape == reading.values[node.output[0]].shape for each in node.input)
        signs = (1.0, -1.0 if kind == "Sub" else 1.0)
        parts = [(name, weight * sign) for name, sign in zip(node.input, signs, strict=True)]
        return (parts, _none(weight)) if same and kind in ("Add", "Sub") else None
    place = 0 if constants[1] else 1
    numbers = reading.values[node.input[1 - place]].astype(np.float64)
    fits = numbers.size in (1, len(weight)) and numbers.size == math.prod(numbers.shape[-1:])
    if not fits or _width(reading, node.input[place]) != len(weight) or (place and kind == "Div"):
        return None
    numbers = np.broadcast_to(numbers.reshape(-1), len(weight))
    if kind in ("Add", "Sub"):
        own, other = (-1.0 if kind == "Sub" and place == each else 1.0 for each in (1, 0))
        return [(node.input[place], own * weight)], other * numbers @ weight
    if kind == "Div" and not numbers.all():
        return None
    return [(node.input[place], weight * (numbers if kind == "Mul" else 1 / numbers)[:, None])], _none(weight)


_WAYS: Final[dict[str, _Way]] = {
    **dict.fromkeys(_SHAPES, _shape),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _with_constant),
    "Cast": _cast,
    "Concat": _concat,
    "Split": _split,
    "Gather": _chosen,
    "ArrayFeatureExtractor": _chosen,
    "ReduceSum": _summed,
    "Scaler": _scaler,
}
