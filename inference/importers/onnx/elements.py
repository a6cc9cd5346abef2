"""Elements of tensors as expressions of ids: what each number of a graph's integer tensors is computed of.

A tensor of ids is held as an array of numbers of elements. Each element is an id that was sent (of a feature, in a row,
at a place of its sequence), a constant, or an operator of `KeyExpression` on others; equal ones have one number. Two
elements that do the same with ids of two rows have one *form*: so it is seen that a graph does with every row the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.key_expressions import KeyExpression, NumberType
from ringpull.ps.errors import InvalidInput

Array = NDArray[Any]
Numbers = NDArray[np.int64]

NO_ROW: Final = -1
"""Row of what is the same in every row."""
MIXED: Final = -2
"""Row of what is computed of ids of several rows."""
NO_PLACE: Final = -1
"""Place of an id of a feature that has one a row."""


class Sent(NamedTuple):
    """An id that was sent: of a feature, at a place of its sequence."""

    feature: str
    place: int


@dataclass(frozen=True, slots=True)
class Element:
    """One element."""

    type: NumberType
    row: int
    sent: tuple[Sent, ...]
    """Ids that it is computed of, of one row, ascending."""
    form: int
    """Number of its form."""


class Elements:
    """All elements of one reading, each once."""

    def __init__(self) -> None:
        self._all: list[Element] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._forms: dict[tuple[Any, ...], int] = {}
        self._expressions: dict[tuple[int, tuple[str, ...]], KeyExpression] = {}
        self._maps: list[tuple[Array, str]] = []
        self._said: list[tuple[Any, ...]] = []
        """What each form is: its operator, the forms it takes, its type and value."""

    def __getitem__(self, number: int) -> Element:
        return self._all[number]

    def map(self, operand: Numbers, values: Array, name: str) -> Numbers:
        """Return the numbers of what a constant (n,) of integers or strings maps elements to, `name` its own."""
        there = (place for place, (own, each) in enumerate(self._maps) if each == name and np.array_equal(own, values))
        place = next(there, len(self._maps))
        if place == len(self._maps):
            self._maps.append((values, name))
        distinct, places = np.unique(operand, return_inverse=True)
        made = []
        for each in distinct.tolist():
            inner = self._all[each]
            form = self._form(("map", (inner.form,), "int64", place))
            made.append(self._add(("map", each, place), Element("int64", inner.row, inner.sent, form)))
        return np.array(made, np.int64)[places.reshape(-1)].reshape(operand.shape)

    def mapped(self, numbers: Numbers) -> tuple[Array, str, Numbers] | None:
        """Return by which one constant elements are mapped, its name, and the elements that it maps; None: by none."""
        said = [self._said[self._all[each].form] for each in np.unique(numbers).tolist()]
        if not said or {each[0] for each in said} != {"map"} or len({each[3] for each in said}) != 1:
            return None
        operands = {number: key[1] for key, number in self._numbers.items() if key[0] == "map"}
        values, name = self._maps[said[0][3]]
        return values, name, np.vectorize(operands.__getitem__, otypes=[np.int64])(numbers)

    def through(self, form: int) -> tuple[Numbers, int, str] | None:
        """Return what a constant maps ids to, the form of these ids, and its name, for a form that takes no others.

        None: it is not computed of one constant's numbers alone.
        """
        found: set[int] = set()
        pending = [form]
        while pending:
            number = pending.pop()
            operator, operands, _, _ = self._said[number]
            if operator == "map":
                found.add(number)
            elif operator in ("id", "opaque"):
                return None
            else:
                pending += operands
        if len(found) != 1:
            return None
        (mapped,) = found
        _, (inner,), _, place = self._said[mapped]
        values, name = self._maps[place]
        expression = self.expression(form, ("",), mapped)
        if expression is None or values.dtype.kind not in "iu":
            return None
        return expression.cast("int64").evaluate(values.astype(np.int64)), inner, name

    def value(self, number: int) -> int | float | None:
        """Return the value of a constant; None: it is none."""
        operator, _, _, value = self._said[self._all[number].form]
        return value if operator == "constant" else None

    def opaque(self, number_type: NumberType) -> int:
        """Return the number of what is computed by no key expression."""
        said = ("opaque", (), number_type, 0)
        return self._add(said, Element(number_type, MIXED, (), self._form(said)))

    def sent(self, feature: str, row: int, place: int = NO_PLACE) -> int:
        """Return the number of an id that was sent."""
        form = self._form(("id", (), "int64", feature))
        return self._add(("id", feature, row, place), Element("int64", row, (Sent(feature, place),), form))

    def constant(self, value: int | float | bool, number_type: NumberType) -> int:
        """Return the number of a constant."""
        said = ("constant", (), number_type, value)
        return self._add(said, Element(number_type, NO_ROW, (), self._form(said)))

    def constants(self, values: Array, number_type: NumberType) -> Numbers:
        """Return the numbers of constants, in the shape of `values`."""
        distinct, places = np.unique(values, return_inverse=True)
        numbers = np.array([self.constant(each, number_type) for each in distinct.tolist()], np.int64)
        return numbers[places].reshape(values.shape)

    def apply(self, operator: str, operands: Sequence[Numbers], number_type: NumberType) -> Numbers:
        """Return the numbers of an operator's results, element by element; shapes are broadcast."""
        arrays = np.broadcast_arrays(*operands)
        together = np.stack([each.reshape(-1) for each in arrays], axis=1)
        distinct, places = np.unique(together, axis=0, return_inverse=True)
        numbers = np.array([self._made(operator, tuple(each), number_type) for each in distinct.tolist()], np.int64)
        return numbers[places.reshape(-1)].reshape(arrays[0].shape)

    def _made(self, operator: str, operands: tuple[int, ...], number_type: NumberType) -> int:
        key = (operator, operands, number_type)
        if key in self._numbers:
            return self._numbers[key]
        taken = [self._all[each] for each in operands]
        rows = {each.row for each in taken} - {NO_ROW}
        row = NO_ROW if not rows else rows.pop() if len(rows) == 1 else MIXED
        sent = tuple(sorted({each for one in taken for each in one.sent}))
        form = self._form((operator, tuple(each.form for each in taken), number_type, 0))
        return self._add(key, Element(number_type, row, sent, form))

    def _add(self, key: tuple[Any, ...], element: Element) -> int:
        number = self._numbers.setdefault(key, len(self._all))
        if number == len(self._all):
            self._all.append(element)
        return number

    def _form(self, said: tuple[Any, ...]) -> int:
        key = (*said, type(said[3]))
        number = self._forms.setdefault(key, len(self._said))
        if number == len(self._said):
            self._said.append(said)
        return number

    def expression(self, form: int, features: tuple[str, ...], ids: int = -1) -> KeyExpression | None:
        """Return a form as an expression of the ids of `features`; None: it is none, or too large for one.

        The form `ids` stands for the ids of the first.
        """
        made: dict[int, KeyExpression] = {}
        pending = [form]
        try:
            while pending:
                number = pending[-1]
                operator, operands, number_type, value = self._said[number]
                missing = [] if number == ids else [each for each in operands if each not in made]
                if missing and number not in made:
                    pending += missing
                    continue
                pending.pop()
                if number in made:
                    continue
                if number == ids:
                    made[number] = KeyExpression.ids()
                elif operator in ("map", "opaque"):
                    return None
                elif operator == "id":
                    made[number] = KeyExpression.ids(features.index(value))
                elif operator == "constant":
                    made[number] = KeyExpression.constant(value, number_type)
                elif operator == "cast":
                    made[number] = made[operands[0]].cast(number_type)
                else:
                    made[number] = KeyExpression.of(operator, *(made[each] for each in operands))
        except InvalidInput:
            return None
        return made[form]
