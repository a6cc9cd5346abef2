"""What the places of a sequence count in a reduction: found by running it, and by its derivative.

A reduction that is linear in the vectors E (B, L, D) has a number for each place, c[b, l], with which E[b, l] enters.
Two derivatives in random directions show c, and that it is one number for the whole vector and of this row alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.indices.index import Part
from ringpull.inference.export.operators import aten
from ringpull.inference.export.pools.pooled_paths import Paths
from ringpull.inference.export.pools.pooled_rows import Ids, SequenceRows, pairs_to_try, rows_to_try, values_of_rows
from ringpull.inference.export.probe import Probe
from ringpull.inference.export.uses import LookUp, Use
from ringpull.inference.model.manifest_parts import KeptBy
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import IdSequence
from ringpull.ps.spec import Pooling

_BATCH: Final = 1 << 21
"""Numbers of vectors that are tried at a time."""

_TOLERANCE: Final = 1e-5
"""Relative difference up to which two coefficients are the same number, as float32 arithmetic gives it."""

_SAME: Final = 1e-6
"""The same for a number that does not depend on the row, which stands for all of them."""

_LOWEST: Final = -1e4
"""Number below which what stands at masked places of a maximum must be, and below any weight."""

_MAX_DROPPED: Final = 4
"""Most ids that an expression names one by one, to leave them out."""

_NO_ROW: Final = -(2**63)
"""Row that no table has."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


Size = tuple[Part, int]
"""What ids become where they are looked up, and how many rows there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Look-up of one sequence in one table."""

    table: str
    weight: Tensor
    name: str
    feature: IdSequence
    part: Part
    """What its ids become."""


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Number with which a whole bag is multiplied before it is summed: one for all rows, times that of a tensor."""

    number: float = 1.0
    node: fx.Node | None = None
    """Tensor (B, ...) whose largest number of each row multiplies, or divides, too."""
    divides: bool = False

    def build(self, graph: fx.Graph, vectors: fx.Node) -> fx.Node:
        if self.number != 1:
            vectors = graph.call_function(aten.mul.Tensor, (vectors, self.number))
        if self.node is None:
            return vectors
        rank = self.node.meta["val"].dim()
        flat = graph.call_function(aten.flatten.using_ints, (self.node, 1, -1)) if rank > 2 else self.node
        if rank == 1:
            flat = graph.call_function(aten.unsqueeze.default, (flat, 1))
        largest = graph.call_function(aten.amax.default, (flat, [1], True))
        return graph.call_function(aten.div.Tensor if self.divides else aten.mul.Tensor, (vectors, largest))


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """A reduction of one sequence, as a pull."""

    use: Use
    column: int
    """Place of the vector in a row of the result."""
    dim: int
    scale: Scale

    @property
    def may_be_empty(self) -> bool:
        """Whether a bag may hold no id."""
        return self.use.unpadded or self.use.padding_row is not None or self.use.kept_by is not None

    def build(self, graph: fx.Graph, look_up: LookUp) -> fx.Node:
        return self.scale.build(graph, look_up(self.use))


@dataclass(frozen=True, slots=True, eq=False)
class _Keeper:
    """Another sequence that the masks of one read: its ids say which places of that one count."""

    name: str
    feature: IdSequence
    ids: Ids
    """Its ids that have a row where it is looked up; any, where it is not."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """Made-up rows."""

    rows: SequenceRows
    keeper: SequenceRows | None
    """Those of another sequence, where masks read one."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one reduction does to some rows."""

    rows: SequenceRows
    keeper: SequenceRows | None
    column: int
    counts: Floats
    """Coefficient (B, L) of each place; NaN where the model divides by zero."""
    scales: Mapping[fx.Node, Floats]
    """Largest number (B,) of each factor."""


