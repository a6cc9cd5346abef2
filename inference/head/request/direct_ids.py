"""Direct ids: columns that are ids as they came, so that nothing becomes of them before they are looked up.

Most features of a wide model are of this kind: single-valued, of integers, without transforms. Which columns of a
layout are is found once for each layout (`DirectFeatures`), and which look-ups they are of, once more (`DirectPlan`).
From then on they stay where they lie in the message until one kernel writes the keys of all of them: none costs
anything in Python by itself. All other features are prepared and looked up one by one.

    layout    -> which columns are direct               (`DirectColumns.of`)
    requests  -> where their ids begin                  (`DirectIds`)
    look-ups  -> keys of all direct ones, end to end    (`DirectPlan.lookups`)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request import kernels
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.head.request.received import Layout, ReceivedColumns
from ringpull.inference.schema.features import PreparedFeature
from ringpull.inference.schema.kinds import Feature, MadeFeature, Sparse
from ringpull.inference.schema.schema import Schema
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
    context: tuple[bool, ...]
    """(D,): whether each was sent as context."""
    other_columns: tuple[int, ...]
    """All other columns of the layout."""
    others: Mapping[str, Feature]
    """All other features of the schema, which are prepared one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class DirectIds:
    """The direct ids of requests end to end, where they lie in their message."""

    features: DirectFeatures
    words: NDArray[np.uint64]
    """Words of the message."""
    begins: Int64Array
    """(D,): where the ids of each feature begin among them."""
    counts: Int64Array
    """(D,): ids of each, one per row."""

    @classmethod
    def of(cls, features: DirectFeatures, received: ReceivedColumns) -> DirectIds:
        """Return those of requests of the layout."""
        columns = features.columns
        return cls(
            features,
            received.words,
            received.places[columns, kernels.NUMBERS],
            received.sizes[columns, kernels.VALUES],
        )

    def prepared(self, name: str) -> PreparedFeature:
        """Return one of the features as if it had been prepared by itself."""
        place = self.features.places[name]
        begin, rows = int(self.begins[place]), int(self.counts[place])
        return PreparedFeature(rows, self.words[begin : begin + rows].view(np.int64))


class DirectColumns:
    """Finds the direct columns of layouts, for one version."""

    def __init__(self, schema: Schema, looked_up: Collection[str], limited: Collection[str]) -> None:
        """Find which features can be sent so.

        Args:
            looked_up: Features that are looked up.
            limited: Features whose ids are held against limits, which may replace some.
        """
        of_others = {part for each in schema.features if isinstance(each, MadeFeature) for part in each.of}
        self._schema = schema
        self._types = {
            each.name: _TYPES[each.dtype]
            for each in schema.features
            if isinstance(each, Sparse) and not each.many and not each.transforms and each.dtype in _TYPES
            if each.name in looked_up and each.name not in limited and each.name not in of_others
        }
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
            if name in self._types and dtype == self._types[name] and not width and not description[kernels.RAGGED]:
                columns[name] = column
            else:
                others.append(column)
        if not columns:
            return None
        numbers = list(columns.values())
        context = layout.descriptions[numbers, kernels.CONTEXT] != 0
        return DirectFeatures(
            {name: place for place, name in enumerate(columns)},
            np.array(numbers, np.int64),
            tuple(context.tolist()),
            tuple(others),
            self._schema.without(columns),
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
    adds: Int64Array
    """(F,): what is added to the ids of each to make them keys."""
    context: tuple[bool, ...]
    """(F,): whether each was sent as context."""

    @classmethod
    def of(cls, features: DirectFeatures, lookups: Sequence[FeatureLookup]) -> DirectPlan:
        """Return the plan of a version's look-ups."""
        direct = [
            number for number, each in enumerate(lookups) if each.takes_ids and each.spec.feature in features.places
        ]
        chosen = set(direct)
        order = (*direct, *[number for number in range(len(lookups)) if number not in chosen])
        specs = [lookups[number].spec for number in direct]
        own = [features.places[spec.feature] for spec in specs]
        places = dict(zip(order, range(len(order)), strict=True))
        return cls(
            order,
            tuple(places[number] for number in range(len(lookups))),
            tuple(spec.table for spec in specs),
            np.array(own, np.int64),
            np.array([spec.add for spec in specs], np.int64),
            tuple(features.context[place] for place in own),
        )

    @property
    def direct(self) -> int:
        """Number of look-ups of direct ids, F."""
        return len(self.tables)

    def lookups(self, ids: DirectIds, others: Sequence[Lookup]) -> FlatLookups:
        """Return what to pull, given the look-ups that are not direct."""
        counts = ids.counts[self.features]
        keys = kernels.direct_keys(ids.words, ids.begins[self.features], counts, self.adds)
        return FlatLookups(self.tables, keys, counts, others)
