"""Inputs of a PMML model: the schema of its fields, how rows of it are read, and rows that tell its branches apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.evaluator.fields import OTHER
from ringpull.inference.importers.pmml.evaluator.values import Given, Single
from ringpull.inference.importers.pmml.fields import TIMES, DataField, MiningSchema
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.kinds import Dense, Feature, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import InvalidInput

_NO_INTEGER: Final = -(2**63)
"""Integer that stands for a missing one."""
_STRANGE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_NUMBERS: Final = 64
"""Numbers of one field that rows are made of."""


@dataclass(frozen=True, slots=True)
class Input:
    """One field that a request brings."""

    name: str
    """Name of the feature."""
    field: DataField
    values: tuple[str, ...] | None
    """Values of a category, in the order of their numbers from 1; None: it is a number."""

    @property
    def feature(self) -> Feature:
        """The feature of a schema that it is."""
        if self.values is None:
            return Dense(self.name, missing=float("nan"))
        if self.field.data_type == "integer":
            numbers = Vocabulary((*map(int, self.values), _NO_INTEGER))
            return Sparse(self.name, dtype="int64", transforms=(numbers,), missing=_NO_INTEGER)
        return Sparse(self.name, dtype="string", transforms=(Vocabulary((*self.values, "")),), missing="")

    def given(self, prepared: NDArray[Any]) -> list[Given]:
        """Return the values of rows, as an argument of the schema has them."""
        if self.values is None:
            return [None if np.isnan(each) else Single(each) for each in prepared.reshape(-1)]
        texts: list[Given] = [OTHER, *self.values, None]
        return [texts[each] for each in prepared.tolist()]


def inputs_of(
    schema: MiningSchema, dictionary: Mapping[str, DataField], mentioned: Mapping[str, Sequence[str]]
) -> list[Input]:
    """Return the inputs of a model.

    Args:
        schema: Its mining schema.
        dictionary: Fields of its document.
        mentioned: Values of categorical fields.

    Raises:
        InvalidInput: It has none, one is in no dictionary, or two would have one name.
    """
    found: dict[str, Input] = {}
    for each in schema.inputs:
        data = dictionary.get(each.name)
        if data is None:
            raise InvalidInput(f"line {each.line}: <MiningField> {each.name!r} is in no data dictionary")
        if data.data_type in TIMES:
            raise InvalidInput(
                f"line {data.line}: <DataField> {each.name!r} has dataType={data.data_type!r}, not known here"
            )
        name = _STRANGE.sub("_", each.name).strip("_.-")[:128] or f"field_{len(found)}"
        if name in found:
            raise InvalidInput(
                f"line {each.line}: fields {found[name].field.name!r} and {each.name!r} would both be the feature"
                f" {name}; rename one"
            )
        found[name] = Input(name, data, _values(data, mentioned))
    if not found:
        raise InvalidInput("the model takes no active field: nothing of a request could change its answer")
    return list(found.values())


def _values(data: DataField, mentioned: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """Return the values of a category; None: it is a number, of whatever optype."""
    if not data.categorical or data.data_type in ("float", "double"):
        return None
    values = [each for each in mentioned.get(data.name, ()) if each]
    if data.data_type == "integer":
        whole = [each for each in values if re.fullmatch(r"-?\d+", each) and -(2**63) < int(each) < 2**63]
        return tuple(whole) or None
    return tuple(values)


def schema_of(inputs: Sequence[Input]) -> Schema:
    """Return the schema of some inputs."""
    return Schema([each.feature for each in inputs])


def mentioned_numbers(pmml: Element) -> dict[str, list[float]]:
    """Return the numbers that fields are compared with, by field, as far as a document names both in one place."""
    found: dict[str, set[float]] = {}

    def mention(name: str, *texts: str | None) -> None:
        for text in texts:
            try:
                found.setdefault(name, set()).add(float(text or "nan"))
            except ValueError:
                continue

    for element in pmml.walk():
        name = element.get("field") or element.get("name")
        if element.tag in ("SimplePredicate", "DataField", "MiningField", "NormDiscrete", "CategoricalPredictor"):
            mention(name, *(element.attributes.get(each) for each in ("value", "lowValue", "highValue")))
        for each in element.children if name else ():
            inner = each.first("Interval") or each
            mention(name, *(inner.attributes.get(each) for each in ("orig", "leftMargin", "rightMargin", "value")))
    return {name: sorted(each for each in numbers if np.isfinite(each)) for name, numbers in found.items()}


def telling_rows(inputs: Sequence[Input], numbers: Mapping[str, Sequence[float]], rows: int) -> dict[str, Column]:
    """Return rows, by feature: numbers at and next to those mentioned, all values, strangers, and missing ones."""
    random = np.random.default_rng(7)
    made: dict[str, Column] = {}
    for each in inputs:
        lost = random.random(rows) < 0.06
        lost[0] = True
        if each.values is None:
            pool = _pool(numbers.get(each.field.name, ()), random)
            drawn = random.choice(pool, rows).astype(np.float32)
            made[each.name] = np.where(lost, np.nan, drawn).astype(np.float32)[:, None]
        elif each.field.data_type == "integer":
            some = np.array([int(value) for value in each.values], np.int64)
            drawn = random.choice(some, rows)
            strange = random.random(rows) < 0.05
            drawn[strange] = int(some.max() if some.max() < 2**62 else 0) + 17
            made[each.name] = np.where(lost, _NO_INTEGER, drawn)
        else:
            texts = [*each.values, *["\x00stranger"] * max(1, len(each.values) // 16)]
            chosen = random.integers(0, len(texts), rows)
            made[each.name] = np.where(lost, "", np.array(texts, object)[chosen])
    return made


def _pool(mentioned: Sequence[float], random: np.random.Generator) -> NDArray[np.float32]:
    """Return numbers to draw from: those mentioned, the float32 next to them, and some around."""
    some = np.array(mentioned, np.float64)
    if len(some) > _MAX_NUMBERS:
        some = random.choice(some, _MAX_NUMBERS, replace=False)
    near = some.astype(np.float32)
    low, high = (float(some.min()), float(some.max())) if len(some) else (-1.0, 1.0)
    span = max(high - low, 1.0)
    spread = random.uniform(low - span / 2, high + span / 2, 64)
    whole = np.round(spread)
    with np.errstate(over="ignore"):
        sides = [np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    pool = np.concatenate([near, *sides, spread.astype(np.float32), whole.astype(np.float32)])
    finite: NDArray[np.float32] = pool[np.isfinite(pool)]
    return finite
