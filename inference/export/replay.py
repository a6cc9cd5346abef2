"""Doing to vectors what an index expression does to ids, so that they take the place of the embedding's output."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ringpull.inference.export.index import varying
from ringpull.inference.export.operators import ADDS, CASTS, JOINS, SHAPES, aten, positive, rank_of, values_of
from ringpull.inference.export.probe import Probe


@dataclass(frozen=True, slots=True)
class _Columns:
    """Whole columns of a stack, not yet looked up: those that the expression drops never are."""

    argument: str
    columns: tuple[int, ...]


class Replay:
    """Writes index expressions again, for vectors of `dim` numbers, at the graph's insertion point."""

    def __init__(self, probe: Probe, graph: fx.Graph, dim: int, vectors: Callable[[str, int], fx.Node]) -> None:
        """`vectors(argument, column)` gives the vectors of one source: the shape of its ids and (dim,)."""
        self._probe = probe
        self._graph = graph
        self._dim = dim
        self._vectors = vectors

    def node(self, index: fx.Node) -> fx.Node:
        """Return the vectors of an index, its shape and (dim,)."""
        return self._whole(self._of(index))

    def _of(self, node: fx.Node) -> fx.Node | _Columns:
        if node.op == "placeholder":
            argument = self._probe.argument(node)
            if argument.part == "id_stack":
                return _Columns(argument.name, tuple(range(len(argument.features))))
            return self._vectors(argument.name, 0)
        target = node.target
        if target in CASTS:
            return self._of(node.args[0])  # type: ignore[arg-type]
        if target in ADDS:
            return self._of(varying(self._probe, node))
        if target in JOINS:
            return self._join(node)
        if target is operator.getitem:
            return self._item(node)
        made = self._of(node.args[0])  # type: ignore[arg-type]
        if isinstance(made, _Columns) and (chosen := _choose(node, made)) is not None:
            return chosen if target is aten.slice.Tensor else self._vectors(chosen.argument, chosen.columns[0])
        return self._reshape(node, self._whole(made))

    def _join(self, node: fx.Node) -> fx.Node:
        parts: Any = node.args[0]
        rank = rank_of(parts[0]) + (node.target is aten.stack.default)
        vectors = [self.node(part) for part in parts]
        return self._graph.call_function(node.target, (vectors, positive(values_of(node)[1], rank)))  # type: ignore[arg-type]

    def _item(self, node: fx.Node) -> fx.Node | _Columns:
        """Take one part of a split; of a stack's columns by choosing, so that the others are not looked up for it."""
        parent, part = node.args
        assert isinstance(parent, fx.Node)
        assert isinstance(part, int)
        made = self._of(parent.args[0])  # type: ignore[arg-type]
        if isinstance(made, _Columns):
            inner, *sizes, dim = values_of(parent)
            if positive(dim, rank_of(inner)) == 1:
                split = parent.target(torch.tensor(made.columns), *sizes, 0)[part].tolist()  # type: ignore[operator]
                if isinstance(split, int):
                    return self._vectors(made.argument, split)
                return _Columns(made.argument, tuple(split))
        return self._graph.call_function(operator.getitem, (self._reshape(parent, self._whole(made)), part))

    def _reshape(self, node: fx.Node, vectors: fx.Node) -> fx.Node:
        operation, *rest = SHAPES[node.target](values_of(node)[1:], rank_of(node.args[0]), self._dim)
        return self._graph.call_function(operation, (vectors, *rest))

    def _whole(self, made: fx.Node | _Columns) -> fx.Node:
        if isinstance(made, fx.Node):
            return made
        columns = [self._vectors(made.argument, column) for column in made.columns]
        return self._graph.call_function(aten.stack.default, (columns, 1))


def _choose(node: fx.Node, made: _Columns) -> _Columns | None:
    """Return the columns that a slice keeps, or the one a select takes; None when the operator does something else."""
    if node.target is aten.select.int:
        dim, column = values_of(node)[1:]
        return _Columns(made.argument, (made.columns[column],)) if positive(dim, 2) == 1 else None
    if node.target is aten.slice.Tensor:
        dim, start, end, step = values_of(node)[1:]
        if not all(each is None or isinstance(each, int) for each in (start, end, step)):
            return None
        if positive(dim, 2) == 1:
            return _Columns(made.argument, made.columns[start:end:step])
        if start in (0, None) and step == 1 and (end is None or end == sys.maxsize):
            return made
    return None
