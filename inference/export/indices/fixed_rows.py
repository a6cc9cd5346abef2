"""Fixed rows: rows of a table that every request looks up, such as a mask token's, are constants of the dense program.

They are known at export, so nothing is pulled for them. Where the table's row type rounds, they are rounded alike. Many
of a table's rows, such as all of them, would be a copy of it: they are none, so that it is said and limited as a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.indices.marks import MarkReader
from ringpull.inference.export.operators import aten
from ringpull.inference.export.probe import PROBED_ROWS, Probe
from ringpull.inference.export.refusals import NotPlain
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.schema.key_expressions import KeyExpression

MAX_ROWS: Final = 256
"""Different rows of one table that one look-up by constants may read."""

MAX_BYTES: Final = 1024 * 1024
"""Bytes of them, in float32."""

_FEW_ROWS: Final = 8
"""Rows that are no copy even where they are more than a quarter of a table, unless they are all of several rows."""

_OF_TABLE: Final = "ringpull_fixed_rows"
"""Entry of a constant's `meta`: the table, and the rows of it that the constant holds."""


@dataclass(frozen=True, slots=True, eq=False)
class FixedRows:
    """A plan: the rows of constants, in the shape of an index that is the same in every request but for its size."""

    table: str
    weight: fx.Node
    node: fx.Node | int
    """The index, or its only row."""
    rows: NDArray[np.int64]
    """Rows that it has, ascending."""

    @classmethod
    def read(cls, probe: Probe, weight: fx.Node, node: fx.Node | int) -> FixedRows:
        """Read the index.

        Raises:
            NotPlain: It depends on the request, or on the number of rows, or has too many rows.
        """
        total, dim = map(int, weight.meta["val"].shape)
        found = {tuple(_rows_of(probe, node, count)) for count in PROBED_ROWS}
        rows = next(iter(found))
        if len(found) > 1 or not rows or len(rows) > MAX_ROWS or not 0 <= rows[0] <= rows[-1] < total:
            raise NotPlain("its index is constant")
        if is_copy(len(rows), total, dim):
            raise NotPlain(f"its index is constant, and reads {len(rows)} of {total} rows")
        return cls(probe.captured.weights[weight], weight, node, np.array(rows, np.int64))

    def build(self, probe: Probe, graph: fx.Graph, look_up: object) -> fx.Node:
        """Insert the vectors."""
        vectors = fixed_vectors(probe, graph, self.table, self.weight, self.rows)
        if not isinstance(self.node, fx.Node):
            return graph.call_function(aten.select.int, (vectors, 0, 0))
        if len(self.rows) == 1:
            places = graph.call_function(aten.zeros_like.default, (self.node,))
        else:
            known = constant(probe, graph, torch.from_numpy(self.rows.copy()))
            places = graph.call_function(aten.searchsorted.Tensor, (known, self.node))
        return graph.call_function(aten.embedding.default, (vectors, places))


def is_copy(rows: int, total: int, dim: int) -> bool:
    """Return whether so many rows of a table are as good as a copy of it; one row never is."""
    few = rows < total and rows <= max(_FEW_ROWS, total // 4)
    return rows > 1 and not (few and rows * dim * 4 <= MAX_BYTES)


def _rows_of(probe: Probe, node: fx.Node | int, count: int) -> list[int]:
    if not isinstance(node, fx.Node):
        return [node]
    if node.meta["val"].dtype not in (torch.int64, torch.int32):
        raise NotPlain(f"its index is cast to {node.meta['val'].dtype}")
    read = MarkReader.of(probe).read(node, count)
    if isinstance(read, Tensor):
        values = read
    else:
        meanings = [MarkReader.of(probe).meaning(number) for number in read.meanings.unique().tolist()]
        numbers = [each.value for each in meanings if isinstance(each, KeyExpression) and each.is_constant]
        if len(numbers) < len(meanings):
            raise NotPlain("its index is not constant")
        values = torch.tensor(numbers)
    rows: list[int] = sorted(set(values.long().reshape(-1).tolist()))
    return rows


def fixed_vectors(probe: Probe, graph: fx.Graph, table: str, weight: fx.Node, rows: NDArray[np.int64]) -> fx.Node:
    """Insert rows of a weight as a constant, float32 (N, D)."""
    held: Tensor = getattr(probe.captured.graph_module, str(weight.target))
    taken = held[torch.from_numpy(rows.copy()).to(held.device)].detach().float()
    node = constant(probe, graph, taken)
    node.meta[_OF_TABLE] = (table, rows)
    return node


def constant(probe: Probe, graph: fx.Graph, tensor: Tensor) -> fx.Node:
    """Insert a constant tensor."""
    module = probe.captured.graph_module
    name = next(each for each in map("fixed_{}".format, count()) if not hasattr(module, each))
    module.register_buffer(name, tensor.to(probe.device), persistent=False)
    return graph.get_attr(name)


def round_fixed_rows(program: fx.GraphModule, plans: Mapping[str, TablePlan]) -> None:
    """Give the constants of a dense program the numbers that their tables hold."""
    for node in program.graph.nodes:
        if _OF_TABLE in node.meta:
            table, rows = node.meta[_OF_TABLE]
            held: Any = getattr(program, str(node.target))
            if plans[table].rounds:
                held.copy_(torch.from_numpy(plans[table].served_rows(rows)))
