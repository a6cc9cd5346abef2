"""Fields of one row: a number, a text, or None where it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ringpull.inference.importers.pmml.evaluator.expressions import as_declared, evaluated
from ringpull.inference.importers.pmml.evaluator.values import Given, Single, as_number, beside, lies_within
from ringpull.inference.importers.pmml.expressions import (
    Constant,
    DerivedField,
    Expression,
    FieldRef,
    NormDiscrete,
    one_hot_of,
)
from ringpull.inference.importers.pmml.fields import DataField, MiningField, canonical
from ringpull.inference.importers.pmml.kinds.model import Model

OTHER: Final = "\x00other"
"""Text that stands for any that a document does not mention."""


class InvalidRow(Exception):
    """Raised where a value is invalid, and its model says nothing of such rows."""


class Row:
    """Fields of a row that a model sees."""

    def __init__(
        self,
        dictionary: Mapping[str, DataField],
        values: Mapping[str, Given],
        derived: Mapping[str, DerivedField],
        parent: Row | None = None,
        large: frozenset[str] = frozenset(),
        memory: dict[Any, Any] | None = None,
    ) -> None:
        self.dictionary = dictionary
        self.values = dict(values)
        self._given = frozenset(values)
        self._derived = derived
        self._parent = parent
        self._large = large
        self.memory: dict[Any, Any] = {} if memory is None else memory
        """What is computed once for all rows, by the id of what it is computed of."""

    def inside(self, model: Model) -> Row:
        """Return the row as a model takes it.

        Raises:
            InvalidRow: A value is invalid.
        """
        treated = {}
        for field in model.schema.inputs:
            treated[field.name] = treat(
                self.get(field.name), field, self.dictionary.get(field.name), single=self.single(field.name)
            )
        return Row(self.dictionary, treated, model.derived, self, self._large, self.memory)

    def get(self, name: str) -> Given:
        """Return a field's value."""
        if name not in self.values:
            if name in self._derived:
                self._derive(name)
            elif self._parent is not None:
                return self._parent.get(name)
        return self.values[name]

    def _derive(self, name: str) -> None:
        """Compute a derived field, after those that it is computed of."""
        waiting = [name]
        while waiting:
            own = self._derived[waiting[-1]]
            needed = [each for each in own.fields if each in self._derived and each not in self.values]
            if own.name not in self.values and needed:
                waiting += needed
                continue
            waiting.pop()
            if own.name not in self.values:
                self.values[own.name] = as_declared(evaluated(own.expression, self), own.declared)

    def one_hot(self, name: str) -> NormDiscrete | None:
        """Return what a field is computed by that is 1 where another has a value, else 0; None of other fields."""
        if name in self._given:
            return None
        if name in self._derived:
            return one_hot_of(self._derived[name])
        return None if self._parent is None else self._parent.one_hot(name)

    def constant(self, expression: Expression) -> bool:
        """Return whether an expression is a constant."""
        return isinstance(expression, Constant)

    def single(self, name: str) -> bool:
        """Return whether a field's numbers are float32: those of requests, and what is derived as such."""
        if isinstance(self.values.get(name), float):
            return isinstance(self.values[name], Single)
        if name in self._derived:
            derived = self._derived[name]
            return derived.declared.single or (
                isinstance(derived.expression, FieldRef) and self.single(derived.expression.field)
            )
        if self._parent is not None and name not in self.dictionary:
            return self._parent.single(name)
        return name in self.dictionary

    def type_of(self, name: str) -> str:
        """Return the type of a field, where a dictionary has it."""
        return self.dictionary[name].data_type if name in self.dictionary else ""

    def coefficient(self, name: str, coefficient: float) -> float:
        """Return a coefficient of one of a field's values, as it is stored."""
        return float(np.float32(coefficient)) if name in self._large else coefficient

    def number(self, name: str) -> float | None:
        """Return a field's value as a number."""
        return as_number(self.get(name))


def same(value: Given, text: str, data_type: str = "") -> bool:
    """Return whether a value is one that is given as text."""
    if isinstance(value, str):
        return value == canonical(data_type, text)
    number = as_number(text)
    return value is not None and number is not None and value == beside(value, number)


def treat(value: Given, field: MiningField, data: DataField | None, *, single: bool) -> Given:
    """Return a value as a model takes it.

    Raises:
        InvalidRow: It is invalid.
    """
    kind = "" if data is None else data.data_type
    if data is not None and any(same(value, each, kind) for each in data.missing):
        value = None
    if value is not None and data is not None and not _valid(value, data):
        if field.invalid == "returnInvalid":
            raise InvalidRow(field.name)
        if field.invalid == "asMissing":
            value = None
        elif field.invalid == "asValue":
            assert field.invalid_value is not None
            value = _typed(field.invalid_value, value, kind)
    if isinstance(value, float) and field.outliers != "asIs":
        assert field.low is not None
        assert field.high is not None
        low, high = beside(value, field.low), beside(value, field.high)
        if not low <= value <= high:
            extreme = low if value < low else high
            value = extreme if field.outliers == "asExtremeValues" else None
    if value is None and field.missing_refused:
        raise InvalidRow(field.name)
    if value is None and field.missing is not None:
        if data is not None and data.categorical and data.data_type in ("string", "boolean", "integer"):
            return canonical(kind, field.missing)
        number = as_number(field.missing)
        return Single.of(number) if single and number is not None else number
    return value


def _typed(text: str, like: Given, kind: str) -> Given:
    if isinstance(like, str):
        return canonical(kind, text)
    number = as_number(text)
    return None if number is None else beside(like, number)


def _valid(value: Given, data: DataField) -> bool:
    if isinstance(value, str):
        return value not in data.invalid and (not data.valid or value in data.valid)
    if any(same(value, each, data.data_type) for each in data.invalid):
        return False
    if not data.valid and not data.intervals:
        return True
    if any(same(value, each, data.data_type) for each in data.valid):
        return True
    return isinstance(value, float) and any(lies_within(each, value) for each in data.intervals)
