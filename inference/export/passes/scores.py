"""Scores of a few: rows that are chosen after a product with all rows of a weight are looked up before it.

A tied output layer scores every item, `h @ w.T`, and the model then reads the scores of some candidates of the request,
by `gather` or by brackets. A score is one row times one vector: the candidates' rows are looked up, as any, and no
other is needed. A short output layer that is no embedding stays a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ringpull.inference.export.operators import CASTS, EMBEDDINGS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, is_size, shape_of
from ringpull.inference.export.passes.one_hot import LONG

_INTEGERS: Final = (torch.int64, torch.int32)
_EACH: Final = CASTS | {aten.sigmoid.default, aten.tanh.default, aten.relu.default, aten.exp.default, aten.neg.default}
"""Operators that make of each score something of its own."""
_BY_NUMBER: Final = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores of all rows: vectors (..., D) times a matrix (N, D), and a bias (N,)."""

    vectors: fx.Node
    rows: fx.Node
    by_row: bool
    """Whether the matrix is (N, D), else (D, N)."""
    bias: fx.Node | None
    then: tuple[fx.Node, ...]
    """What is done with each score, last first."""


def score_the_chosen(editor: Editor) -> bool:
    """Replace reads of chosen scores by products with the rows chosen, where nothing reads the others.

    Returns:
        Whether there were any: they read rows by brackets.
    """
    found = False
    for node in list(editor.graph.nodes):
        if node.op != "call_function" or not node.users:
            continue
        chosen = _chosen(editor, node)
        if chosen is None:
            continue
        source, ids, each = chosen
        scores = _scores(editor, source)
        if scores is not None and not editor.constant(ids):
            node.replace_all_uses_with(_written(editor, node, scores, ids, each))
            found = True
    return found


def _chosen(editor: Editor, node: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
    """Return scores (..., N), the ids that are chosen of them, and whether there are several (..., K) per vector."""
    if node.target is aten.gather.default:
        source, dim, ids, *_ = values_of(node)
    elif node.target is aten.take_along_dim.default:
        source, ids, dim = values_of(node)
    elif node.target is aten.index.Tensor:
        source, indices = values_of(node)
        if len(indices) != 2 or rank_of(source) != 2 or any(each is None for each in indices):
            return None
        row, ids = indices
        fits = rank_of(ids) == rank_of(row) == 1 and dtype_of(ids) in _INTEGERS
        return (source, ids, False) if fits and _counts_rows(row, source) else None
    else:
        return None
    rank = rank_of(source)
    if dim is None or rank < 2 or rank_of(ids) != rank or positive(dim, rank) != rank - 1:
        return None
    same = all(_same(mine, their) for mine, their in zip(shape_of(ids)[:-1], shape_of(source)[:-1], strict=True))
    return (source, ids, True) if same else None


def _same(mine: Any, their: Any) -> bool:
    """Return whether two sizes are equal: those that follow the rows of the batch are, each argument having its own.

    Ragged ids, of which there are other numbers, are no index but of an embedding.
    """
    if isinstance(mine, int) or isinstance(their, int):
        return isinstance(mine, int) and isinstance(their, int) and mine == their
    return statically_known_true(mine == their) or (_is_symbol(mine) and _is_symbol(their))


def _is_symbol(size: torch.SymInt) -> bool:
    return bool(size.node.expr.is_Symbol)


def _counts_rows(row: fx.Node, scores: fx.Node) -> bool:
    """Return whether an index is 0, 1, 2, ... to the number of rows."""
    while row.target in CASTS:
        row = row.args[0]  # type: ignore[assignment]
    if row.target not in (aten.arange.default, aten.arange.start, aten.arange.start_step):
        return False
    begin, step = 0, 1
    if row.target is not aten.arange.default:
        begin = values_of(row)[0]
        step = values_of(row)[2] if row.target is aten.arange.start_step else 1
    return (begin, step) == (0, 1) and _same(shape_of(row)[0], shape_of(scores)[0])


def _scores(editor: Editor, source: fx.Node) -> _Scores | None:
    """Return what scores are computed of, if they are of a weight, and read by nothing else."""
    then: list[fx.Node] = []
    bias: Any = None
    node = source
    while sum(not is_size(user) for user in node.users) == 1:
        if node.target is aten.linear.default:
            vectors, matrix, own = values_of(node)
            return _of(editor, vectors, matrix, True, _only(bias, own), then)
        if node.target in (aten.matmul.default, aten.mm.default):
            vectors, matrix = values_of(node)
            return _of(editor, vectors, matrix, False, _only(bias, None), then)
        if node.target is aten.addmm.default and not node.kwargs:
            own, vectors, matrix = node.args
            return _of(editor, vectors, matrix, False, _only(bias, own), then)
        if node.target in _EACH or (node.target in _BY_NUMBER and not isinstance(node.args[1], fx.Node)):
            then.append(node)
        elif node.target is aten.add.Tensor and not node.kwargs and bias is None and editor.constant(node.args[1]):
            bias = node.args[1]
            if then or not isinstance(bias, fx.Node):
                return None
        else:
            return None
        node = node.args[0]  # type: ignore[assignment]
    return None


def _only(first: Any, second: Any) -> Any:
    """Return the one bias there is; False where there are two."""
    if first is not None and second is not None:
        return False
    return second if first is None else first


def _of(editor: Editor, vectors: Any, matrix: Any, by_row: bool, bias: Any, then: list[fx.Node]) -> _Scores | None:
    if bias is False or not editor.constant(matrix) or rank_of(matrix) != 2 or editor.constant(vectors):
        return None
    rows = shape_of(matrix)[0 if by_row else 1]
    if rank_of(vectors) < 2 or (rows < LONG and not _is_looked_up(editor, matrix)):
        return None
    if bias is not None and (not editor.constant(bias) or shape_of(bias) != (rows,)):
        return None
    return _Scores(vectors, matrix, by_row, bias, tuple(then))


def _is_looked_up(editor: Editor, matrix: fx.Node) -> bool:
    """Return whether a matrix, or what it is turned from, is an embedding's, too."""
    while matrix.op == "call_function" and len(matrix.all_input_nodes) == 1:
        (matrix,) = matrix.all_input_nodes
    held = editor.weights.get(matrix)
    looked_up = (node.args[0] for node in editor.graph.nodes if node.target in EMBEDDINGS)
    return held is not None and any(editor.weights.get(each) == held for each in looked_up)


def _written(editor: Editor, node: fx.Node, scores: _Scores, ids: fx.Node, several: bool) -> fx.Node:
    """Write the scores of the rows chosen."""

    def call(target: Any, *args: Any) -> fx.Node:
        return editor.call(node, target, *args)

    rows = scores.rows if scores.by_row else call(aten.transpose.int, scores.rows, 0, 1)
    # As brackets: from behind where an id may be negative.
    read = call(aten.index.Tensor, rows, [ids])
    vectors = call(aten.unsqueeze.default, scores.vectors, -2) if several else scores.vectors
    product = call(aten.sum.dim_IntList, call(aten.mul.Tensor, vectors, read), [-1])
    if scores.bias is not None:
        product = call(aten.add.Tensor, product, call(aten.index.Tensor, scores.bias, [ids]))
    for each in reversed(scores.then):
        args = (product, *each.args[1:])
        product = editor.call(node, each.target, *args, **each.kwargs)  # type: ignore[arg-type]
    return product
