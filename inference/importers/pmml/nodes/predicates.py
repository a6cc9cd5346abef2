"""Predicates as nodes of a graph: true, or unknown where a value that they need is missing."""

from __future__ import annotations

from functools import reduce
from typing import Final

import numpy as np

from ringpull.inference.importers.pmml.nodes.graph import Category, Graph, Number, Truth, Value, constant_number
from ringpull.inference.importers.pmml.nodes.scope import Scope
from ringpull.inference.importers.pmml.predicates import Always, Among, Compared, Joined, Predicate
from ringpull.ps.errors import InvalidInput

ORDERED: Final = {
    "lessThan": "Less",
    "lessOrEqual": "LessOrEqual",
    "greaterThan": "Greater",
    "greaterOrEqual": "GreaterOrEqual",
}


def build_predicate(scope: Scope, predicate: Predicate) -> Truth:
    """Return where a predicate is true, and where it is unknown.

    Raises:
        InvalidInput: A field is not there, or is of another kind.
    """
    graph = scope.graph
    match predicate:
        case Always(holds):
            return Truth(graph.tensor([[holds]], np.bool_), None)
        case Compared():
            return _compared(graph, scope.value(predicate.field, predicate.line), predicate)
        case Among():
            return _among(graph, scope.value(predicate.field, predicate.line), predicate)
        case Joined(by, parts):
            built = [build_predicate(scope, each) for each in parts]
            return reduce(lambda one, other: _joined(graph, by, one, other), built)


def _compared(graph: Graph, value: Value, predicate: Compared) -> Truth:
    missing = graph.missing(value)
    match predicate.operator:
        case "isMissing":
            return Truth(missing, None)
        case "isNotMissing":
            return Truth(graph.node("Not", [missing]), None)
        case "equal":
            return graph.equal(value, predicate.value)
        case "notEqual":
            equal = graph.equal(value, predicate.value).true
            return Truth(graph.node("Not", [graph.node("Or", [equal, missing])]), missing)
    number = constant_number(predicate.value)
    if (isinstance(value, Category) and value.data_type == "string") or np.isnan(number):
        raise InvalidInput(
            f"line {predicate.line}: <SimplePredicate> compares {predicate.field!r} with {predicate.value[:80]!r} by"
            f" {predicate.operator}; of texts equal and notEqual are known here"
        )
    given = graph.number(value)
    missing = graph.missing(given)  # of categories those, too, that are no numbers
    return Truth(graph.node(ORDERED[predicate.operator], [given.name, graph.beside(given, number)]), missing)


def _among(graph: Graph, value: Value, predicate: Among) -> Truth:
    if isinstance(value, Category):
        codes = [code for each in predicate.values if (code := value.code(each)) is not None]
        return graph.truth_of(value, codes, negated=predicate.negated)
    missing = graph.missing(value)
    found = graph.either(
        [graph.equal(value, each).true for each in predicate.values] or [graph.tensor([[False]], np.bool_)]
    )
    if predicate.negated:
        found = graph.node("Not", [graph.node("Or", [found, missing])])
    return Truth(found, missing)


def _joined(graph: Graph, by: str, one: Truth, other: Truth) -> Truth:
    """Return two truths put together, of three values each."""
    unknown = [each.unknown for each in (one, other) if each.unknown is not None]
    if by == "surrogate":
        if one.unknown is None:
            return one
        true = graph.either([one.true, graph.both([one.unknown, other.true])])
        return Truth(true, None if other.unknown is None else graph.both([one.unknown, other.unknown]))
    if by == "xor":
        any_unknown = graph.either(unknown) if unknown else None
        true = graph.node("Xor", [one.true, other.true])
        if any_unknown is None:
            return Truth(true, None)
        return Truth(graph.node("And", [true, graph.node("Not", [any_unknown])]), any_unknown)
    true = graph.both([one.true, other.true]) if by == "and" else graph.either([one.true, other.true])
    if not unknown:
        return Truth(true, None)
    if by == "or":
        return Truth(true, graph.both([graph.either(unknown), graph.node("Not", [true])]))
    maybe = [graph.either([each.true, *([] if each.unknown is None else [each.unknown])]) for each in (one, other)]
    return Truth(true, graph.both([graph.either(unknown), *maybe]))


def column_of(graph: Graph, truth: Truth) -> str:
    """Return a truth as numbers (B, 1): 1, 0, or NaN where it is unknown."""
    number = graph.cast(truth.true)
    if truth.unknown is not None:
        number = graph.where(truth.unknown, graph.tensor([[np.nan]]), number)
    return graph.full(Number(number, True)) if truth.unknown is None else number
