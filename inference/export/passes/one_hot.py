"""One-hot vectors times a matrix: the row of the matrix that the one is at, an embedding.

A one-hot vector is `aten.one_hot`, or ids compared with 0, 1, 2, ... The product is a matrix product or a linear
layer; the vector may be one of several parts of what is multiplied, then the others keep their columns. A short one
among others stays in the product: a look-up more would cost more than it spares.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import fx

from ringpull.inference.export.operators import CASTS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of

LONG: Final = 1_000
"""Numbers of a one-hot vector, from which on it is looked up though others are multiplied along with it."""

_PRODUCTS: Final = (aten.matmul.default, aten.mm.default)
_CATS: Final = (aten.cat.default, aten.concat.default, aten.concatenate.default)


def write_one_hot(editor: Editor, node: fx.Node) -> fx.Node | None:
    """Return what stands for a product with one-hot vectors; None when the node is none."""
    if node.target in _PRODUCTS:
        vectors, matrix = values_of(node)
        bias = None
    elif node.target is aten.linear.default:
        vectors, matrix, bias = values_of(node)
    elif node.target is aten.addmm.default and not node.kwargs:
        bias, vectors, matrix = node.args
    else:
        return None
    if not editor.constant(matrix) or rank_of(matrix) != 2 or editor.constant(vectors):
        return None
    parts = _parts(vectors)
    found = [_ids(editor, part) for part in parts]
    if any(ids is None for ids in found):
        long = [ids is not None and int(shape_of(part)[-1]) >= LONG for part, ids in zip(parts, found, strict=True)]
        found = [ids if chosen else None for ids, chosen in zip(found, long, strict=True)]
        if not any(long):
            return None
    by_row = 1 if node.target is aten.linear.default else 0
    return _write(editor, node, parts, found, matrix, by_row, bias)


def _write(
    editor: Editor,
    node: fx.Node,
    parts: list[fx.Node],
    found: list[fx.Node | None],
    matrix: fx.Node,
    by_row: int,
    bias: Any,
) -> fx.Node | None:
    """Write the sum of the rows of one-hot parts and the product of the others."""
    dtype = dtype_of(node)
    total: fx.Node | None = None
    rest: list[fx.Node] = []
    rest_rows: list[fx.Node] = []
    begin = 0
    for part, ids in zip(parts, found, strict=True):
        width = int(shape_of(part)[-1])
        whole = begin == 0 and width == shape_of(matrix)[by_row]
        rows = matrix if whole else editor.call(node, aten.slice.Tensor, matrix, by_row, begin, begin + width)
        begin += width
        if ids is None:
            rest.append(part if dtype_of(part) == dtype else editor.call(node, aten.to.dtype, part, dtype))
            rest_rows.append(rows)
            continue
        table = editor.call(node, aten.transpose.int, rows, 0, 1) if by_row else rows
        looked_up = editor.call(node, aten.embedding.default, table, ids)
        total = looked_up if total is None else editor.call(node, aten.add.Tensor, total, looked_up)
    assert total is not None
    if rest:
        vectors = rest[0] if len(rest) == 1 else editor.call(node, aten.cat.default, rest, -1)
        columns = rest_rows[0] if len(rest) == 1 else editor.call(node, aten.cat.default, rest_rows, by_row)
        target = aten.linear.default if by_row else aten.matmul.default
        total = editor.call(node, aten.add.Tensor, total, editor.call(node, target, vectors, columns))
    return total if bias is None else editor.call(node, aten.add.Tensor, total, bias)


def _parts(vectors: fx.Node) -> list[fx.Node]:
    """Return the parts that vectors are joined of along their last dimension."""
    inner = vectors
    while inner.target in CASTS:
        inner = inner.args[0]  # type: ignore[assignment]
    if inner.target in _CATS:
        parts, dim = values_of(inner)
        widths = [shape_of(part)[-1] for part in parts if rank_of(part) == rank_of(inner)]
        if positive(dim, rank_of(inner)) == rank_of(inner) - 1 and len(widths) == len(parts):
            return list(parts)
    return [vectors]


def _ids(editor: Editor, vectors: fx.Node) -> fx.Node | None:
    """Return the ids of one-hot vectors; None when they are others."""
    while vectors.target in CASTS:
        vectors = vectors.args[0]  # type: ignore[assignment]
    if vectors.target is aten.one_hot.default:
        ids, rows = values_of(vectors)
        return ids if rows > 0 else None
    if vectors.target is aten.eq.Tensor:
        for ids, numbers in (vectors.args, reversed(vectors.args)):
            if isinstance(ids, fx.Node) and ids.target is aten.unsqueeze.default and editor.constant(numbers):
                inner, dim = values_of(ids)
                integers = dtype_of(inner) in (torch.int64, torch.int32)
                if integers and positive(dim, rank_of(ids)) == rank_of(ids) - 1 and _counts(editor, numbers, vectors):
                    return inner  # type: ignore[no-any-return]
    return None


def _counts(editor: Editor, numbers: Any, vectors: fx.Node) -> bool:
    """Return whether constants are 0, 1, 2, ... to the width of the vectors."""
    if not isinstance(numbers, fx.Node):
        return False
    values = editor.evaluate(numbers)
    width = shape_of(vectors)[-1]
    if not isinstance(width, int) or values.numel() != width or values.shape[-1] != width:
        return False
    return torch.equal(values.reshape(-1).cpu(), torch.arange(width, dtype=values.dtype))
