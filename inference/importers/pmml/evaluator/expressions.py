"""Expressions of one row, with the infinities and NaN of IEEE's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from ringpull.inference.importers.pmml.evaluator.values import Given, Single, as_number, beside, lies_within
from ringpull.inference.importers.pmml.expressions import (
    Apply,
    Constant,
    Discretize,
    Expression,
    FieldRef,
    MapValues,
    NormContinuous,
    NormDiscrete,
)

_PLAIN: Final[dict[str, Callable[..., Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "pow": np.power,
    "modulo": lambda a, b: a - b * np.floor(a / b),
    "threshold": np.greater,
    "hypot": np.hypot,
    "log10": np.log10,
    "ln": np.log,
    "ln1p": np.log1p,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": lambda a: np.floor(a + 0.5),
    "rint": np.rint,
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "lessThan": np.less,
    "lessOrEqual": np.less_equal,
    "greaterThan": np.greater,
    "greaterOrEqual": np.greater_equal,
    "not": lambda a: 1.0 - a,
}
_OF_THOSE_THERE: Final[dict[str, Callable[[Sequence[float]], Any]]] = {
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "avg": np.mean,
    "product": np.prod,
}

_COMPARING: Final = (
    *("threshold", "lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual"),
    *("equal", "notEqual", "isIn", "isNotIn"),
)
"""Functions that compare: a constant beside a float32 is rounded to one."""

_TEXTS: Final[dict[str, Callable[[str], str]]] = {
    "uppercase": str.upper,
    "lowercase": str.lower,
    "trimBlanks": str.strip,
}


class Fields(Protocol):
    """Fields that an expression may name."""

    def get(self, name: str) -> Given: ...
    def single(self, name: str) -> bool: ...


def evaluated(expression: Expression, fields: Fields) -> Any:
    """Return the value of an expression: a number, a text, or None."""
    match expression:
        case Constant(value):
            return value
        case FieldRef(field, if_missing):
            value = fields.get(field)
            number = _read(if_missing, value is None and if_missing is not None, value)
            return Single.of(number) if isinstance(number, float) and fields.single(field) else number
        case NormContinuous():
            return norm_continuous(expression, as_number(fields.get(expression.field)))
        case NormDiscrete(field, text, if_missing):
            value = fields.get(field)
            if value is None:
                return None if if_missing is None else float(if_missing)
            return float(_equal(value, text))
        case Discretize():
            number = as_number(fields.get(expression.field))
            if number is None:
                return _typed(expression.if_missing, expression.numeric)
            for interval, text in expression.bins:
                if lies_within(interval, number):
                    return _typed(text, expression.numeric)
            return _typed(expression.default, expression.numeric)
        case MapValues():
            given = [fields.get(each) for each in expression.fields]
            if None in given:
                return _typed(expression.if_missing, expression.numeric)
            for cells, text in expression.rows:
                if all(_equal(value, cell) for value, cell in zip(given, cells, strict=True)):
                    return _typed(text, expression.numeric)
            return _typed(expression.default, expression.numeric)
        case Apply():
            return _apply(expression, fields)


def norm_continuous(norm: NormContinuous, number: float | None) -> float | None:
    """Return a number on the lines between points."""
    if number is None:
        return None if norm.if_missing is None else float(norm.if_missing)
    points = norm.points
    origins = [beside(number, each) for each, _ in points]
    if norm.outliers != "asIs" and not origins[0] <= number <= origins[-1]:
        if norm.outliers == "asMissingValues":
            return None
        return points[0][1] if number < origins[0] else points[-1][1]
    place = 0
    while place < len(points) - 2 and number >= origins[place + 1]:
        place += 1
    (x0, y0), (x1, y1) = points[place], points[place + 1]
    return y0 + (number - x0) / (x1 - x0) * (y1 - y0)


def denormalised(norm: NormContinuous, number: float) -> float:
    """Return the number that another one was made of by lines between points."""
    points = sorted(norm.points, key=lambda point: point[1])
    place = 0
    while place < len(points) - 2 and number >= points[place + 1][1]:
        place += 1
    (x0, y0), (x1, y1) = points[place], points[place + 1]
    return x0 + (number - y0) / (y1 - y0) * (x1 - x0)


def _equal(value: Any, text: str) -> bool:
    return _alike(value, _rounded(text) if isinstance(value, Single) else text)


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, str) and isinstance(other, str) and value == other:
        return True
    number = as_number(value)
    return number is not None and number == as_number(other)


def _rounded(value: Given) -> Given:
    number = as_number(value)
    return value if number is None else Single.of(number)


def _typed(text: str | None, numeric: bool) -> Any:
    return text if text is None or not numeric else as_number(text)


def _read(text: str | None, instead: bool, value: Any) -> Any:
    if not instead:
        return value
    number = as_number(text)
    return text if number is None else number


def _apply(expression: Apply, fields: Fields) -> Any:
    function = expression.function
    if function == "if":
        asked = as_number(evaluated(expression.arguments[0], fields))
        if asked is None:
            return _read(expression.if_missing, expression.if_missing is not None, None)
        if asked:
            return evaluated(expression.arguments[1], fields)
        return evaluated(expression.arguments[2], fields) if expression.arguments[2:] else None
    given = [evaluated(each, fields) for each in expression.arguments]
    if function in ("isMissing", "isNotMissing"):
        return float((given[0] is None) == (function == "isMissing"))
    if function in ("and", "or"):
        decisive = float(function == "or")
        truths = [as_number(each) for each in given]
        return decisive if decisive in truths else None if None in truths else 1.0 - decisive
    if function in _OF_THOSE_THERE:
        there = [number for each in given if (number := as_number(each)) is not None]
        found = float(_OF_THOSE_THERE[function](there)) if there else None
        return as_number(expression.default) if found is None else found
    if None in given:
        return as_number(expression.if_missing)
    if any(isinstance(each, Single) for each in given) and function in _COMPARING:
        constants = [isinstance(each, Constant) for each in expression.arguments]
        given = [_rounded(each) if constant else each for each, constant in zip(given, constants, strict=True)]
    if function in ("equal", "notEqual", "isIn", "isNotIn"):
        held = any(_alike(given[0], each) for each in given[1:])
        return float(held == (function in ("equal", "isIn")))
    if function in ("uppercase", "lowercase", "trimBlanks"):
        return _TEXTS[function](given[0])
    numbers = [as_number(each) for each in given]
    if None in numbers:
        return None
    found = float(_PLAIN[function](*[np.float64(each or 0.0) for each in numbers]))
    return as_number(expression.default) if math.isnan(found) else found
