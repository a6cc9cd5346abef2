"""Queries in place of scores of every row: the output layer of a model that scores a whole catalogue, as a top-k.

Where the exporter asks for it, an output `scale * (query @ weight.T + bias)` becomes the query, and the weight a table
that shards rank by it: no copy of it stays in the dense program. The weight may be an embedding's (a tied layer), then
its table is the one that is ranked. A bias is one more number of a row, and 1 one more of the query, in a table of its
own: dot products of these are the scores. A scale, and its sign, is the query's. Scores of some rows, as `[:, 1:]`
has them, leave keys out. All of that is exact but for the order of float32 sums; what is written otherwise, or does
more with the scores, is refused by operator and line.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.diagnosis.places import written_at
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, shape_of
from ringpull.inference.export.passes.query_steps import NoQuery, Read, add_bias, step
from ringpull.ps.errors import ExportError, InvalidInput

MAX_LEFT_OUT: Final = 1_000
"""Rows that scores may leave out: each is a key that is excluded from every answer."""


@dataclass(frozen=True, slots=True, eq=False)
class RankedOutput:
    """Output that was scores of rows of a weight, and is the query by now."""

    name: str
    table: str
    weight: Tensor
    """(N, D): rows whose dot products with the query are the scores; a bias is among them."""
    source: str
    """Weight that it is made of, whose keys it has; `table` itself where it is that weight."""
    begin: int
    end: int
    """First row that is scored, and the first one beyond."""
    masked: frozenset[int] = frozenset()
    """Rows between these that are not scored all the same."""

    def scored(self) -> NDArray[np.int64]:
        """Return the numbers of the rows that are scored, ascending."""
        rows = np.arange(self.begin, self.end)
        return rows[~np.isin(rows, list(self.masked))] if self.masked else rows


def take_queries(captured: Captured, wanted: Collection[str]) -> tuple[Captured, tuple[RankedOutput, ...]]:
    """Return a captured module whose outputs of these names are queries, and how they are ranked.

    Args:
        wanted: Names of outputs that are scores of every row of a weight. The graph is changed.

    Raises:
        InvalidInput: There is no such output.
        ExportError: An output is no such scores; the message says which, why, and where it is written.
    """
    if isinstance(wanted, str):
        raise InvalidInput(f"ranked is the string {wanted!r}; it must be a list of names of outputs")
    names = [output.name for output in captured.outputs]
    for name in wanted:
        if name not in names:
            raise InvalidInput(f"ranked names the output {name!r}; the module has {', '.join(names)}")
    if not wanted:
        return captured, ()
    editor = Editor(captured)
    end = next(node for node in editor.graph.nodes if node.op == "output")
    results: list[fx.Node] = list(end.args[0])
    outputs = list(captured.outputs)
    ranked: list[RankedOutput] = []
    for place, name in enumerate(names):
        if name not in wanted:
            continue
        try:
            results[place], found = _take(editor, end, results[place], name, {each.table for each in ranked})
        except NoQuery as reason:
            raise ExportError(
                f"ranked: output {name} cannot be a query: {reason}. It must be scores of rows, query @ weight.T,"
                " perhaps with a bias, a scale, [:, 1:] or a mask of some rows; leave what follows to the caller"
            ) from None
        outputs[place] = replace(outputs[place], shape=(found.weight.shape[1],))
        ranked.append(found)
    end.args = (tuple(results),)
    editor.drop_unused()
    editor.graph.lint()
    captured.graph_module.recompile()
    return replace(captured, weights=editor.weights, outputs=tuple(outputs)), tuple(ranked)


def _take(
    editor: Editor, end: fx.Node, scores: fx.Node, name: str, taken: Collection[str]
) -> tuple[fx.Node, RankedOutput]:
    """Write the query of scores before the graph's end; names in `taken` are no more to be had for a table."""
    if rank_of(scores) != 2:
        raise NoQuery(f"a row of it has {rank_of(scores) - 1} dimensions, and not one, the rows that are scored")
    read = Read(width=int(shape_of(scores)[1]))
    node = scores
    while True:
        product = _product(editor, node, read)
        if product is not None:
            query, matrix, by_row = product
            break
        node = step(editor, node, read)
    rows = editor.evaluate(matrix).detach()
    rows = rows.reshape(rows.shape[-2:])
    rows = rows if by_row else rows.T
    for move in reversed(read.moves):
        query = move(editor, end, query, rows.shape[1])
    if rank_of(query) != 2 or editor.constant(query):
        raise NoQuery(
            f"what is multiplied with the weight is not one vector for each row of the batch{written_at(node)}"
        )
    table, source, weight = _table(editor, rows, matrix, read, taken)
    left_out = len(weight) - read.width + len(read.masked)
    if left_out > MAX_LEFT_OUT:
        raise NoQuery(f"it leaves out {left_out:,} of {len(weight):,} rows; {MAX_LEFT_OUT:,} are the most")
    if read.scale != 1.0:
        query = editor.call(end, aten.mul.Scalar, query, read.scale)
    if weight.shape[1] > rows.shape[1]:
        one = editor.call(end, aten.ones_like.default, editor.call(end, aten.slice.Tensor, query, 1, 0, 1))
        query = editor.call(end, aten.cat.default, [query, one], 1)
    masked = frozenset(read.masked)
    return query, RankedOutput(name, table, weight, source, read.begin, read.begin + read.width, masked)


