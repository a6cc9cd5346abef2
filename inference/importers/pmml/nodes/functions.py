"""Functions of `Apply` on numbers, as nodes of a graph: NaN where an argument is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

import numpy as np
from onnx import TensorProto

from ringpull.inference.importers.pmml.nodes.graph import Graph

_NODES: Final = {
    "+": "Add",
    "-": "Sub",
    "*": "Mul",
    "/": "Div",
    "pow": "Pow",
    "ln": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "exp": "Exp",
    "floor": "Floor",
    "ceil": "Ceil",
    "rint": "Round",
    "sin": "Sin",
    "cos": "Cos",
}
COMPARED: Final = {
    "equal": "Equal",
    "lessThan": "Less",
    "lessOrEqual": "LessOrEqual",
    "greaterThan": "Greater",
    "greaterOrEqual": "GreaterOrEqual",
    "threshold": "Greater",
}
COMPARING: Final = (*COMPARED, "notEqual")
SKIPPING: Final = ("min", "max", "sum", "avg", "product")
"""Functions that pass missing arguments over."""


def applied(graph: Graph, function: str, given: Sequence[str]) -> str:
    """Return the tensor that a function makes of tensors, float64 (B, 1).

    Raises:
        KeyError: The function is none of numbers alone.
    """
    if function in _NODES:
        return graph.node(_NODES[function], given)
    if function in COMPARING:
        held = graph.node(COMPARED.get(function, "Equal"), given)
        held = graph.node("Not", [held]) if function == "notEqual" else held
        missing = graph.either([graph.node("IsNaN", [each]) for each in given])
        return graph.where(missing, graph.tensor([[np.nan]]), graph.cast(held))
    if function in SKIPPING:
        return _skipping(graph, function, given)
    return _MADE[function](graph, given)


def _skipping(graph: Graph, function: str, given: Sequence[str]) -> str:
    neutral = {"min": math.inf, "max": -math.inf, "product": 1.0}.get(function, 0.0)
    missing = [graph.node("IsNaN", [each]) for each in given]
    filled = [graph.where(lost, graph.tensor([[neutral]]), each) for lost, each in zip(missing, given, strict=True)]
    kind = {"min": "Min", "max": "Max", "product": "Mul"}.get(function, "Add")
    found = reduce(lambda one, other: graph.node(kind, [one, other]), filled)
    if function == "avg":
        there = [graph.cast(graph.node("Not", [each])) for each in missing]
        count = reduce(lambda one, other: graph.node("Add", [one, other]), there)
        found = graph.node("Div", [found, count])
    return graph.where(graph.both(missing), graph.tensor([[np.nan]]), found)


def _number(graph: Graph, value: float) -> str:
    return graph.tensor([[value]])


def _modulo(graph: Graph, given: Sequence[str]) -> str:
    """Return what is left of a division, of the divisor's sign."""
    whole = graph.node("Floor", [graph.node("Div", given)])
    return graph.node("Sub", [given[0], graph.node("Mul", [whole, given[1]])])


def _round(graph: Graph, given: Sequence[str]) -> str:
    return graph.node("Floor", [graph.node("Add", [given[0], _number(graph, 0.5)])])


def _hyperbolic(sign: float) -> Callable[[Graph, Sequence[str]], str]:
    def made(graph: Graph, given: Sequence[str]) -> str:
        against = graph.node("Exp", [graph.node("Neg", [given[0]])])
        signed = graph.node("Mul", [against, _number(graph, sign)])
        total = graph.node("Add", [graph.node("Exp", [given[0]]), signed])
        return graph.node("Mul", [total, _number(graph, 0.5)])

    return made


def tanh(graph: Graph, tensor: str) -> str:
    """Return the hyperbolic tangent of a tensor, float64."""
    doubled = graph.node("Mul", [tensor, graph.tensor(2.0)])
    return graph.node("Sub", [graph.node("Mul", [sigmoid(graph, doubled), graph.tensor(2.0)]), graph.tensor(1.0)])


def sigmoid(graph: Graph, tensor: str) -> str:
    """Return 1 / (1 + exp(-x)) of a tensor, float64."""
    powers = graph.node("Exp", [graph.node("Neg", [tensor])])
    return graph.node("Div", [graph.tensor(1.0), graph.node("Add", [graph.tensor(1.0), powers])])


def single(graph: Graph, kind: str, tensor: str) -> str:
    """Return what a node makes that onnxruntime has of float32 alone, as float64."""
    return graph.cast(graph.node(kind, [graph.cast(tensor, TensorProto.FLOAT)]))


def _of_float32(kind: str) -> Callable[[Graph, Sequence[str]], str]:
    return lambda graph, given: single(graph, kind, given[0])


_MADE: Final[dict[str, Callable[[Graph, Sequence[str]], str]]] = {
    "log10": lambda graph, given: graph.node("Mul", [graph.node("Log", [given[0]]), _number(graph, 1 / math.log(10))]),
    "ln1p": lambda graph, given: graph.node("Log", [graph.node("Add", [given[0], _number(graph, 1.0)])]),
    "expm1": lambda graph, given: graph.node("Sub", [graph.node("Exp", [given[0]]), _number(graph, 1.0)]),
    "hypot": lambda graph, given: graph.node(
        "Sqrt", [graph.node("Add", [graph.node("Mul", [each, each]) for each in given])]
    ),
    "modulo": _modulo,
    "round": _round,
    "sinh": _hyperbolic(-1.0),
    "cosh": _hyperbolic(1.0),
    "tanh": lambda graph, given: tanh(graph, given[0]),
    "tan": _of_float32("Tan"),
    "asin": _of_float32("Asin"),
    "acos": _of_float32("Acos"),
    "atan": _of_float32("Atan"),
}
