"""Scope: the values that fields have within a model, treated as its mining schema says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ringpull.inference.importers.pmml.expressions import (
    Constant,
    DerivedField,
    Expression,
    NormDiscrete,
    one_hot_of,
)
from ringpull.inference.importers.pmml.fields import DataField, MiningField, MiningSchema
from ringpull.inference.importers.pmml.nodes.expressions import as_declared, between, build_expression
from ringpull.inference.importers.pmml.nodes.graph import Category, Graph, Number, Value, constant_number
from ringpull.ps.errors import InvalidInput


class Scope:
    """Fields that a model sees: its own, and those of the model around it."""

    def __init__(
        self,
        graph: Graph,
        dictionary: Mapping[str, DataField],
        parent: Scope | None = None,
        fields: Mapping[str, Value] | None = None,
        derived: Mapping[str, DerivedField] | None = None,
    ) -> None:
        self.graph = graph
        self.dictionary = dictionary
        self._parent = parent
        self._fields = dict(fields or {})
        self._derived = dict(derived or {})
        self.invalid: list[str] = []
        """Rows that are invalid as a whole: tensors of bool (B, 1)."""

    def inside(self, schema: MiningSchema, derived: Mapping[str, DerivedField]) -> Scope:
        """Return the scope of a model within this one."""
        inner = Scope(self.graph, self.dictionary, self, derived=derived)
        for field in schema.inputs:
            value = self.value(field.name, field.line)
            inner._fields[field.name] = inner._treated(value, field, self.dictionary.get(field.name))
        return inner

    def define(self, name: str, value: Value) -> None:
        """Give a field a value."""
        self._fields[name] = value

    def value(self, name: str, line: int) -> Value:
        """Return a field's value.

        Raises:
            InvalidInput: There is no such field, or it is computed of itself.
        """
        if name not in self._fields and name in self._derived:
            self._derive(name)
        if name in self._fields:
            return self._fields[name]
        if self._parent is not None:
            return self._parent.value(name, line)
        raise InvalidInput(f"line {line}: there is no field {name!r}: it is not in the mining schema, nor derived")

    def _derive(self, name: str) -> None:
        """Compute a derived field, after those that it is computed of, however long their chain is."""
        waiting, begun = [name], set[str]()
        while waiting:
            own = self._derived[waiting[-1]]
            needed = [each for each in own.fields if each in self._derived and each not in self._fields]
            if own.name in self._fields:
                waiting.pop()
            elif needed:
                begun.add(own.name)
                if looped := begun.intersection(needed):
                    raise InvalidInput(f"line {own.line}: field {looped.pop()!r} is computed of itself")
                waiting += needed
            else:
                value = build_expression(self, own.expression)
                self._fields[own.name] = as_declared(self.graph, value, own.declared, f"field {own.name!r}", own.line)
                begun.discard(waiting.pop())

    def number(self, name: str, line: int) -> Number:
        """Return a field's value as a number."""
        return self.graph.number(self.value(name, line))

    def one_hot(self, name: str) -> tuple[Category, NormDiscrete] | None:
        """Return the category whose one value a field tells from all others, if it is such a field."""
        if name in self._fields:
            return None
        if name in self._derived:
            norm = one_hot_of(self._derived[name])
            value = None if norm is None else self.value(norm.field, norm.line)
            return (value, norm) if norm is not None and isinstance(value, Category) else None
        return None if self._parent is None else self._parent.one_hot(name)

    def constant(self, expression: Expression) -> Constant | None:
        """Return an expression that is a constant, else None."""
        return expression if isinstance(expression, Constant) else None

    def _treated(self, value: Value, field: MiningField, data: DataField | None) -> Value:
        if isinstance(value, Number):
            return self._treated_number(value, field, data)
        return self._treated_category(value, field, data)

    def _treated_number(self, value: Number, field: MiningField, data: DataField | None) -> Number:
        graph, nan = self.graph, self.graph.tensor([[np.nan]])
        made = value

        def given(condition: str, instead: str) -> Number:
            return replace(made, name=graph.where(condition, instead, made.name))

        if data is not None:
            for each in data.missing:
                made = given(graph.equal(made, each).true, nan)
            refused = [graph.equal(made, each).true for each in data.invalid]
            taken = [graph.equal(made, each).true for each in data.valid]
            taken += [between(graph, made, each) for each in data.intervals]
            if taken:
                refused.append(graph.node("Not", [graph.either([*taken, graph.node("IsNaN", [made.name])])]))
            if refused:
                made = replace(made, name=self._without(made, graph.either(refused), field))
        if field.outliers != "asIs":
            assert field.low is not None
            assert field.high is not None
            low, high = graph.beside(made, field.low), graph.beside(made, field.high)
            below, above = graph.node("Less", [made.name, low]), graph.node("Greater", [made.name, high])
            extreme = field.outliers == "asExtremeValues"
            made = given(below, low if extreme else nan)
            made = given(above, high if extreme else nan)
        if field.missing_refused:
            self.invalid.append(graph.missing(made))
        elif field.missing is not None:
            made = given(graph.missing(made), graph.beside(made, _number(field.missing, field)))
        return made

    def _without(self, value: Number, invalid: str, field: MiningField) -> str:
        if field.invalid == "returnInvalid":
            self.invalid.append(invalid)
        elif field.invalid == "asMissing":
            return self.graph.where(invalid, self.graph.tensor([[np.nan]]), value.name)
        elif field.invalid == "asValue":
            assert field.invalid_value is not None
            instead = self.graph.beside(value, _number(field.invalid_value, field))
            return self.graph.where(invalid, instead, value.name)
        return value.name

    def _treated_category(self, value: Category, field: MiningField, data: DataField | None) -> Category:
        graph, name = self.graph, value.name
        if data is not None:
            missing = [value.codes[each] for each in data.missing if each in value.codes]
            refused = [value.codes[each] for each in data.invalid if each in value.codes]
            if data.valid:
                known = {*data.valid, *data.missing}
                refused = [0, *(code for each, code in value.codes.items() if each not in known)]
            name = _instead(graph, name, missing, value.missing)
            if refused and field.invalid == "returnInvalid":
                self.invalid.append(graph.truth_of(Category.of(name, value.values), refused).true)
            elif refused and field.invalid == "asMissing":
                name = _instead(graph, name, refused, value.missing)
            elif refused and field.invalid == "asValue":
                assert field.invalid_value is not None
                name = _instead(graph, name, refused, value.code(field.invalid_value) or 0)
        if field.missing_refused:
            self.invalid.append(graph.truth_of(Category.of(name, value.values), [value.missing]).true)
        elif field.missing is not None:
            name = _instead(graph, name, [value.missing], value.code(field.missing) or 0)
        return Category(name, value.values, value.data_type, value.codes)


def _instead(graph: Graph, name: str, codes: list[int], code: int) -> str:
    """Return the numbers of a category with one in the place of some."""
    if not codes:
        return name
    same = [graph.node("Equal", [name, graph.tensor([each], np.int64)]) for each in codes]
    return graph.where(graph.either(same), graph.tensor([code], np.int64), name)


def _number(text: str, field: MiningField) -> float:
    found = constant_number(text)
    if np.isnan(found):
        raise InvalidInput(f"line {field.line}: <MiningField> {field.name!r} has {text[:80]!r} for a number")
    return found
