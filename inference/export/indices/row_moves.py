"""Moves within rows: a few places of a sequence, which the request says: the last item of a history, at its length.

`embedding(sequence.gather(1, lengths - 1))` looks up ids that only the dense program can take out of the sequence. The
same move of the sequence's vectors gives the same: they are looked up, and moved instead of the ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ringpull.inference.export.operators import aten, positive, rank_of, values_of
from ringpull.inference.export.probe import Probe


@dataclass(frozen=True, slots=True)
class RowMove:
    """An operator that takes elements of each row of (B, L) from places of the request's."""

    node: fx.Node
    moved: fx.Node
    """Source of the rows."""
    places: fx.Node
    rows: fx.Node | None
    """Number of the row of each place; None: `places` has the same rows, (B, K)."""

    @classmethod
    def of(cls, probe: Probe, node: fx.Node) -> RowMove | None:
        """Return the move that a node makes, if it is one."""
        rows: Any = None
        match node.target:
            case aten.gather.default:
                moved, dim, places, *_ = values_of(node)
            case aten.take_along_dim.default:
                moved, places, dim = values_of(node)
            case aten.index.Tensor if len(node.args[1]) == 2:  # type: ignore[arg-type]
                moved, (rows, places) = values_of(node)
                dim = 1
                if not isinstance(rows, fx.Node) or probe.reads(rows):
                    return None
            case _:
                return None
        if not isinstance(places, fx.Node) or dim is None or rank_of(moved) != 2 or positive(dim, 2) != 1:
            return None
        integers = places.meta["val"].dtype in (torch.int64, torch.int32)
        return cls(node, moved, places, rows) if integers and probe.reads(places) else None

    @property
    def many(self) -> int:
        """Places per row; 0: one, without a dimension of its own."""
        return 0 if rank_of(self.node) == 1 else int(self.node.meta["val"].shape[1])

    def shape(self, probe: Probe, rows: int) -> torch.Size | None:
        """Return the shape of what it takes of so many rows; None: it is not a few places of each row."""
        made = probe.example(rows)
        shape = probe.evaluate(self.places, made).shape
        if self.rows is not None:
            numbers = probe.evaluate(self.rows, made)
            shape = torch.broadcast_shapes(shape, numbers.shape)  # type: ignore[no-untyped-call]
            own = torch.arange(rows, device=numbers.device).reshape(-1, *[1] * (len(shape) - 1))
            if not shape or shape[0] != rows or not bool((numbers == own).all()):
                return None
        return shape if len(shape) in (1, 2) and shape[0] == rows else None

    def build(self, graph: fx.Graph, vectors: fx.Node, dim: int) -> fx.Node:
        """Insert the same move of the vectors (B, L, D) of what it moves: (B, K, D), or (B, D)."""
        if self.rows is not None:
            return graph.call_function(aten.index.Tensor, (vectors, [self.rows, self.places]))
        each = graph.call_function(aten.unsqueeze.default, (self.places, -1))
        if self.places.meta["val"].dtype is not torch.int64:
            each = graph.call_function(aten.to.dtype, (each, torch.int64))
        whole = graph.call_function(aten.expand.default, (each, [-1, -1, dim]))
        return graph.call_function(aten.gather.default, (vectors, 1, whole))
