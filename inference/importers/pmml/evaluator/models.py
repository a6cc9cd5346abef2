"""Models of one row, of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, median
from typing import Any, Final

import numpy as np

from ringpull.inference.importers.pmml.evaluator.expressions import denormalised, evaluated
from ringpull.inference.importers.pmml.evaluator.fields import InvalidRow, Row, same
from ringpull.inference.importers.pmml.evaluator.values import as_number, beside
from ringpull.inference.importers.pmml.fields import canonical
from ringpull.inference.importers.pmml.kinds.clustering import Clustering
from ringpull.inference.importers.pmml.kinds.general_regression import Beta, Cell, GeneralRegression
from ringpull.inference.importers.pmml.kinds.model import Mining, Model, Target, classes_of
from ringpull.inference.importers.pmml.kinds.neural_network import NeuralNetwork
from ringpull.inference.importers.pmml.kinds.regression import Regression, RegressionTable
from ringpull.inference.importers.pmml.kinds.tree import Tree, TreeNode
from ringpull.inference.importers.pmml.predicates import Always, Among, Compared, Predicate

_SAME: Final = 1e-9
"""Part of a number by which others may be below it and are as large: the first of them is taken."""


@dataclass(slots=True)
class Prediction:
    """What a model predicts of a row; None where it predicts nothing."""

    value: Any = None
    """A number, a class, or the place of a cluster."""
    probabilities: dict[str, float] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)


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
            return _regression(body, row, model.function == "classification")
        case GeneralRegression():
            return _general(body, row)
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
            return _most_likely(target.priors)
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


def _most_likely(probabilities: Mapping[str, float]) -> Prediction:
    if any(math.isnan(each) for each in probabilities.values()):
        return Prediction()
    top = max(probabilities.values())
    first = next(name for name, each in probabilities.items() if each >= top - _SAME * abs(top))
    return Prediction(first, dict(probabilities))


def _exp(x: float) -> float:
    return float(np.exp(x))


def _total(numbers: Iterable[float]) -> float:
    return float(np.sum(np.array([*numbers], np.float64)))


def _shared(numbers: Sequence[float]) -> list[float]:
    """Return numbers divided by their sum."""
    shares: list[float] = (np.array(numbers, np.float64) / _total(numbers)).tolist()
    return shares


def _powered(x: float, power: float) -> float:
    return float(np.power(np.float64(x), power))


def _mean(link: str, predictor: float, power: float = 1.0) -> float:
    """Return the mean of a linear predictor."""
    return float(_inverse(link, np.float64(predictor), power))


def _inverse(link: str, x: np.float64, power: float) -> Any:
    match link:
        case "none" | "identity":
            return x
        case "exp" | "log":
            return _exp(x)
        case "logc":
            return 1 - _exp(x)
        case "softmax" | "logit":
            return 1 / (1 + _exp(-x))
        case "probit":
            return NormalDist().cdf(float(x))
        case "cloglog":
            return 1 - _exp(-_exp(x))
        case "loglog":
            return _exp(-_exp(-x))
        case "cauchit":
            return 0.5 + math.atan(x) / math.pi
        case "negbin":
            return 1 / (power * (np.exp(-x) - 1))
        case "oddspower":
            return 1 / (1 + (1 + power * x) ** (-1 / power)) if power else 1 / (1 + _exp(-x))
        case _:
            return x ** (1 / power) if power else _exp(x)


def _regression(body: Regression, row: Row, of_classes: bool) -> Prediction:
    sums = [_sum(each, row) for each in body.tables]
    if None in sums:
        return Prediction()
    found = [each for each in sums if each is not None]
    if not of_classes:
        return Prediction(_mean(body.method, found[0]))
    if body.method == "softmax":
        powers = [_exp(each - max(found)) for each in found]
        shares = _shared(powers)
    elif body.method == "simplemax":
        shares = _shared(found)
    elif len(found) == 2 or body.method == "none":
        shares = [_mean(body.method, each) for each in found[:-1]]
        shares.append(1 - _total(shares))
    else:
        means = [_mean(body.method, each) for each in found]
        shares = _shared(means)
    return _most_likely(dict(zip(body.classes, shares, strict=True)))


def _sum(table: RegressionTable, row: Row) -> float | None:
    total = table.intercept
    for term in table.numbers:
        number = row.number(term.field)
        if number is None:
            return None
        total += term.coefficient * _powered(number, term.exponent)
    for name, own in _by_field(table, row).items():
        value = row.get(name)
        if isinstance(value, str):
            total += own.get(value, 0.0)
        elif value is not None:
            total += _total(each for text, each in own.items() if same(value, text))
    for product in table.products:
        numbers = [row.number(name) for name in product.fields]
        if None in numbers:
            return None
        total += product.coefficient * math.prod(each for each in numbers if each is not None)
    return total


def _by_field(table: RegressionTable, row: Row) -> dict[str, dict[str, float]]:
    """Return the coefficients of values, by field and value."""
    if id(table) not in row.memory:
        found: dict[str, dict[str, float]] = {}
        for each in table.categories:
            own = found.setdefault(each.field, {})
            text = canonical(row.type_of(each.field), each.value)
            own[text] = own.get(text, 0.0) + row.coefficient(each.field, each.coefficient)
        row.memory[id(table)] = found
    known: dict[str, dict[str, float]] = row.memory[id(table)]
    return known


def _general(body: GeneralRegression, row: Row) -> Prediction:
    columns = {name: _design(cells, row) for name, cells in body.cells.items()}
    used = {each.parameter for each in body.betas}
    offset = body.offset
    if body.offset_field is not None:
        extra = row.number(body.offset_field)
        offset = math.nan if extra is None else offset + extra
    if math.isnan(offset) or any(columns[each] is None for each in used):
        return Prediction()

    def linear(target: str | None) -> float:
        own = [each for each in body.betas if each.target is None or target is None or each.target == target]
        return offset + _total(_beta(body, each, row) * (columns[each.parameter] or 0.0) for each in own)

    if not body.classes:
        return Prediction(_mean(body.link, linear(None), body.power) * body.trials)
    if body.kind == "generalizedLinear":
        reference = body.classes[0] if body.reference is None else body.reference
        asked = next(each for each in body.classes if each != reference)
        share = _mean(body.link, linear(asked), body.power)
        return _most_likely({each: share if each == asked else 1 - share for each in body.classes})
    if body.kind == "multinomialLogistic":
        sums = {each: 0.0 if each == body.reference else linear(each) for each in body.classes}
        powers = {name: _exp(each - max(sums.values())) for name, each in sums.items()}
        return _most_likely(dict(zip(powers, _shared([*powers.values()]), strict=True)))
    below = [0.0, *(_mean(body.link, linear(each)) for each in body.classes[:-1]), 1.0]
    return _most_likely({name: below[place + 1] - below[place] for place, name in enumerate(body.classes)})


def _beta(body: GeneralRegression, beta: Beta, row: Row) -> float:
    cells = body.cells[beta.parameter]
    return row.coefficient(cells[0].field, beta.beta) if len(cells) == 1 and cells[0].value is not None else beta.beta


def _design(cells: Sequence[Cell], row: Row) -> float | None:
    product = 1.0
    for cell in cells:
        if cell.value is not None:
            value = row.get(cell.field)
            if value is None:
                return None
            product *= same(value, cell.value, row.type_of(cell.field))
        else:
            number = row.number(cell.field)
            if number is None:
                return None
            product *= _powered(number, cell.exponent)
    return product


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
            total = bias + _total(weight * signals[name] for name, weight in weights.items())
            made.append(_activated(layer.activation, total, layer.threshold))
        if layer.normalization == "softmax":
            made = [_exp(each - max(made)) for each in made]
        if layer.normalization != "none":
            made = _shared(made)
        signals.update(zip(layer.names, made, strict=True))
    if body.predicted is None:
        return _most_likely({name: signals[neuron] for neuron, name in body.outputs})
    neuron, norm = body.predicted
    return Prediction(signals[neuron] if norm is None else denormalised(norm, signals[neuron]))


def _activated(activation: str, x: float, threshold: float) -> float:
    match activation:
        case "identity":
            return x
        case "logistic":
            return 1 / (1 + _exp(-x))
        case "tanh":
            return float(np.tanh(x))
        case "rectifier":
            return max(0.0, x)
        case "threshold":
            return float(x > threshold)
        case "exponential":
            return _exp(x)
        case "reciprocal":
            return float(1 / np.float64(x))
        case "square":
            return x * x
        case "Gauss":
            return _exp(-x * x)
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
    every = _total(each.missing_weight for each in body.fields)
    there = _total(each.missing_weight for each, value in zip(body.fields, given, strict=True) if value is not None)
    power = {"squaredEuclidean": 2.0, "euclidean": 2.0, "minkowski": body.power}.get(body.measure, 1.0)
    distances = []
    for center in body.centers:
        parts = []
        for each, value, other in zip(body.fields, given, center, strict=True):
            if value is None:
                continue
            apart = abs(value - other)
            if each.comparison == "gaussSim":
                apart = _exp(-math.log(2) * apart**2 / np.float64(each.scale) ** 2)
            elif each.comparison in ("delta", "equal"):
                apart = float((value == other) == (each.comparison == "equal"))
            parts.append(each.weight * _powered(apart, power))
        total = (max(parts) if body.measure == "chebychev" else _total(parts)) * np.float64(every) / there
        distances.append(_powered(total, 1 / power) if body.measure in ("euclidean", "minkowski") else float(total))
    nearest = min(distances)
    if math.isnan(_total(distances)):
        return Prediction(distances=distances)
    first = next(place for place, each in enumerate(distances) if each <= nearest + _SAME * nearest)
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
    total = _total(weight * value for weight, value in zip(weights, values, strict=True))
    match body.method:
        case "average" | "weightedAverage":
            return Prediction(float(np.float64(total) / _total(weights)))
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
        total = _total(shares.values())
    else:
        if any(each.value is None for each in found):
            return Prediction()
        total = _total(weights)
        for weight, each in zip(weights, found, strict=True):
            for name, share in each.probabilities.items():
                shares[name] += weight * share
    if not total:
        return Prediction()
    return _most_likely({name: each / total for name, each in shares.items()})


__all__ = ["InvalidRow", "Prediction", "holds", "predicted"]
