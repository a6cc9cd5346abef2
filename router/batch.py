"""A batch: the look-ups of one micro-batch laid end to end, so that kernels see a few flat arrays and no tables.

    keys      (N,)  uint64   all look-ups end to end: keys at first, ring positions once hashed
    offsets   (O,)  int64    per pooled look-up its B+1 offsets, counted from the first key of the look-up
    weights   (W,)  float32  of the weighted look-ups
    targets   (T,)  int64    where each vector goes among the look-up's outputs: per bag, or per key when unpooled;
                             empty where that is simply its index: in every batch that was not cut from another

One row of `shape` per look-up, see the columns below, says how much of each array is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput
from ringpull.ps.pull_messages import Op
from ringpull.ps.spec import Float32Array, Pooling, UInt64Array
from ringpull.router.lookup import FlatLookups, Lookup

Int64Array = NDArray[np.int64]

# Columns of `Batch.shape`.
KEYS: Final = 0
BAGS: Final = 1
"""Bags of the look-up; 0 when unpooled."""
OP: Final = 2
WEIGHTED: Final = 3
MEAN: Final = 4
"""1 when sums are divided by the length of their bag after the merge."""

ROWS: Final = int(Op.ROWS)
MAX: Final = int(Op.MAX)

_OPS: Final = {Pooling.NONE: Op.ROWS, Pooling.SUM: Op.SUM, Pooling.MEAN: Op.SUM, Pooling.MAX: Op.MAX}

_NO_TARGETS: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """Look-ups end to end. Its arrays are its own: nothing of the caller is referred to, or written."""

    tables: tuple[str, ...]
    shape: Int64Array
    """(L, 5): columns KEYS, BAGS, OP, WEIGHTED, MEAN."""
    keys: UInt64Array
    hashed: bool
    """`keys` are ring positions."""
    offsets: Int64Array
    weights: Float32Array
    targets: Int64Array

    @classmethod
    def of(cls, lookups: Sequence[Lookup]) -> Batch:
        """Lay look-ups end to end. That offsets ascend is for the partition kernel to check, on its way.

        Raises:
            InvalidInput: An array has the wrong type, shape or length, or offsets are missing.
        """
        flat = lookups if isinstance(lookups, FlatLookups) else _NO_LOOKUPS
        others = flat.others if isinstance(lookups, FlatLookups) else lookups
        shape = []
        keys, offsets, weights = [_NO_KEYS, flat.keys], [_NO_OFFSETS, flat.offsets], [_NO_WEIGHTS]
        for lookup in others:
            _check(lookup)
            op = _OPS[lookup.pooling]
            bags = 0
            keys.append(lookup.keys)
            if op is not Op.ROWS:
                assert lookup.offsets is not None  # checked
                bags = lookup.offsets.size - 1
                offsets.append(lookup.offsets)
            if lookup.weights is not None:
                weights.append(lookup.weights)
            shape.append((lookup.keys.size, bags, op, lookup.weights is not None, lookup.pooling is Pooling.MEAN))
        return cls(
            tables=(*flat.tables, *[lookup.table for lookup in others]),
            shape=_shape(flat, shape),
            keys=np.concatenate(keys),
            hashed=False,
            offsets=np.concatenate(offsets),
            weights=np.concatenate(weights),
            targets=_NO_TARGETS,
        )

    def vectors(self) -> Int64Array:
        """Return how many vectors each look-up gives: int64 (L,), bags, or keys when unpooled."""
        return np.where(self.shape[:, OP] == ROWS, self.shape[:, KEYS], self.shape[:, BAGS])


def _shape(flat: FlatLookups, others: Sequence[tuple[int, int, int, bool, bool]]) -> Int64Array:
    """Return the shape of flat look-ups (F,), and of others after them."""
    count = len(flat.counts)
    shape = np.zeros((count + len(others), 5), np.int64)
    shape[:count, KEYS], shape[:count, OP] = flat.counts, ROWS
    if flat.poolings:
        shape[:count, BAGS] = flat.bags
        shape[:count, OP], shape[:count, MEAN] = _ops_of(flat.poolings)
    if others:
        shape[count:] = others
    return shape


@lru_cache(64)
def _ops_of(poolings: tuple[Pooling, ...]) -> Int64Array:
    """Return the columns OP and MEAN of flat look-ups; a head's are of few kinds."""
    return np.array([[_OPS[each] for each in poolings], [each is Pooling.MEAN for each in poolings]], np.int64)


_NO_KEYS: Final = np.empty(0, np.uint64)
_NO_OFFSETS: Final = np.empty(0, np.int64)
_NO_WEIGHTS: Final = np.empty(0, np.float32)
_NO_LOOKUPS: Final = FlatLookups((), _NO_KEYS, np.empty(0, np.int64))


def _check(lookup: Lookup) -> None:
    keys, offsets, weights = lookup.keys, lookup.offsets, lookup.weights
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise InvalidInput(f"look-up in {lookup.table}: keys are {keys.dtype} {keys.shape}; they must be uint64 (N,)")
    if lookup.pooling is not Pooling.NONE:
        if offsets is None:
            raise InvalidInput(f"look-up in {lookup.table}: pooling {lookup.pooling} needs offsets")
        if offsets.dtype != np.int64 or offsets.ndim != 1 or not offsets.size:
            raise InvalidInput(
                f"look-up in {lookup.table}: offsets are {offsets.dtype} {offsets.shape}; they must be int64 (B+1,)"
            )
    if weights is not None:
        assert lookup.pooling is Pooling.SUM, f"look-up in {lookup.table} is weighted"  # the manifest was checked
        if weights.dtype != np.float32 or weights.shape != keys.shape:
            raise InvalidInput(
                f"look-up in {lookup.table}: weights are {weights.dtype} {weights.shape};"
                f" they must be float32 {keys.shape}"
            )
