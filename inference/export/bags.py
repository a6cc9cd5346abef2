"""Pooled uses of embeddings: which `embedding_bag` operators are a pooled pull, and what stands for the others.

A bag is either ragged (the values of a feature with `many`, cut at that feature's offsets) or square: every row has L
ids, from a sequence, a stack or single ids. Which offsets an operator gets is seen by running them, so any way to
write them is understood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import fx

from ringpull.inference.export.examples import bag_starts
from ringpull.inference.export.indices.index import Index, NotPlain, Part, read_index
from ringpull.inference.export.operators import CASTS, aten, values_of
from ringpull.inference.export.probe import PROBED_ROWS, Probe
from ringpull.inference.export.uses import LookUp, Plan, Use, Vectors
from ringpull.inference.schema.kinds import IdSequence
from ringpull.ps.spec import Pooling

_POOLINGS: Final = (Pooling.SUM, Pooling.MEAN, Pooling.MAX)
"""Poolings by the operator's `mode`."""


@dataclass(frozen=True, slots=True)
class PooledLookup:
    """A bag that is a pull just as it is."""

    use: Use

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        return look_up(self.use)


@dataclass(frozen=True, slots=True)
class SquareBag:
    """L ids per row, looked up without pooling and pooled in the dense program."""

    vectors: Vectors
    width: int
    """Ids per row, L."""
    pooling: Pooling
    padding_row: int | None
    weights: fx.Node | None
    """`per_sample_weights` (B * L,)."""

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        flat = self.vectors.build(probe, graph, look_up)
        dim = int(self.vectors.weight.meta["val"].shape[1])
        bags = graph.call_function(aten.reshape.default, (flat, [-1, self.width, dim]))
        if self.weights is not None:
            weights = graph.call_function(aten.reshape.default, (self.weights, [-1, self.width, 1]))
            bags = graph.call_function(aten.mul.Tensor, (bags, weights))
        if self.padding_row is None:
            return _pool(graph, bags, self.pooling)
        rows = graph.call_function(aten.reshape.default, (self.vectors.node, [-1, self.width, 1]))
        padded = graph.call_function(aten.eq.Scalar, (rows, self.padding_row))
        if self.pooling is Pooling.MAX:
            lowest = graph.call_function(aten.masked_fill.Scalar, (bags, padded, float("-inf")))
            highest = graph.call_function(aten.amax.default, (lowest, [1]))
            empty = graph.call_function(aten.all.dim, (padded, 1))
            return graph.call_function(aten.masked_fill.Scalar, (highest, empty, 0.0))
        kept = graph.call_function(aten.masked_fill.Scalar, (bags, padded, 0.0))
        total = graph.call_function(aten.sum.dim_IntList, (kept, [1]))
        if self.pooling is Pooling.SUM:
            return total
        present = graph.call_function(aten.logical_not.default, (padded,))
        count = graph.call_function(aten.sum.dim_IntList, (present, [1]))
        return graph.call_function(aten.div.Tensor, (total, graph.call_function(aten.clamp.default, (count, 1))))


def _pool(graph: fx.Graph, bags: fx.Node, pooling: Pooling) -> fx.Node:
    operations = {Pooling.SUM: aten.sum.dim_IntList, Pooling.MEAN: aten.mean.dim, Pooling.MAX: aten.amax.default}
    return graph.call_function(operations[pooling], (bags, [1]))


def read_bag(probe: Probe, node: fx.Node) -> Plan:
    """Return the plan for an `embedding_bag` operator.

    Raises:
        NotPlain: It cannot be a pull.
    """
    weight, index, offsets, _, mode, _, weights, include_last, *padding = values_of(node)
    padding_row = padding[0] if padding and padding[0] is not None and padding[0] >= 0 else None
    pooling = _POOLINGS[mode]
    table = probe.captured.weights[weight]
    read = read_index(probe, index, int(weight.meta["val"].shape[0]))
    if read.layout is None:
        use = _pooled(read.parts[0], table, pooling, padding_row, weighted=weights is not None)
        _check_offsets(probe, offsets, include_last, use.feature)
        _check_weights(probe, weights, use.feature)
        return PooledLookup(use)
    width = _width(probe, index, offsets, include_last)
    if weights is None and _is_pull(probe, read, width, padding_row):
        return PooledLookup(_pooled(read.parts[0], table, pooling, padding_row))
    return SquareBag(Vectors(table, weight, index, read), width, pooling, padding_row, weights)


def _pooled(part: Part, table: str, pooling: Pooling, padding_row: int | None, *, weighted: bool = False) -> Use:
    first, *more = (source.feature for source in part.sources)
    return Use(table, first, pooling, part.add, padding_row, weighted=weighted, key=part.key, more=tuple(more))


def _is_pull(probe: Probe, read: Index, width: int, padding_row: int | None) -> bool:
    """Return whether bags of `width` ids are those of a sequence, or of single ids that may be dropped."""
    if not read.in_order:
        return False
    part = read.parts[0]
    feature = probe.schema[part.sources[0].feature]
    if isinstance(feature, IdSequence):
        return width == feature.length
    return width == 1 and padding_row is not None


def _starts(probe: Probe, offsets: Any, include_last: bool, rows: int, values: int) -> list[int] | None:
    """Return where the operator starts its bags, or None if its last offset is not the number of values."""
    starts: list[int] = probe.evaluate(offsets, probe.example(rows)).tolist()
    if not include_last:
        return starts
    return starts[:-1] if starts and starts[-1] == values else None


def _check_offsets(probe: Probe, offsets: Any, include_last: bool, feature: str) -> None:
    for rows in PROBED_ROWS:
        expected = bag_starts(probe.schema, feature, rows).tolist()
        if _starts(probe, offsets, include_last, rows, expected[-1]) != expected[:-1]:
            raise NotPlain(
                f"its bags of feature {feature} do not start at {feature}_offsets: include_last_offset of the"
                " embedding and of the schema's feature must agree"
            )


def _check_weights(probe: Probe, weights: Any, feature: str) -> None:
    node = weights
    while isinstance(node, fx.Node) and node.target in CASTS:
        node = node.args[0]
    if node is None or (isinstance(node, fx.Node) and node is probe.captured.arguments.get(f"{feature}_weights")):
        return
    raise NotPlain(f"its per_sample_weights are not {feature}_weights; declare the feature weighted and pass those")


def _width(probe: Probe, index: fx.Node, offsets: Any, include_last: bool) -> int:
    """Return the number of ids in every bag."""
    widths = set()
    for rows in PROBED_ROWS:
        values = probe.evaluate(index, probe.example(rows)).numel()
        starts = _starts(probe, offsets, include_last, rows, values)
        width = values // len(starts) if starts else 0
        if not width or starts != list(range(0, values, width)) or values % width:
            raise NotPlain("its offsets do not cut one bag per row, all of one length")
        widths.add(width)
    if len(widths) > 1:
        raise NotPlain("the length of its bags depends on the number of rows")
    return widths.pop()
