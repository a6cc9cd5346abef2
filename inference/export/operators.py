"""The aten operators that index expressions are made of, by what they do to the elements of a tensor of ids.

Those that compute elements are in `ringpull.inference.export.indices.elementwise`.
"""

from __future__ import annotations

import operator
from typing import Any, Final

import torch
from torch import fx

aten = torch.ops.aten
getitem = operator.getitem

CASTS: Final = frozenset(
    {
        aten._to_copy.default,
        aten.alias.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.lift_fresh_copy.default,
        aten.to.device,
        aten.to.dtype,
        aten.to.dtype_layout,
        aten.to.other,
        aten.type_as.default,
    }
)
JOINS: Final = frozenset({aten.stack.default, aten.cat.default, aten.concat.default, aten.concatenate.default})
SIZES: Final = frozenset({aten.sym_size.int, aten.sym_numel.default})
EMBEDDINGS: Final = frozenset({aten.embedding.default})
BAGS: Final = frozenset({aten.embedding_bag.default, aten.embedding_bag.padding_idx})

SHAPED_LIKE: Final = frozenset({aten.expand_as.default, aten.reshape_as.default, aten.view_as.default})
"""Moves that take the shape of another tensor."""
VIEWS: Final = frozenset({aten.view.default, aten._unsafe_view.default})
SHAPES: Final = VIEWS | {
    aten.chunk.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.movedim.int,
    aten.narrow.default,
    aten.numpy_T.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.ravel.default,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.t.default,
    aten.tensor_split.indices,
    aten.tensor_split.sections,
    aten.transpose.int,
    aten.unbind.int,
    aten.unflatten.int,
    aten.unsafe_chunk.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.unsqueeze.default,
}
"""Operators that change the shape, and the order, of what they take."""
MOVES: Final = (
    SHAPES
    | SHAPED_LIKE
    | {
        aten.broadcast_to.default,
        aten.diagonal.default,
        aten.flip.default,
        aten.gather.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.movedim.intlist,
        aten.repeat.default,
        aten.repeat_interleave.self_int,
        aten.roll.default,
        aten.rot90.default,
        aten.squeeze.default,
        aten.take_along_dim.default,
        aten.tile.default,
        aten.unfold.default,
    }
)
"""Operators whose results hold elements of their first argument, wherever; the other arguments are no ids."""

PLACED: Final[dict[Any, tuple[int, ...]]] = {
    aten.constant_pad_nd.default: (0, 2),
    aten.diagonal_scatter.default: (0, 1),
    aten.index_copy.default: (0, 3),
    aten.index_fill.int_Scalar: (0, 3),
    aten.index_put.default: (0, 2),
    aten.pad.default: (0, 3),
    aten.scatter.src: (0, 3),
    aten.scatter.value: (0, 3),
    aten.select_scatter.default: (0, 1),
    aten.slice_scatter.default: (0, 1),
}
"""Operators that put elements into the places of others, and which arguments hold elements; the others are no ids."""
TRIANGLES: Final = frozenset({aten.tril.default, aten.triu.default})
"""Operators that keep some elements where they are, and have zeros in the other places."""

LIKES: Final = frozenset(
    {
        aten.full_like.default,
        aten.new_full.default,
        aten.new_ones.default,
        aten.new_zeros.default,
        aten.ones_like.default,
        aten.zeros_like.default,
    }
)
"""Operators that read no more than the shape of their first argument."""


FILLS: Final = frozenset({aten.fill.Scalar, aten.fill.Tensor})
"""Operators that read the shape of their first argument, and one number."""

SHAPE_READ: Final[dict[Any, int]] = {
    **dict.fromkeys(SIZES | LIKES | FILLS | {aten.copy.default}, 0),
    **dict.fromkeys(SHAPED_LIKE | {aten.type_as.default}, 1),
}
"""Place of the argument of which an operator reads the shape or type, and no element."""


def inputs_read(node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a node whose elements it reads, not their shapes alone."""
    place = SHAPE_READ.get(node.target)
    if place is None:
        return node.all_input_nodes
    return [each for at, each in enumerate(node.args) if at != place and isinstance(each, fx.Node)]


def values_of(node: fx.Node) -> list[Any]:
    """Return every argument of an aten operator in the order of its schema, defaults filled in."""
    parameters = node.target._schema.arguments  # type: ignore[union-attr]
    given = list(node.args)
    return given + [node.kwargs.get(each.name, each.default_value) for each in parameters[len(given) :]]


def rank_of(node: Any) -> int:
    """Return how many dimensions a captured tensor has."""
    return int(node.meta["val"].dim())


def upstream(node: fx.Node) -> set[fx.Node]:
    """Return a node and all that it is computed of, each once."""
    found, pending = set[fx.Node](), [node]
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending += each.all_input_nodes
    return found


def positive(dim: int, rank: int) -> int:
    """Return a dimension counted from the front."""
    return dim + rank if dim < 0 else dim
