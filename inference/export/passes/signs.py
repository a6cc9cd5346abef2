"""Signs of integers: which indices can never count rows from behind."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, fx

from ringpull.inference.export.operators import CASTS, JOINS, MOVES, aten, getitem, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of

_OF_BOTH: Final = frozenset(
    {
        aten.add.Tensor,
        aten.add.Scalar,
        aten.bitwise_and.Tensor,
        aten.bitwise_or.Tensor,
        aten.bitwise_xor.Tensor,
        aten.floor_divide.default,
        aten.maximum.default,
        aten.minimum.default,
        aten.mul.Tensor,
        aten.mul.Scalar,
        aten.remainder.Scalar,
        aten.remainder.Tensor,
    }
)
"""Operators of two numbers that give none below 0 where neither is."""


def never_negative(editor: Editor, node: Any) -> bool:
    """Return whether no number of an expression is below 0, ids of requests being none.

    False where nothing is known.
    """
    if not isinstance(node, fx.Node):
        return isinstance(node, int | float) and node >= 0
    if node.op == "placeholder":
        return dtype_of(node) is not None
    if editor.constant(node):
        value = editor.evaluate(node)
        return isinstance(value, Tensor) and bool((value >= 0).all())
    target = node.target
    if target in CASTS or target in MOVES or target is getitem:
        return never_negative(editor, node.args[0])
    if target in JOINS:
        parts: Any = node.args[0]
        return all(never_negative(editor, part) for part in parts)
    if target in _OF_BOTH and not node.kwargs:
        return all(never_negative(editor, each) for each in node.args)
    if target is aten.where.self:
        return all(never_negative(editor, each) for each in node.args[1:])
    if target in (aten.clamp.default, aten.clamp_min.default):
        least = values_of(node)[1]
        return (least is not None and never_negative(editor, least)) or never_negative(editor, node.args[0])
    return False
