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
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.diagnosis.places import written_at
from ringpull.inference.export.operators import BAGS, CASTS, EMBEDDINGS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of
from ringpull.ps.errors import ExportError, InvalidInput

MAX_LEFT_OUT: Final = 1_000
"""Rows that scores may leave out: each is a key that is excluded from every answer."""

_TO_END: Final = 2**63 - 1


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


class _NoQuery(Exception):
    """Reason why an output is no product of a query with a weight."""


@dataclass
class _Read:
    """What was read of an output so far, from its end."""

    begin: int = 0
    width: int = 0
    """Rows that are scored: from `begin`, in the numbers of what is read next."""
    scale: float = 1.0
    biases: list[tuple[Tensor, float, int]] = field(default_factory=list)
    """Biases (n,) of n rows, each with the scale that comes after it, and where its rows begin."""

    def move(self, begin: int) -> None:
        """Count rows as something does that has others before them."""
        self.begin += begin
        self.biases = [(bias, scale, at + begin) for bias, scale, at in self.biases]


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
        except _NoQuery as reason:
            raise ExportError(
                f"ranked: output {name} cannot be a query: {reason}. It must be scores of rows, query @ weight.T,"
                " perhaps with a bias, a scale, and [:, 1:] or the like; leave what follows to the caller"
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
        raise _NoQuery(f"a row of it has {rank_of(scores) - 1} dimensions, and not one, the rows that are scored")
    read = _Read(width=int(shape_of(scores)[1]))
    node = scores
    while True:
        product = _product(editor, node, read)
        if product is not None:
            query, matrix, by_row = product
            break
        node = _step(editor, node, read)
    if rank_of(query) != 2 or editor.constant(query):
        raise _NoQuery(
            f"what is multiplied with the weight is not one vector for each row of the batch{written_at(node)}"
        )
    rows = editor.evaluate(matrix).detach()
    rows = rows if by_row else rows.T
    table, source, weight = _table(editor, rows, matrix, read, taken)
    left_out = len(weight) - read.width
    if left_out > MAX_LEFT_OUT:
        raise _NoQuery(f"it leaves out {left_out:,} of {len(weight):,} rows; {MAX_LEFT_OUT:,} are the most")
    if read.scale != 1.0:
        query = editor.call(end, aten.mul.Scalar, query, read.scale)
    if weight.shape[1] > rows.shape[1]:
        one = editor.call(end, aten.ones_like.default, editor.call(end, aten.slice.Tensor, query, 1, 0, 1))
        query = editor.call(end, aten.cat.default, [query, one], 1)
    return query, RankedOutput(name, table, weight, source, read.begin, read.begin + read.width)


def _product(editor: Editor, node: fx.Node, read: _Read) -> tuple[Any, Any, bool] | None:
    """Return query, matrix, and whether that is (N, D), of a product; None: the node is none."""
    if node.target is aten.linear.default:
        query, matrix, bias = values_of(node)
        by_row = True
    elif node.target in (aten.matmul.default, aten.mm.default):
        query, matrix = values_of(node)
        by_row, bias = False, None
    elif node.target is aten.addmm.default and not node.kwargs:
        bias, query, matrix = node.args
        by_row = False
    else:
        return None
    if not editor.constant(matrix) or rank_of(matrix) != 2:
        raise _NoQuery(f"what the query is multiplied with depends on the request{written_at(node)}")
    if bias is not None:
        _add_bias(editor, bias, read, node)
    return query, matrix, by_row


def _step(editor: Editor, node: fx.Node, read: _Read) -> fx.Node:
    """Read one operator that comes after the product, and return what it takes."""
    source: Any = node.args[0] if node.args else None
    if node.target in CASTS and getattr(dtype_of(node), "is_floating_point", False):
        return source  # type: ignore[no-any-return]
    if node.target is aten.slice.Tensor:
        return _sliced(node, read)
    if node.target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar) and not node.kwargs:
        divides = node.target in (aten.div.Tensor, aten.div.Scalar)
        first, second = node.args
        if not divides and _number(editor, first) is not None:
            first, second = second, first
        factor = _number(editor, second)
        if factor and isinstance(first, fx.Node):
            read.scale *= 1 / factor if divides else factor
            return first
    if node.target is aten.add.Tensor and not node.kwargs:
        first, second = node.args
        if editor.constant(first):
            first, second = second, first
        if isinstance(first, fx.Node) and editor.constant(second):
            _add_bias(editor, second, read, node)
            return first
    raise _NoQuery(f"its scores go through {node.target}{written_at(node)}")


def _sliced(node: fx.Node, read: _Read) -> fx.Node:
    source, dim, begin, end, step = values_of(node)
    size = shape_of(source)[dim]
    if positive(dim, 2) == 0:
        if begin in (None, 0) and end is not None and end >= _TO_END:
            return source  # type: ignore[no-any-return]
        raise _NoQuery(f"it leaves out rows of the batch{written_at(node)}")
    if step != 1 or not isinstance(begin, int | None):
        raise _NoQuery(f"it takes every {step}th score{written_at(node)}")
    first = min(max((begin or 0) + (size if (begin or 0) < 0 else 0), 0), size)
    read.move(first)
    return source  # type: ignore[no-any-return]


def _number(editor: Editor, given: Any) -> float | None:
    """Return a number, also one that is computed of weights, as a temperature; None: it is none."""
    if isinstance(given, int | float):
        return float(given)
    if not isinstance(given, fx.Node) or not editor.constant(given):
        return None
    value = editor.evaluate(given)
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 and value.isfinite().all() else None


def _add_bias(editor: Editor, given: Any, read: _Read, node: fx.Node) -> None:
    value = editor.evaluate(given) if isinstance(given, fx.Node) and editor.constant(given) else None
    if not isinstance(value, Tensor) or value.dim() != 1 or len(value) != shape_of(node)[1]:
        raise _NoQuery(f"what is added to its scores is no bias, one constant number a row{written_at(node)}")
    read.biases.append((value.detach(), read.scale, 0))


def _table(
    editor: Editor, rows: Tensor, matrix: fx.Node, read: _Read, taken: Collection[str]
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
    raise _NoQuery("what the query is multiplied with is no weight")
