"""Look-ups of features: from ids to the look-up of their rows, and from its result to an input of the dense program.

One `FeatureLookup` is one `LookupSpec` of the manifest bound to its feature's declaration. It decides, once per
version, what the bags are:

| feature | pooling | looked up | given to the program, V rows |
|---|---|---|---|
| one id per row | any | the row itself; a bag of one where padding or weights may change it | (V, D) |
| many | sum, mean, max | its bags, ids equal to `padding_id` dropped | (V, D) |
| sequence | none | its ids, without padding | (V, L, D), `fill` at padded places |
| sequence | sum, mean, max | its bags, with padding unless that is dropped or the look-up `unpadded` | (V, D) |
| `kept_by` another | sum, mean, max | the same, but for places that the other sequence drops | (V, D) |

Ids are dropped here, before the pull, so the router divides a mean by what is left of the bag
(ARCHITECTURE.md, "Exactly").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.key_rules import KeyRule
from ringpull.inference.model.manifest import KeptBy, LookupSpec
from ringpull.inference.schema.arguments import sequence_mask
from ringpull.inference.schema.features import PreparedFeature
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, MadeFeature, Sparse
from ringpull.ps.errors import CorruptData
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import Float32Array, Pooling, TableSpec, UInt64Array
from ringpull.router.lookup import Lookup, LookupResult

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Another sequence that says which places of bags count."""

    rule: KeptBy
    sequence: IdSequence


class FeatureLookup:
    """One embedding use of a model, bound to its feature."""

    def __init__(self, spec: LookupSpec, feature: Feature, table: TableSpec, keeper: Feature | None = None) -> None:
        """Bind.

        Args:
            spec: Look-up in the manifest.
            feature: Feature that is looked up.
            table: Table in which.
            keeper: Feature of `spec.kept_by`; None if the schema lacks it, or there is none.

        Raises:
            CorruptData: The manifest asks for what the feature cannot give.
        """
        many = isinstance(feature, IdSequence) or (isinstance(feature, Sparse) and feature.many)
        if isinstance(feature, Dense):
            raise CorruptData(f"manifest: table {spec.table} is looked up by feature {feature.name}, which has no ids")
        if many and spec.pooling is Pooling.NONE and not isinstance(feature, IdSequence):
            raise CorruptData(
                f"manifest: feature {feature.name} has bags of any length; table {spec.table} must pool them"
            )
        if spec.weighted and (isinstance(feature, MadeFeature | IdSequence) or not feature.weighted):
            raise CorruptData(
                f"manifest: the look-up in {spec.table} is weighted; feature {feature.name} has no weights"
            )
        assert spec.pooling is Pooling.SUM or not spec.weighted  # checked with the manifest
        self.spec: Final = spec
        self.dim: Final = table.dim
        self.default: Final = table.default_vector()
        """Vector (D,) of ids that the table does not have."""
        self._sequence = feature if isinstance(feature, IdSequence) else None
        self.padding: Final = None if self._sequence is None else self._sequence.pad
        """Id that stands at padded places of a sequence, and is none of its ids."""
        self.padding_position: Final = None if self.padding is None else self._position(self.padding)
        """Ring position of that id's key."""
        self._one_row_each = not many and spec.padding_id is None
        plain_bags = isinstance(feature, Sparse) and feature.many and spec.padding_id is None and not spec.weighted
        self.rule: Final = KeyRule.of(spec) if plain_bags or (not many and self._plain_rows) else None
        """Rule that makes its keys of the feature's ids, one of each, so that its vectors are what is pulled; None:
        there is none, or ids are dropped."""
        self._bags_hold_padding = (
            self._sequence is not None and not spec.unpadded and spec.padding_id != self._compared(self._sequence.pad)
        )
        self._keeper = None if spec.kept_by is None else _keeper(spec, spec.kept_by, self._sequence, keeper)
        self._fill = np.zeros(table.dim, np.float32) if spec.fill is None else np.array(spec.fill, np.float32)

    @property
    def _plain_rows(self) -> bool:
        """Whether an id per row gives a row each."""
        return self.spec.pooling is Pooling.NONE or self._one_row_each

    @property
    def pooling(self) -> Pooling:
        """Pooling as shards are asked for it: of one id per row there is nothing to pool."""
        return Pooling.NONE if self._plain_rows else self.spec.pooling

    def __repr__(self) -> str:
        return f"FeatureLookup({self.spec.feature} -> {self.spec.table}, {self.spec.pooling.value})"

    def lookup(self, prepared: PreparedFeature, keeper: PreparedFeature | None = None) -> Lookup:
        """Return what to pull for V prepared rows; `keeper` are those of the sequence that says which places count."""
        spec = self.spec
        ids, offsets = prepared.ids, prepared.offsets
        assert ids is not None  # a feature that is looked up has ids: checked when bound
        if self._plain_rows:
            return Lookup(spec.table, Pooling.NONE, self._keys(ids))
        weights = prepared.weights if spec.weighted else None
        if offsets is None:
            offsets = np.arange(len(ids) + 1)
        elif self._keeper is not None:
            assert self._sequence is not None  # checked when bound
            assert keeper is not None
            ids, offsets = self._kept_by(self._keeper, self._sequence, ids, offsets, keeper)
        elif self._sequence is not None and self._bags_hold_padding:
            ids = pad_rows(ids, offsets, self._sequence, np.int64(self._sequence.pad)).reshape(-1)
            offsets = np.arange(0, len(ids) + 1, self._sequence.length)
        if spec.key is not None:  # several ids may become the key that is dropped
            ids = spec.key.evaluate(ids)
        if spec.padding_id is not None:
            kept = ids != spec.padding_id
            if not kept.all():
                ids, offsets = ids[kept], _counts_before(kept)[offsets]
                weights = None if weights is None else weights[kept]
        keys = self._keys(ids) if spec.key is None else ids.view(np.uint64)
        return Lookup(spec.table, spec.pooling, keys, offsets, weights)

    def padding_of_bags(self, prepared: PreparedFeature) -> Int64Array:
        """Return how many times each bag of a sequence holds its padding (V,): at padded places, and as ids sent."""
        assert self._sequence is not None
        assert prepared.ids is not None
        assert prepared.offsets is not None
        sent = np.diff(_counts_before(prepared.ids == self.padding)[prepared.offsets])
        return sent + (self._sequence.length - np.diff(prepared.offsets) if self._bags_hold_padding else 0)

    def values(self, prepared: PreparedFeature, result: LookupResult) -> Float32Array:
        """Return the program's input for V prepared rows: float32 (V, D), or (V, L, D) for an unpooled sequence."""
        if self._sequence is None or self.spec.pooling is not Pooling.NONE:
            return result.values
        assert prepared.offsets is not None  # a sequence has offsets
        return pad_rows(result.values, prepared.offsets, self._sequence, self._fill)

    def _kept_by(
        self, by: _Keeper, sequence: IdSequence, ids: Int64Array, offsets: Int64Array, keeper: PreparedFeature
    ) -> tuple[Int64Array, Int64Array]:
        """Return bags of the places that another sequence keeps."""
        assert keeper.ids is not None  # a sequence has ids and offsets
        assert keeper.offsets is not None
        keep = np.ones((len(offsets) - 1, sequence.length), bool)
        if by.rule.unpadded:
            keep &= sequence_mask(np.diff(keeper.offsets), by.sequence)
        if by.rule.padding_id is not None:
            keep &= pad_rows(keeper.ids, keeper.offsets, by.sequence, by.sequence.pad) != by.rule.padding_id
        if not self._bags_hold_padding:
            keep &= sequence_mask(np.diff(offsets), sequence)
        return pad_rows(ids, offsets, sequence, sequence.pad)[keep], _counts_before(keep.sum(1))

    def _position(self, id_: int) -> np.uint64:
        position: np.uint64 = positions_of(self._keys(np.array([id_], np.int64)))[0]
        return position

    def _keys(self, ids: Int64Array) -> UInt64Array:
        if self.spec.key is not None:
            return self.spec.key.evaluate(ids).view(np.uint64)
        # int64 addition wraps as uint64's does: the same bits either way.
        return (ids if self.spec.add == 0 else ids + np.int64(self.spec.add)).view(np.uint64)

    def _compared(self, pad: int) -> int:
        """Return what `padding_id` is compared with where the id is the padding."""
        return pad if self.spec.key is None else self.spec.key.row_of(pad)


