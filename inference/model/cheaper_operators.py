"""Cheaper operators: what a dense program does with the CPU's time where another operator gives the same bits for less.

- Columns taken by constant numbers, as the pairs of a dot interaction are, are taken by `index_select`, which copies
  numbers, where `index` makes an iterator of as many dimensions (a DLRM's 351 pairs of 128 rows: 24 us for 186).
- A ReLU of a product that nothing else takes is computed in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, fx

_ATEN: Final[Any] = torch.ops.aten
_PRODUCTS: Final = (_ATEN.linear.default, _ATEN.addmm.default, _ATEN.mm.default, _ATEN.bmm.default)
"""Operators whose result is memory of its own, of which there is no view."""
_CONSTANT: Final = (_ATEN.select.int, _ATEN.view.default, _ATEN.reshape.default, _ATEN.slice.Tensor)
"""Operators that give constants of constants."""


def with_cheaper_operators(module: fx.GraphModule) -> fx.GraphModule:
    """Return a program, itself changed, that gives the same bits."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is _ATEN.index.Tensor:
            _select(module, node)
        elif node.op == "call_function" and node.target is _ATEN.relu.default:
            _in_place(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _in_place(node: fx.Node) -> None:
    (taken,) = node.args
    if isinstance(taken, fx.Node) and taken.target in _PRODUCTS and len(taken.users) == 1:
        node.target = _ATEN.relu_.default


def _select(module: fx.GraphModule, node: fx.Node) -> None:
    """Take columns by their numbers in the flattened rows, if they are constant and within."""
    given, indexes = node.args
    value = given.meta.get("val") if isinstance(given, fx.Node) else None
    if not isinstance(value, Tensor) or not isinstance(indexes, list | tuple) or len(indexes) < 2:
        return
    taken = [_constant(module, each) for each in indexes[1:]]
    sizes = value.shape[1:]
    if indexes[0] is not None or not all(isinstance(size, int) for size in sizes):
        return
    flat = _flat(taken, [int(size) for size in sizes[: len(taken)]])
    if flat is None:
        return
    name = f"_columns_of_{node.name}"
    module.register_buffer(name, flat, persistent=False)
    behind = [int(size) for size in sizes[len(taken) :]]
    with module.graph.inserting_before(node):
        columns = module.graph.get_attr(name)
        rows = module.graph.call_function(
            _ATEN.reshape.default, (given, [-1, prod(map(int, sizes[: len(taken)])), *behind])
        )
        chosen = module.graph.call_function(_ATEN.index_select.default, (rows, 1, columns))
    chosen.meta.update(node.meta)
    node.replace_all_uses_with(chosen)


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the value of a node that no input goes into; None: it has inputs, or more is done than is known here."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        found: Any = module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found if isinstance(found, Tensor) else None
    if node.op != "call_function" or node.target not in _CONSTANT or node.kwargs:
        return None
    first, *rest = node.args
    inner = _constant(module, first)
    if inner is None or any(isinstance(each, fx.Node) for each in rest):
        return None
    made = node.target(inner.detach(), *rest)  # type: ignore[operator]
    return made if isinstance(made, Tensor) else None


def _flat(taken: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """Return the numbers in flattened rows of what is taken by its number in each dimension; None: it is not known."""
    flat: Tensor | None = None
    for index, size in zip(taken, sizes, strict=True):
        if index is None or index.dtype != torch.int64 or index.dim() != 1 or not len(index):
            return None
        if int(index.min()) < -size or int(index.max()) >= size or (flat is not None and len(flat) != len(index)):
            return None
        own = torch.where(index < 0, index + size, index)
        flat = own if flat is None else flat * size + own
    return flat
