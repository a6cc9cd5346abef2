"""Operators of ONNX that compute ids, as operators of key expressions; and those that only move elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ringpull.inference.importers.onnx.elements import Elements, Numbers
from ringpull.inference.schema.key_expressions import FLOATS, NumberType

TYPES: Final[dict[int, NumberType]] = {
    TensorProto.BOOL: "bool",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}
TYPES_OF_ARRAYS: Final[dict[np.dtype[Any], NumberType]] = {
    np.dtype(np.bool_): "bool",
    np.dtype(np.int32): "int32",
    np.dtype(np.int64): "int64",
    np.dtype(np.float32): "float32",
    np.dtype(np.float64): "float64",
}

MOVES: Final = frozenset(
    (
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherND", "Concat", "Split"),
        *("Expand", "Tile", "Identity", "Dropout"),
    )
)
"""Operators that only move elements: what comes out is what went in, elsewhere."""

_SAME: Final = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "and",
    "BitwiseOr": "or",
    "BitwiseXor": "xor",
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Neg": "neg",
    "Abs": "abs",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Not": "not",
    "BitwiseNot": "not",
    "Where": "where",
}
"""Operators that key expressions have by another name."""
_COMPARISONS: Final = ("eq", "lt", "le", "gt", "ge")


class NotRead(Exception):
    """Raised when an operator is none that a key expression has, or not on these types. The message says which."""


Operand = tuple[Numbers, NumberType]
"""Elements of a tensor, and their type."""


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def computed(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    """Return the elements that a node computes of others; None among operands: not given.

    Raises:
        NotRead: No key expression says it.
    """
    kind = node.op_type
    given = [each for each in operands if each is not None]
    if kind in _SAME:
        return _applied(elements, _SAME[kind], given)
    special = _SPECIAL.get(kind)
    if special is None:
        raise NotRead(f"it is computed by {kind}")
    return special(node, operands, elements)


def _applied(elements: Elements, operator: str, operands: Sequence[Operand]) -> Operand:
    number_type: NumberType = "bool" if operator in _COMPARISONS else operands[-1][1]
    return elements.apply(operator, [each for each, _ in operands], number_type), number_type


def _clip(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    value = _first(operands)
    low, high = (operands[place] if len(operands) > place else None for place in (1, 2))
    for bound, operator, name in ((low, "maximum", "min"), (high, "minimum", "max")):
        said = attribute(node, name)
        if bound is None and said is not None and abs(said) < np.finfo(np.float32).max:
            bound = elements.constants(np.array(said), value[1]), value[1]
        if bound is not None:
            value = _applied(elements, operator, [value, bound])
    return value


def _chained(operator: str) -> Callable[..., Operand]:
    def chained(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
        value = _first(operands)
        for each in operands[1:]:
            assert each is not None
            value = _applied(elements, operator, [value, each])
        return value

    return chained


def _div(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    left, right = (each for each in operands if each is not None)
    if left[1] in FLOATS:
        return _applied(elements, "divide", [left, right])
    _check_divisor(right, elements)
    return _applied(elements, "trunc_divide", [left, right])


def _mod(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    given = [each for each in operands if each is not None]
    if given[1][1] not in FLOATS:
        _check_divisor(given[1], elements)
    return _applied(elements, "fmod" if attribute(node, "fmod", 0) else "remainder", given)


def _check_divisor(divisor: Operand, elements: Elements) -> None:
    """Check that integers are divided by a constant: by 0 the processor gives up, and by -1 at the lowest number."""
    for number in np.unique(divisor[0]).tolist():
        if (value := elements.value(number)) is None or value in (0, -1):
            raise NotRead("it is divided by what may be 0 or -1")


def _cast(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    value = _first(operands)
    if node.op_type == "CastLike":
        assert operands[1] is not None
        to: NumberType | None = operands[1][1]
    else:
        to = TYPES.get(attribute(node, "to"))
    if to is None:
        raise NotRead(f"it is cast to {TensorProto.DataType.Name(attribute(node, 'to')).lower()}")
    return (value[0] if to == value[1] else elements.apply("cast", [value[0]], to)), to


def _relu(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    value = _first(operands)
    return _applied(elements, "maximum", [value, (elements.constants(np.array(0), value[1]), value[1])])


def _sign(node: NodeProto, operands: Sequence[Operand | None], elements: Elements) -> Operand:
    value = _first(operands)
    zero, one, less = ((elements.constants(np.array(each), value[1]), value[1]) for each in (0, 1, -1))
    above, below = (_applied(elements, each, [value, zero]) for each in ("gt", "lt"))
    return _applied(elements, "where", [above, one, _applied(elements, "where", [below, less, zero])])


def _first(operands: Sequence[Operand | None]) -> Operand:
    assert operands[0] is not None
    return operands[0]


_SPECIAL: Final[dict[str, Callable[..., Operand]]] = {
    "Clip": _clip,
    "Min": _chained("minimum"),
    "Max": _chained("maximum"),
    "Div": _div,
    "Mod": _mod,
    "Cast": _cast,
    "CastLike": _cast,
    "Relu": _relu,
    "Sign": _sign,
}
