"""Round trips: ids that became floats and integers again are the ids that they were.

A matrix of floats that holds ids too makes every index a cast of a cast. Within the rows that an embedding has, floats
of so many bits hold every integer, and an id beyond is beyond as a float, too: the casts are left out of its index, and
of comparisons with small numbers. Then an index is plain ids, which may also be raw keys.
"""

from __future__ import annotations

import operator
from typing import Any, Final

import torch
from torch import fx

from ringpull.inference.export.operators import BAGS, CASTS, EMBEDDINGS, JOINS, MOVES, aten
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of

_INTEGERS: Final = (torch.int64, torch.int32)
_EXACT: Final = {torch.float16: 2**11, torch.bfloat16: 2**8, torch.float32: 2**24, torch.float64: 2**53}
"""Numbers up to which a type of floats holds every integer."""

_COMPARISONS: Final = frozenset(
    {aten.eq.Scalar, aten.ne.Scalar, aten.gt.Scalar, aten.ge.Scalar, aten.lt.Scalar, aten.le.Scalar}
)


def leave_out_round_trips(editor: Editor) -> None:
    """Give embeddings and comparisons the ids themselves."""
    for node in list(editor.graph.nodes):
        if node.target in EMBEDDINGS | BAGS and isinstance(node.args[1], fx.Node):
            found = _Undoing(editor, node, shape_of(node.args[0])[0]).integers(node.args[1])
            if found is not None:
                node.update_arg(1, found)
        elif node.target in _COMPARISONS and isinstance(node.args[0], fx.Node):
            number = node.args[1]
            if not isinstance(number, int | float) or number != number // 1:
                continue
            undoing = _Undoing(editor, node, int(abs(number)) + 1)
            compared = node.args[0]
            found = undoing.integers(compared) if dtype_of(compared) in _INTEGERS else undoing.as_integers(compared)
            if found is not None:
                node.args = (found, int(number))


class _Undoing:
    """Writes one expression again, before the node that takes it, without casts to floats."""

    def __init__(self, editor: Editor, node: fx.Node, bound: int) -> None:
        """Only numbers below `bound` matter."""
        self._editor = editor
        self._node = node
        self._bound = bound
        self._known: dict[tuple[fx.Node, bool], fx.Node | None] = {}

    def integers(self, node: fx.Node) -> fx.Node | None:
        """Return what equals an expression of integers; None when no floats are in it that can be left out."""
        if (node, True) not in self._known:
            self._known[node, True] = self._integers(node)
        return self._known[node, True]

    def as_integers(self, node: fx.Node) -> fx.Node | None:
        """Return the integers that an expression of floats holds; None when it may hold others."""
        if (node, False) not in self._known:
            self._known[node, False] = self._as_integers(node)
        return self._known[node, False]

    def _integers(self, node: fx.Node) -> fx.Node | None:
        if node.op != "call_function":
            return None
        if node.target in CASTS:
            inner: Any = node.args[0]
            found = self.integers(inner) if dtype_of(inner) in _INTEGERS else self.as_integers(inner)
            return None if found is None else self._cast(found, dtype_of(node))
        if node.target in JOINS:
            parts: Any = node.args[0]
            made = [self.integers(part) for part in parts]
            if all(each is None for each in made):
                return None
            return self._call(
                node.target, [a if b is None else b for a, b in zip(parts, made, strict=True)], *node.args[1:]
            )
        return self._reshaped(node, self.integers)

    def _as_integers(self, node: fx.Node) -> fx.Node | None:
        if node.op != "call_function" or self._bound > _EXACT.get(dtype_of(node), 0):  # type: ignore[arg-type]
            return None
        if node.target in CASTS:
            return self._of_either(node.args[0])
        if node.target in JOINS:
            parts: Any = node.args[0]
            made = [self._of_either(part) for part in parts]
            if any(each is None for each in made):
                return None
            return self._call(node.target, made, *node.args[1:])
        return self._reshaped(node, self.as_integers)

    def _of_either(self, node: Any) -> fx.Node | None:
        """Return the integers of a node that is cast to floats."""
        dtype = dtype_of(node)
        if dtype in _INTEGERS:
            return self.integers(node) or node
        return self.as_integers(node) if dtype in _EXACT else None

    def _reshaped(self, node: fx.Node, inner: Any) -> fx.Node | None:
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            split = node.args[0]
            found = inner(split.args[0]) if split.target in MOVES else None
            if found is None:
                return None
            return self._call(operator.getitem, self._call(split.target, found, *split.args[1:]), node.args[1])
        if node.target not in MOVES:
            return None
        found = inner(node.args[0])
        return None if found is None else self._call(node.target, found, *node.args[1:])

    def _cast(self, node: fx.Node, dtype: torch.dtype | None) -> fx.Node:
        return node if dtype_of(node) == dtype else self._call(aten.to.dtype, node, dtype)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self._editor.call(self._node, target, *args)
