"""RegressionModel and GeneralRegressionModel of one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from ringpull.inference.importers.pmml.evaluator.fields import Row, same
from ringpull.inference.importers.pmml.evaluator.prediction import (
    Prediction,
    exp,
    most_likely,
    powered,
    shared,
    total_of,
)
from ringpull.inference.importers.pmml.fields import canonical
from ringpull.inference.importers.pmml.kinds.general_regression import Beta, Cell, GeneralRegression
from ringpull.inference.importers.pmml.kinds.regression import NumericTerm, Regression, RegressionTable


def _mean(link: str, predictor: float, power: float = 1.0) -> float:
    """Return the mean of a linear predictor."""
    return float(_inverse(link, np.float64(predictor), power))


def _inverse(link: str, x: np.float64, power: float) -> Any:
    match link:
        case "none" | "identity":
            return x
        case "exp" | "log":
            return exp(x)
        case "logc":
            return 1 - exp(x)
        case "softmax" | "logit":
            return 1 / (1 + exp(-x))
        case "probit":
            return NormalDist().cdf(float(x))
        case "cloglog":
            return 1 - exp(-exp(x))
        case "loglog":
            return exp(-exp(-x))
        case "cauchit":
            return 0.5 + math.atan(x) / math.pi
        case "negbin":
            return 1 / (power * (np.exp(-x) - 1))
        case "oddspower":
            return 1 / (1 + (1 + power * x) ** (-1 / power)) if power else 1 / (1 + exp(-x))
        case _:
            return x ** (1 / power) if power else exp(x)


def regression(body: Regression, row: Row, of_classes: bool) -> Prediction:
    sums = [_sum(each, row) for each in body.tables]
    if None in sums:
        return Prediction()
    found = [each for each in sums if each is not None]
    if not of_classes:
        return Prediction(_mean(body.method, found[0]))
    if body.method == "softmax":
        powers = [exp(each - max(found)) for each in found]
        shares = shared(powers)
    elif body.method == "simplemax":
        shares = shared(found)
    elif len(found) == 2 or body.method == "none":
        shares = [_mean(body.method, each) for each in found[:-1]]
        shares.append(1 - total_of(shares))
    else:
        means = [_mean(body.method, each) for each in found]
        shares = shared(means)
    return most_likely(dict(zip(body.classes, shares, strict=True)))


def _sum(table: RegressionTable, row: Row) -> float | None:
    total = table.intercept
    plain, by_field = _terms(table, row)
    for term in plain:
        number = row.number(term.field)
        if number is None:
            return None
        total += term.coefficient * powered(number, term.exponent)
    for name, own in by_field.items():
        value = row.get(name)
        if value is None and own.missing is None:
            return None
        total += own.of(value)
    for product in table.products:
        numbers = [row.number(name) for name in product.fields]
        if None in numbers:
            return None
        total += product.coefficient * math.prod(each for each in numbers if each is not None)
    return total


@dataclass(slots=True)
class _ByValue:
    """Coefficients by the values of one field."""

    coefficients: dict[str, float] = field(default_factory=dict)
    missing: float | None = 0.0
    """What a missing value adds; None: there is no sum then."""

    def add(self, text: str, coefficient: float) -> None:
        self.coefficients[text] = self.coefficients.get(text, 0.0) + coefficient

    def of(self, value: Any) -> float:
        if value is None:
            return self.missing or 0.0
        if isinstance(value, str):
            return self.coefficients.get(value, 0.0)
        return total_of(each for text, each in self.coefficients.items() if same(value, text))


def _terms(table: RegressionTable, row: Row) -> tuple[list[NumericTerm], dict[str, _ByValue]]:
    """Return the terms of numbers, and coefficients of values by field: those of one-hot numbers are of the values."""
    if id(table) not in row.memory:
        plain: list[NumericTerm] = []
        found: dict[str, _ByValue] = {}
        for each in table.categories:
            text = canonical(row.type_of(each.field), each.value)
            found.setdefault(each.field, _ByValue()).add(text, row.coefficient(each.field, each.coefficient))
        for term in table.numbers:
            norm = row.one_hot(term.field) if term.exponent == 1 else None
            if norm is None:
                plain.append(term)
                continue
            own = found.setdefault(norm.field, _ByValue())
            own.add(canonical(row.type_of(norm.field), norm.value), row.coefficient(norm.field, term.coefficient))
            if norm.if_missing is None or own.missing is None:
                own.missing = None
            else:
                own.missing += term.coefficient * float(norm.if_missing)
        row.memory[id(table)] = plain, found
    known: tuple[list[NumericTerm], dict[str, _ByValue]] = row.memory[id(table)]
    return known


def general_regression(body: GeneralRegression, row: Row) -> Prediction:
    offset = body.offset
    if body.offset_field is not None:
        extra = row.number(body.offset_field)
        offset = math.nan if extra is None else offset + extra
    columns = _touched(body, row)
    if math.isnan(offset) or columns is None:
        return Prediction()
    touched = [each for name in columns for each in _betas_of(body, row).get(name, ())]

    def linear(target: str | None) -> float:
        own = [each for each in touched if each.target is None or target is None or each.target == target]
        return offset + total_of(_beta(body, each, row) * columns[each.parameter] for each in own)

    if not body.classes:
        return Prediction(_mean(body.link, linear(None), body.power) * body.trials)
    if body.kind == "generalizedLinear":
        reference = body.classes[0] if body.reference is None else body.reference
        asked = next(each for each in body.classes if each != reference)
        share = _mean(body.link, linear(asked), body.power)
        return most_likely({each: share if each == asked else 1 - share for each in body.classes})
    if body.kind == "multinomialLogistic":
        sums = {each: 0.0 if each == body.reference else linear(each) for each in body.classes}
        powers = {name: exp(each - max(sums.values())) for name, each in sums.items()}
        return most_likely(dict(zip(powers, shared([*powers.values()]), strict=True)))
    below = [0.0, *(_mean(body.link, linear(each)) for each in body.classes[:-1]), 1.0]
    return most_likely({name: below[place + 1] - below[place] for place, name in enumerate(body.classes)})


def _touched(body: GeneralRegression, row: Row) -> dict[str, float] | None:
    """Return the parameters that may be other than 0, and what they are of a row; None: a value they need is missing.

    Those that are 1 where a field has one text, and else 0, are looked up by it, as there may be tens of thousands.
    """
    used = _betas_of(body, row)
    plain, by_text = _parameters(body, row)
    found = {name: _design(body.cells[name], row) for name in plain}
    for field_name, names in by_text.items():
        value = row.get(field_name)
        if isinstance(value, str):
            found |= dict.fromkeys(names.get(value, ()), 1.0)
        else:
            found |= {name: _design(body.cells[name], row) for each in names.values() for name in each}
    if any(each is None and name in used for name, each in found.items()):
        return None
    return {name: each for name, each in found.items() if each is not None}


def _parameters(body: GeneralRegression, row: Row) -> tuple[list[str], dict[str, dict[str, list[str]]]]:
    """Return parameters of any kind, and by field and text those that are 1 for one text of a field."""
    key = id(body), "parameters"
    if key not in row.memory:
        plain: list[str] = []
        by_text: dict[str, dict[str, list[str]]] = {}
        for name, cells in body.cells.items():
            asked = _asked(cells[0], row) if len(cells) == 1 else None
            if asked is None:
                plain.append(name)
            else:
                by_text.setdefault(asked[0], {}).setdefault(canonical(row.type_of(asked[0]), asked[1]), []).append(name)
        row.memory[key] = plain, by_text
    known: tuple[list[str], dict[str, dict[str, list[str]]]] = row.memory[key]
    return known


def _asked(cell: Cell, row: Row) -> tuple[str, str] | None:
    """Return the field and the text of it that a cell is 1 for; None: it is another number."""
    if cell.value is not None:
        return cell.field, cell.value
    norm = row.one_hot(cell.field) if cell.exponent == 1 else None
    return None if norm is None or norm.if_missing is not None else (norm.field, norm.value)


def _betas_of(body: GeneralRegression, row: Row) -> dict[str, list[Beta]]:
    """Return coefficients by their parameter."""
    key = id(body), "betas"
    if key not in row.memory:
        found: dict[str, list[Beta]] = {}
        for each in body.betas:
            found.setdefault(each.parameter, []).append(each)
        row.memory[key] = found
    known: dict[str, list[Beta]] = row.memory[key]
    return known


def _beta(body: GeneralRegression, beta: Beta, row: Row) -> float:
    cells = body.cells[beta.parameter]
    return row.coefficient(cells[0].field, beta.beta) if len(cells) == 1 and cells[0].value is not None else beta.beta


def _design(cells: Sequence[Cell], row: Row) -> float | None:
    product = 1.0
    for cell in cells:
        if (asked := _asked(cell, row)) is not None:
            value = row.get(asked[0])
            if value is None:
                return None
            product *= same(value, asked[1], row.type_of(asked[0]))
        else:
            number = row.number(cell.field)
            if number is None:
                return None
            product *= powered(number, cell.exponent)
    return product
