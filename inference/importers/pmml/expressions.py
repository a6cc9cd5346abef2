"""Expressions of PMML as values: what derived fields and outputs are computed by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.fields import NUMBER_TYPES, Interval, read_interval

_OF_TEXTS: Final = ("uppercase", "lowercase", "trimBlanks")
FUNCTIONS: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(("+", "-", "*", "/", "pow", "modulo", "threshold", "hypot"), (2, 2)),
    **dict.fromkeys(("min", "max", "sum", "avg", "product"), (1, 1 << 16)),
    **dict.fromkeys(("log10", "ln", "ln1p", "sqrt", "abs", "exp", "expm1", "floor", "ceil", "round", "rint"), (1, 1)),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"), (1, 1)),
    **dict.fromkeys(("equal", "notEqual", "lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual"), (2, 2)),
    **dict.fromkeys(("and", "or"), (2, 1 << 16)),
    **dict.fromkeys(("isMissing", "isNotMissing", "not"), (1, 1)),
    **dict.fromkeys(("isIn", "isNotIn"), (2, 1 << 16)),
    "if": (2, 3),
    **dict.fromkeys(_OF_TEXTS, (1, 1)),
}
"""Functions of `Apply`, each with the least and the largest number of its arguments."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant: a number, a text, or None, missing."""

    value: float | str | None
    text: str


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field's own value."""

    field: str
    if_missing: str | None
    line: int


@dataclass(frozen=True, slots=True)
class NormContinuous:
    """A number between points, on the straight lines that join them."""

    field: str
    points: tuple[tuple[float, float], ...]
    """Numbers, ascending, and what becomes of each."""
    outliers: str
    """What numbers outside get: asIs the line's, asMissingValues none, asExtremeValues that of the nearest point."""
    if_missing: str | None
    line: int


@dataclass(frozen=True, slots=True)
class NormDiscrete:
    """1 where a field has a value, else 0."""

    field: str
    value: str
    if_missing: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Discretize:
    """A value by the interval that a number lies in."""

    field: str
    bins: tuple[tuple[Interval, str], ...]
    default: str | None
    if_missing: str | None
    numeric: bool
    line: int


@dataclass(frozen=True, slots=True)
class MapValues:
    """A value by the row of a table whose cells are those of fields."""

    fields: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], str], ...]
    default: str | None
    if_missing: str | None
    numeric: bool
    line: int


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of expressions."""

    function: str
    arguments: tuple[Expression, ...]
    if_missing: str | None
    """Value where an argument is missing."""
    default: str | None
    """Value where the result is missing, and no argument is."""
    line: int


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of a value that is computed or given."""

    numeric: bool | None
    """Whether it is a number, or true and false, or else a text; None: nothing is declared."""
    single: bool
    """Whether its numbers are float32."""


