"""Expressions as nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from onnx import TensorProto

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
from ringpull.inference.importers.pmml.fields import Interval, as_single, canonical
from ringpull.inference.importers.pmml.nodes.functions import COMPARING, SKIPPING, applied
from ringpull.inference.importers.pmml.nodes.graph import Category, Graph, Number, Truth, Value, constant_number
from ringpull.inference.importers.pmml.nodes.searching import column_at, count_below, picked
from ringpull.ps.errors import InvalidInput

_MAX_CELLS: Final = 1 << 22
"""Combinations of values that a table of several fields may have."""
_TEXTS: Final[dict[str, Callable[[str], str]]] = {
    "uppercase": str.upper,
    "lowercase": str.lower,
    "trimBlanks": str.strip,
}


class Fields(Protocol):
    """Fields that an expression may name."""

    graph: Graph

    def value(self, name: str, line: int) -> Value: ...
    def number(self, name: str, line: int) -> Number: ...
    def constant(self, expression: Expression) -> Constant | None: ...


class _Arguments:
    """Parameters of a function of the document, as fields."""

    def __init__(self, fields: Fields, call: Call, given: Sequence[Value]) -> None:
        self.graph = fields.graph
        self._values: dict[str, Value] = {}
        self._constants: dict[str, Constant | None] = {}
        for (name, declared), value, argument in zip(call.function.parameters, given, call.arguments, strict=True):
            if isinstance(value, Number) and value.constant:
                value = Number(self.graph.full(value), single=value.single)
            what = f"parameter {name!r} of {call.function.name!r}"
            self._values[name] = as_declared(self.graph, value, declared, what, call.line)
            self._constants[name] = fields.constant(argument)

    def value(self, name: str, _line: int) -> Value:
        return self._values[name]

    def number(self, name: str, _line: int) -> Number:
        return self.graph.number(self._values[name])

    def constant(self, expression: Expression) -> Constant | None:
        if isinstance(expression, FieldRef):
            return self._constants[expression.field]
        return expression if isinstance(expression, Constant) else None


def build_expression(fields: Fields, expression: Expression) -> Value:
    """Return the value of an expression, however many others it is made of.

    Raises:
        InvalidInput: A field is not there, or is of another kind.
    """
    made: dict[int, Value] = {}
    for each in parts_of(expression):
        given = [made[id(inner)] for inner in each.arguments] if isinstance(each, Apply | Call) else []
        made[id(each)] = _built(fields, each, given)
    return made[id(expression)]


def as_declared(graph: Graph, value: Value, declared: Declared, what: str, line: int) -> Value:
    """Return a value as what it is declared to be.

    Raises:
        InvalidInput: It is a number, and to be a text.
    """
    if declared.numeric and isinstance(value, Category):
        value = graph.number(value)
    if declared.single and isinstance(value, Number) and not value.single:
        value = Number(graph.cast(graph.cast(value.name, TensorProto.FLOAT)), value.constant, single=True)
    if declared.numeric is False and isinstance(value, Number):
        raise InvalidInput(f"line {line}: {what} is text made of a number, which is not known")
    return value


def _built(fields: Fields, expression: Expression, given: Sequence[Value]) -> Value:
    """Return the value of an expression, given those that it is made of."""
    graph = fields.graph
    match expression:
        case Constant(value, text):
            if isinstance(value, str):
                return _text_constant(graph, text)
            return graph.constant(np.nan if value is None else value)
        case FieldRef(field, if_missing, line):
            own = fields.value(field, line)
            return own if if_missing is None else _filled(graph, own, if_missing, line)
        case NormContinuous():
            return _norm_continuous(graph, fields.number(expression.field, expression.line), expression)
        case NormDiscrete():
            own = fields.value(expression.field, expression.line)
            made = graph.where(
                graph.missing(own), graph.tensor([[np.nan]]), graph.cast(graph.equal(own, expression.value).true)
            )
            number = Number(made)
            if expression.if_missing is None:
                return number
            return _filled(graph, number, expression.if_missing, expression.line)
        case Discretize():
            return _discretize(graph, fields.number(expression.field, expression.line), expression)
        case MapValues():
            return _map_values(graph, [fields.value(each, expression.line) for each in expression.fields], expression)
        case Apply():
            return _apply(fields, expression, given)
        case Call():
            return _call(fields, expression, given)


def _call(fields: Fields, call: Call, given: Sequence[Value]) -> Value:
    """Return what a function of the document makes of values."""
    graph, function = fields.graph, call.function
    made = build_expression(_Arguments(fields, call, given), function.expression)
    made = as_declared(graph, made, function.declared, f"<DefineFunction> {function.name!r}", function.line)
    lost = graph.either([graph.missing(each) for each in given]) if given else None
    if call.default is not None:
        empty = graph.missing(made)
        empty = empty if lost is None else graph.both([empty, graph.node("Not", [lost])])
        made = _instead(graph, made, empty, call.default, call.line)
    if call.if_missing is not None and lost is not None:
        made = _instead(graph, made, lost, call.if_missing, call.line)
    return made


def _text_constant(graph: Graph, text: str) -> Category:
    return Category.of(graph.node("Expand", [graph.tensor([1], np.int64), graph.rows]), [text])


def _filled(graph: Graph, value: Value, text: str, line: int) -> Value:
    """Return a value with another in the place of what is missing."""
    return _instead(graph, value, graph.missing(value), text, line)


def _instead(graph: Graph, value: Value, where: str, text: str, line: int) -> Value:
    """Return a value with another where a tensor (B, 1) is true."""
    if isinstance(value, Number):
        return replace(value, name=graph.where(where, graph.beside(value, as_number(text, line)), value.name))
    widened = _widened(graph, value, [text])
    flat = graph.node("Squeeze", [where, graph.tensor([1], np.int64)])
    code = graph.tensor([widened.code(text)], np.int64)
    return Category(graph.where(flat, code, widened.name), widened.values, widened.data_type, widened.codes)


def as_number(text: str, line: int) -> float:
    """Return a text as a number.

    Raises:
        InvalidInput: It is none.
    """
    found = constant_number(text)
    if np.isnan(found):
        raise InvalidInput(f"line {line}: {text[:80]!r} is no number")
    return found


def _widened(graph: Graph, category: Category, values: Sequence[str]) -> Category:
    """Return a category that has these values, too."""
    more = [canonical(category.data_type, each) for each in values]
    every = tuple(dict.fromkeys([*category.values, *more]))
    if every == category.values:
        return category
    made = Category.of("", every, category.data_type)
    old, new = graph.tensor([category.missing], np.int64), graph.tensor([made.missing], np.int64)
    name = graph.where(graph.node("Equal", [category.name, old]), new, category.name)
    return Category(name, made.values, made.data_type, made.codes)


def _norm_continuous(graph: Graph, number: Number, norm: NormContinuous) -> Number:
    x, points = number.name, norm.points
    inner = np.array([_compared(number, origin) for origin, _ in points[1:-1]])
    place = count_below(graph, x, np.maximum.accumulate(inner))
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points)]
    from_start = graph.node("Sub", [x, column_at(graph, [each for each, _ in points[:-1]], place)])
    made = graph.node("Mul", [from_start, column_at(graph, slopes, place)])
    made = graph.node("Add", [made, column_at(graph, [each for _, each in points[:-1]], place)])
    if norm.outliers != "asIs":
        ends = [np.nan, np.nan] if norm.outliers == "asMissingValues" else [points[0][1], points[-1][1]]
        low, high = graph.beside(number, points[0][0]), graph.beside(number, points[-1][0])
        made = graph.where(graph.node("Less", [x, low]), graph.tensor([[ends[0]]]), made)
        made = graph.where(graph.node("Greater", [x, high]), graph.tensor([[ends[1]]]), made)
    if norm.if_missing is not None:
        lost = graph.node("IsNaN", [x])
        made = graph.where(lost, graph.tensor([[as_number(norm.if_missing, norm.line)]]), made)
    return Number(made)


def _compared(number: Number, value: float) -> float:
    """Return what a number is compared with in the place of a value."""
    return as_single(value) if number.single else value


def _discretize(graph: Graph, number: Number, expression: Discretize) -> Value:
    """Return the first bin's value: a table has one for each margin, and for what lies between margins."""
    texts = [each for _, each in expression.bins]
    texts += [each for each in (expression.default, expression.if_missing) if each is not None]
    made = Category.of("", tuple(dict.fromkeys(texts)))
    bins = [(each.single() if number.single else each, text) for each, text in expression.bins]
    margins = np.unique([each for bin_, _ in bins for each in (bin_.low, bin_.high) if each is not None])
    codes = np.full(
        2 * len(margins) + 1, made.missing if expression.default is None else made.codes[expression.default]
    )
    for bin_, text in reversed(bins):
        low = 0 if bin_.low is None else 2 * int(np.searchsorted(margins, bin_.low)) + 2 - bin_.low_closed
        high = len(codes) if bin_.high is None else 2 * int(np.searchsorted(margins, bin_.high)) + 1 + bin_.high_closed
        codes[low:high] = made.codes[text]
    below = count_below(graph, number.name, margins, or_equal=False)
    found = picked(
        graph, graph.tensor(codes, np.int64), graph.node("Add", [below, count_below(graph, number.name, margins)])
    )
    lost = made.missing if expression.if_missing is None else made.codes[expression.if_missing]
    empty = graph.node("Squeeze", [graph.missing(number), graph.tensor([1], np.int64)])
    ids = graph.where(empty, graph.tensor([lost], np.int64), found)
    return _typed(graph, Category(ids, made.values, made.data_type, made.codes), expression.numeric)


