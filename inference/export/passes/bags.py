"""Weighted bags of one length: `nn.EmbeddingBag(mode="sum")(ids, per_sample_weights=w)` becomes a masked sum.

With ids (B, L), that is what it computes: the vectors times weights (B, L), summed, without those of `padding_idx`.
Where the weights are a mask of the ids or lengths, the sum is then seen as a pooled pull
(`ringpull.inference.export.pools.pooling`); else the vectors are looked up one by one either way.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from ringpull.inference.export.operators import BAGS, aten, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, shape_of


def write_bags(editor: Editor) -> None:
    """Replace weighted bags of ids (B, L) by sums of embeddings."""
    for node in list(editor.graph.nodes):
        if node.target in BAGS and (bags := _read(node)) is not None:
            vectors = [user for user in node.users if user.users]
            made = _written(editor, node, *bags)
            for each in vectors:
                each.replace_all_uses_with(made)


def _read(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, int | None] | None:
    """Return the weight, ids, their weights and the row that is left out; None where it is no such bag."""
    weight, index, offsets, _, mode, _, per_sample, include_last, *padding = values_of(node)
    used = [user for user in node.users if user.users]
    if mode != 0 or per_sample is None or include_last:
        return None
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in used):
        return None
    ids, weights = _flattened(index), _flattened(per_sample)
    if ids is None or weights is None or offsets.target is not aten.arange.start_step:
        return None
    width, (start, _, step) = shape_of(ids)[1], offsets.args[:3]
    if not isinstance(width, int) or shape_of(weights)[1] != width or (start, step) != (0, width):
        return None
    row = padding[0] if padding and padding[0] is not None and padding[0] >= 0 else None
    return weight, ids, weights, row


def _flattened(node: Any) -> fx.Node | None:
    """Return the (B, L) tensor that a node is, one row after the other."""
    if not isinstance(node, fx.Node) or node.target not in (aten.reshape.default, aten.view.default):
        return None
    whole, shape, *_ = values_of(node)
    return whole if list(shape) == [-1] and isinstance(whole, fx.Node) and rank_of(whole) == 2 else None


def _written(
    editor: Editor, node: fx.Node, weight: fx.Node, ids: fx.Node, weights: fx.Node, row: int | None
) -> fx.Node:
    vectors = editor.call(node, aten.embedding.default, weight, ids)
    product = editor.call(node, aten.mul.Tensor, vectors, editor.call(node, aten.unsqueeze.default, weights, -1))
    if row is not None:
        dropped = editor.call(node, aten.unsqueeze.default, editor.call(node, aten.eq.Scalar, ids, row), -1)
        product = editor.call(node, aten.masked_fill.Scalar, product, dropped, 0.0)
    return editor.call(node, aten.sum.dim_IntList, product, [1])
