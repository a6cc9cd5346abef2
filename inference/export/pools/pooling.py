"""Pooling by hand: a padded sequence's vectors, masked and then summed, averaged or maximised, are a pooled pull.

What each place of the sequence counts in the result is found by running the model's own expression: where its
derivative is the same number at all places that are kept, and 0 at the others, the pull sums the ids kept, and what is
behind the sum (a divisor, say) stays as the model has it. Places are kept because of their id, because they are not
padding, or always; and in the same way because of the id or padding that another sequence has there, as categories are
by their items. Places that a maximum masks stand below any weight when it is exported. Anything else (attention,
decay, positions) is looked up unpooled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ringpull.inference.export.operators import aten, upstream
from ringpull.inference.export.pools.pooled_paths import Paths, always_zero, paths_of
from ringpull.inference.export.pools.pooled_probes import Pooled, Sequence, Size, pooled_ends
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.uses import LookUp, Plan, Use, Vectors
from ringpull.inference.schema.kinds import IdSequence


@dataclass(frozen=True, slots=True, eq=False)
class _Reduction:
    """One sum or maximum, and what pulls put in its place."""

    node: fx.Node
    terms: list[Pooled]
    rest: bool
    """Whether something else than pulled vectors enters, or the result of no id is not zeros."""

    def build(self, graph: fx.Graph, look_up: LookUp) -> None:
        """Replace the reduction; where there is a rest, the reduction itself of zeros gives that."""
        before = set(self.node.users)
        with graph.inserting_after(self.node):
            marker = graph.call_function(aten.alias.default, (self.node,))
        with graph.inserting_before(marker):
            built = self._placed(graph, look_up)
            if self.rest:
                built = graph.call_function(aten.add.Tensor, (built, self.node))
        self.node.replace_all_uses_with(built, delete_user_cb=lambda user: user in before)
        graph.erase_node(marker)

    def _placed(self, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        """Return the vectors side by side, or added where several are at one place, in the result's shape."""
        kind: Tensor = self.node.meta["val"]
        width = int(kind.shape[1:].numel())
        columns: dict[tuple[int, int], list[fx.Node]] = {}
        for term in self.terms:
            columns.setdefault((term.column, term.column + term.dim), []).append(term.build(graph, look_up))
        parts = {place: _sum(graph, vectors) for place, vectors in sorted(columns.items())}
        if [0, *(end for _, end in parts)] == [*(begin for begin, _ in parts), width]:
            built = list(parts.values())
            whole = built[0] if len(built) == 1 else graph.call_function(aten.cat.default, (built, 1))
        else:
            padded = [
                graph.call_function(aten.constant_pad_nd.default, (vectors, [begin, width - end]))
                for (begin, end), vectors in parts.items()
            ]
            whole = _sum(graph, padded)
        if kind.dim() != 2:
            whole = graph.call_function(aten.reshape.default, (whole, [-1, *map(int, kind.shape[1:])]))
        if kind.dtype is not torch.float32:
            whole = graph.call_function(aten.to.dtype, (whole, kind.dtype))
        return whole


def _sum(graph: fx.Graph, parts: list[fx.Node]) -> fx.Node:
    total = parts[0]
    for part in parts[1:]:
        total = graph.call_function(aten.add.Tensor, (total, part))
    return total