def between(graph: Graph, number: Number, interval: Interval) -> str:
    """Return where a number lies within margins, bool (B, 1)."""
    held = [graph.node("Not", [graph.missing(number)])]
    for margin, closed, strict in (
        (interval.low, interval.low_closed, "Greater"),
        (interval.high, interval.high_closed, "Less"),
    ):
        if margin is not None:
            kind = f"{strict}OrEqual" if closed else strict
            held.append(graph.node(kind, [number.name, graph.beside(number, margin)]))
    return graph.both(held)


def _typed(graph: Graph, category: Category, numeric: bool) -> Value:
    return graph.number(category) if numeric else category


def _map_values(graph: Graph, given: Sequence[Value], expression: MapValues) -> Value:
    """Return the value by a table: fields become numbers of their cells, which together are the place in it."""
    columns = []
    for place, value in enumerate(given):
        cells = tuple(dict.fromkeys(cells[place] for cells, _ in expression.rows))
        columns.append(value if isinstance(value, Category) else _coded(graph, value, cells))
    sizes = [each.size for each in columns]
    if np.prod(sizes, dtype=np.float64) > _MAX_CELLS:
        raise InvalidInput(f"line {expression.line}: <MapValues> of {' x '.join(map(str, sizes))} values is too large")
    texts = [each for _, each in expression.rows]
    texts += [each for each in (expression.default, expression.if_missing) if each is not None]
    made = Category.of("", tuple(dict.fromkeys(texts)))
    table = np.full(sizes, made.missing if expression.default is None else made.codes[expression.default], np.int64)
    for cells, text in reversed(expression.rows):
        codes = [column.code(cell) for column, cell in zip(columns, cells, strict=True)]
        if None not in codes:
            table[tuple(codes)] = made.codes[text]
    lost = made.missing if expression.if_missing is None else made.codes[expression.if_missing]
    for axis, column in enumerate(columns):
        table[tuple([slice(None)] * axis + [column.missing])] = lost
    places = columns[0].name
    for column in columns[1:]:
        raised = graph.node("Mul", [places, graph.tensor(column.size, np.int64)])
        places = graph.node("Add", [raised, column.name])
    ids = graph.node("GatherElements", [graph.tensor(table.reshape(-1), np.int64), places], axis=0)
    return _typed(graph, Category(ids, made.values, made.data_type, made.codes), expression.numeric)


