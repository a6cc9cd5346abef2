"""Key expressions: which row of a table ids stand for, where that is more than the addition of a constant.

A model may clamp ids, take their remainder, cast them through floats, or put two features together before it looks
them up. A `KeyExpression` says what it computes, as steps: each an operator of a small closed set, on earlier steps.

    x % 10        [["id", 0], ["constant", "int64", 10], ["remainder", 0, 1]]

Steps are evaluated with numpy just as torch evaluates them: int64 and int32 wrap around, `floor_divide` and `remainder`
round down, `trunc_divide` and `fmod` towards zero, casts to float32 round to even. A float beyond the integers it is
cast to becomes the lowest of them, as on x86. Shared parts are steps that several others take, so nothing recurses and
the number of steps bounds the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput

Int64Array = NDArray[np.int64]
Array = NDArray[Any]

NumberType = Literal["bool", "int32", "int64", "float32", "float64"]
NUMBER_TYPES: Final[dict[NumberType, np.dtype[Any]]] = {
    "bool": np.dtype(np.bool_),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
INTEGERS: Final = ("int32", "int64")
FLOATS: Final = ("float32", "float64")
NUMBERS: Final = (*INTEGERS, *FLOATS)

MAX_STEPS: Final = 512
MAX_FEATURES: Final = 128
_MAX_TEXT: Final = 200
"""Characters of an expression's text, for people."""


def _shift_left(values: Array, by: Array) -> Array:
    lost = (by < 0) | (by >= values.dtype.itemsize * 8)
    shifted: Array = np.where(lost, 0, np.left_shift(values, np.where(lost, 0, by))).astype(values.dtype)
    return shifted


def _shift_right(values: Array, by: Array) -> Array:
    most = values.dtype.itemsize * 8 - 1
    shifted: Array = np.right_shift(values, np.where((by < 0) | (by > most), most, by)).astype(values.dtype)
    return shifted


def _trunc_divide(left: Array, right: Array) -> Array:
    if left.dtype.kind == "f":
        truncated: Array = np.trunc(left / right)
        return truncated
    floor: Array = np.floor_divide(left, right)
    rounded: Array = floor + ((np.remainder(left, right) != 0) & ((left < 0) != (right < 0))).astype(left.dtype)
    return rounded


def _remainder(left: Array, right: Array) -> Array:
    """Return remainders with the divisor's sign; of floats, a zero has the dividend's, and torch divides by it."""
    if left.dtype.kind != "f":
        whole: Array = np.remainder(left, right)
        return whole
    rest: Array = np.fmod(left, right)
    return np.where((rest != 0) & ((right < 0) != (rest < 0)), rest + right, rest).astype(left.dtype)


@dataclass(frozen=True, slots=True)
class _Operator:
    """One operator on operands of one type; `where` has a condition before them."""

    compute: Callable[..., Any]
    operands: int
    takes: tuple[str, ...]
    text: str
    """Format of its text."""
    compares: bool = False
    """Whether it gives true or false."""


_INTEGERS_AND_BOOL: Final = (*INTEGERS, "bool")