def pooled_ends(
    probe: Probe, sequence: Sequence, embedding: fx.Node, paths: Paths, sizes: Mapping[str, Size]
) -> dict[fx.Node, Pooled] | None:
    """Return what every reduction of an embedding becomes, or None if one of them is no pull.

    Args:
        sizes: Of the smallest table that each sequence is looked up in.
    """
    masks = list(paths.factors)
    if paths.maxima:
        masks += [each for ones in paths.added.values() for each in ones if isinstance(each, fx.Node)]
    read = {name for each in masks if each not in paths.linear for name in probe.reads(each)}
    features = {probe.arguments[name].features for name in read} - {(sequence.name,)}
    keeper = None
    if features and (keeper := _keeper(probe, sequence, features, sizes)) is None:
        return None
    ids = Ids.of(sequence.part, len(sequence.weight))
    per_batch = max(1, _BATCH // (sequence.feature.length * sequence.weight.shape[1]))
    found: dict[fx.Node, Pooled] = {}
    for end in paths.ends:
        if keeper is None:
            alone = rows_to_try(probe, sequence.feature, masks, ids, per_batch)
            batches = None if alone is None else (_Tried(rows, None) for rows in alone)
        else:
            pairs = pairs_to_try(probe, (sequence.feature, keeper.feature), masks, (ids, keeper.ids), per_batch)
            batches = None if pairs is None else (_Tried(*pair) for pair in pairs)
        if batches is None or (pooled := _pooled(probe, sequence, ids, keeper, embedding, paths, end, batches)) is None:
            return None
        found[end] = pooled
    return found


def _keeper(
    probe: Probe, sequence: Sequence, features: Collection[tuple[str, ...]], sizes: Mapping[str, Size]
) -> _Keeper | None:
    """Return the one other sequence that masks read, of the same length."""
    if len(features) > 1 or len(names := next(iter(features))) > 1:
        return None
    feature = probe.schema[names[0]]
    if not isinstance(feature, IdSequence) or feature.length != sequence.feature.length:
        return None
    return _Keeper(feature.name, feature, Ids.of(*sizes[feature.name]) if feature.name in sizes else Ids.any())


def _pooled(
    probe: Probe,
    sequence: Sequence,
    ids: Ids,
    keeper: _Keeper | None,
    embedding: fx.Node,
    paths: Paths,
    end: fx.Node,
    batches: Iterator[_Tried],
) -> Pooled | None:
    maximum = end in paths.maxima
    if maximum and float(sequence.weight.detach().abs().max()) * 2 >= -_LOWEST:
        return None
    seen: list[_Seen] = []
    for tried in batches:
        given = {sequence.name: tried.rows}
        if keeper is not None and tried.keeper is not None:
            given[keeper.name] = tried.keeper
        values = values_of_rows(probe, given)
        try:
            one = (
                _seen_max(probe, sequence, embedding, end, tried, values)
                if maximum
                else _seen_sum(probe, sequence, embedding, paths, end, tried, values)
            )
        except (RuntimeError, IndexError, ValueError):  # the expression does not take such rows
            return None
        if one is None or (seen and one.column != seen[0].column):
            return None
        seen.append(one)
    part = sequence.part
    kept = _kept(seen, ids, sequence.feature, keeper)
    if kept is None and (named := _with_row_of_its_own(seen, part)) is not None:
        part = named
        kept = _kept(seen, Ids(ids.some, ids.all, part, ids.rows), sequence.feature, keeper)
    if kept is None:
        return None
    scale = _scale(paths, seen, kept.places)
    if scale is None:
        return None
    pooling = Pooling.MAX if maximum else Pooling.SUM
    use = Use(
        sequence.table,
        sequence.name,
        pooling,
        part.add,
        kept.own.dropped,
        unpadded=kept.own.unpadded,
        key=part.key,
        kept_by=kept.by,
    )
    return Pooled(use, seen[0].column, sequence.weight.shape[1], scale)


def _seen_sum(
    probe: Probe,
    sequence: Sequence,
    embedding: fx.Node,
    paths: Paths,
    end: fx.Node,
    tried: _Tried,
    values: Mapping[str, Tensor],
) -> _Seen | None:
    rows = tried.rows
    device = values[next(iter(values))].device
    count, length = rows.ids.shape
    dim = sequence.weight.shape[1]
    shape = [count if not isinstance(size, int) else size for size in embedding.meta["val"].shape]
    if embedding.meta["val"].dim() == 2:
        shape[0] = count * length
    random = torch.Generator().manual_seed(count)
    dtype = sequence.weight.dtype
    vectors = torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)
    result = probe.evaluate(end, values, {embedding: vectors})
    if result.shape[0] != count or not result.requires_grad:
        return None
    # Numbers that the vectors' type holds, as slopes are given in that.
    into = [(torch.rand(result.shape, generator=random) + 0.5).to(dtype).to(result) for _ in range(2)]
    slopes = [torch.autograd.grad(result, vectors, each, retain_graph=True)[0] for each in into]
    flat = [each.reshape(count, length, dim).cpu() for each in slopes]
    along = [each.reshape(count, -1).float().cpu() for each in into]
    column = _column(flat, along)
    if column is None:
        return None
    ratios = [each / other[:, None, column : column + dim] for each, other in zip(flat, along, strict=True)]
    counts = ratios[0][:, :, 0]
    if not all(torch.allclose(each, counts[:, :, None], _TOLERANCE, 0, equal_nan=True) for each in ratios):
        return None
    scales = {node: _largest(probe, node, values, count) for node in paths.factors}
    given = {node: each for node, each in scales.items() if each is not None}
    return _Seen(rows, tried.keeper, column, counts.numpy(), given)