def _product(editor: Editor, node: fx.Node, read: Read) -> tuple[Any, Any, bool] | None:
    """Return queries, matrix, and whether that is (N, D), of a product; None: the node is none.

    Queries are shaped as the product is, with D numbers in place of N.
    """
    bias, by_row = None, False
    if node.target in (aten.linear.default, aten.inner.default):
        query, matrix, *biases = values_of(node)
        bias, by_row = biases[0] if biases else None, True
    elif node.target in (aten.matmul.default, aten.mm.default, aten.bmm.default):
        query, matrix = values_of(node)
        at = rank_of(node) - 2
        if read.rows_dim == at >= 0:
            query, matrix, by_row = matrix, query, True
        elif read.rows_dim != at + 1:
            return None
    elif node.target is aten.addmm.default and not node.kwargs:
        bias, query, matrix = node.args
    elif node.target is aten.einsum.default:
        return _einsum(editor, node, read)
    else:
        return None
    matrix, turned = _unexpanded(editor, matrix)
    if not _is_matrix(editor, matrix):
        raise NoQuery(f"what the query is multiplied with depends on the request{written_at(node)}")
    if rank_of(query) != rank_of(node):
        return None
    if bias is not None:
        add_bias(editor, bias, read, node)
    return query, matrix, by_row != turned


def _is_matrix(editor: Editor, node: fx.Node) -> bool:
    return editor.constant(node) and all(int(size) == 1 for size in shape_of(node)[:-2]) and rank_of(node) >= 2


def _unexpanded(editor: Editor, node: fx.Node) -> tuple[fx.Node, bool]:
    """Return the matrix that a batch of equal ones is made of, and whether it is transposed in that."""
    turned = False
    while not editor.constant(node):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            break
        rank = rank_of(source)
        if node.target is aten.expand.default and shape_of(source)[-2:] == shape_of(node)[-2:]:
            pass
        elif node.target in (aten.transpose.int, aten.permute.default) and rank == 3 and _turns(node):
            turned = not turned
        else:
            break
        node = source
    return node, turned


def _turns(node: fx.Node) -> bool:
    """Return whether an operator on rank 3 swaps the last two dimensions."""
    arguments: Any = node.args[1:]
    dims = arguments[0] if node.target is aten.permute.default else arguments
    dims = [positive(dim, 3) for dim in dims]
    return dims == [0, 2, 1] if node.target is aten.permute.default else sorted(dims) == [1, 2]