def _coded(graph: Graph, number: Number, cells: Sequence[str]) -> Category:
    """Return a number as a category of the numbers among some texts."""
    made = Category.of("", tuple(dict.fromkeys(canonical("double", each) for each in cells)), "double")
    known: dict[float, int] = {}
    for text, code in made.codes.items():
        value = _compared(number, constant_number(text))
        if not np.isnan(value):
            known[value] = code
    numbers = np.array(sorted(known), np.float64)
    place = count_below(graph, number.name, numbers)
    same = graph.node("Equal", [number.name, column_at(graph, [np.nan, *numbers], place)])
    codes = graph.column(picked(graph, graph.tensor([0, *(known[each] for each in numbers.tolist())], np.int64), place))
    codes = graph.where(same, codes, graph.tensor([[0]], np.int64))
    codes = graph.where(graph.missing(number), graph.tensor([[made.missing]], np.int64), codes)
    ids = graph.node("Squeeze", [codes, graph.tensor([1], np.int64)])
    return Category(ids, made.values, made.data_type, made.codes)


def _apply(fields: Fields, expression: Apply, given: Sequence[Value]) -> Value:
    graph, function = fields.graph, expression.function
    if function == "if":
        return _if(graph, expression, given)
    constants = [fields.constant(each) for each in expression.arguments]
    if function in ("isMissing", "isNotMissing"):
        missing = graph.missing(given[0])
        return Number(graph.cast(missing if function == "isMissing" else graph.node("Not", [missing])))
    if function in _TEXTS:
        return _text(graph, given[0], expression)
    if function in ("and", "or", "not"):
        made: str = _logic(graph, function, [graph.number(each).name for each in given])
    elif function in ("isIn", "isNotIn") or any(isinstance(each, Category) for each in given):
        made = _same(graph, given, constants, expression)
    else:
        numbers = [graph.number(each) for each in given]
        if function in COMPARING and any(each.single for each in numbers):
            numbers = [_as_single(graph, each, own) for each, own in zip(numbers, constants, strict=True)]
        made = applied(graph, function, [each.name for each in numbers])
    lost = None if function in (*SKIPPING, "and", "or") else graph.either([graph.missing(each) for each in given])
    if expression.default is not None:
        instead = graph.tensor([[as_number(expression.default, expression.line)]])
        empty = graph.node("IsNaN", [made])
        if lost is not None:
            empty = graph.both([empty, graph.node("Not", [lost])])
        made = graph.where(empty, instead, made)
    if expression.if_missing is not None and lost is not None:
        made = graph.where(lost, graph.tensor([[as_number(expression.if_missing, expression.line)]]), made)
    return Number(made)