def pad_rows(values: NDArray[Any], offsets: Int64Array, sequence: IdSequence, fill: Any) -> NDArray[Any]:
    """Lay the rows of a sequence out at its full length.

    Args:
        values: (N, ...): ids, or their vectors, of V rows end to end.
        offsets: (V+1,): starts of rows, none longer than the sequence's length L.
        sequence: Says L and the padded side.
        fill: Stands at padded places; broadcast to (...).

    Returns:
        (V, L, ...): a view of `values` when nothing is padded, else new.
    """
    rows, length = len(offsets) - 1, sequence.length
    if len(values) == rows * length:
        return values.reshape(rows, length, *values.shape[1:])
    out = np.empty((rows, length, *values.shape[1:]), values.dtype)
    out[:] = fill
    out[sequence_mask(np.diff(offsets), sequence)] = values
    return out


def _keeper(spec: LookupSpec, rule: KeptBy, sequence: IdSequence | None, keeper: Feature | None) -> _Keeper:
    if sequence is None or not isinstance(keeper, IdSequence) or keeper.length != sequence.length:
        raise CorruptData(
            f"manifest: places of feature {spec.feature} in table {spec.table} are kept by {rule.feature}: both must be"
            " sequences of the schema, of one length"
        )
    return _Keeper(rule, keeper)


def _counts_before(kept: NDArray[np.bool_] | Int64Array) -> Int64Array:
    """Return int64 (N+1,): how many of `kept` are true before each place, or the sum of counts."""
    counts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=counts[1:])
    return counts
