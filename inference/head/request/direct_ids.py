"""Direct ids: columns that are ids as they came, so that nothing becomes of them before they are looked up.

Most features of a wide model are of this kind: of integers, one per row or bags of them, without transforms. Which
columns of a layout are is found once for each layout (`DirectFeatures`), and which look-ups they are of, once more
(`DirectPlan`). From then on they stay where they lie in the message until one kernel writes the keys of all of them:
none costs anything in Python by itself. All other features are prepared and looked up one by one.

Ids with limits are direct as long as all of a batch are within (`within_limits`): else the batch goes the other way,
where they are refused, or replaced.

    layout    -> which columns are direct               (`DirectColumns.of`)
    requests  -> where their ids begin                  (`DirectIds`)
    look-ups  -> keys of all direct ones, end to end    (`DirectPlan.lookups`)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request import kernels
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.head.request.received import Layout, ReceivedColumns
from ringpull.inference.model.manifest import IdLimit
from ringpull.inference.schema.features import PreparedFeature
from ringpull.inference.schema.kinds import Feature, MadeFeature, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from ringpull.router.lookup import FlatLookups, Lookup

Int64Array = NDArray[np.int64]

_TYPES: Final = {"int64": np.dtype(np.int64), "uint64": np.dtype(np.uint64)}


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class DirectFeatures:
    """The direct features of one layout, D of them."""

    places: Mapping[str, int]
    """Place of each among them, by name."""
    columns: Int64Array
    """(D,): their columns in the layout."""
    bags: tuple[bool, ...]
    """(D,): whether each has a bag per row."""
    context: tuple[bool, ...]
    """(D,): whether each was sent as context."""
    other_columns: tuple[int, ...]
    """All other columns of the layout."""
    others: Mapping[str, Feature]
    """All other features of the schema, which are prepared one by one."""
    limited: Int64Array
    """(M,): places of those with a limit."""
    lows: Int64Array
    """(M,): the first id that is within each limit."""
    highs: Int64Array
    """(M,): the first one beyond."""


@dataclass(frozen=True, slots=True, eq=False)
class DirectIds:
    """The direct ids of requests end to end, where they lie in their message."""

    features: DirectFeatures
    words: NDArray[np.uint64]
    """Words of the message."""
    begins: Int64Array
    """(D,): where the ids of each feature begin among them."""
    counts: Int64Array
    """(D,): ids of each."""
    offsets: Int64Array
    """(D,): where the offsets of each begin that has bags."""
    rows: Int64Array
    """(D,): rows of each."""

    @classmethod
    def of(cls, features: DirectFeatures, received: ReceivedColumns) -> DirectIds:
        """Return those of requests of the layout."""
        columns = features.columns
        return cls(
            features,
            received.words,
            received.places[columns, kernels.NUMBERS],
            received.sizes[columns, kernels.VALUES],
            received.places[columns, kernels.OFFSETS],
            received.sizes[columns, kernels.ROWS],
        )

    def within_limits(self) -> bool:
        """Whether all are ids that the model takes."""
        features = self.features
        chosen = features.limited
        return not len(chosen) or kernels.all_within(
            self.words, self.begins[chosen], self.counts[chosen], features.lows, features.highs
        )

    def prepared(self, name: str) -> PreparedFeature:
        """Return one of the features as if it had been prepared by itself."""
        place = self.features.places[name]
        begin, rows, words = int(self.begins[place]), int(self.rows[place]), self.words.view(np.int64)
        ids = words[begin : begin + int(self.counts[place])]
        if not self.features.bags[place]:
            return PreparedFeature(rows, ids)
        first = int(self.offsets[place])
        return PreparedFeature(rows, ids, words[first : first + rows + 1])


class DirectColumns:
    """Finds the direct columns of layouts, for one version."""

    def __init__(self, schema: Schema, looked_up: Collection[str], limits: Iterable[IdLimit]) -> None:
        """Find which features can be sent so.

        Args:
            looked_up: Features that are looked up.
            limits: Limits that ids of features are held against.
        """
        of_others = {part for each in schema.features if isinstance(each, MadeFeature) for part in each.of}
        self._schema = schema
        self._types = {
            each.name: _TYPES[each.dtype]
            for each in schema.features
            if isinstance(each, Sparse) and _as_they_come(each) and each.dtype in _TYPES
            if each.name in looked_up and each.name not in of_others
        }
        self._many = {each.name for each in schema.features if isinstance(each, Sparse) and each.many}
        self._limits = {each.feature: (each.low, each.high) for each in limits}
        self._known: WeakKeyDictionary[Layout, DirectFeatures | None] = WeakKeyDictionary()

    def of(self, layout: Layout) -> DirectFeatures | None:
        """Return the direct features of a layout; None: there are none, or the schema refuses its columns."""
        try:
            return self._known[layout]
        except KeyError:
            found = self._known[layout] = self._found(layout)
            return found

    def _found(self, layout: Layout) -> DirectFeatures | None:
        columns: dict[str, int] = {}
        others = []
        known = {name: feature for name in layout.names if (feature := self._schema.get(name)) is not None}
        if len(known) < len(layout.names):  # one that nobody knows, or one that is twice
            return None
        for column, (name, dtype, width, description) in enumerate(
            zip(layout.names, layout.dtypes, layout.widths, layout.descriptions.tolist(), strict=True)
        ):
            ragged, weighted = bool(description[kernels.RAGGED]), bool(description[kernels.WEIGHTED])
            fits = not width and not weighted and ragged == (name in self._many)
            if fits and name in self._types and dtype == self._types[name]:
                columns[name] = column
            else:
                others.append(column)
        if not columns:
            return None
        numbers = list(columns.values())
        limited = [(place, *self._limits[name]) for place, name in enumerate(columns) if name in self._limits]
        bounds = np.array(limited, np.int64).reshape(-1, 3).T.copy()
        context = layout.descriptions[numbers, kernels.CONTEXT] != 0
        return DirectFeatures(
            {name: place for place, name in enumerate(columns)},
            np.array(numbers, np.int64),
            tuple(name in self._many for name in columns),
            tuple(context.tolist()),
            tuple(others),
            self._schema.without(columns),
            *bounds,
        )


def _as_they_come(feature: Sparse) -> bool:
    """Whether nothing becomes of the ids of a feature that is sent."""
    never_filled = not feature.many or feature.missing in (None, ())
    return never_filled and not (
        feature.transforms or feature.weighted or feature.max_length is not None or feature.never_empty
    )


@dataclass(frozen=True, slots=True, eq=False)
class DirectPlan:
    """The look-ups of a version when some of its features come as direct ids: those first, all others after them."""

    order: tuple[int, ...]
    """(L,): the version's look-ups in the order in which they are asked for."""
    places: tuple[int, ...]
    """(L,): place of each in that order."""
    tables: tuple[str, ...]
    """Tables of the first F, those of direct ids."""
    features: Int64Array
    """(F,): place of the feature of each."""
    rules: Int64Array
    """(F, 3): rule that makes keys of the ids of each, as the kernel takes it."""
    poolings: tuple[Pooling, ...]
    """(F,): pooling of each; empty: nothing is pooled."""
    pooled: Int64Array
    """(P,): those that are pooled."""
    context: tuple[bool, ...]
    """(F,): whether each was sent as context."""

    @classmethod
    def of(cls, features: DirectFeatures, lookups: Sequence[FeatureLookup]) -> DirectPlan:
        """Return the plan of a version's look-ups."""
        direct = [
            number
            for number, each in enumerate(lookups)
            if each.rule is not None and each.spec.feature in features.places
        ]
        chosen = set(direct)
        order = (*direct, *[number for number in range(len(lookups)) if number not in chosen])
        specs = [lookups[number].spec for number in direct]
        own = [features.places[spec.feature] for spec in specs]
        places = dict(zip(order, range(len(order)), strict=True))
        poolings = tuple(lookups[number].pooling for number in direct)
        pooled = [place for place, each in enumerate(poolings) if each is not Pooling.NONE]
        return cls(
            order,
            tuple(places[number] for number in range(len(lookups))),
            tuple(spec.table for spec in specs),
            np.array(own, np.int64),
            np.array([lookups[number].rule for number in direct], np.int64).reshape(-1, 3),
            poolings if pooled else (),
            np.array(pooled, np.int64),
            tuple(features.context[place] for place in own),
        )

    @property
    def direct(self) -> int:
        """Number of look-ups of direct ids, F."""
        return len(self.tables)

    def lookups(self, ids: DirectIds, others: Sequence[Lookup]) -> FlatLookups:
        """Return what to pull, given the look-ups that are not direct."""
        counts = ids.counts[self.features]
        keys = kernels.direct_keys(ids.words, ids.begins[self.features], counts, self.rules)
        if not self.poolings:
            return FlatLookups(self.tables, keys, counts, others)
        features, bags = self.features[self.pooled], np.zeros(len(counts), np.int64)
        bags[self.pooled] = rows = ids.rows[features]
        offsets = kernels.direct_offsets(ids.words, ids.offsets[features], rows + 1)
        return FlatLookups(self.tables, keys, counts, others, self.poolings, bags, offsets)