def _as_single(graph: Graph, number: Number, constant: Constant | None) -> Number:
    """Return a number that a float32 is compared with: a constant is rounded to one."""
    value = None if constant is None else constant.value
    return number if not isinstance(value, float) else replace(number, name=graph.tensor([[as_single(value)]]))


def _text(graph: Graph, value: Value, expression: Apply) -> Category:
    """Return a category of texts that a function made; of texts that nobody mentions it makes none that is known."""
    if isinstance(value, Number):
        raise InvalidInput(f"line {expression.line}: <Apply> {expression.function!r} of a number is not known here")
    change = _TEXTS[expression.function]
    made = Category.of("", tuple(dict.fromkeys(change(each) for each in value.values)))
    table = np.zeros((value.size,), np.int64)
    for text, code in value.codes.items():
        table[code] = made.codes[change(text)]
    table[value.missing] = made.missing
    ids = graph.node("GatherElements", [graph.tensor(table, np.int64), value.name], axis=0)
    return Category(ids, made.values, made.data_type, made.codes)


def _logic(graph: Graph, function: str, given: Sequence[str]) -> str:
    """Return and, or, not of numbers: 1, 0, or NaN where it is unknown."""
    if function == "not":
        return graph.node("Sub", [graph.tensor([[1.0]]), given[0]])
    decisive = 0.0 if function == "and" else 1.0
    decided = graph.either([graph.node("Equal", [each, graph.tensor([[decisive]])]) for each in given])
    total = reduce(lambda one, other: graph.node("Add", [one, other]), given)
    unknown = graph.node("IsNaN", [total])
    open_ = graph.where(unknown, graph.tensor([[np.nan]]), graph.tensor([[1.0 - decisive]]))
    return graph.where(decided, graph.tensor([[decisive]]), open_)


