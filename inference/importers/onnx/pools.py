"""Pools: tensors of a graph that are pooled bags of a look-up, found by running it on vectors that were made up.

The graph without its tables is run on random vectors and on ids with padding, repeated and negative ones among them,
on bags that are full, short and empty. A tensor that is the sum, mean or maximum of a bag's vectors, by one of the
rules of what counts, is pulled pooled: whether it was a ReduceSum, a product with a mask, or a loop. The divisor of a
mean is seen by it, and an empty bag too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.cutting import CutGraph, Pooled, PooledSite, number_of
from ringpull.inference.importers.onnx.rest import LOOKUP, LookupInput, rest_of
from ringpull.inference.importers.onnx.sessions import GraphFailed, Session, with_outputs
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.schema.arguments import sequence_mask
from ringpull.inference.schema.kinds import Dense, IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling

Array = NDArray[Any]

_SEEDS: Final = (1, 2)
_ROWS: Final = 24
"""Rows of a run: so many that ids of one a row, too, are all there that tell rules apart."""
_POOLINGS: Final = (Pooling.SUM, Pooling.MEAN, Pooling.MAX)


def lookup_inputs(cut: CutGraph, schema: Schema) -> dict[int, LookupInput]:
    """Return each look-up as an input of the rest."""
    inputs = {}
    for number, use in enumerate(cut.uses):
        feature = schema.get(use.features[0]) if len(use.features) == 1 else None
        pooled = use.pooled is not None
        length = feature.length if isinstance(feature, IdSequence) and not pooled else 0
        ragged = bool(getattr(feature, "many", False)) and not pooled
        inputs[number] = LookupInput(cut.tables[use.table].shape[1], length, ragged)
    return inputs


def add_pools(source: SourceGraph, cut: CutGraph, schema: Schema, outputs: Sequence[str]) -> None:
    """Pull bags pooled where the graph needs nothing else of their look-up."""
    for number in range(len(cut.uses)):
        use = cut.uses[number]
        feature = schema.get(use.features[0]) if len(use.features) == 1 else None
        if not isinstance(feature, IdSequence) or use.pooled is not None:
            continue
        before, uses = list(cut.pools), list(cut.uses)
        for tensor, tail, pooled in _pools_of(source, cut, schema, number, outputs):
            cut.pools.append(PooledSite(tensor, tail, number_of(cut, schema, replace(use, pooled=pooled))))
        rest = rest_of(source, cut, lookup_inputs(cut, schema), outputs)
        if any(each.name == f"{LOOKUP}{number}" for each in rest.graph.input):
            cut.pools, cut.uses = before, uses


def _pools_of(
    source: SourceGraph, cut: CutGraph, schema: Schema, number: int, outputs: Sequence[str]
) -> Iterator[tuple[str, tuple[int, ...], Pooled]]:
    """Yield the tensors that are pooled bags of one look-up, with their shape after the batch and how."""
    rest = rest_of(source, cut, lookup_inputs(cut, schema), outputs)
    names = _after(rest, f"{LOOKUP}{number}")
    if not names:
        return
    session = Session(with_outputs(rest.model, names), rest.weights, source.where, optimised=False)
    found: dict[str, tuple[tuple[int, ...], set[Pooled]]] = {}
    for seed in _SEEDS:
        run = _Run(cut, schema, number, np.random.default_rng(seed))
        try:
            values = session.run(run.feeds(session.inputs), names)
        except GraphFailed:
            return  # it takes other ids than these: nothing is shown
        dim = cut.tables[cut.uses[number].table].shape[1]
        for name, each in zip(names, values, strict=True):
            if not isinstance(each, np.ndarray) or each.shape[:1] != (_ROWS,) or each.size != _ROWS * dim:
                continue
            fitting = {rule for rule, expected in run.expected() if _equal(each.reshape(_ROWS, dim), expected)}
            if name in found:
                found[name][1].intersection_update(fitting)
            elif fitting:
                found[name] = each.shape[1:], fitting
    for name, (tail, rules) in found.items():
        if rules:
            yield name, tail, min(rules, key=lambda each: (each.unpadded, each.dropped is not None, each.pooling))


def _after(source: SourceGraph, name: str) -> list[str]:
    """Return the tensors that depend on an input."""
    found = {name}
    for node in source.graph.node:
        if found.intersection(node.input):
            found.update(each for each in node.output if each)
    return [each for node in source.graph.node for each in node.output if each in found]


def _equal(values: Array, expected: Array) -> bool:
    return values.dtype == np.float32 and bool(np.allclose(values, expected, rtol=1e-5, atol=1e-6))


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One run on made-up vectors: of one look-up, whose bags are told apart, and of all else."""

    cut: CutGraph
    schema: Schema
    number: int
    random: np.random.Generator
    made: dict[str, Array] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        use = self.cut.uses[self.number]
        feature = self.schema[use.features[0]]
        assert isinstance(feature, IdSequence)
        length = feature.length
        limit = use.range(feature.name).limit()
        low, high = limit if limit is not None else (-(2**40), 2**40)
        telling = [feature.pad, 0, 1, 2, 3, -1, low, high - 1, use.rows - 1, feature.pad + 1]
        fitting = sorted({each for each in telling if low <= each < high})
        lengths = np.resize(np.array([length, 1, 0, length - 1, max(1, length // 2)]), _ROWS)
        mask = sequence_mask(lengths, feature)
        ids = np.full((_ROWS, length), feature.pad)
        ids[mask] = np.resize(self.random.permutation(np.array(fitting, np.int64)), mask.sum())
        ids[-1] = feature.pad  # a bag of padding alone, which were ids
        lengths[-1] = length
        mask[-1] = True
        vectors = self.random.standard_normal((_ROWS, length, self.cut.tables[use.table].shape[1]), np.float32)
        object.__setattr__(self, "made", {"ids": ids, "lengths": lengths, "mask": mask, "vectors": vectors})

    def feeds(self, names: Sequence[str]) -> dict[str, Array]:
        """Return what the rest is given."""
        use = self.cut.uses[self.number]
        own = use.features[0]
        given: dict[str, Array] = {
            f"{LOOKUP}{self.number}": self.made["vectors"],
            f"{FRONT}{own}": self.made["ids"],
            f"{FRONT}{own}_lengths": self.made["lengths"],
        }
        inputs = lookup_inputs(self.cut, self.schema)
        return {name: given[name] if name in given else self._other(name, inputs) for name in names}

    def _other(self, name: str, inputs: Mapping[int, LookupInput]) -> Array:
        if name.startswith(LOOKUP):
            entry = inputs[int(name.removeprefix(LOOKUP))]
            shape = (_ROWS, *([entry.length] if entry.length else []), entry.dim)
            return self.random.standard_normal(shape, np.float32)
        argument = self.schema.argument_names()[name.removeprefix(FRONT)]
        feature = self.schema[argument.features[0]]
        if argument.part in ("dense", "number"):
            width = feature.width if isinstance(feature, Dense) else 1
            values = self.random.standard_normal((_ROWS, width), np.float32)
            return values[:, 0] if argument.part == "number" else values
        if argument.part == "sequence" and isinstance(feature, IdSequence):
            return self.random.integers(0, 2, (_ROWS, feature.length))
        if argument.part == "offsets":
            return np.arange(_ROWS + getattr(feature, "include_last_offset", True))
        if argument.part == "weights":
            return self.random.random(_ROWS, np.float32)
        return self.random.integers(0, 2, _ROWS)

    def expected(self) -> Iterator[tuple[Pooled, Array]]:
        """Yield every rule of pooling, with the bags that it gives."""
        ids, mask, vectors = self.made["ids"], self.made["mask"], self.made["vectors"]
        feature = self.schema[self.cut.uses[self.number].features[0]]
        dropped = dict.fromkeys([None, getattr(feature, "pad", 0), 0])
        for pooling in _POOLINGS:
            for each in dropped:
                for unpadded in (False, True):
                    kept = np.ones_like(mask) if each is None else ids != each
                    yield Pooled(pooling, each, unpadded), pool(vectors, kept & (mask | (not unpadded)), pooling)


def pool(vectors: Array, kept: Array, pooling: Pooling) -> Array:
    """Return pooled bags (B, D) of vectors (B, L, D), of those kept (B, L); an empty bag is zeros."""
    counts = kept.sum(1)
    if pooling is Pooling.MAX:
        most: Array = np.where(kept[:, :, None], vectors, -np.inf).max(1)
        return np.where(counts[:, None] > 0, most, 0)
    sums: Array = (vectors.astype(np.float64) * kept[:, :, None]).sum(1)
    return sums / np.maximum(counts, 1)[:, None] if pooling is Pooling.MEAN else sums
