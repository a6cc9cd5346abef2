"""Look-ups: every way to write one becomes `aten.embedding`.

`w[ids]`, `index_select`, `gather` with an index that repeats, `take`, and one-hot vectors times a matrix read rows of
a weight by ids, as an embedding does. The weight may have any number of dimensions, and the rows be along any of
them: what is looked up is a matrix (rows, dim), and what comes out is shaped behind it. What of the matrix is computed
of weights, as `w.T` is, `ringpull.inference.export.passes.constants` makes a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ringpull.inference.export.operators import CASTS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import BOUNDS, Editor, dtype_of, shape_of
from ringpull.inference.export.passes.one_hot import write_one_hot
from ringpull.inference.export.passes.signs import never_negative

INTEGERS: Final = (torch.int64, torch.int32)
_REPEATS: Final = (
    aten.broadcast_to.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.repeat.default,
    aten.tile.default,
)


def write_lookups(editor: Editor) -> None:
    """Replace what reads rows of weights by embeddings."""
    for node in list(editor.graph.nodes):
        if node.op != "call_function" or not node.users:
            continue
        found = _Lookup(editor, node).written()
        if found is not None:
            node.replace_all_uses_with(found)


class _Lookup:
    """Writes one node again, before itself."""

    def __init__(self, editor: Editor, node: fx.Node) -> None:
        self._editor = editor
        self._node = node

    def written(self) -> fx.Node | None:
        """Return what stands for the node; None when it is no look-up in a weight."""
        node = self._node
        match node.target:
            case aten.index.Tensor:
                return self._index(*values_of(node))
            case aten.index_select.default:
                weight, dim, index = values_of(node)
                return self._rows(weight, positive(dim, max(1, rank_of(weight))), index)
            case aten.gather.default:
                weight, dim, index, *_ = values_of(node)
                return self._gather(weight, positive(dim, max(1, rank_of(weight))), index)
            case aten.take_along_dim.default:
                weight, index, dim = values_of(node)
                return None if dim is None else self._gather(weight, positive(dim, rank_of(weight)), index)
            case aten.take.default:
                weight, index = values_of(node)
                if rank_of(weight) == 1:
                    return self._rows(weight, 0, index, wraps=True)
        return write_one_hot(self._editor, node)

    def _index(self, weight: fx.Node, indices: Sequence[fx.Node | None]) -> fx.Node | None:
        places = [place for place, index in enumerate(indices) if index is not None]
        if not places or places != list(range(places[0], places[-1] + 1)) or not self._is_weight(weight):
            return None
        chosen = [index for index in indices if index is not None]
        if any(dtype_of(index) not in INTEGERS for index in chosen):
            return None
        if len(places) == 1:
            return self._rows(weight, places[0], chosen[0], wraps=True)
        return self._crossed(weight, places, chosen)

    def _crossed(self, weight: fx.Node, places: list[int], indices: list[fx.Node]) -> fx.Node | None:
        """Read several dimensions at once: a look-up of the rows of all of them, numbered on."""
        shape = shape_of(weight)
        bounds = [
            (self._not_negative(index, shape[place]), shape[place])
            for place, index in zip(places, indices, strict=True)
        ]
        whole: Any = bounds[0][0]
        for index, rows in bounds[1:]:
            whole = self._call(aten.add.Tensor, self._call(aten.mul.Tensor, whole, rows), index)
        if self._editor.constant(whole):
            return None
        flat = self._call(aten.flatten.using_ints, weight, places[0], places[-1])
        return self._rows(flat, places[0], whole, bounds=tuple(bounds))

    def _gather(self, weight: fx.Node, dim: int, index: fx.Node) -> fx.Node | None:
        """Read with an index that is the same along every other dimension."""
        if rank_of(weight) == 1:
            return self._rows(weight, 0, index)
        narrow = index
        while narrow.target in CASTS:
            narrow = narrow.args[0]  # type: ignore[assignment]
        if narrow.target in _REPEATS:
            narrow = narrow.args[0]  # type: ignore[assignment]
        others = [place for place in range(rank_of(weight)) if place != dim]
        if rank_of(narrow) != rank_of(weight) or any(shape_of(narrow)[place] != 1 for place in others):
            return None
        if not statically_known_true(shape_of(narrow)[dim] == shape_of(index)[dim]):
            return None
        widths = [shape_of(self._node)[place] for place in others]
        if not all(isinstance(width, int) for width in widths) or not self._is_weight(weight):
            return None
        for place, width in zip(others, widths, strict=True):
            if width > shape_of(weight)[place]:
                return None
            if width < shape_of(weight)[place]:
                weight = self._call(aten.slice.Tensor, weight, place, 0, width)
        flat = self._call(aten.reshape.default, narrow, [-1])
        return self._rows(weight, dim, flat)

    def _is_weight(self, weight: Any) -> bool:
        dtype = dtype_of(weight)
        return dtype is not None and dtype.is_floating_point and self._editor.constant(weight)

    def _rows(
        self,
        weight: fx.Node,
        dim: int,
        index: fx.Node,
        *,
        wraps: bool = False,
        bounds: tuple[tuple[fx.Node, int], ...] = (),
    ) -> fx.Node | None:
        """Read rows along a dimension of a weight, the others kept; with `wraps`, negative ids count from behind."""
        if not self._is_weight(weight) or self._editor.constant(index) or dtype_of(index) not in INTEGERS:
            return None
        rank, ids = rank_of(weight), rank_of(index)
        shape = shape_of(weight)
        rest = [size for place, size in enumerate(shape) if place != dim]
        if wraps:
            index = self._not_negative(index, shape[dim])
        matrix = weight if dim == 0 else self._call(aten.movedim.int, weight, dim, 0)
        if rank == 1:
            matrix = self._call(aten.unsqueeze.default, matrix, 1)
        elif rank > 2:
            matrix = self._call(aten.flatten.using_ints, matrix, 1, -1)
        made = self._call(aten.embedding.default, matrix, index)
        made.meta[BOUNDS] = bounds
        if rank == 1:
            return self._call(aten.squeeze.dim, made, -1)
        if rank > 2:
            made = self._call(aten.unflatten.int, made, -1, rest)
        if dim == 0:
            return made
        # The index's dimensions are in front; they belong where the rows were.
        before = [ids + place for place in range(dim)]
        behind = [ids + place for place in range(dim, rank - 1)]
        return self._call(aten.permute.default, made, [*before, *range(ids), *behind])

    def _not_negative(self, index: fx.Node, rows: int) -> fx.Node:
        """Return an index with the rows that negative ones count from behind; those that never are stay."""
        if never_negative(self._editor, index):
            return index
        negative = self._call(aten.lt.Scalar, index, 0)
        from_behind = self._call(aten.add.Tensor, index, rows)
        return self._call(aten.where.self, negative, from_behind, index)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self._editor.call(self._node, target, *args)
