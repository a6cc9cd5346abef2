"""Rows of one sequence made up to tell which ids a mask keeps: of every length, with every id that a mask may name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.indices.index import Part
from ringpull.inference.export.operators import CASTS, LIKES, MOVES, SIZES, aten, values_of
from ringpull.inference.export.probe import Probe
from ringpull.inference.schema.arguments import sequence_mask
from ringpull.inference.schema.kinds import IdSequence

MAX_TRIED: Final = 1 << 20
"""Most ids that are tried one by one, where a mask computes something of ids other than comparing them."""

MAX_SOME: Final = 4096
"""Ids that stand for those of a larger table."""

_ANY: Final = 2**62
"""Rows of a table that has one for any id that is tried."""

_ALL_LENGTHS: Final = 256
"""Sequences up to this length are tried with every length."""

_SPREAD_LENGTHS: Final = 64
"""Lengths that longer ones are tried with."""

_ALONE: Final = 1024
"""Most rows in which one telling id is at one place, among others."""

_MAX_NUMBERS: Final = 4096
"""Different numbers of one constant that ids may be compared with."""

_COMPARE: Final = frozenset(
    getattr(getattr(aten, name), kind) for name in ("eq", "ne", "gt", "ge", "lt", "le") for kind in ("Scalar", "Tensor")
)
_BOUND: Final = frozenset({aten.clamp.default, aten.clamp_max.default, aten.clamp_min.default, aten.relu.default})
"""Operators that leave ids as they are up to numbers that they name."""

_TELL_ZERO: Final = frozenset(
    {
        aten.any.dim,
        aten.count_nonzero.default,
        aten.count_nonzero.dim_IntList,
        aten.logical_and.default,
        aten.logical_not.default,
        aten.logical_or.default,
        aten.sign.default,
    }
)
"""Operators that only tell ids apart by whether they are 0, above or below."""

_EXACT: Final[Mapping[torch.dtype, int]] = {
    torch.int64: 2**63 - 1,
    torch.int32: 2**31 - 1,
    torch.float64: 2**53,
    torch.float32: 2**24,
    torch.float16: 2**11,
    torch.bfloat16: 2**8,
}
"""Largest id up to which a type holds each as it is."""


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """Rows of one sequence."""

    ids: NDArray[np.int64]
    """Ids (B, L), padded."""
    lengths: NDArray[np.int64]
    inside: NDArray[np.bool_]
    """Places (B, L) that hold ids, not padding."""

    @classmethod
    def make(cls, feature: IdSequence, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> SequenceRows:
        """Cut rows of full length off at `lengths`."""
        inside = sequence_mask(lengths, feature)
        return cls(np.where(inside, ids, feature.pad), lengths, inside)


def values_of_rows(probe: Probe, rows: Mapping[str, SequenceRows]) -> Mapping[str, Tensor]:
    """Return arguments with these rows, by feature, and nothing of note in the others."""
    count = len(next(iter(rows.values())).lengths)
    values = probe.example(count)
    for name, argument in probe.arguments.items():
        if len(argument.features) == 1 and (own := rows.get(argument.features[0])) is not None:
            made = own.ids if argument.part == "sequence" else own.lengths
            values[name] = torch.from_numpy(made).to(values[name])
    return values


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is seen of a mask before it is run."""

    numbers: frozenset[int]
    """Numbers that it names."""
    compares: bool
    """Whether it does nothing to ids but compare them with those numbers, so that other ids are all alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """Ids of a sequence that have a row."""

    some: NDArray[np.int64]
    """Some of them, or all, ascending."""
    all: bool
    part: Part
    rows: int

    @classmethod
    def of(cls, part: Part, rows: int) -> Ids:
        """Return ids that have a row in a table of so many rows."""
        if part.key is None and rows <= MAX_TRIED:
            return cls(np.arange(rows) - part.add, True, part, rows)
        random = np.random.default_rng(rows)
        near = np.arange(-2, min(rows, MAX_SOME) + 2) - part.add
        far = random.integers(-(2**40), 2**40, MAX_SOME)
        given = cls(
            np.unique(np.concatenate([near, far, random.integers(0, rows, MAX_SOME) - part.add])), False, part, rows
        )
        return cls(given.some[given.have_row(given.some)], False, part, rows)

    @classmethod
    def any(cls) -> Ids:
        """Return ids of a sequence that is looked up nowhere: all are taken."""
        return cls.of(Part((), _ANY // 2), _ANY)

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each id (...)."""
        key = self.part.key
        return ids + self.part.add if key is None else key.evaluate(ids.reshape(-1)).reshape(ids.shape)

    def have_row(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which ids have a row in the table."""
        rows = self.rows_of(ids)
        return (rows >= 0) & (rows < self.rows)


def rows_to_try(
    probe: Probe, feature: IdSequence, masks: Iterable[fx.Node], ids: Ids, per_batch: int
) -> Iterator[SequenceRows] | None:
    """Return rows, `per_batch` at a time, that tell what masks do to ids; None where too many would do."""
    if not len(ids.some):
        return None
    seen = _read(probe, masks, _largest(feature, ids))
    if not (seen.compares or ids.all):
        return None
    return _batches(feature, seen, ids, per_batch)


def pairs_to_try(
    probe: Probe,
    features: tuple[IdSequence, IdSequence],
    masks: Iterable[fx.Node],
    ids: tuple[Ids, Ids],
    per_batch: int,
) -> Iterator[tuple[SequenceRows, SequenceRows]] | None:
    """Return rows of two sequences that masks read together; None where trying some would not tell what they do."""
    if not all(len(each.some) for each in ids):
        return None
    seen = _read(probe, masks, max(_largest(feature, each) for feature, each in zip(features, ids, strict=True)))
    if not seen.compares:
        return None
    return _pairs(features, seen, ids, per_batch)


def _largest(feature: IdSequence, ids: Ids) -> int:
    """Return the id furthest from 0, of padding too."""
    return int(np.abs([feature.pad, *ids.some[[0, -1]].tolist()]).max())


def _pairs(
    features: tuple[IdSequence, IdSequence], seen: _Reading, ids: tuple[Ids, Ids], per_batch: int
) -> Iterator[tuple[SequenceRows, SequenceRows]]:
    made = [_made(feature, seen, each) for feature, each in zip(features, ids, strict=True)]
    count = max(len(lengths) for _, lengths in made)
    random = np.random.default_rng(count)
    rounds = max(4, -(-MAX_SOME // (count * features[0].length)))
    orders = [
        np.concatenate([random.permutation(np.resize(np.arange(len(lengths)), count)) for _ in range(rounds)])
        for _, lengths in made
    ]
    for begin in range(0, count * rounds, per_batch):
        one, two = (
            SequenceRows.make(feature, whole[chosen], lengths[chosen])
            for feature, (whole, lengths), order in zip(features, made, orders, strict=True)
            for chosen in (order[begin : begin + per_batch],)
        )
        yield one, two


def _batches(feature: IdSequence, seen: _Reading, ids: Ids, per_batch: int) -> Iterator[SequenceRows]:
    whole, counts = _made(feature, seen, ids)
    order = np.random.default_rng(ids.rows).permutation(len(whole))
    for begin in range(0, len(whole), per_batch):
        chosen = order[begin : begin + per_batch]
        yield SequenceRows.make(feature, whole[chosen], counts[chosen])


def _made(feature: IdSequence, seen: _Reading, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids (B, L) of rows of full length, and the lengths to which they are cut."""
    random = np.random.default_rng(ids.rows)
    length = feature.length
    near = np.array(sorted({number + by for number in {*seen.numbers, feature.pad, 0, 1} for by in (-1, 0, 1)}))
    special = np.unique(np.concatenate([near[ids.have_row(near)], ids.some[[0, -1]]]))
    lengths = _lengths(length, near[(near >= 0) & (near <= length)].tolist())
    wide = random.choice(ids.some, (len(lengths), length))
    few = random.choice(special, (len(lengths), length))
    mixed = np.where(random.random(wide.shape) < 0.3, random.choice(special, wide.shape), wide)
    tried = special if seen.compares else ids.some
    full = np.resize(tried, (-(-len(tried) // length), length))
    alone = _alone(random, special, random.choice(ids.some, (min(_ALONE, len(special) * length), length)))
    whole = np.concatenate([wide, few, mixed, full, alone])
    counts = np.concatenate([lengths, lengths, lengths, np.full(len(full) + len(alone), length)])
    return whole, counts


def _alone(random: np.random.Generator, special: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put one special id into each row: each at each place, or as many of these pairs as there are rows."""
    pairs = random.permutation(len(special) * rows.shape[1])[: len(rows)]
    rows[np.arange(len(rows)), pairs % rows.shape[1]] = special[pairs // rows.shape[1]]
    return rows


def _lengths(length: int, near: Collection[int]) -> NDArray[np.int64]:
    if length <= _ALL_LENGTHS:
        return np.arange(length + 1)
    spread = np.linspace(0, length, _SPREAD_LENGTHS).astype(np.int64).tolist()
    return np.array(sorted({*spread, 1, 2, length - 1, *near}), np.int64)


def _read(probe: Probe, masks: Iterable[fx.Node], largest: int) -> _Reading:
    """Read masks of ids of which none is above `largest`, nor below its negative."""
    numbers: set[int] = set()
    compares, seen, pending = True, set[fx.Node](), list(masks)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending += node.all_input_nodes
        numbers |= _numbers(probe, node)
        if _are_ids(probe, node, largest) or not any(_are_ids(probe, each, largest) for each in node.all_input_nodes):
            continue
        if node.target in _COMPARE:
            named = _compared_with(probe, node, largest)
            compares = compares and named is not None
            numbers |= named or set()
        elif node.target in CASTS:  # to another type than one of ids, it may not tell them apart
            compares = compares and node.meta["val"].dtype is torch.bool
        else:
            compares = compares and node.target in _TELL_ZERO | SIZES | LIKES
    return _Reading(frozenset(numbers), compares)


def _compared_with(probe: Probe, node: fx.Node, largest: int) -> set[int] | None:
    """Return the numbers that ids are compared with, besides other ids; None where it is not known which."""
    numbers: set[int] = set()
    for each in node.all_input_nodes:
        if _are_ids(probe, each, largest):
            continue
        if probe.reads(each):
            return None
        value = probe.evaluate(each, probe.example(1))
        distinct = np.unique(value.detach().cpu().double().numpy()).tolist() if isinstance(value, Tensor) else [value]
        if len(distinct) > _MAX_NUMBERS:
            return None
        numbers |= {int(number) for number in distinct if abs(number) < 2**62}
    return numbers


def _are_ids(probe: Probe, node: fx.Node, largest: int) -> bool:
    """Return whether a node holds ids as they are, but for bounds."""
    while node.op == "call_function" and (node.target in MOVES or node.target in CASTS or node.target in _BOUND):
        kind = node.meta.get("val")
        if not isinstance(kind, Tensor) or _EXACT.get(kind.dtype, -1) < largest:
            return False
        bounds = values_of(node)[1:] if node.target in _BOUND else []
        if any(isinstance(each, fx.Node) for each in bounds):
            return False
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "placeholder" and probe.argument(node).part == "sequence"


def _numbers(probe: Probe, node: fx.Node) -> set[int]:
    if node.op == "get_attr":
        constant = getattr(probe.captured.graph_module, str(node.target))
        few = isinstance(constant, Tensor) and constant.numel() <= _MAX_NUMBERS
        given: list[Any] = constant.flatten().tolist() if few else []
    elif node.op == "call_function" and node.target not in MOVES and hasattr(node.target, "_schema"):
        given = values_of(node)
    else:
        given = []
    return {int(each) for each in given if isinstance(each, int | float) and abs(each) < 2**62}