OPERATORS: Final[dict[str, _Operator]] = {
    "add": _Operator(np.add, 2, NUMBERS, "({} + {})"),
    "sub": _Operator(np.subtract, 2, NUMBERS, "({} - {})"),
    "mul": _Operator(np.multiply, 2, NUMBERS, "({} * {})"),
    "divide": _Operator(np.divide, 2, FLOATS, "({} / {})"),
    "floor_divide": _Operator(np.floor_divide, 2, NUMBERS, "({} // {})"),
    "trunc_divide": _Operator(_trunc_divide, 2, NUMBERS, "trunc({} / {})"),
    "remainder": _Operator(_remainder, 2, NUMBERS, "({} % {})"),
    "fmod": _Operator(np.fmod, 2, NUMBERS, "fmod({}, {})"),
    "minimum": _Operator(np.minimum, 2, NUMBERS, "min({}, {})"),
    "maximum": _Operator(np.maximum, 2, NUMBERS, "max({}, {})"),
    "and": _Operator(np.bitwise_and, 2, _INTEGERS_AND_BOOL, "({} & {})"),
    "or": _Operator(np.bitwise_or, 2, _INTEGERS_AND_BOOL, "({} | {})"),
    "xor": _Operator(np.bitwise_xor, 2, _INTEGERS_AND_BOOL, "({} ^ {})"),
    "shift_left": _Operator(_shift_left, 2, INTEGERS, "({} << {})"),
    "shift_right": _Operator(_shift_right, 2, INTEGERS, "({} >> {})"),
    "eq": _Operator(np.equal, 2, (*NUMBERS, "bool"), "({} == {})", compares=True),
    "ne": _Operator(np.not_equal, 2, (*NUMBERS, "bool"), "({} != {})", compares=True),
    "lt": _Operator(np.less, 2, (*NUMBERS, "bool"), "({} < {})", compares=True),
    "le": _Operator(np.less_equal, 2, (*NUMBERS, "bool"), "({} <= {})", compares=True),
    "gt": _Operator(np.greater, 2, (*NUMBERS, "bool"), "({} > {})", compares=True),
    "ge": _Operator(np.greater_equal, 2, (*NUMBERS, "bool"), "({} >= {})", compares=True),
    "not": _Operator(np.invert, 1, _INTEGERS_AND_BOOL, "~{}"),
    "neg": _Operator(np.negative, 1, NUMBERS, "-{}"),
    "abs": _Operator(np.absolute, 1, NUMBERS, "abs({})"),
    "floor": _Operator(np.floor, 1, FLOATS, "floor({})"),
    "ceil": _Operator(np.ceil, 1, FLOATS, "ceil({})"),
    "trunc": _Operator(np.trunc, 1, FLOATS, "trunc({})"),
    "round": _Operator(np.rint, 1, FLOATS, "round({})"),
    "where": _Operator(np.where, 3, (*NUMBERS, "bool"), "where({}, {}, {})"),
}
"""Operators besides `id`, `constant` and `cast`."""

COMMUTING: Final = ("add", "mul", "minimum", "maximum", "and", "or", "xor", "eq", "ne")
"""Operators whose operands may change places."""

DIVISIONS: Final = ("floor_divide", "trunc_divide", "remainder", "fmod")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a feature's ids (`id`), a number (`constant`), a cast to its type (`cast`), or one of `OPERATORS`."""

    operator: str
    operands: tuple[int, ...]
    """Numbers of earlier steps."""
    type: NumberType
    value: int | float = 0
    """Number of the feature of an `id`, number of a `constant`."""


