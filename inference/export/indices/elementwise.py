"""Elementwise aten operators as key expressions: what each makes of one element of every operand.

Operands come in the order of the operator's schema: expressions, constants of tensors among them, and plain numbers.
Types follow torch: an operator computes in the type of its result, a comparison in the one that both sides have in
common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from ringpull.inference.export.operators import aten
from ringpull.inference.export.refusals import NotPlain
from ringpull.inference.schema.key_expressions import DIVISIONS, FLOATS, INTEGERS, KeyExpression, NumberType

TYPES: Final[dict[torch.dtype, NumberType]] = {
    torch.bool: "bool",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.float32: "float32",
    torch.float64: "float64",
}
"""Types that expressions compute in, by torch's."""

Operand = KeyExpression | int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class Types:
    """Types of one operator in the graph."""

    result: NumberType
    common: NumberType
    """Type that a comparison's two sides are converted to."""


Rule = Callable[..., KeyExpression]


def number_type(dtype: torch.dtype) -> NumberType:
    """Return the type of a tensor's elements.

    Raises:
        NotPlain: Expressions do not compute in it.
    """
    if dtype not in TYPES:
        raise NotPlain(f"its index is cast to {dtype}")
    return TYPES[dtype]


def _as(operand: Operand, kind: NumberType) -> KeyExpression:
    if isinstance(operand, KeyExpression):
        return operand.cast(kind)
    if operand is None or isinstance(operand, str):
        raise NotPlain(f"its index is computed with {operand!r}")
    return KeyExpression.constant(operand, kind)


def _apply(operator: str, *operands: KeyExpression) -> KeyExpression:
    if operator in DIVISIONS and operands[0].type in INTEGERS:
        divisor = operands[1]
        if not divisor.is_constant or divisor.value in (0, -1):
            raise NotPlain(f"its index is divided by {divisor}, which must be a constant that is not 0 or -1")
    return KeyExpression.of(operator, *operands)


def _arithmetic(operator: str) -> Rule:
    def rule(types: Types, left: Operand, right: Operand, alpha: int | float = 1) -> KeyExpression:
        scaled = _as(right, types.result)
        if alpha != 1:
            if types.result in FLOATS:  # torch rounds once, after both
                raise NotPlain("its index is computed by a sum of floats with alpha")
            scaled = _apply("mul", scaled, _as(alpha, types.result))
        return _apply(operator, _as(left, types.result), scaled)

    return rule


def _swapped(rule: Rule) -> Rule:
    return lambda types, left, right, alpha=1: rule(types, right, left, alpha)


def _compared(operator: str) -> Rule:
    return lambda types, left, right: _apply(operator, _as(left, types.common), _as(right, types.common))


def _logical(operator: str) -> Rule:
    return lambda types, *operands: _apply(operator, *(_as(each, "bool") for each in operands))


def _unary(operator: str) -> Rule:
    return lambda types, operand: _apply(operator, _as(operand, types.result))


def _rounded(operator: str) -> Rule:
    def rule(types: Types, operand: Operand) -> KeyExpression:
        given = _as(operand, types.result)
        return given if types.result in INTEGERS else _apply(operator, given)

    return rule


def _divided(types: Types, left: Operand, right: Operand, rounding_mode: str | None = None) -> KeyExpression:
    operator = {None: "divide", "floor": "floor_divide", "trunc": "trunc_divide"}[rounding_mode]
    return _apply(operator, _as(left, types.result), _as(right, types.result))


def _clamped(types: Types, operand: Operand, low: Operand = None, high: Operand = None) -> KeyExpression:
    clamped = _as(operand, types.result)
    if low is not None:
        clamped = _apply("maximum", clamped, _as(low, types.result))
    return clamped if high is None else _apply("minimum", clamped, _as(high, types.result))


