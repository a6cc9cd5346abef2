"""Sites: where a graph looks rows up in what is the same for every request, by ids of the request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ringpull.inference.importers.onnx.operators import NotRead, attribute
from ringpull.inference.importers.onnx.reading import Reading
from ringpull.inference.importers.onnx.source import SourceGraph, subgraphs

Array = NDArray[Any]

EXACT: Final = ("f", "b", "i", "u")
"""Kinds of numbers that rows may be of."""

MAX_EXACT: Final = 2**24
"""Magnitude up to which float32 holds every integer."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One look-up of a graph's."""

    node: NodeProto
    """Node whose first output are the rows."""
    table: str
    """Tensor that they are rows of."""
    index: str
    """Tensor of indices."""
    axis: int = 0
    """Axis of the table that the index counts."""
    beyond: Literal["fails", "zeros"] = "fails"
    """What an index beyond the rows does."""
    dropped: int | None = None
    """Dimension of the index that is none of the rows': of GatherND, 1 long; of GatherElements, as long as a row, with
    the same number for each of its places."""

    @property
    def output(self) -> str:
        """Tensor of the rows."""
        return self.node.output[0]

    def index_of(self, index: Array) -> Array:
        """Return an index as one of whole rows.

        Raises:
            NotRead: It looks up parts of several rows.
        """
        if self.dropped is None:
            return index
        first = index.take([0], self.dropped)
        if (index != first).any():
            raise NotRead("its index takes the numbers of one row from several")
        return first.squeeze(self.dropped)

    def rows_of(self, table: Array) -> Array:
        """Return the rows (n, D) of the table, a view where it can be one."""
        moved = np.moveaxis(table, self.axis, 0)
        return moved.reshape(moved.shape[0], -1)

    def row_shape(self, table: Array) -> tuple[int, ...]:
        """Return the shape of one row."""
        return (*table.shape[: self.axis], *table.shape[self.axis + 1 :])


def find_sites(source: SourceGraph, reading: Reading) -> Iterator[Site]:
    """Yield the look-ups of a graph: by what depends on ids, in what does not."""
    makers = {name: node for node in source.graph.node for name in node.output}
    for node in source.graph.node:
        site = site_of(node, makers, reading)
        if site is not None and site.index in reading.asked and reading.is_fixed(site.table):
            table = reading.values[site.table]
            if table.ndim and table.dtype.kind in EXACT and table.size:
                yield site


def site_of(node: NodeProto, makers: dict[str, NodeProto], reading: Reading) -> Site | None:
    """Return the look-up that a node is, if it is one; `makers` are the graph's nodes by what they give."""
    if node.op_type == "Gather":
        axis = attribute(node, "axis", 0)
        table = reading.values.get(node.input[0])
        return Site(node, node.input[0], node.input[1], axis % max(1, 1 if table is None else table.ndim))
    if node.op_type == "GatherND" and not attribute(node, "batch_dims", 0):
        index = reading.values.get(node.input[1])
        if index is not None and index.ndim and index.shape[-1] == 1:
            return Site(node, node.input[0], node.input[1], dropped=index.ndim - 1)
    if node.op_type == "GatherElements":
        return _of_elements(node, reading)
    if node.op_type == "MatMul" and (hot := _one_hot(makers.get(node.input[0]), makers, reading)) is not None:
        table = reading.values.get(node.input[1])
        if table is not None and table.ndim == 2 and table.shape[0] == hot[1]:
            return Site(node, node.input[1], hot[0], beyond="zeros")
    return None


def _of_elements(node: NodeProto, reading: Reading) -> Site | None:
    """Return the look-up that a GatherElements is: of numbers, or of rows whose places are all there."""
    table, index = (reading.values.get(each) for each in node.input)
    if table is None or index is None or table.ndim not in (1, 2) or index.ndim != table.ndim:
        return None
    axis = attribute(node, "axis", 0) % table.ndim
    if table.ndim == 1:
        return Site(node, node.input[0], node.input[1])
    whole = index.shape[1 - axis] == table.shape[1 - axis]
    return Site(node, node.input[0], node.input[1], axis, dropped=1 - axis) if whole else None


def _one_hot(node: NodeProto | None, makers: dict[str, NodeProto], reading: Reading) -> tuple[str, int] | None:
    """Return the indices that a node makes vectors of one 1 of, along their last axis, and the size of these."""
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = makers.get(node.input[0])
    if node is None or node.op_type != "OneHot" or attribute(node, "axis", -1) != -1:
        return None
    depth, values = (reading.values.get(each) for each in node.input[1:3])
    if depth is None or values is None or not all(reading.is_fixed(each) for each in node.input[1:3]):
        return None
    if values.tolist() not in ([0, 1], [False, True]):
        return None
    return node.input[0], int(depth.reshape(-1)[0])


def entries_looked_up(source: SourceGraph, reading: Reading) -> Iterator[Site]:
    """Yield the look-ups of entries by several indices each, which are no rows of a table: as of an id in a field."""
    for node in source.graph.node:
        if node.op_type == "GatherND" and reading.is_fixed(node.input[0]) and node.input[1] in reading.asked:
            table, index = (reading.values.get(each) for each in node.input[:2])
            if table is not None and table.dtype.kind in EXACT and index is not None and index.shape[-1:] != (1,):
                yield Site(node, node.input[0], node.input[1])


def inner_tables(source: SourceGraph, reading: Reading) -> Iterator[tuple[NodeProto, str]]:
    """Yield the nodes inside loops and branches that gather from a tensor that is the same for every request."""
    pending = [graph for node in source.graph.node for graph in subgraphs(node)]
    while pending:
        graph = pending.pop()
        for node in graph.node:
            pending += subgraphs(node)
            if node.op_type == "Gather" and reading.is_fixed(node.input[0]):
                table = reading.values[node.input[0]]
                if table.ndim == 2 and table.dtype.kind == "f":
                    yield node, node.input[0]