def _column(slopes: list[Tensor], along: list[Tensor]) -> int | None:
    """Return where in a row of the result the vectors enter; None if nowhere, or not side by side."""
    row, place = _first_place(slopes[0])
    if row is None:
        return None
    dim = slopes[0].shape[2]
    windows = [each[row].unfold(0, dim, 1) for each in along]
    ratios = torch.cat([each[row, place] / window for each, window in zip(slopes, windows, strict=True)], 1)
    alike = (ratios - ratios[:, :1]).abs().amax(1) <= _TOLERANCE * ratios.abs().amax(1)
    fits = alike.nonzero().flatten().tolist()
    return int(fits[0]) if len(fits) == 1 else None


def _first_place(slopes: Tensor) -> tuple[int | None, int]:
    counts = slopes.abs().amax(2)
    places = ((counts > 0) & counts.isfinite()).nonzero()
    return (int(places[0, 0]), int(places[0, 1])) if len(places) else (None, 0)


def _largest(probe: Probe, node: fx.Node, values: Mapping[str, Tensor], count: int) -> Floats | None:
    tensor = probe.evaluate(node, values)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return None
    if tensor.dim() == 0 or tensor.shape[0] != count:
        return None
    largest: Floats = tensor.reshape(count, -1).amax(1).float().cpu().numpy()
    return largest


def _seen_max(
    probe: Probe, sequence: Sequence, embedding: fx.Node, end: fx.Node, tried: _Tried, values: Mapping[str, Tensor]
) -> _Seen | None:
    rows = tried.rows
    operand = end.args[0] if end.target is aten.amax.default else end.args[0].args[0]  # type: ignore[union-attr]
    assert isinstance(operand, fx.Node)
    kind = embedding.meta["val"]
    if kind.dim() != 3 or operand.meta["val"].shape != kind.shape:
        return None
    shape = (*rows.ids.shape, sequence.weight.shape[1])
    random = torch.rand(shape, generator=torch.Generator().manual_seed(len(rows.ids))) * 2 - 1
    kept = dropped = torch.ones(shape, dtype=torch.bool)
    for vectors in (random, -random, torch.zeros(shape)):
        given = vectors.to(sequence.weight)
        into = probe.evaluate(operand, values, {embedding: given})
        kept = kept & (into == given).cpu()
        dropped = dropped & (into <= _LOWEST).cpu()
    if not bool((kept | dropped).all()) or not bool((kept == kept[:, :, :1]).all()):
        return None
    return _Seen(rows, tried.keeper, 0, kept[:, :, 0].float().numpy(), {})


def _inside(seen: list[_Seen], *, kept: bool) -> NDArray[np.int64]:
    """Return the ids, no padding, that count something, or nothing."""
    return np.unique(np.concatenate([one.rows.ids[one.rows.inside & ((one.counts != 0) == kept)] for one in seen]))


def _with_row_of_its_own(seen: list[_Seen], part: Part) -> Part | None:
    """Return what ids become if those that are dropped, which share a row with others, get a row that is none.

    They are a few ids, or all up to one.
    """
    dropped, kept = (_inside(seen, kept=each) for each in (False, True))
    if part.key is None or not len(dropped) or not len(kept):
        return None
    if len(dropped) > 1 and dropped[-1] + 1 == kept[0]:
        condition = KeyExpression.of("le", KeyExpression.ids(), KeyExpression.constant(int(dropped[-1])))
    elif len(dropped) <= _MAX_DROPPED:
        named = [KeyExpression.of("eq", KeyExpression.ids(), KeyExpression.constant(each)) for each in dropped.tolist()]
        condition = reduce(lambda one, two: KeyExpression.of("or", one, two), named)
    else:
        return None
    return Part(part.sources, key=KeyExpression.of("where", condition, KeyExpression.constant(_NO_ROW), part.key))


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which places of a sequence count: all but those of one row or id, and but padding."""

    dropped: int | None
    unpadded: bool

    @classmethod
    def read(
        cls, rows: list[SequenceRows], named: list[Ints], pad: int, counted: list[Ints], at: list[Bools]
    ) -> _Rule | None:
        """Return what the places `at` tell: `counted` is 1 at one that counts, 0 at one that does not, else -1."""

        def of(places: list[Bools], count: int) -> Ints:
            return np.concatenate(
                [each[here & (one == count)] for each, here, one in zip(named, places, counted, strict=True)]
            )

        inside = [here & one.inside for here, one in zip(at, rows, strict=True)]
        outside = [here & ~one.inside for here, one in zip(at, rows, strict=True)]
        dropped = np.unique(of(inside, 0)).tolist()
        if len(dropped) > 1:
            return None
        row = next(iter(dropped), None)
        return cls(row, row != pad and len(of(outside, 0)) > 0)

    def places(self, rows: SequenceRows, named: Ints) -> Bools:
        """Return which places (B, L) count."""
        keep = rows.inside | (not self.unpadded)
        return keep if self.dropped is None else keep & (named != self.dropped)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Which places of a sequence count, by its own ids and by another's."""

    own: _Rule
    by: KeptBy | None
    places: list[Bools]
    """Those of the rows that were tried."""


