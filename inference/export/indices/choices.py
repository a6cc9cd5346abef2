"""Choices: an index that takes some elements here and others there, by a condition that no id of its own decides.

`where(place < length, id, 0)`, `id * mask`, a mask token that is put behind a history: which element is which depends
on lengths, on numbers or on other ids. Both sides are looked up, and the dense program chooses among the vectors by the
condition that the model computes. An index that is joined of such parts is looked up part by part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ringpull.inference.export.indices.elementwise import RULES
from ringpull.inference.export.indices.fixed_rows import FixedRows
from ringpull.inference.export.indices.index import Part
from ringpull.inference.export.operators import CASTS, JOINS, SHAPES, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of
from ringpull.inference.export.probe import PROBED_ROWS, Probe
from ringpull.inference.export.refusals import NotPlain
from ringpull.inference.export.uses import LookUp, Plan, Use, Vectors, read_vectors

MAX_PARTS: Final = 16
"""Look-ups that one index may be split into."""

_INTEGERS: Final = (torch.int64, torch.int32)

_MOVED: Final = SHAPES | {aten.pad.default, aten.constant_pad_nd.default, aten.flip.default, aten.roll.default}
"""Operators that make of a choice the choice of what they make of both sides. Padding is that of both sides."""

Side = fx.Node | int | float


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Vectors of one index or of another, by a condition that broadcasts with both."""

    condition: fx.Node
    yes: Plan
    no: Plan
    rows: int
    """Rows of the table."""

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        def of_side(use: Use) -> fx.Node:
            # The module would fail at padding that is no row, so that it is never chosen.
            beyond = use.fill_row is not None and not 0 <= use.fill_row < self.rows
            return look_up(replace(use, fill_row=0) if beyond else use)

        condition = graph.call_function(aten.unsqueeze.default, (self.condition, -1))
        sides = [each.build(probe, graph, of_side) for each in (self.yes, self.no)]
        return graph.call_function(aten.where.self, (condition, *sides))


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Vectors of several indices, joined along a dimension of theirs."""

    parts: tuple[Plan, ...]
    dim: int
    stacked: bool

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        vectors = [each.build(probe, graph, look_up) for each in self.parts]
        return graph.call_function(aten.stack.default if self.stacked else aten.cat.default, (vectors, self.dim))


def read_lookup(probe: Probe, embedding: fx.Node) -> Plan:
    """Return the plan for an embedding without pooling.

    Raises:
        NotPlain: It cannot be a pull, nor several that are put together.
    """
    weight, index, *_ = values_of(embedding)
    try:
        return read_vectors(probe, weight, index)
    except NotPlain:
        if not probe.reads(index):
            raise
        return _Splitting(probe, weight).read(index)


def parts_of(plan: Plan | None) -> tuple[Part, ...]:
    """Return all that the plan of an embedding without pooling looks up."""
    match plan:
        case Vectors():
            return plan.index.parts
        case Chosen():
            return parts_of(plan.yes) + parts_of(plan.no)
        case Joined():
            return tuple(part for each in plan.parts for part in parts_of(each))
    return ()


class _Splitting:
    """Reads the index of one embedding part by part; what it writes into the graph is needed by what it returns."""

    def __init__(self, probe: Probe, weight: fx.Node) -> None:
        self._probe = probe
        self._weight = weight
        self._rows = int(weight.meta["val"].shape[0])
        self._editor = Editor(probe.captured)
        self._left = MAX_PARTS

    def read(self, index: Side) -> Plan:
        """Return the plan for an index, or part of one.

        Raises:
            NotPlain: It cannot be said in look-ups.
        """
        self._left -= 1
        if self._left < 0:
            raise NotPlain(f"its index has more than {MAX_PARTS} parts")
        if isinstance(index, float):
            raise NotPlain(f"its index is {index}")
        if not isinstance(index, fx.Node) or not self._probe.reads(index):
            return FixedRows.read(self._probe, self._weight, index)
        try:
            return read_vectors(self._probe, self._weight, index)
        except NotPlain as reason:
            why = reason
        try:
            return FixedRows.read(self._probe, self._weight, index)  # it reads no more than the shape of ids
        except NotPlain:  # as most do
            pass
        if index.target in JOINS:
            parts, dim = values_of(index)
            if all(rank_of(part) == rank_of(parts[0]) for part in parts):
                read = tuple(self.read(part) for part in parts)
                return Joined(read, positive(dim, rank_of(index)), index.target is aten.stack.default)
        chosen = self._choice(index)
        if chosen is None:
            raise why
        condition, yes, no = chosen
        return Chosen(condition, self.read(yes), self.read(no), self._rows)

    def _choice(self, node: Side) -> tuple[fx.Node, Side, Side] | None:
        """Return an index as a choice of two."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        match node.target:
            case aten.where.self | aten.where.ScalarSelf | aten.where.ScalarOther | aten.where.Scalar:
                condition, yes, no = values_of(node)
                return condition, yes, no
            case aten.masked_fill.Scalar | aten.masked_fill.Tensor:
                kept, mask, filled = values_of(node)
                return mask, filled, kept
            case aten.mul.Tensor:
                given: tuple[Any, ...] = node.args
                for ids, factor in (given, reversed(given)):
                    if (mask := _mask(factor)) is not None:
                        return mask, ids, 0
            case aten.index_put.default:
                return self._put(node)
            case aten.scatter.value | aten.scatter.src:
                return self._scattered(node)
        return self._pushed(node)

    def _put(self, node: fx.Node) -> tuple[fx.Node, Side, Side] | None:
        """Read elements that are put at places: a constant, or one for each row of the batch."""
        ids, indices, values, accumulate = values_of(node)
        if accumulate or not isinstance(values, fx.Node):
            return None
        if rank_of(values) and shape_of(values) != (1,):
            if not (rank_of(ids) == 2 and len(indices) == 2 and rank_of(values) == 1 and self._counts_rows(indices[0])):
                return None
            values = self._call(node, aten.unsqueeze.default, values, 1)
        one = self._call(node, aten.full.default, [], True)
        return self._call(node, aten.index_put.default, self._nowhere(node, ids), indices, one), values, ids

    def _scattered(self, node: fx.Node) -> tuple[fx.Node, Side, Side] | None:
        ids, dim, index, value = values_of(node)
        dim = positive(dim, rank_of(ids))
        if isinstance(value, fx.Node):
            narrow = all(shape_of(each)[dim] == 1 for each in (index, value))
            others = [place for place in range(rank_of(ids)) if place != dim]
            if not narrow or not all(
                statically_known_true(shape_of(each)[place] == shape_of(ids)[place])
                for each in (index, value)
                for place in others
            ):
                return None
        hit = self._call(node, aten.scatter.value, self._nowhere(node, ids), dim, index, 1)
        return hit, value, ids

    def _counts_rows(self, index: fx.Node | None) -> bool:
        """Return whether an index is 0, 1, 2, ... for the rows of the batch."""
        if index is None or self._probe.reads(index) or rank_of(index) != 1:
            return False
        found = [self._probe.evaluate(index, self._probe.example(rows)) for rows in PROBED_ROWS]
        return all(torch.equal(each.cpu(), torch.arange(rows)) for each, rows in zip(found, PROBED_ROWS, strict=True))

    def _nowhere(self, node: fx.Node, like: fx.Node) -> fx.Node:
        """Return false in the shape of a tensor of integers."""
        return self._call(node, aten.ne.Tensor, like, like)

    def _pushed(self, node: fx.Node) -> tuple[fx.Node, Side, Side] | None:
        """Read an operator on a choice as a choice of what the operator makes of both sides."""
        wide = [each for each in node.all_input_nodes if self._probe.reads(each)]
        if len(wide) != 1 or not isinstance(wide[0].meta["val"], Tensor):
            return None
        (operand,) = wide
        moves = node.target in _MOVED and node.args[0] is operand and dtype_of(node) is not None
        if not moves and node.target not in CASTS and node.target not in RULES:
            return None
        inner = self._choice(operand)
        if inner is None:
            return None
        condition, *sides = inner
        if not moves:
            return condition, *(self._with(node, operand, each) for each in sides)  # type: ignore[return-value]
        whole = self._call(node, aten.logical_or.default, condition, self._nowhere(node, operand))
        moved = (self._with(node, operand, self._spread(node, operand, each)) for each in sides)
        return self._with(node, operand, whole), *moved  # type: ignore[return-value]

    def _spread(self, node: fx.Node, operand: fx.Node, side: Side) -> fx.Node:
        """Return one side in the shape of the choice."""
        if not isinstance(side, fx.Node):
            return self._call(node, aten.full_like.default, operand, side)
        return side if shape_of(side) == shape_of(operand) else self._call(node, aten.expand_as.default, side, operand)

    def _with(self, node: fx.Node, operand: fx.Node, instead: Side) -> fx.Node:
        """Write an operator again, on another operand."""
        if not isinstance(instead, fx.Node):
            instead = self._call(node, aten.full.default, [], instead)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: instead if each is operand else each)
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        return self._editor.call(node, target, *args, **kwargs)

    def _call(self, before: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._editor.call(before, target, *args)


def _mask(factor: Any) -> fx.Node | None:
    """Return the condition that a factor is 1 for, and 0 otherwise."""
    while isinstance(factor, fx.Node) and factor.target in CASTS and dtype_of(factor) in (*_INTEGERS, torch.bool):
        if dtype_of(factor) is torch.bool:
            return factor
        factor = factor.args[0]
    return factor if isinstance(factor, fx.Node) and dtype_of(factor) is torch.bool else None