@dataclass(frozen=True, slots=True)
class KeyExpression:
    """What becomes of the prepared ids of one or more features before they are looked up; the last step is the row."""

    steps: tuple[Step, ...]

    @classmethod
    def ids(cls, feature: int = 0) -> KeyExpression:
        """Return the ids of a feature, by its number."""
        return cls((Step("id", (), "int64", feature),))

    @classmethod
    def constant(cls, value: int | float, number_type: NumberType = "int64") -> KeyExpression:
        """Return a number, converted to the type as torch converts it.

        Raises:
            InvalidInput: It is infinite, or none.
        """
        with np.errstate(all="ignore"):
            converted = _converted(np.array(value), number_type).item()
        if not np.isfinite(converted):
            raise InvalidInput(f"{converted} is no number")
        return cls((Step("constant", (), number_type, converted),))

    @classmethod
    def of(cls, operator: str, *operands: KeyExpression) -> KeyExpression:
        """Return an operator on operands of one type, made simpler where that changes nothing.

        Raises:
            InvalidInput: The operator does not take them, or the expression is too large.
        """
        _check_operands(operator, [each.type for each in operands])
        if len(operands) == 2 and operands[0].type in INTEGERS and (simple := _simplified(operator, *operands)):
            return simple
        return cls._joined(operator, operands, _type_of(operator, [each.type for each in operands]))

    def cast(self, number_type: NumberType) -> KeyExpression:
        """Return the expression converted to a type."""
        return self if number_type == self.type else self._joined("cast", (self,), number_type)

    @classmethod
    def _joined(cls, operator: str, operands: Sequence[KeyExpression], number_type: NumberType) -> KeyExpression:
        steps: dict[Step, int] = {}
        places = []
        for operand in operands:
            moved: list[int] = []
            for step in operand.steps:
                own = Step(step.operator, tuple(moved[each] for each in step.operands), step.type, step.value)
                moved.append(steps.setdefault(own, len(steps)))
            places.append(moved[-1])
        steps.setdefault(Step(operator, tuple(places), number_type), len(steps))
        if len(steps) > MAX_STEPS:
            raise InvalidInput(f"an expression of {len(steps)} steps; it may have {MAX_STEPS}")
        made = cls(tuple(steps))
        constant = operator != "constant" and all(each.is_constant for each in operands)
        return cls.constant(made._run(()).item(), number_type) if constant else made

    @property
    def type(self) -> NumberType:
        """Type of what comes out."""
        return self.steps[-1].type

    @property
    def is_constant(self) -> bool:
        """Whether it is a number."""
        return self.steps[-1].operator == "constant"

    @property
    def value(self) -> int | float:
        """The number that a constant is."""
        return self.steps[-1].value

    @property
    def features(self) -> tuple[int, ...]:
        """Numbers of the features whose ids it takes, ascending."""
        return tuple(sorted({int(step.value) for step in self.steps if step.operator == "id"}))

    def operand(self, place: int) -> KeyExpression:
        """Return what the last step takes at a place, as an expression."""
        needed = {self.steps[-1].operands[place]}
        for number in range(max(needed), -1, -1):
            if number in needed:
                needed.update(self.steps[number].operands)
        numbers = {old: new for new, old in enumerate(sorted(needed))}
        return KeyExpression(
            tuple(
                Step(step.operator, tuple(numbers[each] for each in step.operands), step.type, step.value)
                for step in (self.steps[number] for number in numbers)
            )
        )

    def renumbered(self, numbers: dict[int, int]) -> KeyExpression:
        """Return the same of other features: `numbers` maps the number of each to its new one."""
        return KeyExpression(
            tuple(
                Step("id", (), step.type, numbers[int(step.value)]) if step.operator == "id" else step
                for step in self.steps
            )
        )

    def in_order(self) -> KeyExpression:
        """Return the same with the operands of what commutes in an order of their own: `y + x` is `x + y`.

        Integers only: which of two NaNs comes out of a float operator is its operands' order.
        """
        texts: list[tuple[Any, ...]] = []
        made: dict[Step, int] = {}
        moved: list[int] = []
        for step in self.steps:
            operands = step.operands
            commutes = step.operator in COMMUTING and self.steps[operands[0]].type not in FLOATS
            constant = commutes and any(self.steps[each].operator == "constant" for each in operands)
            if commutes and not constant:
                operands = tuple(sorted(operands, key=lambda each: repr(texts[each])))
            own = Step(step.operator, tuple(moved[each] for each in operands), step.type, step.value)
            moved.append(made.setdefault(own, len(made)))
            texts.append((step.operator, step.type, step.value, *(_digest(texts[each]) for each in operands)))
        return KeyExpression(tuple(made))._from_leaves()

    def _from_leaves(self) -> KeyExpression:
        """Return the same with its steps in the order in which the last one needs them, operand by operand."""
        numbers: dict[int, int] = {}
        pending = [len(self.steps) - 1]
        while pending:
            each = pending[-1]
            missing = [inner for inner in self.steps[each].operands if inner not in numbers]
            if missing and each not in numbers:
                pending.append(missing[0])
                continue
            pending.pop()
            numbers.setdefault(each, len(numbers))
        steps = [self.steps[each] for each in numbers]
        return KeyExpression(
            tuple(
                Step(step.operator, tuple(numbers[each] for each in step.operands), step.type, step.value)
                for step in steps
            )
        )

    def evaluate(self, *ids: Int64Array) -> Int64Array:
        """Return the row number (N,) for the prepared ids (N,) of each feature."""
        rows = self._run(ids)
        if rows.shape != ids[0].shape:
            rows = np.broadcast_to(rows, ids[0].shape)
        return np.ascontiguousarray(rows)

    def row_of(self, *ids: int) -> int:
        """Return the row number for one id of each feature."""
        return int(self.evaluate(*(np.array([each], np.int64) for each in ids))[0])

    def _run(self, ids: Sequence[Int64Array]) -> Array:
        found: dict[int, Array] = {}
        last_uses = {each: number for number, step in enumerate(self.steps) for each in step.operands}
        with np.errstate(all="ignore"):
            for number, step in enumerate(self.steps):
                taken = [found[each] for each in step.operands]
                if step.operator == "id":
                    made = ids[int(step.value)]
                elif step.operator == "constant":
                    made = _constant(step.value, step.type)
                elif step.operator == "cast":
                    made = _converted(taken[0], step.type)
                else:
                    made = np.asarray(OPERATORS[step.operator].compute(*taken))
                for each in step.operands:
                    if last_uses[each] == number:  # memory for what is needed yet, not for every step
                        found.pop(each, None)
                found[number] = made
        return found[len(self.steps) - 1]

    def __str__(self) -> str:
        texts: list[str] = []
        for step in self.steps:
            of = [texts[each] for each in step.operands]
            if step.operator == "id":
                text = f"x{int(step.value) or ''}"
            elif step.operator == "constant":
                text = str(step.value)
            else:
                form = f"{step.type}({{}})" if step.operator == "cast" else OPERATORS[step.operator].text
                text = form.format(*of)
            texts.append(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")
        return texts[-1]

    def to_plain(self) -> list[list[Any]]:
        """Return it as plain lists, for JSON."""
        return [_plain(step) for step in self.steps]

    @classmethod
    def from_plain(cls, given: object) -> KeyExpression:
        """Read what `to_plain` returned.

        Raises:
            InvalidInput: It is not that; the message says which step.
        """
        if not isinstance(given, list | tuple) or not 1 <= len(given) <= MAX_STEPS:
            raise InvalidInput(f"must be a list of 1 to {MAX_STEPS} steps")
        steps: list[Step] = []
        for number, entry in enumerate(given):
            try:
                steps.append(_read_step(entry, steps))
            except InvalidInput as exc:
                raise InvalidInput(f"step {number}: {exc}") from exc
        read = cls(tuple(steps))
        if read.type != "int64" or not read.features or read.features != tuple(range(len(read.features))):
            raise InvalidInput("must take the ids of features 0, 1, ... and end in an int64")
        return read


def _converted(values: Array, number_type: NumberType) -> Array:
    if number_type in INTEGERS and values.dtype.kind == "f":
        bounds = np.iinfo(NUMBER_TYPES[number_type])
        fits = (values >= float(bounds.min)) & (values < -float(bounds.min))
        return np.where(fits, np.where(fits, values, 0).astype(np.int64), bounds.min).astype(NUMBER_TYPES[number_type])
    return values.astype(NUMBER_TYPES[number_type])


@lru_cache(maxsize=4096)
def _constant(value: int | float, number_type: NumberType) -> Array:
    return np.array(value, NUMBER_TYPES[number_type])


def _type_of(operator: str, types: Sequence[NumberType]) -> NumberType:
    return "bool" if OPERATORS[operator].compares else types[-1]


def _check_operands(operator: str, types: Sequence[NumberType]) -> None:
    kind = OPERATORS[operator]
    values = types[1:] if operator == "where" else types
    fits = len(types) == kind.operands and len(set(values)) == 1 and values[0] in kind.takes
    if not fits or (operator == "where" and types[0] != "bool"):
        raise InvalidInput(f"{operator} does not take {', '.join(types) or 'nothing'}")


def _simplified(operator: str, left: KeyExpression, right: KeyExpression) -> KeyExpression | None:
    """Return something simpler of equal value for an operator on integers, if there is."""
    if operator in ("add", "mul") and left.is_constant and not right.is_constant:
        return KeyExpression.of(operator, right, left)
    if not right.is_constant or left.is_constant:
        return None
    if operator == "sub":
        return KeyExpression.of("add", left, _wrapped(-int(right.value), left.type))
    if (operator, right.value) in (("add", 0), ("mul", 1)):
        return left
    if operator == "add" and left.steps[-1].operator == "add" and (inner := left.operand(1)).is_constant:
        return KeyExpression.of("add", left.operand(0), _wrapped(int(inner.value) + int(right.value), left.type))
    return None


def _wrapped(value: int, number_type: NumberType) -> KeyExpression:
    bits = NUMBER_TYPES[number_type].itemsize * 8
    return KeyExpression.constant((value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1), number_type)


def _digest(text: tuple[Any, ...]) -> str:
    """Return what stands for a step in the texts of those that take it: shared steps would make them long."""
    return hashlib.blake2b(repr(text).encode(), digest_size=16).hexdigest()


def _plain(step: Step) -> list[Any]:
    if step.operator == "id":
        return ["id", step.value]
    if step.operator == "constant":
        return ["constant", step.type, step.value]
    return ["cast", step.type, *step.operands] if step.operator == "cast" else [step.operator, *step.operands]


def _read_step(entry: object, before: Sequence[Step]) -> Step:
    if not isinstance(entry, list | tuple) or not entry or not isinstance(entry[0], str):
        raise InvalidInput("must be a list that begins with an operator")
    operator, *rest = entry
    if operator == "id" and len(rest) == 1:
        return Step("id", (), "int64", _number(rest[0], MAX_FEATURES, "feature"))
    if operator == "constant" and len(rest) == 2:
        return _read_constant(*rest)
    if operator == "cast" and len(rest) == 2:
        return Step("cast", (_number(rest[1], len(before), "step"),), _type_named(rest[0]))
    if operator not in OPERATORS:
        raise InvalidInput(f"{operator!r:.40} is no operator with {len(rest)} operands that this build knows")
    operands = tuple(_number(each, len(before), "step") for each in rest)
    types = [before[each].type for each in operands]
    _check_operands(operator, types)
    return Step(operator, operands, _type_of(operator, types))


def _read_constant(name: object, value: object) -> Step:
    number_type = _type_named(name)
    fits = isinstance(value, bool) if number_type == "bool" else False
    if number_type in FLOATS:
        fits = isinstance(value, float) and bool(np.isfinite(value))
    elif number_type in INTEGERS and isinstance(value, int) and not isinstance(value, bool):
        bounds = np.iinfo(NUMBER_TYPES[number_type])
        fits = bool(bounds.min <= value <= bounds.max)
    if not fits or not isinstance(value, int | float):
        raise InvalidInput(f"{value!r:.40} is no {number_type}")
    return Step("constant", (), number_type, value)


def _type_named(name: object) -> NumberType:
    found = next((each for each in NUMBER_TYPES if each == name), None)
    if found is None:
        raise InvalidInput(f"{name!r:.40} is no type; types are {', '.join(NUMBER_TYPES)}")
    return found


def _number(value: object, end: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        raise InvalidInput(f"{value!r:.40} is no number of a {what}, from 0 to {end - 1}")
    return value
