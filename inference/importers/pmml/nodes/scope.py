"""Scope: the values that fields have within a model, treated as its mining schema says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ringpull.inference.importers.pmml.expressions import DerivedField
from ringpull.inference.importers.pmml.fields import DataField, Interval, MiningField, MiningSchema
from ringpull.inference.importers.pmml.nodes.expressions import build_expression
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
        self._open: set[str] = set()
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
        if name in self._fields:
            return self._fields[name]
        if name in self._derived:
            if name in self._open:
                raise InvalidInput(f"line {line}: field {name!r} is computed of itself")
            self._open.add(name)
            derived = self._derived[name]
            value = build_expression(self, derived.expression)
            if derived.numeric and isinstance(value, Category):
                value = self.graph.number(value)
            elif not derived.numeric and isinstance(value, Number):
                raise InvalidInput(f"line {derived.line}: field {name!r} is text made of a number, which is not known")
            self._fields[name] = value
            return value
        if self._parent is not None:
            return self._parent.value(name, line)
        raise InvalidInput(f"line {line}: there is no field {name!r}: it is not in the mining schema, nor derived")

    def number(self, name: str, line: int) -> Number:
        """Return a field's value as a number."""
        return self.graph.number(self.value(name, line))

    def _treated(self, value: Value, field: MiningField, data: DataField | None) -> Value:
        if isinstance(value, Number):
            return self._treated_number(value, field, data)
        return self._treated_category(value, field, data)

    def _treated_number(self, value: Number, field: MiningField, data: DataField | None) -> Number:
        graph, name = self.graph, value.name
        nan = graph.tensor([[np.nan]])
        if data is not None:
            for each in data.missing:
                name = graph.where(graph.equal(Number(name), each).true, nan, name)
            refused = [graph.equal(Number(name), each).true for each in data.invalid]
            taken = [graph.equal(Number(name), each).true for each in data.valid]
            taken += [_within(graph, name, each) for each in data.intervals]
            if taken:
                refused.append(graph.node("Not", [graph.either([*taken, graph.node("IsNaN", [name])])]))
            if refused:
                name = self._without(name, graph.either(refused), field)
        if field.outliers != "asIs":
            low, high = graph.tensor([[field.low]]), graph.tensor([[field.high]])
            below, above = graph.node("Less", [name, low]), graph.node("Greater", [name, high])
            extreme = field.outliers == "asExtremeValues"
            name = graph.where(below, low if extreme else nan, name)
            name = graph.where(above, high if extreme else nan, name)
        if field.missing is not None:
            instead = graph.tensor([[_number(field.missing, field)]])
            name = graph.where(graph.node("IsNaN", [name]), instead, name)
        return Number(name, value.constant)

    def _without(self, name: str, invalid: str, field: MiningField) -> str:
        if field.invalid == "returnInvalid":
            self.invalid.append(invalid)
        elif field.invalid == "asMissing":
            return self.graph.where(invalid, self.graph.tensor([[np.nan]]), name)
        elif field.invalid == "asValue":
            assert field.invalid_value is not None
            return self.graph.where(invalid, self.graph.tensor([[_number(field.invalid_value, field)]]), name)
        return name

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
        if field.missing is not None:
            name = _instead(graph, name, [value.missing], value.code(field.missing) or 0)
        return Category(name, value.values, value.data_type, value.codes)


def _instead(graph: Graph, name: str, codes: list[int], code: int) -> str:
    """Return the numbers of a category with one in the place of some."""
    if not codes:
        return name
    same = [graph.node("Equal", [name, graph.tensor([each], np.int64)]) for each in codes]
    return graph.where(graph.either(same), graph.tensor([code], np.int64), name)


def _within(graph: Graph, name: str, interval: Interval) -> str:
    """Return where a number lies within margins, bool (B, 1)."""
    found = [graph.node("Not", [graph.node("IsNaN", [name])])]
    if interval.low is not None:
        found.append(
            graph.node("GreaterOrEqual" if interval.low_closed else "Greater", [name, graph.tensor([[interval.low]])])
        )
    if interval.high is not None:
        found.append(
            graph.node("LessOrEqual" if interval.high_closed else "Less", [name, graph.tensor([[interval.high]])])
        )
    return graph.both(found)


def _number(text: str, field: MiningField) -> float:
    found = constant_number(text)
    if np.isnan(found):
        raise InvalidInput(f"line {field.line}: <MiningField> {field.name!r} has {text[:80]!r} for a number")
    return found