@dataclass(frozen=True, slots=True)
class DefinedFunction:
    """A function that a document defines itself."""

    name: str
    parameters: tuple[tuple[str, Declared], ...]
    expression: Expression
    """What it computes, of its parameters alone, which it names as fields."""
    declared: Declared
    depth: int
    """Functions within each other that it is made of, itself too."""
    parts: int
    """Expressions that one call of it is made of."""
    line: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the document, of expressions."""

    function: DefinedFunction
    arguments: tuple[Expression, ...]
    if_missing: str | None
    default: str | None
    line: int


Expression = Constant | FieldRef | NormContinuous | NormDiscrete | Discretize | MapValues | Apply | Call
Functions = Callable[[str], DefinedFunction | None]
"""The function that a document defines by a name, or None where it defines none such."""
EXPRESSIONS: Final = ("Constant", "FieldRef", "NormContinuous", "NormDiscrete", "Discretize", "MapValues", "Apply")


@dataclass(frozen=True, slots=True)
class DerivedField:
    """A field that is computed of others."""

    name: str
    expression: Expression
    fields: tuple[str, ...]
    """Fields that it is computed of."""
    declared: Declared
    line: int


def no_functions(_name: str) -> None:
    """Return that a document defines no function of a name."""


def parts_of(expression: Expression) -> list[Expression]:
    """Return the expressions that one is made of, itself last: each behind what it is computed of."""
    found: list[Expression] = []
    waiting = [expression]
    while waiting:
        each = waiting.pop()
        found.append(each)
        if isinstance(each, Apply | Call):
            waiting += each.arguments
    return found[::-1]


def fields_of(expression: Expression) -> dict[str, int]:
    """Return the fields that an expression names, and a line that does."""
    found: dict[str, int] = {}
    for each in parts_of(expression):
        match each:
            case FieldRef() | NormContinuous() | NormDiscrete() | Discretize():
                found[each.field] = each.line
            case MapValues():
                found |= dict.fromkeys(each.fields, each.line)
    return found


def makes_numbers(expression: Expression) -> bool:
    """Return whether whatever an expression makes is a number, be it written as a text."""
    match expression:
        case Constant():
            return _is_number(expression.text)
        case NormContinuous() | NormDiscrete():
            return True
        case Discretize():
            made = [text for _, text in expression.bins]
        case MapValues():
            made = [text for _, text in expression.rows]
        case Apply(function="if", arguments=(_, *chosen)):
            own = [] if expression.if_missing is None else [expression.if_missing]
            return all(isinstance(each, Constant) and _is_number(each.text) for each in chosen) and all(
                map(_is_number, own)
            )
        case Apply():
            return expression.function not in _OF_TEXTS
        case _:
            return False
    made += [each for each in (expression.default, expression.if_missing) if each is not None]
    return all(map(_is_number, made))


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text)) and "_" not in text
    except ValueError:
        return False


def one_hot_of(derived: DerivedField) -> NormDiscrete | None:
    """Return the expression of a field that is 1 where another has a value, else 0; None of other fields."""
    norm = derived.expression
    rounded = derived.declared.single and isinstance(norm, NormDiscrete) and norm.if_missing is not None
    return norm if isinstance(norm, NormDiscrete) and derived.declared.numeric and not rounded else None


def read_derived(parent: Element | None, functions: Functions = no_functions) -> dict[str, DerivedField]:
    """Read the derived fields of a dictionary of transformations; of None there are none.

    Raises:
        InvalidInput: It has what is not known here.
    """
    found: dict[str, DerivedField] = {}
    for element in [] if parent is None else parent.only("DerivedField", "DefineFunction"):
        if element.tag == "DefineFunction":
            continue
        inner = [each for each in element.only("Value", "Interval", *EXPRESSIONS) if each.tag in EXPRESSIONS]
        if len(inner) != 1:
            others = [each for each in element.children if each.tag not in ("Value", "Interval", "Extension")]
            raise (others or [element])[0].refusal("is not one expression that is known here")
        name, declared = element.attribute("name"), read_declared(element, "double")
        if name in found:
            raise element.refusal(f"is the second one called {name[:80]!r}")
        expression = read_expression(inner[0], element.get("dataType", "double"), functions)
        found[name] = DerivedField(name, expression, tuple(fields_of(expression)), declared, element.line)
    return found


def read_declared(element: Element, default: str = "") -> Declared:
    """Read what an element declares by its dataType.

    Raises:
        InvalidInput: The type is not known here.
    """
    data_type = element.get("dataType", default)
    if data_type not in (*NUMBER_TYPES, "string", "boolean", ""):
        raise element.refusal(f"has dataType={data_type[:80]!r}, which is not known here")
    return Declared(data_type != "string" if data_type else None, data_type == "float")


def read_expression(element: Element, data_type: str = "", functions: Functions = no_functions) -> Expression:
    """Read an expression, of a field of a type; however deep its functions lie within each other.

    Raises:
        InvalidInput: It has what is not known here.
    """
    elements = [element]
    for each in elements:  # which grows
        if each.tag == "Apply":
            elements += each.only(*EXPRESSIONS)
    made: dict[int, Expression] = {}
    for each in reversed(elements):
        if each.tag == "Apply":
            arguments = tuple([made[id(inner)] for inner in each.only(*EXPRESSIONS)])
            made[id(each)] = _apply(each, arguments, functions)
        else:
            made[id(each)] = _read_plain(each, data_type if each is element else "")
    return made[id(element)]


def _read_plain(element: Element, data_type: str) -> Expression:
    """Read an expression that is made of no others."""
    line, if_missing = element.line, element.attributes.get("mapMissingTo")
    data_type = element.get("dataType", data_type)
    numeric = data_type not in ("string", "")
    match element.tag:
        case "Constant":
            return _constant(element, element.get("dataType"))
        case "FieldRef":
            element.only()
            return FieldRef(element.attribute("field"), if_missing, line)
        case "NormContinuous":
            return _norm_continuous(element, if_missing)
        case "NormDiscrete":
            return NormDiscrete(element.attribute("field"), element.attribute("value"), if_missing, line)
        case "Discretize":
            bins = [
                (read_interval(each.need("Interval")), each.attribute("binValue"))
                for each in element.only("DiscretizeBin")
            ]
            default = element.attributes.get("defaultValue")
            return Discretize(element.attribute("field"), tuple(bins), default, if_missing, numeric, line)
        case "MapValues":
            return _map_values(element, if_missing, numeric)
    raise element.refusal(f"is not known here; known are {', '.join(EXPRESSIONS)}")


def _constant(element: Element, data_type: str) -> Constant:
    text = element.text
    if element.get("missing") == "true":
        return Constant(None, text)
    if data_type == "string":
        return Constant(text, text)
    if data_type == "boolean" or text in ("true", "false"):
        return Constant(float(text.lower() == "true"), text.lower())
    if data_type:
        return Constant(element.as_number(text, "text"), text)
    try:
        return Constant(float(text), text)
    except ValueError:
        return Constant(text, text)


def _norm_continuous(element: Element, if_missing: str | None) -> NormContinuous:
    points = [(each.number("orig"), each.number("norm")) for each in element.only("LinearNorm")]
    if len(points) < 2 or any(after[0] <= before[0] for before, after in pairwise(points)):
        raise element.refusal("has not two or more <LinearNorm> of ascending orig")
    known = ("asIs", "asMissingValues", "asExtremeValues")
    outliers = element.choice("outliers", known, "asIs")
    return NormContinuous(element.attribute("field"), tuple(points), outliers, if_missing, element.line)


def _map_values(element: Element, if_missing: str | None, numeric: bool) -> MapValues:
    pairs, tables = [], []
    for each in element.only("FieldColumnPair", "InlineTable"):
        if each.tag == "InlineTable":
            tables.append(each)
        else:
            pairs.append((each.attribute("field"), each.attribute("column")))
    if len(tables) != 1 or not pairs:
        raise element.refusal("has not one <InlineTable>, and a <FieldColumnPair> or more")
    wanted = element.attribute("outputColumn").rpartition(":")[2]
    rows = []
    for row in tables[0].only("row"):
        cells = {each.tag: each.text for each in row.children}
        columns = [column.rpartition(":")[2] for _, column in pairs]
        if wanted not in cells or any(each not in cells for each in columns):
            raise row.refusal(f"has not the columns {', '.join([*columns, wanted])}")
        if numeric and cells[wanted] not in ("true", "false"):
            row.as_number(cells[wanted], wanted)
        rows.append((tuple(cells[each] for each in columns), cells[wanted]))
    fields, default = tuple(field for field, _ in pairs), element.attributes.get("defaultValue")
    return MapValues(fields, tuple(rows), default, if_missing, numeric, element.line)


def _apply(element: Element, arguments: tuple[Expression, ...], functions: Functions) -> Apply | Call:
    function = element.attribute("function")
    if_missing, default = element.attributes.get("mapMissingTo"), element.attributes.get("defaultValue")
    if element.get("invalidValueTreatment", "returnInvalid") == "asValue":
        raise element.refusal("has invalidValueTreatment='asValue', which is not known here")
    if function in FUNCTIONS:
        least, most = FUNCTIONS[function]
        if not least <= len(arguments) <= most:
            raise element.refusal(f"gives {function!r} {len(arguments)} arguments")
        if function in ("isIn", "isNotIn") and not all(isinstance(each, Constant) for each in arguments[1:]):
            raise element.refusal(f"gives {function!r} what is no constant, which is not known here")
        return Apply(function, arguments, if_missing, default, element.line)
    own = functions(function)
    if own is None:
        raise element.refusal(f"has function={function[:80]!r}, which is not known here, nor defined by the document")
    if len(arguments) != len(own.parameters):
        raise element.refusal(f"gives {function[:80]!r} {len(arguments)} arguments; it has {len(own.parameters)}")
    return Call(own, arguments, if_missing, default, element.line)
