"""Steps from scores of rows back to the product that they come from, and what each of them means for the query.

Scales, signs, biases and parts of the rows are read. Operators that move numbers, as `squeeze`, `[:, -1]` or one place
of each sequence do, are done to the query in place of its scores. Rows that are masked for every request
(`scores[:, 0] = -inf`) are left out; those that a request masks are the caller's to exclude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.diagnosis.places import written_at
from ringpull.inference.export.operators import CASTS, VIEWS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import Editor, dtype_of, shape_of

MASKED: Final = -1e4
"""Score from which down a row is masked: by -inf, the lowest float16, or what attention masks are made of."""

_TO_END: Final = 2**63 - 1


class NoQuery(Exception):
    """Reason why an output is no product of a query with a weight."""


Move = Callable[[Editor, fx.Node, fx.Node, int], fx.Node]
"""Function that writes, before a node, what moves the numbers of a query, given how many it has."""


@dataclass
class Read:
    """What was read of an output so far, from its end."""

    begin: int = 0
    width: int = 0
    """Rows that are scored: from `begin`, in the numbers of what is read next."""
    rows_dim: int = 1
    """Dimension of what is read next in which the rows lie."""
    scale: float = 1.0
    biases: list[tuple[Tensor, float, int]] = field(default_factory=list)
    """Biases (n,) of n rows, each with the scale that comes after it, and where its rows begin."""
    masked: set[int] = field(default_factory=set)
    """Rows that are not scored though they lie between others."""
    moves: list[Move] = field(default_factory=list)
    """Moves that the query is to make, the last first."""

    def move(self, begin: int) -> None:
        """Count rows as something does that has others before them."""
        self.begin += begin
        self.biases = [(bias, scale, at + begin) for bias, scale, at in self.biases]
        self.masked = {row + begin for row in self.masked}


def step(editor: Editor, node: fx.Node, read: Read) -> fx.Node:
    """Read one operator that comes after the product, and return what it takes.

    Raises:
        NoQuery: It is none that is known here.
    """
    source: Any = node.args[0] if node.args else None
    if node.target in CASTS and getattr(dtype_of(node), "is_floating_point", False):
        return source  # type: ignore[no-any-return]
    if node.target is aten.slice.Tensor:
        return _sliced(node, read)
    for reads in (_scaled, _biased, _masked, _moved):
        found = reads(editor, node, read)
        if found is not None:
            return found
    raise NoQuery(f"its scores go through {node.target}{written_at(node)}")


def add_bias(editor: Editor, given: Any, read: Read, node: fx.Node, sign: float = 1.0) -> None:
    """Read a bias that a node adds, or, by its sign, takes off; rows with one of -inf are masked.

    Raises:
        NoQuery: It is none.
    """
    value = _by_row(editor, given, node, read)
    if value is None:
        raise NoQuery(f"what is added to its scores is no bias, one constant number a row{written_at(node)}")
    value = sign * value
    below = value == -torch.inf
    if below.any():
        _mask(read, torch.nonzero(below).flatten().tolist(), node)
        value = value.masked_fill(below, 0.0)
    read.biases.append((value, read.scale, 0))


def _scaled(editor: Editor, node: fx.Node, read: Read) -> fx.Node | None:
    if node.target not in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar) or node.kwargs:
        return None
    divides = node.target in (aten.div.Tensor, aten.div.Scalar)
    first, second = node.args
    if not divides and _number(editor, first) is not None:
        first, second = second, first
    factor = _number(editor, second)
    if not factor or not isinstance(first, fx.Node):
        return None
    read.scale *= 1 / factor if divides else factor
    return first


def _biased(editor: Editor, node: fx.Node, read: Read) -> fx.Node | None:
    if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs:
        return None
    first, second = node.args
    if editor.constant(first) and node.target is aten.add.Tensor:
        first, second = second, first
    if not isinstance(first, fx.Node) or not editor.constant(second):
        return None
    add_bias(editor, second, read, node, 1.0 if node.target is aten.add.Tensor else -1.0)
    return first


def _sliced(node: fx.Node, read: Read) -> fx.Node:
    source, dim, begin, end, stride = values_of(node)
    rank = rank_of(source)
    dim = positive(dim, rank)
    size = shape_of(source)[dim]
    if dim != read.rows_dim:
        if begin in (None, 0) and end is not None and end >= _TO_END and stride == 1:
            return source  # type: ignore[no-any-return]
        if rank == 2:
            raise NoQuery(f"it leaves out rows of the batch{written_at(node)}")
        read.moves.append(_same(node.target, (dim, begin, end, stride)))
        return source  # type: ignore[no-any-return]
    if stride != 1 or not isinstance(begin, int | None):
        raise NoQuery(f"it takes every {stride}th score{written_at(node)}")
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


def _by_row(editor: Editor, given: Any, node: fx.Node, read: Read) -> Tensor | None:
    """Return a constant that has one number for each row of a node's scores, (N,); None: it is none."""
    if not isinstance(given, fx.Node) or not editor.constant(given):
        return None
    value = editor.evaluate(given)
    size = shape_of(node)[read.rows_dim]
    if not isinstance(value, Tensor) or value.numel() != size:
        return None
    dim = value.dim() - (rank_of(node) - read.rows_dim)
    return value.detach().reshape(-1) if dim >= 0 and value.shape[dim] == size else None


