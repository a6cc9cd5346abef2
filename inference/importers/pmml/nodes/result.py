"""Result of a model in a graph, and what targets and outputs make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from onnx import TensorProto

from ringpull.inference.importers.pmml.fields import canonical
from ringpull.inference.importers.pmml.kinds.model import Target
from ringpull.inference.importers.pmml.nodes.functions import sigmoid, single
from ringpull.inference.importers.pmml.nodes.graph import Category, Graph, Number, Value


@dataclass(frozen=True, slots=True)
class Result:
    """What a model predicts of each row, NaN where it predicts nothing: tensors of float64."""

    value: str
    """(B, 1): the number; the place of the class among `classes`; or of the cluster."""
    classes: tuple[str, ...] = ()
    probabilities: str | None = None
    """(B, classes)."""
    distances: str | None = None
    """(B, clusters)."""

    def masked(self, graph: Graph, invalid: Sequence[str]) -> Result:
        """Return it without a prediction where one of some tensors (B, 1) is true."""
        if not invalid:
            return self
        lost, nan = graph.either(invalid), graph.tensor([[np.nan]])

        def kept(tensor: str | None) -> str | None:
            return None if tensor is None else graph.where(lost, nan, tensor)

        return Result(graph.where(lost, nan, self.value), self.classes, kept(self.probabilities), kept(self.distances))

    def as_value(self, graph: Graph, data_type: str) -> Value:
        """Return the prediction as a field: a number, or a category."""
        if not self.classes:
            return Number(self.value)
        classes = [canonical(data_type, each) for each in self.classes]
        made = Category.of("", classes, data_type)
        lost = graph.node("IsNaN", [self.value])
        place = graph.where(lost, graph.tensor([[float(made.missing - 1)]]), self.value)
        codes = graph.node("Add", [graph.cast(place, TensorProto.INT64), graph.tensor([[1]], np.int64)])
        ids = graph.node("Squeeze", [codes, graph.tensor([1], np.int64)])
        return Category(ids, made.values, data_type, made.codes)

    def probability(self, graph: Graph, name: str) -> str | None:
        """Return the probabilities of one class (B, 1); None: there is no such class."""
        if self.probabilities is None or name not in self.classes:
            return None
        return picked(graph, self.probabilities, self.classes.index(name))


SAME: Final = 1e-9
"""Part of a number by which others may be below it and are as large: sums in another order differ."""


def picked(graph: Graph, matrix: str, place: int) -> str:
    """Return one column of a matrix, (B, 1)."""
    return graph.node("Gather", [matrix, graph.tensor([place], np.int64)], axis=1)


def summed(graph: Graph, matrix: str, axis: int = 1) -> str:
    """Return the sums of a tensor along an axis, which stays, of length 1."""
    return graph.node("ReduceSum", [matrix, graph.tensor([axis], np.int64)], keepdims=1)


def largest(graph: Graph, matrix: str) -> str:
    """Return the place of the first largest number of each row (B, 1), NaN where one is NaN."""
    top = graph.node("ReduceMax", [matrix], axes=[1], keepdims=1)
    slack = graph.node("Mul", [graph.node("Abs", [top]), graph.tensor(SAME)])
    among = graph.node("GreaterOrEqual", [matrix, graph.node("Sub", [top, slack])])
    place = graph.cast(graph.node("ArgMax", [graph.cast(among)], axis=1, keepdims=1))
    return graph.where(graph.node("IsNaN", [summed(graph, matrix)]), graph.tensor([[np.nan]]), place)


def softmax(graph: Graph, matrix: str) -> str:
    """Return exp(x) / sum(exp(x)) of each row."""
    top = graph.node("ReduceMax", [matrix], axes=[1], keepdims=1)
    powers = graph.node("Exp", [graph.node("Sub", [matrix, top])])
    return graph.node("Div", [powers, summed(graph, powers)])


def simplemax(graph: Graph, matrix: str) -> str:
    """Return x / sum(x) of each row."""
    return graph.node("Div", [matrix, summed(graph, matrix)])


def of_probabilities(graph: Graph, classes: Sequence[str], probabilities: str) -> Result:
    """Return the result of probabilities (B, classes): the class of the largest."""
    return Result(largest(graph, probabilities), tuple(classes), probabilities)


_ROOT_HALF: Final = 0.7071067811865476


def inverse_link(graph: Graph, link: str, x: str, power: float = 1.0) -> str:
    """Return the mean of a linear predictor, by the inverse of a link: tensors of float64."""

    def number(value: float) -> str:
        return graph.tensor(value)

    def less_than_one(tensor: str) -> str:
        return graph.node("Sub", [number(1.0), tensor])

    def power_of(tensor: str) -> str:
        return graph.node("Exp", [tensor])

    negative = graph.node("Neg", [x])
    match link:
        case "identity" | "none":
            return x
        case "log" | "exp":
            return power_of(x)
        case "logc":
            return less_than_one(power_of(x))
        case "logit" | "softmax":
            return sigmoid(graph, x)
        case "cloglog":
            return less_than_one(power_of(graph.node("Neg", [power_of(x)])))
        case "loglog":
            return power_of(graph.node("Neg", [power_of(negative)]))
        case "probit":
            half = single(graph, "Erf", graph.node("Mul", [x, number(_ROOT_HALF)]))
            return graph.node("Add", [graph.node("Mul", [half, number(0.5)]), number(0.5)])
        case "cauchit":
            angle = graph.node("Mul", [single(graph, "Atan", x), number(1 / np.pi)])
            return graph.node("Add", [angle, number(0.5)])
        case "negbin":
            below = graph.node("Mul", [graph.node("Sub", [power_of(negative), number(1.0)]), number(power)])
            return graph.node("Div", [number(1.0), below])
        case "oddspower" if power:
            base = graph.node("Add", [graph.node("Mul", [x, number(power)]), number(1.0)])
            root = graph.node("Pow", [base, number(-1 / power)])
            return graph.node("Div", [number(1.0), graph.node("Add", [root, number(1.0)])])
        case "oddspower":
            return sigmoid(graph, x)
        case "power":
            return graph.node("Pow", [x, number(1 / power)]) if power else power_of(x)
    raise AssertionError(link)


def after_target(graph: Graph, result: Result, target: Target | None) -> Result:
    """Return a result as a target says."""
    if target is None:
        return result
    if result.classes:
        return _with_priors(graph, result, target)
    value = result.value
    if target.default is not None:
        value = graph.where(graph.node("IsNaN", [value]), graph.tensor([[target.default]]), value)
    if target.low is not None:
        value = graph.node("Max", [value, graph.tensor([[target.low]])])
    if target.high is not None:
        value = graph.node("Min", [value, graph.tensor([[target.high]])])
    if target.factor != 1:
        value = graph.node("Mul", [value, graph.tensor([[target.factor]])])
    if target.constant:
        value = graph.node("Add", [value, graph.tensor([[target.constant]])])
    if target.cast == "round":
        value = graph.node("Floor", [graph.node("Add", [value, graph.tensor([[0.5]])])])
    elif target.cast:
        value = graph.node({"ceiling": "Ceil", "floor": "Floor"}[target.cast], [value])
    return replace(result, value=value)


def _with_priors(graph: Graph, result: Result, target: Target) -> Result:
    if not target.priors or result.probabilities is None:
        return result
    priors = np.array([[target.priors.get(each, 0.0) for each in result.classes]])
    lost = graph.node("IsNaN", [result.value])
    probabilities = graph.where(lost, graph.tensor(priors), result.probabilities)
    place = graph.tensor([[float(np.argmax(priors))]])
    return Result(graph.where(lost, place, result.value), result.classes, probabilities)
