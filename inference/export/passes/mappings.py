"""Mappings: ids of rows that are themselves read by ids are left out, and rows looked up by the latter.

An item's category, or its few keywords, may be a tensor of the model: `categories(self.category_of[item])`. The vector
of an item's category is as good a row as any: the two tensors make one of a row (or several, side by side) per item,
which is computed once (`ringpull.inference.export.passes.constants`).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

from ringpull.inference.export.operators import CASTS, EMBEDDINGS, SHAPES, VIEWS, aten, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of
from ringpull.inference.export.passes.lookups import INTEGERS

_MAX_IDS: Final = 64
"""Ids per row of a mapping, whose vectors would be side by side in one."""

_CATS: Final = (aten.cat.default, aten.concat.default, aten.concatenate.default)
_COMPUTES: Final = (
    aten.add.Tensor,
    aten.add.Scalar,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.rsub.Scalar,
    aten.rsub.Tensor,
    aten.sub.Tensor,
    aten.sub.Scalar,
)


def leave_out_mappings(editor: Editor) -> None:
    """Look up mapped rows by what is mapped, again and again where that is mapped, too."""
    for node in list(editor.graph.nodes):
        last: fx.Node | None = node
        while last is not None and last.target in EMBEDDINGS and editor.constant(last.args[0]):
            last = _left_out(editor, last)


def _left_out(editor: Editor, node: fx.Node) -> fx.Node | None:
    """Replace an embedding by one that is looked up by what its index maps; return that, None when it maps nothing."""
    weight: Any = node.args[0]
    index: Any = node.args[1]
    flat = False
    while index.target in CASTS or _is_of_single(index):
        flat = flat or index.target not in CASTS
        index = index.args[0]
    found = _mapping(editor, index) or _moved(editor, node, index)
    if found is None:
        return None
    mapping, ids = found
    width = 1 if rank_of(mapping) == 1 else int(shape_of(mapping)[1])
    dim = int(shape_of(weight)[1])
    element = weight.meta["val"].element_size()
    if width > _MAX_IDS or not editor.may_hold(int(shape_of(mapping)[0]) * width * dim * element):
        return None
    if dtype_of(mapping) not in INTEGERS:
        mapping = editor.call(node, aten.to.dtype, mapping, INTEGERS[0])
    rows = editor.call(node, aten.embedding.default, weight, mapping)
    if rank_of(mapping) == 2:
        rows = editor.call(node, aten.flatten.using_ints, rows, 1, 2)
    made = last = editor.call(node, aten.embedding.default, rows, ids)
    if rank_of(mapping) == 2 and not flat:
        made = editor.call(node, aten.unflatten.int, made, -1, [width, dim])
    node.replace_all_uses_with(made)
    return last


def _is_of_single(node: fx.Node) -> bool:
    """Return whether a node is rows of one number each, without the dimension of those."""
    inner: Any = node.args[0] if node.target is aten.squeeze.dim else None
    return (
        isinstance(inner, fx.Node)
        and inner.target in EMBEDDINGS
        and shape_of(inner)[-1] == 1
        and values_of(node)[1] in (-1, rank_of(inner) - 1)
    )


def _mapping(editor: Editor, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the tensor that a node reads rows of, and the ids by which it does."""
    if node.target is aten.index.Tensor:
        mapping, indices = values_of(node)
        ids = indices[0] if len(indices) == 1 else None
    elif node.target is aten.index_select.default:
        mapping, dim, ids = values_of(node)
        ids = ids if dim == 0 else None
    elif node.target in EMBEDDINGS or node.target is aten.take.default:
        mapping, ids = node.args[:2]
    else:
        return None
    if not isinstance(ids, fx.Node) or dtype_of(ids) not in INTEGERS or editor.constant(ids):
        return None
    ranks = (1,) if node.target is aten.take.default else (1, 2)
    return (mapping, ids) if editor.constant(mapping) and rank_of(mapping) in ranks else None


def _moved(editor: Editor, node: fx.Node, index: Any) -> tuple[fx.Node, fx.Node] | None:
    """Return the mapping and ids that an index is, of what one number was added to, say, and what was moved since.

    The ids are moved alike, and the numbers of the mapping added to: new nodes, before the one that looks up.
    """
    found = _mapping(editor, index)
    if found is not None:
        return found if rank_of(found[0]) == 1 else None
    if index.op != "call_function" or dtype_of(index) not in INTEGERS:
        return None
    target, values = index.target, values_of(index) if isinstance(index.target, torch._ops.OpOverload) else []
    if target in CASTS or (target in _CATS and len(values[0]) == 1):
        return _moved(editor, node, values[0] if target in CASTS else values[0][0])
    if target in SHAPES:
        inner = _moved(editor, node, values[0])
        if inner is None:
            return None
        target = aten.reshape.default if target in VIEWS else target  # ids lie in memory otherwise
        return inner[0], editor.call(node, target, inner[1], *values[1:])
    if target not in _COMPUTES or index.kwargs:
        return None
    computed = [place for place, each in enumerate(values[:2]) if not editor.constant(each)]
    if len(computed) != 1 or rank_of(values[computed[0]]) != rank_of(index):
        return None
    number = values[1 - computed[0]]
    if isinstance(number, fx.Node):
        if dtype_of(number) not in INTEGERS or any(size != 1 for size in shape_of(number)):
            return None
        number = editor.call(node, aten.reshape.default, number, [])
    elif not isinstance(number, int):
        return None
    inner = _moved(editor, node, values[computed[0]])
    if inner is None:
        return None
    operands = [number, number]
    operands[computed[0]] = inner[0]
    return editor.call(node, target, *operands), inner[1]
