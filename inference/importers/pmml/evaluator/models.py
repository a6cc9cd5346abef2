"""Models of one row, of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from ringpull.inference.importers.pmml.evaluator.expressions import denormalised, evaluated
from ringpull.inference.importers.pmml.evaluator.fields import InvalidRow, Row, same
from ringpull.inference.importers.pmml.evaluator.prediction import (
    SAME,
    Prediction,
    exp,
    most_likely,
    powered,
    shared,
    total_of,
)
from ringpull.inference.importers.pmml.evaluator.regression import general_regression, regression
from ringpull.inference.importers.pmml.evaluator.values import as_number, beside
from ringpull.inference.importers.pmml.kinds.clustering import Clustering
from ringpull.inference.importers.pmml.kinds.general_regression import GeneralRegression
from ringpull.inference.importers.pmml.kinds.model import Mining, Model, Target, classes_of
from ringpull.inference.importers.pmml.kinds.neural_network import NeuralNetwork
from ringpull.inference.importers.pmml.kinds.regression import Regression
from ringpull.inference.importers.pmml.kinds.tree import Tree, TreeNode
from ringpull.inference.importers.pmml.predicates import Always, Among, Compared, Predicate


def predicted(model: Model, outer: Row) -> Prediction:
    """Return what a model predicts of a row; its outputs become fields of that row.

    Raises:
        InvalidRow: A value is invalid.
    """
    row = outer.inside(model)
    found = _after_target(_predicted(model, row), model.target)
    if model.schema.target:
        row.values[model.schema.target] = found.value
    for each in model.outputs:
        if each.feature == "predictedValue":
            row.values[each.name] = found.value
        elif each.feature == "probability":
            probabilities = found.probabilities
            row.values[each.name] = (
                None
                if not probabilities
                else max(probabilities.values())
                if each.value is None
                else probabilities[each.value]
            )
        elif each.expression is not None:
            row.values[each.name] = evaluated(each.expression, row)
        outer.values[each.name] = row.values[each.name]
    return found


def _predicted(model: Model, row: Row) -> Prediction:
    body = model.body
    match body:
        case Regression():
            return regression(body, row, model.function == "classification")
        case GeneralRegression():
            return general_regression(body, row)
        case Tree():
            return _tree(body, row)
        case NeuralNetwork():
            return _network(body, row)
        case Clustering():
            return _clustering(body, row)
        case Mining():
            return _mining(body, row, classes_of(model))


def _after_target(found: Prediction, target: Target | None) -> Prediction:
    if target is None:
        return found
    if found.probabilities or target.priors:
        if found.value is None and target.priors:
            return most_likely(target.priors)
        return found
    value = target.default if found.value is None else found.value
    if value is None:
        return found
    value = value if target.low is None else max(value, target.low)
    value = value if target.high is None else min(value, target.high)
    value = value * target.factor + target.constant
    casts: dict[str, Callable[[float], Any]] = {
        "": float,
        "round": lambda x: np.floor(x + 0.5),
        "ceiling": np.ceil,
        "floor": np.floor,
    }
    return Prediction(float(casts[target.cast](value)))


def holds(predicate: Predicate, row: Row) -> bool | None:
    """Return whether a predicate is true, or None where that is unknown."""
    match predicate:
        case Always(true):
            return true
        case Compared(name, operator, text):
            value = row.get(name)
            if operator in ("isMissing", "isNotMissing"):
                return (value is None) == (operator == "isMissing")
            if value is None:
                return None
            if operator in ("equal", "notEqual"):
                return same(value, text, row.type_of(name)) == (operator == "equal")
            number, bound = as_number(value), as_number(text)
            if number is None or bound is None:
                return None
            bound = beside(number, bound)
            return {
                "lessThan": number < bound,
                "lessOrEqual": number <= bound,
                "greaterThan": number > bound,
                "greaterOrEqual": number >= bound,
            }[operator]
        case Among(name, texts, negated):
            value = row.get(name)
            return None if value is None else any(same(value, each, row.type_of(name)) for each in texts) != negated
    parts = [holds(each, row) for each in predicate.parts]
    match predicate.by:
        case "surrogate":
            return next((each for each in parts if each is not None), None)
        case "xor":
            return None if None in parts else sum(map(bool, parts)) % 2 == 1
        case "and":
            return False if False in parts else None if None in parts else True
        case _:
            return True if True in parts else None if None in parts else False


def _tree(body: Tree, row: Row) -> Prediction:
    nodes = body.nodes
    if not holds(nodes[0].predicate, row):
        return Prediction()
    at = nodes[0]
    while at.children:
        following: TreeNode | None = None
        for each in at.children:
            truth = holds(nodes[each].predicate, row)
            if truth is None and body.missing != "none":
                if body.missing == "nullPrediction":
                    return Prediction()
                if body.missing == "lastPrediction":
                    return _leaf(body, at)
                assert at.default is not None
                following = nodes[at.default]
                break
            if truth:
                following = nodes[each]
                break
        if following is None:
            return _leaf(body, at) if body.last_if_none else Prediction()
        at = following
    return _leaf(body, at)


def _leaf(body: Tree, node: TreeNode) -> Prediction:
    if not body.classes:
        return Prediction(None if node.score is None else float(node.score))
    if node.score is None and not node.shares:
        return Prediction()
    shares = {each: node.shares.get(each, 0.0) for each in body.classes}
    best = max(shares, key=lambda name: shares[name])
    return Prediction(best if node.score is None else node.score, shares)


def _network(body: NeuralNetwork, row: Row) -> Prediction:
    signals: dict[str, float] = {}
    for name, expression in body.inputs.items():
        value = as_number(evaluated(expression, row))
        if value is None:
            return Prediction()
        signals[name] = value
    for layer in body.layers:
        made = []
        for bias, weights in zip(layer.biases, layer.weights, strict=True):
            total = bias + total_of(weight * signals[name] for name, weight in weights.items())
            made.append(_activated(layer.activation, total, layer.threshold))
        if layer.normalization == "softmax":
            made = [exp(each - max(made)) for each in made]
        if layer.normalization != "none":
            made = shared(made)
        signals.update(zip(layer.names, made, strict=True))
    if body.predicted is None:
        return most_likely({name: signals[neuron] for neuron, name in body.outputs})
    neuron, norm = body.predicted
    return Prediction(signals[neuron] if norm is None else denormalised(norm, signals[neuron]))


def _activated(activation: str, x: float, threshold: float) -> float:
    match activation:
        case "identity":
            return x
        case "logistic":
            return 1 / (1 + exp(-x))
        case "tanh":
            return float(np.tanh(x))
        case "rectifier":
            return max(0.0, x)
        case "threshold":
            return float(x > threshold)
        case "exponential":
            return exp(x)
        case "reciprocal":
            return float(1 / np.float64(x))
        case "square":
            return x * x
        case "Gauss":
            return exp(-x * x)
        case "sine":
            return float(np.sin(x))
        case "cosine":
            return float(np.cos(x))
        case "Elliott":
            return x / (1 + abs(x))
        case _:
            return 2 * math.atan(x) / math.pi


def _clustering(body: Clustering, row: Row) -> Prediction:
    given = [row.number(each.field) for each in body.fields]
    if all(each is None for each in given):
        return Prediction()
    every = total_of(each.missing_weight for each in body.fields)
    there = total_of(each.missing_weight for each, value in zip(body.fields, given, strict=True) if value is not None)
    power = {"squaredEuclidean": 2.0, "euclidean": 2.0, "minkowski": body.power}.get(body.measure, 1.0)
    distances = []
    for center in body.centers:
        parts = []
        for each, value, other in zip(body.fields, given, center, strict=True):
            if value is None:
                continue
            apart = abs(value - other)
            if each.comparison == "gaussSim":
                apart = exp(-math.log(2) * apart**2 / np.float64(each.scale) ** 2)
            elif each.comparison in ("delta", "equal"):
                apart = float((value == other) == (each.comparison == "equal"))
            parts.append(each.weight * powered(apart, power))
        total = (max(parts) if body.measure == "chebychev" else total_of(parts)) * np.float64(every) / there
        distances.append(powered(total, 1 / power) if body.measure in ("euclidean", "minkowski") else float(total))
    nearest = min(distances)
    if math.isnan(total_of(distances)):
        return Prediction(distances=distances)
    first = next(place for place, each in enumerate(distances) if each <= nearest + SAME * nearest)
    return Prediction(first, distances=distances)


def _mining(body: Mining, row: Row, classes: Sequence[str]) -> Prediction:
    found: list[tuple[float, Prediction]] = []
    for segment in body.segments:
        if holds(segment.predicate, row):
            found.append((segment.weight, predicted(segment.model, row)))
            if body.method == "selectFirst":
                return found[0][1]
    if not found:
        return Prediction()
    if body.method == "modelChain":
        return found[-1][1]
    weights = [weight if body.method.startswith("weighted") else 1.0 for weight, _ in found]
    if classes:
        return _voted(body, weights, [each for _, each in found], classes)
    values = [each.value for _, each in found]
    if None in values:
        return Prediction()
    total = total_of(weight * value for weight, value in zip(weights, values, strict=True))
    match body.method:
        case "average" | "weightedAverage":
            return Prediction(float(np.float64(total) / total_of(weights)))
        case "median":
            return Prediction(median(values))
        case "max":
            return Prediction(max(values))
        case _:
            return Prediction(total)


def _voted(body: Mining, weights: Sequence[float], found: Sequence[Prediction], classes: Sequence[str]) -> Prediction:
    shares = dict.fromkeys(classes, 0.0)
    if body.method.endswith("ajorityVote"):
        for weight, each in zip(weights, found, strict=True):
            if each.value is not None:
                shares[each.value] += weight
        total = total_of(shares.values())
    else:
        if any(each.value is None for each in found):
            return Prediction()
        total = total_of(weights)
        for weight, each in zip(weights, found, strict=True):
            for name, share in each.probabilities.items():
                shares[name] += weight * share
    if not total:
        return Prediction()
    return most_likely({name: each / total for name, each in shares.items()})


__all__ = ["InvalidRow", "Prediction", "holds", "predicted"]
