"""Look-ups without the ids that are withheld: what is left is pulled, default vectors stand for the rest.

A withheld id counts as one that its table does not have: its row is the table's default vector, and is pooled as such.
So nothing need be asked of a shard to know the answer, which equals that of a request of unknown ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ringpull.inference.schema.features import BoolArray, PreparedFeature
from ringpull.inference.schema.raw_columns import offsets_of
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import Float32Array, Pooling
from ringpull.router.lookup import Absent, Lookup, LookupResult


@dataclass(frozen=True, slots=True, eq=False)
class PartialLookup:
    """A look-up of which only a part is pulled."""

    whole: Lookup
    keys: BoolArray
    """(N,): keys that are withheld."""
    rest: Lookup | None
    """Look-up that is pulled; its bags are as many, those withheld empty. None: nothing is."""
    default: Float32Array
    """(D,): the table's default vector."""

    @classmethod
    def of(cls, whole: Lookup, prepared: PreparedFeature, default: Float32Array) -> PartialLookup:
        """Return what `FeatureLookup.lookup` returned for a feature, without the ids of its withheld rows."""
        rows = prepared.withheld
        assert rows is not None
        starts = prepared.offsets if whole.offsets is None else whole.offsets
        keys = rows if starts is None else np.repeat(rows, np.diff(starts))
        if keys.all():
            return cls(whole, keys, None, default)
        left = ~keys
        offsets = None if whole.offsets is None else offsets_of(np.where(rows, 0, np.diff(whole.offsets)))
        weights = None if whole.weights is None else whole.weights[left]
        return cls(whole, keys, Lookup(whole.table, whole.pooling, whole.keys[left], offsets, weights), default)

    def completed(self, pulled: LookupResult | None) -> LookupResult:
        """Return the result of the whole look-up from that of `rest`; None where there is none."""
        whole, default = self.whole, self.default
        missing, lost = (0, 0) if pulled is None else (pulled.missing, pulled.lost)
        if whole.offsets is None:
            values = np.empty((len(whole.keys), len(default)), np.float32)
            values[self.keys] = default
            found = np.zeros(len(whole.keys), np.bool_)
            if pulled is not None:
                values[~self.keys] = pulled.values
                found[~self.keys] = True if pulled.found is None else pulled.found
            return LookupResult(values, missing, found, lost, withheld=True)
        times = self.keys if whole.weights is None else np.where(self.keys, whole.weights, 0)
        bags = len(whole.offsets) - 1
        # Bag by bag: a difference of running sums would let a request's large weights change another's answer.
        bag_of = np.repeat(np.arange(bags), np.diff(whole.offsets))
        vectors = np.bincount(bag_of, weights=times, minlength=bags)
        if whole.pooling is not Pooling.SUM:
            vectors = np.minimum(vectors, 1)
        # A bag is withheld as a whole, and what was pulled of it is zeros: adding puts each in its place.
        values = vectors.astype(np.float32)[:, None] * default
        absent = Absent(bag_of[self.keys], positions_of(whole.keys[self.keys]))
        if pulled is None:
            return LookupResult(values, missing, None, lost, absent=absent)
        if (told := pulled.absent) is not None:
            absent = Absent(
                np.concatenate([absent.bags, told.bags]), np.concatenate([absent.positions, told.positions])
            )
        return LookupResult(values + pulled.values, missing, None, lost, absent=absent)