def _kept(seen: list[_Seen], ids: Ids, feature: IdSequence, keeper: _Keeper | None) -> _Kept | None:
    """Return which places count, if one rule for all rows says it: for each of two sequences, where masks read two.

    Each rule is read at places that the other sequence does not drop, and both must say exactly what was seen.
    """
    # Where the model divides by zero, nothing is told, but there must be nothing to divide.
    counted = [np.where(np.isnan(one.counts), -1, one.counts != 0) for one in seen]
    rows, named = [one.rows for one in seen], [ids.rows_of(one.rows.ids) for one in seen]
    everywhere = [np.ones(one.shape, bool) for one in counted]
    pad = int(ids.rows_of(np.array([feature.pad]))[0])
    others = [one.keeper for one in seen if one.keeper is not None]
    at = _like_kept(others, counted) if keeper is not None else everywhere
    own = _Rule.read(rows, named, pad, counted, at)
    if own is None:
        return None
    keeps, by = [own.places(each, names) for each, names in zip(rows, named, strict=True)], None
    if keeper is not None:
        theirs = [each.ids for each in others]
        rule = _Rule.read(others, theirs, keeper.feature.pad, counted, keeps)
        if rule is None:
            return None
        keeps = [keep & rule.places(each, each.ids) for keep, each in zip(keeps, others, strict=True)]
        if rule.unpadded or rule.dropped is not None:
            by = KeptBy(feature=keeper.name, padding_id=rule.dropped, unpadded=rule.unpadded)
    for keep, count in zip(keeps, counted, strict=True):
        if not np.array_equal(count == 1, keep & (count >= 0)) or (keep & (count < 0)).any():
            return None
    return _Kept(own, by, keeps)


def _like_kept(rows: list[SequenceRows], counted: list[Ints]) -> list[Bools]:
    """Return the places at which stands, in this sequence, what stands at some place that counts."""
    ids = np.unique(
        np.concatenate([each.ids[each.inside & (count == 1)] for each, count in zip(rows, counted, strict=True)])
    )
    outside = any(bool((~each.inside & (count == 1)).any()) for each, count in zip(rows, counted, strict=True))
    return [np.where(each.inside, np.isin(each.ids, ids), outside) for each in rows]


def _scale(paths: Paths, seen: list[_Seen], keeps: list[Bools]) -> Scale | None:
    """Return by what all places kept of a row are multiplied, or None if each is by something of its own."""
    largest = [np.where(keep, one.counts, -np.inf).max(1) for one, keep in zip(seen, keeps, strict=True)]
    for one, keep, most in zip(seen, keeps, largest, strict=True):
        if not np.allclose(np.where(keep, one.counts, most[:, None]), most[:, None], _TOLERANCE, 0):
            return None
    wanted = np.concatenate([np.where(keep.any(1), most, 0) for keep, most in zip(keeps, largest, strict=True)])
    filled = np.concatenate([keep.any(1) for keep in keeps])
    undefined = np.concatenate([np.isnan(one.counts).any(1) for one in seen])
    some = wanted[filled]
    if not len(some):
        return None
    if not undefined.any() and np.allclose(some, some[0], _SAME, 0):
        return Scale(float(some[0]))
    for node, divides in paths.factors.items():
        if not all(node in one.scales for one in seen):
            continue
        given = np.concatenate([one.scales[node] for one in seen])
        with np.errstate(divide="ignore", invalid="ignore"):
            empty = np.float32(0) / given if divides else np.float32(0) * given
            own = 1 / given if divides else given
            ratios = some / own[filled]
        if np.allclose(ratios, ratios[0], _TOLERANCE, 0) and np.array_equal(np.isnan(empty), undefined & ~filled):
            number = 1.0 if np.isclose(ratios[0], 1, _TOLERANCE, 0) else float(ratios[0])
            return Scale(number, node, divides)
    return None
