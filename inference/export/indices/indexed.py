"""Indexed dimensions: what in a graph is read, or written, by ids, and so for which ids it is there.

An embedding that became a table is known by its name. What stays in the dense program - an embedding, a constant such
as the history of each user, the scores of all items - raises at an id beyond, whatever operator reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.capture import Captured
from ringpull.inference.export.indices.choices import parts_of
from ringpull.inference.export.indices.index import NotPlain, Part, read_index, read_parts
from ringpull.inference.export.operators import BAGS, EMBEDDINGS, aten, positive, rank_of, values_of
from ringpull.inference.export.passes.editor import BOUNDS, shape_of
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.ranges import IdRange
from ringpull.inference.export.uses import Plan

_INDEXES: Final = frozenset({aten.index.Tensor, aten.index_put.default, aten._unsafe_index.Tensor})
"""Operators with an index for each of the first dimensions; negative ones count from behind."""

_ALONG: Final = frozenset(
    {
        aten.gather.default,
        aten.index_add.default,
        aten.index_copy.default,
        aten.index_select.default,
        aten.scatter.src,
        aten.scatter.value,
        aten.scatter.reduce,
        aten.scatter.value_reduce,
        aten.scatter_add.default,
        aten.scatter_reduce.two,
    }
)
"""Operators with an index of one dimension, which comes before it."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of the ids that each node of a graph takes."""

    by_node: Mapping[fx.Node, tuple[IdRange, ...]]

    def of_nodes(self, left: Iterable[fx.Node]) -> tuple[IdRange, ...]:
        """Return those of tables, and of the nodes that are left of the graph."""
        alive = set(left)
        kept = [
            each for node, found in self.by_node.items() for each in found if each.table is not None or node in alive
        ]
        return tuple(dict.fromkeys(kept))


def read_ranges(captured: Captured, probe: Probe, plans: Mapping[fx.Node, Plan]) -> Ranges:
    """Return the ids that each node has a row for, where its index is an expression of ids.

    Args:
        captured: The graph.
        probe: Its probe.
        plans: Those of the embeddings that become tables.
    """
    found: dict[fx.Node, tuple[IdRange, ...]] = {}
    for node in captured.graph_module.graph.nodes:
        if node.target in EMBEDDINGS | BAGS:
            own = _of_embedding(captured, probe, node, plans.get(node))
        else:
            own = [
                IdRange.of(part, size, None, -size if wraps else 0)
                for index, size, wraps in _dimensions(node)
                if probe.reads(index)
                for part in read_parts(probe, index, size)
            ]
        if own:
            found[node] = tuple(own)
    return Ranges(found)


def _of_embedding(captured: Captured, probe: Probe, node: fx.Node, plan: Plan | None) -> list[IdRange]:
    weight: Any = node.args[0]
    rows = shape_of(weight)[0]
    table = None if plan is None else captured.weights[weight]
    found = [IdRange.of(part, rows, table) for part in parts_of(plan)]
    for index, most in ((node.args[1], rows), *node.meta.get(BOUNDS, ())):
        parts = read_parts(probe, index, most) if plan is None else _plain_parts(probe, index, most)
        found += [IdRange.of(part, most, table) for part in parts]
    return found


def _plain_parts(probe: Probe, index: fx.Node, rows: int) -> Collection[Part]:
    try:
        return read_index(probe, index, rows).parts
    except NotPlain:  # one of several dimensions that are not read by ids
        return ()


def _dimensions(node: fx.Node) -> Iterator[tuple[fx.Node, int, bool]]:
    """Yield each index of a node, how many places it has, and whether negative ones count from behind."""
    if node.target in _INDEXES:
        values = values_of(node)
        source, indices = values[0], values[1]
        if any(_type_of(each) in (torch.bool, torch.uint8) for each in indices):
            return  # a mask takes as many dimensions as it has
        for index, size in zip(indices, shape_of(source), strict=False):
            if isinstance(size, int) and _type_of(index) is not None:
                yield index, size, True
    elif node.target in _ALONG:
        source, dim, index, *_ = values_of(node)
        size = shape_of(source)[positive(dim, rank_of(source))] if rank_of(source) else 1
        if isinstance(size, int):
            yield index, size, False
    elif node.target is aten.take.default:
        source, index = values_of(node)
        sizes = shape_of(source)
        if all(isinstance(size, int) for size in sizes):
            size = torch.Size(sizes).numel()
            yield index, size, True
    elif node.target is aten.one_hot.default:
        index, classes = values_of(node)
        if isinstance(classes, int) and classes > 0:
            yield index, classes, False


def _type_of(each: Any) -> torch.dtype | None:
    value = each.meta.get("val") if isinstance(each, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None
