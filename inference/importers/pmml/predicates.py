"""Predicates of PMML as values: what trees and segments ask of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ringpull.inference.importers.pmml.document import Element

Operator = Literal[
    "equal", "notEqual", "lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual", "isMissing", "isNotMissing"
]
Joining = Literal["and", "or", "xor", "surrogate"]

_OPERATORS: Final = (
    *("equal", "notEqual", "lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual", "isMissing", "isNotMissing"),
)
OPPOSITE: Final[dict[str, str]] = {
    "equal": "notEqual",
    "notEqual": "equal",
    "lessThan": "greaterOrEqual",
    "greaterOrEqual": "lessThan",
    "lessOrEqual": "greaterThan",
    "greaterThan": "lessOrEqual",
    "isMissing": "isNotMissing",
    "isNotMissing": "isMissing",
}
"""Operator that holds where another does not."""
PREDICATES: Final = ("SimplePredicate", "SimpleSetPredicate", "CompoundPredicate", "True", "False")


@dataclass(frozen=True, slots=True)
class Always:
    """True, or false, of every row."""

    holds: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A field, compared with a value."""

    field: str
    operator: Operator
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Among:
    """A field, one of some values or none of them."""

    field: str
    values: tuple[str, ...]
    negated: bool
    line: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Predicates put together. `surrogate` is the first that is not unknown."""

    by: Joining
    parts: tuple[Predicate, ...]


Predicate = Always | Compared | Among | Joined


def read_predicate(parent: Element) -> Predicate:
    """Read the one predicate of an element.

    Raises:
        InvalidInput: It has none, or what is not known here.
    """
    return _read(parent.need(*PREDICATES))


def _read(element: Element) -> Predicate:
    match element.tag:
        case "True" | "False":
            return Always(element.tag == "True")
        case "SimplePredicate":
            operator: Operator = element.choice("operator", _OPERATORS)  # type: ignore[assignment]
            value = "" if operator in ("isMissing", "isNotMissing") else element.attribute("value")
            return Compared(element.attribute("field"), operator, value, element.line)
        case "SimpleSetPredicate":
            negated = element.choice("booleanOperator", ("isIn", "isNotIn")) == "isNotIn"
            values = tuple(element.need("Array").array())
            return Among(element.attribute("field"), values, negated, element.line)
        case _:
            by: Joining = element.choice("booleanOperator", ("and", "or", "xor", "surrogate"))  # type: ignore[assignment]
            parts = tuple(_read(each) for each in element.only(*PREDICATES))
            if len(parts) < 2:
                raise element.refusal("has not two predicates or more")
            return Joined(by, parts)


def opposite(one: Predicate, other: Predicate) -> bool:
    """Whether one of two predicates holds exactly where the other does not, and both are unknown of the same rows."""
    if isinstance(one, Compared) and isinstance(other, Compared):
        return (one.field, one.value, OPPOSITE[one.operator]) == (other.field, other.value, other.operator)
    if isinstance(one, Among) and isinstance(other, Among):
        same = one.field == other.field and set(one.values) == set(other.values)
        return same and one.negated != other.negated
    return False