def _einsum(editor: Editor, node: fx.Node, read: Read) -> tuple[Any, Any, bool] | None:
    """Return the same of a sum over one letter, of a matrix and queries."""
    equation, given, _ = values_of(node)
    equation, operands = equation.replace(" ", ""), list(given)
    inputs, arrow, out = equation.partition("->")
    letters = inputs.split(",")
    if not arrow or "." in equation or len(operands) != 2 or read.rows_dim >= len(out):
        return None
    if not _is_matrix(editor, operands[1]):
        operands.reverse()
        letters.reverse()
    (query, matrix), (others, pair) = operands, letters
    if not _is_matrix(editor, matrix) or len(pair) != 2:
        raise NoQuery(f"what the query is multiplied with depends on the request{written_at(node)}")
    row = out[read.rows_dim]
    column = pair.replace(row, "")
    wanted = out.replace(row, column)
    if len(column) != 1 or column in out or sorted(wanted) != sorted(others) or len({*wanted}) != len(wanted):
        return None
    order = [others.index(letter) for letter in wanted]
    if order != sorted(order):
        query = editor.call(node, aten.permute.default, query, order)
    return query, matrix, pair[0] == row


def _table(
    editor: Editor, rows: Tensor, matrix: fx.Node, read: Read, taken: Collection[str]
) -> tuple[str, str, Tensor]:
    """Return the name of the table that is ranked, that of the weight it is made of, and the table's rows."""
    known, begin = _weight_of(editor, rows)
    if known is not None and begin is not None:
        read.move(begin)
        rows = getattr(editor.module, str(known.target)).detach()
    source = editor.weights[known] if known is not None else _source(editor, matrix)
    if known is not None and not read.biases:
        return source, source, rows
    table = _free_name(editor, source, taken)
    if read.biases:
        # The query is scaled by all of it; its last number is 1, so a bias has its own scale.
        bias = torch.zeros(len(rows), dtype=torch.float64)
        for value, scale, begin in read.biases:
            bias[begin : begin + len(value)] += scale * value.cpu().to(torch.float64)
        rows = torch.cat([rows, bias.to(rows.device, rows.dtype)[:, None]], 1)
    return table, source, rows


def _free_name(editor: Editor, source: str, taken: Collection[str]) -> str:
    """Return a name for a table that is made of a weight: its own, where nothing is looked up in that."""
    looked_up = {node.args[0] for node in editor.graph.nodes if node.target in EMBEDDINGS | BAGS}
    others = {name for node, name in editor.weights.items() if name != source or node in looked_up} | set(taken)
    tries = (source, *(f"{source}.ranked{number if number > 1 else ''}" for number in range(1, len(others) + 3)))
    return next(name for name in tries if name not in others)


def _weight_of(editor: Editor, rows: Tensor) -> tuple[fx.Node | None, int | None]:
    """Return the weight that rows are of, and which of its rows is their first; None for both: they are of none.

    They are its memory, as `weight[:n]` is, or, of a weight that was computed, its very numbers.
    """
    for node, name in editor.weights.items():
        weight = getattr(editor.module, str(node.target))
        if weight.dtype != rows.dtype or weight.dim() != 2 or weight.shape[1:] != rows.shape[1:]:
            continue
        if weight.stride() == rows.stride() and weight.stride(0):
            begin, rest = divmod(rows.data_ptr() - weight.data_ptr(), weight.stride(0) * weight.element_size())
            if not rest and 0 <= begin <= len(weight) - len(rows) and _one_memory(weight, rows):
                return node, begin
        if name in editor.computed and weight.shape == rows.shape and torch.equal(weight, rows):
            return node, 0
    return None, None


def _one_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _source(editor: Editor, matrix: fx.Node) -> str:
    """Return the name of the first weight that a matrix is computed of."""
    pending = [matrix]
    while pending:
        node = pending.pop()
        if node in editor.weights:
            return editor.weights[node]
        pending += reversed(node.all_input_nodes)
    raise NoQuery("what the query is multiplied with is no weight")
