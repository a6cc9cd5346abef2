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
        self._said: list[tuple[Any, ...]] = []
        """What each form is: its operator, the forms it takes, its type and value."""

    def __getitem__(self, number: int) -> Element:
        return self._all[number]

    def value(self, number: int) -> int | float | None:
        """Return the value of a constant; None: it is none."""
        operator, _, _, value = self._said[self._all[number].form]
        return value if operator == "constant" else None

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

    def expression(self, form: int, features: tuple[str, ...]) -> KeyExpression | None:
        """Return a form as an expression of the ids of `features`; None: it is too large for one."""
        made: dict[int, KeyExpression] = {}
        pending = [form]
        try:
            while pending:
                number = pending[-1]
                operator, operands, number_type, value = self._said[number]
                missing = [each for each in operands if each not in made]
                if missing and number not in made:
                    pending += missing
                    continue
                pending.pop()
                if number in made:
                    continue
                if operator == "id":
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