def _where(types: Types, condition: Operand, yes: Operand, no: Operand) -> KeyExpression:
    asked = _as(condition, "bool")
    if asked.is_constant:
        return _as(yes if asked.value else no, types.result)
    return _apply("where", asked, _as(yes, types.result), _as(no, types.result))


_ARITHMETIC: Final = {
    "add": (aten.add.Tensor, aten.add.Scalar),
    "sub": (aten.sub.Tensor, aten.sub.Scalar),
    "mul": (aten.mul.Tensor, aten.mul.Scalar),
    "floor_divide": (aten.floor_divide.default, aten.floor_divide.Scalar),
    "remainder": (aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor),
    "fmod": (aten.fmod.Tensor, aten.fmod.Scalar),
    "minimum": (aten.minimum.default, aten.clamp_max.default, aten.clamp_max.Tensor, aten.min.other),
    "maximum": (aten.maximum.default, aten.clamp_min.default, aten.clamp_min.Tensor, aten.max.other),
    "and": (aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_and.Scalar_Tensor,
            aten.__and__.Tensor, aten.__and__.Scalar),
    "or": (aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.bitwise_or.Scalar_Tensor,
           aten.__or__.Tensor, aten.__or__.Scalar),
    "xor": (aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.bitwise_xor.Scalar_Tensor,
            aten.__xor__.Tensor, aten.__xor__.Scalar),
    "shift_left": (aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar,
                   aten.bitwise_left_shift.Scalar_Tensor, aten.__lshift__.Tensor, aten.__lshift__.Scalar),
    "shift_right": (aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar,
                    aten.bitwise_right_shift.Scalar_Tensor, aten.__rshift__.Tensor, aten.__rshift__.Scalar),
}  # fmt: skip
_COMPARED: Final = {
    "eq": (aten.eq.Tensor, aten.eq.Scalar),
    "ne": (aten.ne.Tensor, aten.ne.Scalar),
    "lt": (aten.lt.Tensor, aten.lt.Scalar),
    "le": (aten.le.Tensor, aten.le.Scalar),
    "gt": (aten.gt.Tensor, aten.gt.Scalar),
    "ge": (aten.ge.Tensor, aten.ge.Scalar),
}

RULES: Final[dict[Any, Rule]] = {
    **{target: _arithmetic(name) for name, targets in _ARITHMETIC.items() for target in targets},
    **{target: _compared(name) for name, targets in _COMPARED.items() for target in targets},
    aten.rsub.Tensor: _swapped(_arithmetic("sub")),
    aten.rsub.Scalar: _swapped(_arithmetic("sub")),
    aten.div.Tensor: _divided,
    aten.div.Scalar: _divided,
    aten.true_divide.Tensor: _divided,
    aten.div.Tensor_mode: _divided,
    aten.div.Scalar_mode: _divided,
    aten.logical_and.default: _logical("and"),
    aten.logical_or.default: _logical("or"),
    aten.logical_xor.default: _logical("xor"),
    aten.logical_not.default: _logical("not"),
    aten.bitwise_not.default: _unary("not"),
    aten.neg.default: _unary("neg"),
    aten.abs.default: _unary("abs"),
    aten.floor.default: _rounded("floor"),
    aten.ceil.default: _rounded("ceil"),
    aten.trunc.default: _rounded("trunc"),
    aten.fix.default: _rounded("trunc"),
    aten.round.default: _rounded("round"),
    aten.relu.default: lambda types, operand: _clamped(types, operand, 0),
    aten.clamp.default: _clamped,
    aten.clamp.Tensor: _clamped,
    aten.where.self: _where,
    aten.where.ScalarSelf: _where,
    aten.where.ScalarOther: _where,
    aten.where.Scalar: _where,
    aten.masked_fill.Scalar: lambda types, operand, mask, value: _where(types, mask, value, operand),
    aten.masked_fill.Tensor: lambda types, operand, mask, value: _where(types, mask, value, operand),
}
"""What each operator makes of its operands."""