def _same(graph: Graph, given: Sequence[Value], constants: Sequence[Constant | None], expression: Apply) -> str:
    """Return whether a value is a constant, or one of some: 1, 0, or NaN where it is missing."""
    function = expression.function
    order = list(range(len(given)))
    if function in ("equal", "notEqual") and constants[0] is not None:
        order.reverse()
    among = [each for place in order[1:] if (each := constants[place]) is not None]
    if function not in ("equal", "notEqual", "isIn", "isNotIn") or len(among) < len(order) - 1:
        raise InvalidInput(
            f"line {expression.line}: <Apply> {function!r} of texts is known here for equal, notEqual, isIn and"
            " isNotIn, and of a constant"
        )
    value = given[order[0]]
    truths: list[Truth] = [graph.equal(value, each.text) for each in among]
    held = graph.cast(graph.either([each.true for each in truths]))
    if function in ("notEqual", "isNotIn"):
        held = graph.node("Sub", [graph.tensor([[1.0]]), held])
    return graph.where(graph.missing(value), graph.tensor([[np.nan]]), held)


def _if(graph: Graph, expression: Apply, given: Sequence[Value]) -> Value:
    condition, then, *rest = given
    otherwise = rest[0] if rest else graph.constant(np.nan)
    asked = graph.number(condition).name
    yes = graph.node("Equal", [asked, graph.tensor([[1.0]])])
    lost = graph.node("IsNaN", [asked])
    if isinstance(then, Category) or isinstance(otherwise, Category):
        made: Value = _either_text(graph, yes, lost, then, otherwise, expression)
    else:
        chosen = graph.where(yes, then.name, otherwise.name)
        made = Number(graph.where(lost, graph.tensor([[np.nan]]), chosen))
    if expression.if_missing is not None:
        made = _instead(graph, made, lost, expression.if_missing, expression.line)
    return made


def _either_text(graph: Graph, yes: str, lost: str, then: Value, otherwise: Value, expression: Apply) -> Category:
    parts = []
    for each in (then, otherwise):
        if isinstance(each, Number):
            if expression.arguments[2:]:
                raise InvalidInput(f"line {expression.line}: <Apply> 'if' gives a text or a number, which is not known")
            each = Category.of(graph.node("Expand", [graph.tensor([1], np.int64), graph.rows]), [])
        parts.append(each)
    first = _widened(graph, parts[0], parts[1].values)
    table = np.zeros((parts[1].size,), np.int64)
    for text, code in parts[1].codes.items():
        table[code] = first.code(text) or 0
    table[parts[1].missing] = first.missing
    second = graph.node("GatherElements", [graph.tensor(table, np.int64), parts[1].name], axis=0)
    flat = [graph.node("Squeeze", [each, graph.tensor([1], np.int64)]) for each in (yes, lost)]
    name = graph.where(flat[0], first.name, second)
    name = graph.where(flat[1], graph.tensor([first.missing], np.int64), name)
    return Category(name, first.values, first.data_type, first.codes)
