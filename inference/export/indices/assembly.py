"""Putting looked-up vectors in the places of an index's elements, so that they stand for the embedding's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from ringpull.inference.export.indices.fixed_rows import constant, fixed_vectors
from ringpull.inference.export.indices.index import Layout
from ringpull.inference.export.operators import aten
from ringpull.inference.export.probe import Probe


def assemble(
    probe: Probe,
    graph: fx.Graph,
    weight: fx.Node,
    layout: Layout,
    vectors: Sequence[fx.Node],
    lengths: Sequence[int],
) -> fx.Node:
    """Insert the output of an embedding, of the shape of its index and (D,).

    Args:
        probe: The graph's.
        weight: The embedding's.
        graph: Graph, at the place to insert at.
        layout: Layout of the index.
        vectors: Vectors of each of its parts: (B, D), or (B, L, D) of a sequence.
        lengths: L of each part; 0 of those that are single-valued.
    """
    dim = int(weight.meta["val"].shape[1])
    starts = np.cumsum([0, *(max(1, length) for length in lengths)])
    chosen = starts[layout.parts] + np.maximum(layout.places, 0)
    whole = len(chosen) == starts[-1] and bool((chosen == np.arange(len(chosen))).all())
    plain = not layout.before and layout.times == 1 and not layout.tiled
    fixed = bool((layout.fixed >= 0).any())
    if not fixed and whole and plain and len(vectors) == 1 and layout.after == ((lengths[0],) if lengths[0] else ()):
        return vectors[0]
    joined = _joined(graph, vectors, lengths)
    taken = joined if whole else _taken(probe, graph, joined, chosen, dim)
    if fixed:
        taken = _with_fixed(probe, graph, weight, taken, layout.fixed)
    if plain and layout.after == (layout.elements,):
        return taken
    return _laid_out(graph, taken, layout, dim)


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    return graph.call_function(target, args)


def _joined(graph: fx.Graph, vectors: Sequence[fx.Node], lengths: Sequence[int]) -> fx.Node:
    """Return all vectors of a row side by side: (B, M, D)."""
    if not any(lengths):
        return (
            _call(graph, aten.stack.default, list(vectors), 1)
            if len(vectors) > 1
            else _call(graph, aten.unsqueeze.default, vectors[0], 1)
        )
    parts = [
        each if length else _call(graph, aten.unsqueeze.default, each, 1)
        for each, length in zip(vectors, lengths, strict=True)
    ]
    return parts[0] if len(parts) == 1 else _call(graph, aten.cat.default, parts, 1)


def _taken(probe: Probe, graph: fx.Graph, joined: fx.Node, chosen: NDArray[np.int64], dim: int) -> fx.Node:
    """Return some of the vectors of a row: (B, K, D)."""
    first, elements = int(chosen[0]), len(chosen)
    steps = set(np.diff(chosen).tolist())
    if len(steps) <= 1 and (step := next(iter(steps), 1)) > 0:
        return _call(graph, aten.slice.Tensor, joined, 1, first, int(chosen[-1]) + 1, step)
    if steps == {0}:
        one = _call(graph, aten.slice.Tensor, joined, 1, first, first + 1)
        return _call(graph, aten.expand.default, one, [-1, elements, dim])
    return _call(graph, aten.index_select.default, joined, 1, constant(probe, graph, torch.from_numpy(chosen.copy())))


def _with_fixed(probe: Probe, graph: fx.Graph, weight: fx.Node, taken: fx.Node, fixed: NDArray[np.int64]) -> fx.Node:
    """Return the vectors of a row (B, K, D) with the rows of constants in their places."""
    # Some fixed row stands in the places of the others, where it is not chosen.
    rows, at = np.unique(np.where(fixed < 0, fixed.max(), fixed), return_inverse=True)
    vectors = fixed_vectors(probe, graph, probe.captured.weights[weight], weight, rows)
    places = constant(probe, graph, torch.from_numpy(at.reshape(-1).astype(np.int64)))
    each = _call(graph, aten.index_select.default, vectors, 0, places)
    is_fixed = constant(probe, graph, torch.from_numpy(fixed >= 0)[:, None])
    return _call(graph, aten.where.self, is_fixed, each, taken)


def _laid_out(graph: fx.Graph, taken: fx.Node, layout: Layout, dim: int) -> fx.Node:
    """Return the vectors (B, K, D) of the elements in the shape of the index."""
    if not layout.before and not layout.tiled:
        return _call(graph, aten.reshape.default, taken, [-1, *layout.after, dim])
    apart = _call(graph, aten.reshape.default, taken, [-1, *layout.before, layout.times, *layout.after, dim])
    rank = len(layout.before) + len(layout.after) + 3
    before, after = list(range(1, 1 + len(layout.before))), list(range(2 + len(layout.before), rank))
    times = 1 + len(layout.before)
    order = [*before, times, 0, *after] if layout.tiled else [*before, 0, times, *after]
    moved = _call(graph, aten.permute.default, apart, order)
    return _call(graph, aten.reshape.default, moved, [*layout.before, -1, *layout.after, dim])