# -- masks -------------------------------------------------------------------------------------------------------------


def _mask(read: Read, rows: list[int], node: fx.Node) -> None:
    """Note that rows, as a node counts them, are masked.

    Raises:
        NoQuery: A sign after that makes them the best.
    """
    if read.scale <= 0:
        raise NoQuery(f"the rows that it masks come first, by the sign that its scores get later{written_at(node)}")
    read.masked |= {row for row in rows if read.begin <= row < read.begin + read.width}


def _masked(editor: Editor, node: fx.Node, read: Read) -> fx.Node | None:
    """Read an operator that gives some rows, the same for all requests, a score below all others."""
    target, args = node.target, values_of(node)
    if target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        return _chosen(editor, node, read, args[0], args[1], args[2])
    if target in (aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther):
        condition, first, second = args
        if _is_mask(editor, read, first):
            return _chosen(editor, node, read, second, condition, first)
        return _chosen(editor, node, read, first, condition, second, where=False)
    if target in (aten.scatter.value, aten.scatter.src):
        raise NoQuery(_OF_REQUEST.format(written_at(node)))
    size = shape_of(node)[read.rows_dim] if target in _PUTS else 0
    if target in (aten.select_scatter.default, aten.slice_scatter.default):
        source, filled, dim, *place = args
        if positive(dim, rank_of(node)) != read.rows_dim:
            whole = target is aten.slice_scatter.default and place[0] in (None, 0) and (place[1] or _TO_END) >= _TO_END
            return filled if whole and place[2] == 1 else None
        value = filled.args[1] if filled.target in _FILLS else filled
        rows: list[int] | None = (
            [place[0]] if target is aten.select_scatter.default else list(range(size)[slice(*place)])
        )
    elif target is aten.index_fill.int_Scalar and positive(int(args[1]), rank_of(node)) == read.rows_dim:
        source, rows, value = args[0], _indexes(editor, args[2]), args[3]
    elif target is aten.index_put.default and not args[3]:
        source, indexes, value, _ = args
        if len(indexes) != read.rows_dim + 1 or any(each is not None for each in indexes[:-1]):
            return None
        rows = _indexes(editor, indexes[-1])
    else:
        return None
    if rows is None:
        raise NoQuery(_OF_REQUEST.format(written_at(node)))
    if not _is_mask(editor, read, value):
        return None
    _mask(read, [positive(row, size) for row in rows], node)
    return source  # type: ignore[no-any-return]


_OF_REQUEST: Final = "which rows it masks depends on the request; give such rows as `exclude`{}"
_FILLS: Final = frozenset({aten.fill.Tensor, aten.fill.Scalar, aten.copy.default})
_PUTS: Final = frozenset(
    {
        aten.select_scatter.default,
        aten.slice_scatter.default,
        aten.index_fill.int_Scalar,
        aten.index_put.default,
    }
)


