"""Binary search among sorted numbers, as nodes of a graph: of however many numbers, a few nodes for each doubling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.pmml.nodes.graph import Graph


def count_below(graph: Graph, tensor: str, numbers: NDArray[np.float64], *, or_equal: bool = True) -> str:
    """Return how many of some ascending numbers are below each of a tensor (B, 1), or equal to it: int64 (B,).

    None is below NaN.
    """
    steps = max(len(numbers), 1).bit_length()
    padded = graph.tensor(np.concatenate([numbers, np.full((1 << steps) - len(numbers), np.nan)]))
    kind = "LessOrEqual" if or_equal else "Less"
    asked = graph.node("Squeeze", [tensor, graph.tensor([1], np.int64)])
    count = graph.tensor([0], np.int64)
    for step in range(steps - 1, -1, -1):
        more = graph.node("Add", [count, graph.tensor([1 << step], np.int64)])
        last = graph.node("Sub", [more, graph.tensor([1], np.int64)])
        held = graph.node(kind, [picked(graph, padded, last), asked])
        count = graph.where(held, more, count)
    return count


def picked(graph: Graph, numbers: str, places: str) -> str:
    """Return the numbers (N,) at some places (B,)."""
    return graph.node("GatherElements", [numbers, places], axis=0)


def column_at(graph: Graph, numbers: Sequence[float], places: str) -> str:
    """Return the numbers at some places (B,), as float64 (B, 1)."""
    return graph.column(picked(graph, graph.tensor(np.array(numbers, np.float64)), places))
