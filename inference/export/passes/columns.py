"""Columns: what is read of parts that were joined side by side is read of the parts themselves.

A model that takes one matrix of all its features reads `X[:, 3:4].long()`; bound to arguments, X is a `cat` of ids cast
to floats and of numbers, and its columns are the arguments again. A read is a select, a slice, a part of a split or an
index of constants, along a dimension of fixed size. It is followed through casts, through what computes number by
number, and through what moves dimensions, to a `cat` or `stack`; where there is none, it stays as it is.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ringpull.inference.export.operators import CASTS, JOINS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of

_SPLITS: Final = {
    # operator -> place of the dimension among its arguments
    aten.chunk.default: 2,
    aten.split.Tensor: 2,
    aten.split.sizes: 2,
    aten.split_with_sizes.default: 2,
    aten.tensor_split.sections: 2,
    aten.tensor_split.indices: 2,
    aten.unbind.int: 1,
    aten.unsafe_chunk.default: 2,
    aten.unsafe_split.Tensor: 2,
}
_READS: Final = {aten.select.int: 1, aten.slice.Tensor: 1, aten.narrow.default: 1, aten.index_select.default: 1}
_SQUEEZES: Final = (aten.squeeze.dim, aten.squeeze.dims)
_VIEWS: Final = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


Columns = Sequence[tuple[fx.Node, int]] | Literal[False]
"""The part that each column of a `cat` is of, and its place in there; False of those that are not looked into."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Places along a dimension of fixed size."""

    source: fx.Node
    dim: int
    places: tuple[int, ...]
    drop: bool
    """Whether the dimension goes: it is one place, selected."""


def read_columns(editor: Editor) -> None:
    """Replace every read of a join by the parts that it reads."""
    columns: dict[fx.Node, Columns] = {}
    for node in list(editor.graph.nodes):
        if node.op != "call_function":
            continue
        found = _without_effect(node)
        if found is None and (read := _read(editor, node)) is not None:
            found = _Taking(editor, node, columns).take(read.source, read.dim, read.places, read.drop)
        if found is not None:
            node.replace_all_uses_with(found)


def _without_effect(node: fx.Node) -> fx.Node | None:
    """Return what a node is without its operator, when that changes nothing."""
    if node.target is aten.slice.Tensor:
        source, dim, start, end, step = values_of(node)
        length = shape_of(source)[dim]
        whole = (
            end is None or end == sys.maxsize or (isinstance(length, int) and isinstance(end, int) and end >= length)
        )
        if start in (0, None) and whole and step == 1:
            return source  # type: ignore[no-any-return]
    if node.target in _SQUEEZES:
        source, dims = values_of(node)
        if source.target is aten.unsqueeze.default and rank_of(node) == rank_of(source) - 1:
            dim = dims if isinstance(dims, int) else dims[0]
            inner, added = values_of(source)
            if positive(dim, rank_of(source)) == positive(added, rank_of(source)):
                return inner  # type: ignore[no-any-return]
    return None


def _read(editor: Editor, node: fx.Node) -> _Read | None:
    """Return what a node reads of another, if it is a read."""
    target: Any = node.target
    if target is operator.getitem and isinstance(node.args[0], fx.Node) and node.args[0].target in _SPLITS:
        split: Any = node.args[0]
        source, *rest = values_of(split)
        where = _SPLITS[split.target]
        return _placed(
            source, rest[where - 1], lambda places: split.target(places, *rest[: where - 1], 0), node.args[1]
        )
    if target in _READS:
        source, dim, *rest = values_of(node)
        if target is aten.index_select.default and editor.constant(rest[0]):
            rest = [editor.evaluate(rest[0]).cpu()] if isinstance(rest[0], fx.Node) else rest
        if any(isinstance(each, fx.Node) for each in rest):
            return None
        return _placed(source, dim, lambda places: target(places, 0, *rest), None)
    if target is aten.index.Tensor:
        source, indices = values_of(node)
        given = [place for place, index in enumerate(indices) if index is not None]
        if len(given) == 1 and editor.constant(index := indices[given[0]]):
            values = editor.evaluate(index).cpu()
            if values.dim() <= 1:
                return _placed(source, given[0], lambda places: places[values], None)
    return None