def _chosen(
    editor: Editor, node: fx.Node, read: Read, source: Any, mask: Any, value: Any, where: bool = True
) -> fx.Node | None:
    """Read scores that have a low value where a mask is `where`."""
    if not isinstance(source, fx.Node) or not _is_mask(editor, read, value):
        return None
    if not editor.constant(mask):
        raise NoQuery(_OF_REQUEST.format(written_at(node)))
    chosen = _by_row(editor, mask, node, read)
    if chosen is None or chosen.dtype != torch.bool:
        return None
    _mask(read, torch.nonzero(chosen == where).flatten().tolist(), node)
    return source


def _is_mask(editor: Editor, read: Read, given: Any) -> bool:
    """Return whether a value is a number below all scores, whatever scale comes after it."""
    if isinstance(given, fx.Node):
        if not editor.constant(given):
            return False
        value = editor.evaluate(given)
        given = value.max().item() if isinstance(value, Tensor) and value.numel() else None
    return isinstance(given, int | float) and given * abs(read.scale) <= MASKED


def _indexes(editor: Editor, given: Any) -> list[int] | None:
    if not editor.constant(given):
        return None
    value = editor.evaluate(given)
    value = torch.nonzero(value).flatten() if value.dtype == torch.bool else value
    return [int(each) for each in value.flatten().tolist()]


# -- moves -------------------------------------------------------------------------------------------------------------


def _same(target: Any, arguments: tuple[Any, ...]) -> Move:
    """Return a move by an operator with the arguments that it has for scores."""
    return lambda editor, before, query, _: editor.call(before, target, query, *arguments)


def _moved(_editor: Editor, node: fx.Node, read: Read) -> fx.Node | None:
    """Read an operator that moves scores of rows as wholes, so that it may move the queries."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    source: fx.Node = node.args[0]
    rank, at = rank_of(source), read.rows_dim
    if node.target in VIEWS | {aten.reshape.default}:
        shape = list(node.args[1])  # type: ignore[arg-type]
        if at != rank_of(node) - 1 or shape_of(node)[-1] != shape_of(source)[-1]:
            return None
        read.moves.append(
            lambda editor, before, query, dim: editor.call(before, aten.reshape.default, query, [*shape[:-1], dim])
        )
        read.rows_dim = rank - 1
        return source
    if node.target in (aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default):
        given = values_of(node)[1] if len(node.args) > 1 else range(rank)
        dims = {positive(dim, rank) for dim in (given if isinstance(given, Iterable) else [given])}
        # A dimension of unknown size is the batch: it stays, also of one row.
        gone = sorted(dim for dim in dims if isinstance(size := shape_of(source)[dim], int) and size == 1)
        read.rows_dim = [dim for dim in range(rank) if dim not in gone][at]
        read.moves.append(_same(aten.squeeze.dims, (gone,)))
        return source
    found = _rows_dim(node, source, rank, at)
    if found is None:
        return None
    read.rows_dim = found
    read.moves.append(_same(node.target, tuple(node.args[1:])))
    return source


def _rows_dim(node: fx.Node, source: fx.Node, rank: int, at: int) -> int | None:
    """Return the dimension of an operator's source in which rows lie that are at `at` in its result; None: in none."""
    target, arguments = node.target, values_of(node)[1:]
    if target is aten.unsqueeze.default:
        dim = positive(arguments[0], rank + 1)
        return None if dim == at else at - (dim < at)
    if target is aten.select.int:
        return at + (positive(arguments[0], rank) <= at)
    order: list[int] | None = None
    if target is aten.permute.default:
        order = [positive(dim, rank) for dim in arguments[0]]
    elif target in (aten.numpy_T.default, aten.t.default):
        order = list(reversed(range(rank)))
    elif target in (aten.transpose.int, aten.swapaxes.default, aten.swapdims.default):
        order = list(range(rank))
        one, other = (positive(dim, rank) for dim in arguments[:2])
        order[one], order[other] = order[other], order[one]
    elif target is aten.index.Tensor and None not in arguments[0]:
        indexes = arguments[0]
        found = at - (rank_of(node) - rank)
        return found if found >= len(indexes) and at >= rank_of(node) - rank + len(indexes) else None
    return None if order is None else order[at]