@dataclass(frozen=True, slots=True, eq=False)
class PooledSequence:
    """A sequence whose vectors are used in reductions alone, each of which is a pull."""

    embedding: fx.Node
    reductions: list[_Reduction]
    """Reductions that this plan builds: those that no other's does."""
    any_use: Use
    length: int

    def build(self, probe: Probe, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        for reduction in self.reductions:
            reduction.build(graph, look_up)
        # Zeros take the place of the vectors: for their shape, and for what else is added before a reduction.
        pulled = graph.call_function(aten.zeros_like.default, (look_up(self.any_use),))
        kind: Tensor = self.embedding.meta["val"]
        many = graph.call_function(
            aten.expand.default,
            (graph.call_function(aten.unsqueeze.default, (pulled, 1)), [-1, self.length, -1]),
        )
        if kind.dim() == 3:
            return many
        return graph.call_function(aten.reshape.default, (many, [-1, *map(int, kind.shape[1:])]))


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """An embedding of a sequence that may be pooled."""

    table: str
    name: str
    """Feature's name."""
    feature: IdSequence
    paths: Paths
    pooled: Mapping[fx.Node, Pooled]
    """What each reduction becomes."""


def read_pools(probe: Probe, plans: Mapping[fx.Node, Plan]) -> dict[fx.Node, Plan]:
    """Return other plans for those embeddings whose vectors are pooled by the model's own operators.

    Args:
        probe: Of the graph.
        plans: Plans of all look-ups that become pulls.
    """
    found: dict[fx.Node, _Candidate] = {}
    sizes = _sizes(plans)
    for node, plan in plans.items():
        if isinstance(plan, Vectors) and (candidate := _candidate(probe, node, plan, sizes)) is not None:
            found[node] = candidate
    _drop_unsaving(probe, found, plans)
    reductions: dict[fx.Node, _Reduction] = {}
    pools: dict[fx.Node, Plan] = {}
    for node, candidate in found.items():
        own = []
        for end in candidate.pooled:
            if end not in reductions:
                terms = [each.pooled[end] for each in found.values() if end in each.pooled]
                reductions[end] = _Reduction(end, terms, _has_rest(probe, end, found.values()))
                own.append(reductions[end])
        use = next(iter(candidate.pooled.values())).use
        pools[node] = PooledSequence(node, own, use, candidate.feature.length)
    return pools


def _sizes(plans: Mapping[fx.Node, Plan]) -> dict[str, Size]:
    """Return how the ids of each feature are looked up in the smallest of its tables."""
    sizes: dict[str, Size] = {}
    for node, plan in plans.items():
        for part in plan.index.parts if isinstance(plan, Vectors) else ():
            rows = int(node.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
            if len(part.sources) == 1 and rows < sizes.get(name := part.source.feature, (part, rows + 1))[1]:
                sizes[name] = part, rows
    return sizes


def _candidate(probe: Probe, node: fx.Node, plan: Vectors, sizes: Mapping[str, Size]) -> _Candidate | None:
    index = plan.index
    kind: Tensor = node.meta["val"]
    if not index.in_order or index.layout is None or kind.dim() < 2:
        return None
    (part,) = index.parts
    name = part.sources[0].feature
    feature = probe.schema[name]
    if not isinstance(feature, IdSequence) or index.layout.elements != feature.length or len(part.sources) > 1:
        return None
    paths = paths_of(node, feature.length)
    if paths is None:
        return None
    weight: fx.Node = node.args[0]  # type: ignore[assignment]
    table: Tensor = getattr(probe.captured.graph_module, str(weight.target))
    if not 0 <= part.row_of(feature.pad) < len(table):
        return None  # refused where it is looked up unpooled
    pooled = pooled_ends(probe, Sequence(plan.table, table, name, feature, part), node, paths, sizes)
    return None if pooled is None else _Candidate(plan.table, name, feature, paths, pooled)


def _drop_unsaving(probe: Probe, found: dict[fx.Node, _Candidate], plans: Mapping[fx.Node, Plan]) -> None:
    """Drop what needs the vectors one by one anyway, somewhere else, or as many pulls as there are vectors."""
    unpooled = {
        (plan.table, source.feature)
        for node, plan in plans.items()
        if isinstance(plan, Vectors) and node not in found
        for part in plan.index.parts
        for source in part.sources
    }
    uses: dict[tuple[str, str], set[Use]] = {}
    for candidate in found.values():
        key = candidate.table, candidate.name
        uses.setdefault(key, set()).update(each.use for each in candidate.pooled.values())
    for node, candidate in list(found.items()):
        key = candidate.table, candidate.name
        if key in unpooled or len(uses[key]) > candidate.feature.length:
            del found[node]


def _has_rest(probe: Probe, end: fx.Node, candidates: Iterable[_Candidate]) -> bool:
    """Return whether a reduction takes in something else than pooled vectors, or is something else than 0 of no id."""
    entering = [each for each in candidates if end in each.pooled]
    if any(end in each.paths.maxima and each.pooled[end].may_be_empty for each in entering):
        return True
    linear = set[fx.Node]().union(*(each.paths.linear for each in entering))
    before = upstream(end) & linear
    added = [one for each in entering for node, ones in each.paths.added.items() if node in before for one in ones]
    return any(one not in linear and not always_zero(probe, one) for one in added)
