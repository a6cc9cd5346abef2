"""Property: a key expression gives for any ids what torch gives for them, whatever it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ringpull.inference.schema.key_expressions import (
    FLOATS,
    INTEGERS,
    NUMBER_TYPES,
    OPERATORS,
    KeyExpression,
    NumberType,
)
from ringpull.ps.errors import InvalidInput

TORCH: dict[str, Any] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "divide": torch.div,
    "floor_divide": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "trunc_divide": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "and": torch.bitwise_and,
    "or": torch.bitwise_or,
    "xor": torch.bitwise_xor,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "not": torch.bitwise_not,
    "neg": torch.neg,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "where": torch.where,
}
TYPES = {name: getattr(torch, name) for name in NUMBER_TYPES}
DIVISIONS = ("floor_divide", "trunc_divide", "remainder", "fmod", "divide")

EDGES = [-(2**63), -(2**63) + 1, -(2**53) - 1, -(2**31) - 1, -(2**31), -(2**24) - 1, -13, -2, -1, 0, 1, 2, 11, 12, 13,
         2**24, 2**24 + 1, 2**24 + 3, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1]  # fmt: skip
INTEGER = st.one_of(st.sampled_from(EDGES), st.integers(-20, 20), st.integers(-(2**63), 2**63 - 1))

Pair = tuple[KeyExpression, Tensor]


def test_every_operator_is_held_against_torch() -> None:
    assert TORCH.keys() == OPERATORS.keys()


def same(left: Tensor, right: np.ndarray) -> bool:
    return bool(np.array_equal(left.expand(right.shape).numpy(), right, equal_nan=left.is_floating_point()))


@st.composite
def constants(draw: st.DrawFn, kind: NumberType) -> Pair:
    if kind == "bool":
        value: Any = draw(st.booleans())
    elif kind in FLOATS:
        value = draw(st.sampled_from([-3.5, -1.0, 0.5, 1.0, 2.0, 10.0, 1e9, 16777217.0]))
    else:
        value = draw(INTEGER if kind == "int64" else st.integers(-(2**31), 2**31 - 1))
    return KeyExpression.constant(value, kind), torch.tensor(value, dtype=TYPES[kind])


def cast(pair: Pair, kind: NumberType) -> Pair:
    expression, value = pair
    if value.is_floating_point() and kind in INTEGERS:
        # What does not fit is not defined by torch; ids of a model come from floats that do.
        limit = 2.0**30 if kind == "int32" else 2.0**62
        value = torch.nan_to_num(value).clamp(-limit, limit)
        bounds = [KeyExpression.constant(each, expression.type) for each in (-limit, limit)]
        expression = KeyExpression.of("minimum", KeyExpression.of("maximum", expression, bounds[0]), bounds[1])
    return expression.cast(kind), value.to(TYPES[kind])


@st.composite
def expressions(draw: st.DrawFn, ids: list[Tensor], kind: NumberType, depth: int) -> Pair:
    """Draw an expression of a type, with torch's value of it."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        if draw(st.booleans()):
            return draw(constants(kind))
        number = draw(st.integers(0, len(ids) - 1))
        return cast((KeyExpression.ids(number), ids[number]), kind)
    comparisons = [name for name, each in OPERATORS.items() if each.compares]
    fitting = [name for name, each in OPERATORS.items() if not each.compares and kind in each.takes]
    name = draw(st.sampled_from(["cast", *fitting, *(comparisons if kind == "bool" else [])]))
    if name == "cast":
        other: NumberType = draw(st.sampled_from(list(NUMBER_TYPES)))
        return cast(draw(expressions(ids, other, depth - 1)), kind)
    inner: NumberType = draw(st.sampled_from([*INTEGERS, *FLOATS])) if name in comparisons else kind
    count = OPERATORS[name].operands
    operands = [draw(expressions(ids, inner, depth - 1)) for _ in range(count)]
    if name == "where":
        operands[0] = draw(expressions(ids, "bool", depth - 1))
    if name in DIVISIONS and inner in INTEGERS:
        operands[1] = draw(constants(inner).filter(lambda each: each[0].value not in (0, -1)))
    return KeyExpression.of(name, *(each for each, _ in operands)), TORCH[name](*(value for _, value in operands))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pair, list[np.ndarray]]:
    size = draw(st.integers(1, 5))
    ids = [np.array(draw(st.lists(INTEGER, min_size=size, max_size=size)), np.int64) for _ in range(2)]
    tensors = [torch.from_numpy(each) for each in ids]
    try:
        return draw(expressions(tensors, "int64", draw(st.integers(1, 5)))), ids
    except InvalidInput:  # a constant part that is infinite
        return (KeyExpression.ids(), tensors[0]), ids


@pytest.mark.medium
@settings(max_examples=400, deadline=None)
@given(case=cases())
def test_an_expression_is_what_torch_computes(case: tuple[Pair, list[np.ndarray]]) -> None:
    (expression, expected), ids = case
    found = expression.evaluate(*ids)
    assert found.dtype == np.int64
    assert found.shape == ids[0].shape
    assert same(expected, found), f"{expression}: {expected.tolist()} {found.tolist()}"
    if expression.features == tuple(range(len(expression.features))) and expression.features:
        read = KeyExpression.from_plain(expression.to_plain())
        assert read == expression


@pytest.mark.parametrize("kind", [*NUMBER_TYPES])
@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_on_edges(name: str, kind: NumberType) -> None:
    if kind not in OPERATORS[name].takes:
        return
    values = torch.tensor(EDGES).to(TYPES[kind])
    ids = KeyExpression.ids().cast(kind)
    for number in (-3, -1, 1, 2, 5, 40, 64, 100):
        if number == -1 and name in DIVISIONS:
            continue
        constant, value = KeyExpression.constant(number, kind), torch.tensor(number).to(TYPES[kind])
        count = OPERATORS[name].operands
        operands, tensors = ([ids], [values]) if count == 1 else ([ids, constant], [values, value])
        if count == 3:
            operands.insert(0, KeyExpression.of("gt", KeyExpression.ids(), KeyExpression.constant(number)))
            tensors.insert(0, torch.tensor(EDGES) > number)
        made = KeyExpression.of(name, *operands)
        assert same(TORCH[name](*tensors), np.asarray(made._run([np.array(EDGES)]))), (name, kind, number)
