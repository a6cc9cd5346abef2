"""The aten operators that an index expression may be made of, and what each becomes for vectors instead of ids.

Vectors have the shape of the ids and one more dimension, D, at the end. So casts and constant additions vanish, joins
stay as they are, and shape operators keep the last dimension out of their way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx

aten = torch.ops.aten

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
    }
)
ADDS: Final = frozenset({aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar})
JOINS: Final = frozenset({aten.stack.default, aten.cat.default, aten.concat.default, aten.concatenate.default})
SIZES: Final = frozenset({aten.sym_size.int, aten.sym_numel.default})
EMBEDDINGS: Final = frozenset({aten.embedding.default})
BAGS: Final = frozenset({aten.embedding_bag.default, aten.embedding_bag.padding_idx})

_Rule = Callable[[list[Any], int, int], tuple[Any, ...]]


def positive(dim: int, rank: int) -> int:
    """Return a dimension counted from the front, as negative ones must be before there is one more at the end."""
    return dim + rank if dim < 0 else dim


def _reversed(rank: int) -> tuple[Any, ...]:
    return aten.permute.default, [*reversed(range(rank)), rank]


SHAPES: Final[dict[Any, _Rule]] = {
    # (arguments after the first, rank of the ids, D) -> operator for the vectors, and its arguments after the first
    aten.view.default: lambda a, r, d: (aten.reshape.default, [*a[0], d]),
    aten.reshape.default: lambda a, r, d: (aten.reshape.default, [*a[0], d]),
    aten._unsafe_view.default: lambda a, r, d: (aten.reshape.default, [*a[0], d]),
    aten.flatten.using_ints: lambda a, r, d: (aten.flatten.using_ints, positive(a[0], r), positive(a[1], r)),
    aten.unflatten.int: lambda a, r, d: (aten.unflatten.int, positive(a[0], r), a[1]),
    aten.unsqueeze.default: lambda a, r, d: (aten.unsqueeze.default, positive(a[0], r + 1)),
    aten.squeeze.dim: lambda a, r, d: (aten.squeeze.dim, positive(a[0], r)),
    aten.squeeze.dims: lambda a, r, d: (aten.squeeze.dims, [positive(each, r) for each in a[0]]),
    aten.select.int: lambda a, r, d: (aten.select.int, positive(a[0], r), a[1]),
    aten.slice.Tensor: lambda a, r, d: (aten.slice.Tensor, positive(a[0], r), *a[1:]),
    aten.narrow.default: lambda a, r, d: (aten.narrow.default, positive(a[0], r), *a[1:]),
    aten.expand.default: lambda a, r, d: (aten.expand.default, [*a[0], d]),
    aten.permute.default: lambda a, r, d: (aten.permute.default, [*(positive(each, r) for each in a[0]), r]),
    aten.transpose.int: lambda a, r, d: (aten.transpose.int, positive(a[0], r), positive(a[1], r)),
    aten.movedim.int: lambda a, r, d: (aten.movedim.int, positive(a[0], r), positive(a[1], r)),
    aten.t.default: lambda a, r, d: _reversed(r),
    aten.numpy_T.default: lambda a, r, d: _reversed(r),
    aten.unbind.int: lambda a, r, d: (aten.unbind.int, positive(a[0], r)),
    aten.chunk.default: lambda a, r, d: (aten.chunk.default, a[0], positive(a[1], r)),
    aten.split.Tensor: lambda a, r, d: (aten.split.Tensor, a[0], positive(a[1], r)),
    aten.split.sizes: lambda a, r, d: (aten.split.sizes, a[0], positive(a[1], r)),
    aten.split_with_sizes.default: lambda a, r, d: (aten.split_with_sizes.default, a[0], positive(a[1], r)),
}


def values_of(node: fx.Node) -> list[Any]:
    """Return every argument of an aten operator in the order of its schema, defaults filled in."""
    parameters = node.target._schema.arguments  # type: ignore[union-attr]
    given = list(node.args)
    return given + [node.kwargs.get(each.name, each.default_value) for each in parameters[len(given) :]]


def rank_of(node: Any) -> int:
    """Return how many dimensions a captured tensor has."""
    return int(node.meta["val"].dim())
