"""Expressions of one row, with the infinities and NaN of IEEE's arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from ringpull.inference.importers.pmml.evaluator.values import Given, Single, as_number, beside
from ringpull.inference.importers.pmml.expressions import (
    Apply,
    Call,
    Constant,
    Declared,
    Discretize,
    Expression,
    FieldRef,
    MapValues,
    NormContinuous,
    NormDiscrete,
    parts_of,
)
from ringpull.inference.importers.pmml.fields import Interval

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

    memory: dict[Any, Any]
    """What is computed once for all rows, by the id of what it is computed of."""

    def get(self, name: str) -> Given: ...
    def single(self, name: str) -> bool: ...
    def constant(self, expression: Expression) -> bool: ...


class _Bins:
    """Margins of a Discretize, each of which is compared with a number, all at once."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        infinite = math.inf
        self._low = np.array([-infinite if each.low is None else each.low for each in intervals])
        self._high = np.array([infinite if each.high is None else each.high for each in intervals])
        self._low_closed = np.array([each.low_closed or each.low is None for each in intervals], np.bool_)
        self._high_closed = np.array([each.high_closed or each.high is None for each in intervals], np.bool_)

    def first(self, number: float) -> int | None:
        """Return the first that a number lies in."""
        above = (self._low < number) | (self._low_closed & (self._low == number))
        below = (self._high > number) | (self._high_closed & (self._high == number))
        places = np.flatnonzero(above & below)
        return int(places[0]) if len(places) else None


def _bins_of(expression: Discretize, fields: Fields, number: float) -> _Bins:
    """Return margins as a number is compared with them, which are made once for all rows."""
    single = isinstance(number, Single)
    key = id(expression), single
    if key not in fields.memory:
        intervals = (interval for interval, _ in expression.bins)
        fields.memory[key] = _Bins([each.single() if single else each for each in intervals])
    known: _Bins = fields.memory[key]
    return known


class _Arguments:
    """Parameters of a function of the document, as fields."""

    def __init__(self, fields: Fields, call: Call, given: Sequence[Any]) -> None:
        self.memory = fields.memory
        self._values: dict[str, Any] = {}
        self._singles: set[str] = set()
        self._constants: set[str] = set()
        for (name, declared), value, argument in zip(call.function.parameters, given, call.arguments, strict=True):
            self._values[name] = as_declared(value, declared)
            if declared.single or (isinstance(argument, FieldRef) and fields.single(argument.field)):
                self._singles.add(name)
            if fields.constant(argument):
                self._constants.add(name)

    def get(self, name: str) -> Given:
        found: Given = self._values[name]
        return found

    def single(self, name: str) -> bool:
        return name in self._singles

    def constant(self, expression: Expression) -> bool:
        if isinstance(expression, FieldRef):
            return expression.field in self._constants
        return isinstance(expression, Constant)


def evaluated(expression: Expression, fields: Fields) -> Any:
    """Return the value of an expression: a number, a text, or None."""
    made: dict[int, Any] = {}
    for each in parts_of(expression):
        given = [made[id(inner)] for inner in each.arguments] if isinstance(each, Apply | Call) else []
        made[id(each)] = _value(each, fields, given)
    return made[id(expression)]


def as_declared(value: Any, declared: Declared) -> Any:
    """Return a value as what it is declared to be."""
    value = as_number(value) if declared.numeric else value
    return Single.of(value) if declared.single and isinstance(value, float) else value


def _value(expression: Expression, fields: Fields, given: Sequence[Any]) -> Any:
    """Return the value of an expression, given those that it is made of."""
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
            if (place := _bins_of(expression, fields, number).first(number)) is not None:
                return _typed(expression.bins[place][1], expression.numeric)
            return _typed(expression.default, expression.numeric)
        case MapValues():
            asked = [fields.get(each) for each in expression.fields]
            if None in asked:
                return _typed(expression.if_missing, expression.numeric)
            for cells, text in expression.rows:
                if all(_equal(value, cell) for value, cell in zip(asked, cells, strict=True)):
                    return _typed(text, expression.numeric)
            return _typed(expression.default, expression.numeric)
        case Apply():
            return _apply(expression, fields, given)
        case Call():
            return _call(expression, fields, given)


def _call(call: Call, fields: Fields, given: Sequence[Any]) -> Any:
    if call.if_missing is not None and None in given:
        return _read(call.if_missing, True, None)
    found = evaluated(call.function.expression, _Arguments(fields, call, given))
    found = as_declared(found, call.function.declared)
    if found is None and call.default is not None and None not in given:
        return _read(call.default, True, None)
    return found


def norm_continuous(norm: NormContinuous, number: float | None) -> float | None:
    """Return a number on the lines between points."""
    if number is None:
        return None if norm.if_missing is None else float(norm.if_missing)
    points = norm.points
    low, high = beside(number, points[0][0]), beside(number, points[-1][0])
    if norm.outliers != "asIs" and not low <= number <= high:
        if norm.outliers == "asMissingValues":
            return None
        return points[0][1] if number < low else points[-1][1]
    inner = range(1, len(points) - 1)
    place = bisect_right(inner, number, key=lambda each: beside(number, points[each][0]))
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


def _apply(expression: Apply, fields: Fields, given: Sequence[Any]) -> Any:
    function = expression.function
    if function == "if":
        asked, then, *rest = given
        if (truth := as_number(asked)) is None:
            return _read(expression.if_missing, expression.if_missing is not None, None)
        chosen = then if truth else rest[0] if rest else None
        return float(chosen) if isinstance(chosen, Single) else chosen
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
        constants = [fields.constant(each) for each in expression.arguments]
        given = [_rounded(each) if constant else each for each, constant in zip(given, constants, strict=True)]
    if function in ("equal", "notEqual", "isIn", "isNotIn"):
        held = any(_alike(given[0], each) for each in given[1:])
        return float(held == (function in ("equal", "isIn")))
    if function in ("uppercase", "lowercase", "trimBlanks"):
        return _TEXTS[function](given[0])
    numbers = [number for each in given if (number := as_number(each)) is not None]
    if len(numbers) < len(given):
        return None
    found = float(_PLAIN[function](*map(np.float64, numbers)))
    return as_number(expression.default) if math.isnan(found) else found