def _placed(source: Any, dim: int, run: Any, part: Any) -> _Read | None:
    """Return the read that an operator makes, by what it reads of the numbers of the places."""
    dim = positive(dim, rank_of(source))
    length = shape_of(source)[dim] if rank_of(source) else None
    if not isinstance(length, int):
        return None
    places = run(torch.arange(length))
    if part is not None:
        places = places[part]
    return _Read(source, dim, tuple(places.reshape(-1).tolist()), places.dim() == 0)


class _Taking:
    """Follows one read to the parts, and writes what it finds before the node that reads."""

    def __init__(self, editor: Editor, node: fx.Node, columns: dict[fx.Node, Columns]) -> None:
        """`columns` keeps, of each `cat`, what its columns are: a wide one is read once for each of them."""
        self._editor = editor
        self._columns = columns
        self._node = node

    def take(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        """Return the places of a source without reading the source itself; None when there is no other way."""
        target = source.target
        if not drop and places == tuple(range(shape_of(source)[dim])):
            return source
        if source.op != "call_function":
            return None
        if target in JOINS:
            parts, along = values_of(source)
            along = positive(along, rank_of(source))
            if target is aten.stack.default:
                return self._of_stack(source, parts, along, dim, places, drop)
            return self._of_cat(source, parts, dim, places, drop) if along == dim else None
        if target in CASTS:
            return self._of_cast(source, dim, places, drop)
        if target is aten.unsqueeze.default:
            return self._of_unsqueeze(source, dim, places, drop)
        if target in _SQUEEZES and isinstance(values_of(source)[1], int):
            return self._of_squeeze(source, dim, places, drop)
        if (order := _order(source)) is not None:
            return self._of_permute(source, order, dim, places, drop)
        if target in _VIEWS:
            return self._of_view(source, dim, places, drop)
        return self._of_numbers(source, dim, places, drop)

    def _emit(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node:
        """Return the places of a part: what `take` finds, else a read of the part."""
        found = self.take(source, dim, places, drop)
        if found is not None:
            return found
        if drop:
            return self._call(aten.select.int, source, dim, places[0])
        first, last = places[0], places[-1]
        if places == tuple(range(first, last + 1)):
            return self._call(aten.slice.Tensor, source, dim, first, last + 1)
        singles = [self._call(aten.slice.Tensor, source, dim, place, place + 1) for place in places]
        return self._call(aten.cat.default, singles, dim)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self._editor.call(self._node, target, *args)

    def _cast(self, node: fx.Node, like: fx.Node) -> fx.Node:
        dtype = dtype_of(like)
        return node if dtype_of(node) == dtype else self._call(aten.to.dtype, node, dtype)

    def _of_cat(
        self, source: fx.Node, parts: Sequence[fx.Node], dim: int, places: tuple[int, ...], drop: bool
    ) -> fx.Node | None:
        if source not in self._columns:
            # `cat` skips empty vectors among matrices.
            alike = all(rank_of(part) == rank_of(source) for part in parts)
            self._columns[source] = alike and [(part, at) for part in parts for at in range(shape_of(part)[dim])]
        where = self._columns[source]
        if not where or not places:
            return None
        runs: list[tuple[fx.Node, list[int]]] = []
        for place in places:
            part, inside = where[place]
            if runs and runs[-1][0] is part and inside == runs[-1][1][-1] + 1:
                runs[-1][1].append(inside)
            else:
                runs.append((part, [inside]))
        taken = [self._cast(self._emit(part, dim, tuple(inside), drop), source) for part, inside in runs]
        return taken[0] if len(taken) == 1 else self._call(aten.cat.default, taken, dim)

    def _of_stack(
        self, source: fx.Node, parts: Sequence[fx.Node], along: int, dim: int, places: tuple[int, ...], drop: bool
    ) -> fx.Node | None:
        if along != dim or not places:
            return None
        taken = [self._cast(parts[place], source) for place in places]
        if drop:
            return taken[0]
        if len(taken) == 1:
            return self._call(aten.unsqueeze.default, taken[0], dim)
        return self._call(aten.stack.default, taken, dim)

    def _of_cast(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        taken = self.take(source.args[0], dim, places, drop)  # type: ignore[arg-type]
        return None if taken is None else self._cast(taken, source)

    def _of_unsqueeze(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        inner, added = values_of(source)
        added = positive(added, rank_of(source))
        if added == dim:
            return inner if drop else None
        taken = self.take(inner, dim - (dim > added), places, drop)
        return None if taken is None else self._call(aten.unsqueeze.default, taken, added - (drop and dim < added))

    def _of_squeeze(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        inner, gone = values_of(source)
        gone = positive(gone, rank_of(inner))
        if rank_of(inner) == rank_of(source):
            return self.take(inner, dim, places, drop)
        within = dim + (dim >= gone)
        taken = self.take(inner, within, places, drop)
        return None if taken is None else self._call(aten.squeeze.dim, taken, gone - (drop and within < gone))

    def _of_view(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        """Follow a view that only adds or takes away dimensions of size 1."""
        inner = source.args[0]
        assert isinstance(inner, fx.Node)
        sizes, sizes_inside = shape_of(source), shape_of(inner)
        wide = [place for place, size in enumerate(sizes) if not _is(size, 1)]
        wide_inside = [place for place, size in enumerate(sizes_inside) if not _is(size, 1)]
        same = len(wide) == len(wide_inside) and all(
            _is(sizes[place], sizes_inside[inside]) for place, inside in zip(wide, wide_inside, strict=True)
        )
        unknown = sum(not isinstance(size, int) for size in sizes)
        if not same or unknown > 1 or dim not in wide:
            return None
        taken = self.take(inner, wide_inside[wide.index(dim)], places, drop)
        if taken is None:
            return None
        shape = [size if isinstance(size, int) else -1 for size in sizes]
        shape[dim : dim + 1] = [] if drop else [len(places)]
        return self._call(aten.reshape.default, taken, shape)

    def _of_permute(
        self, source: fx.Node, order: list[int], dim: int, places: tuple[int, ...], drop: bool
    ) -> fx.Node | None:
        taken = self.take(values_of(source)[0], order[dim], places, drop)
        if taken is None:
            return None
        if drop:
            left = [each - (each > order[dim]) for place, each in enumerate(order) if place != dim]
            return taken if left == sorted(left) else self._call(aten.permute.default, taken, left)
        return self._call(aten.permute.default, taken, order)

    def _of_numbers(self, source: fx.Node, dim: int, places: tuple[int, ...], drop: bool) -> fx.Node | None:
        """Follow an operator that computes number by number; its other operands must be numbers or single values."""
        if torch.Tag.pointwise not in getattr(source.target, "tags", ()) or source.kwargs:
            return None
        tensors = [each for each in source.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
        wide = [each for each in tensors if rank_of(each)]
        if len(wide) != 1 or shape_of(wide[0]) != shape_of(source):
            return None
        taken = self.take(wide[0], dim, places, drop)
        if taken is None:
            return None
        args = fx.node.map_arg(source.args, lambda each: taken if each is wide[0] else each)
        return self._call(source.target, *args)


def _is(left: Any, right: Any) -> bool:
    """Return whether two sizes are equal for any number of rows."""
    return statically_known_true(left == right)


def _order(node: fx.Node) -> list[int] | None:
    """Return where each dimension of a node is in its operand, if it only moves dimensions."""
    moves = (
        aten.permute.default,
        aten.transpose.int,
        aten.movedim.int,
        aten.t.default,
        aten.numpy_T.default,
    )
    if node.target not in moves:
        return None
    source, *rest = values_of(node)
    shape = range(2, 2 + rank_of(source))  # sizes that tell the dimensions apart
    moved = node.target(torch.empty(tuple(shape), device="meta"), *rest)
    return [size - 2 for size in moved.shape]
