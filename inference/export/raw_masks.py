"""Masks of ids said in raw ids: where the dense program does no more with ids than compare them with one, the padding.

A mean over what is not padding counts it in the dense program. That gets raw ids where the table is keyed by them, so
the number that it compares with becomes the raw id of that row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.operators import CASTS, MOVES, SIZES, aten

_EQUAL: Final[Mapping[Any, Any]] = {
    aten.eq.Scalar: aten.eq.Scalar,
    aten.ne.Scalar: aten.ne.Scalar,
}
_OF_THE_FIRST: Final[Mapping[tuple[Any, int], Any]] = {
    (aten.gt.Scalar, 0): aten.ne.Scalar,
    (aten.ge.Scalar, 1): aten.ne.Scalar,
    (aten.le.Scalar, 0): aten.eq.Scalar,
    (aten.lt.Scalar, 1): aten.eq.Scalar,
}
"""Comparisons that, of ids from 0, tell id 0 from the others."""


def compared_with(program: fx.GraphModule, argument: str, lowest: int) -> dict[fx.Node, tuple[Any, int]] | None:
    """Return the comparisons of an argument's ids in a program, each as equality with an id; None: it does more.

    Args:
        program: The dense program.
        argument: Name of an argument that holds ids.
        lowest: First id that the model knows.
    """
    found: dict[fx.Node, tuple[Any, int]] = {}
    pending = [node for node in program.graph.nodes if node.op == "placeholder" and node.target == argument]
    while pending:
        node = pending.pop()
        for user in node.users:
            if user.target in SIZES:
                continue
            if user.target in MOVES | CASTS and user.args[0] is node and _holds_ids(user):
                pending.append(user)
                continue
            number = user.args[1] if len(user.args) > 1 and user.args[0] is node else None
            if not isinstance(number, int | float) or number != int(number):
                return None
            number = int(number)
            if user.target in _EQUAL:
                found[user] = _EQUAL[user.target], number
            elif lowest == 0 and (user.target, number) in _OF_THE_FIRST:
                found[user] = _OF_THE_FIRST[user.target, number], 0
            else:
                return None
    return found


def say(comparisons: Mapping[fx.Node, tuple[Any, int]], raw: Mapping[int, int]) -> None:
    """Compare with the raw ids that stand for the model's."""
    for node, (operation, number) in comparisons.items():
        node.target = operation
        node.args = (node.args[0], raw[number])


def _holds_ids(node: fx.Node) -> bool:
    kind = node.meta.get("val")
    return isinstance(kind, Tensor) and kind.dtype is torch.int64
