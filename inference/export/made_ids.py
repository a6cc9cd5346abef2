"""Ids made up for the self-check: such as the module takes, with those among them at which a look-up may go wrong.

Where a model only adds constants, the ids of a feature are those that all its embeddings have a row for. Where it
computes rows, ids beyond a table, negative and huge ones may have a row too: they are drawn, and kept if they have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.cut import Cut
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.export.made_lists import ids_made
from ringpull.inference.export.ranges import IdRange, telling_ids
from ringpull.inference.schema.kinds import Cross, IdSequence, Sparse
from ringpull.ps.errors import ExportError

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

UNBOUND_IDS: Final = 8
"""Upper bound of ids that are drawn where neither a look-up nor a transform says how large they may be."""

SPECIAL_SHARE: Final = 0.2
"""Share of the ids that are drawn from the special ones: padding, unknown, first, last."""

_TRIED: Final = 4096
"""Ids that are tried where a model computes rows of them."""

_LARGEST_NUMBER: Final = 2**20
"""Largest id where the dense program takes ids as numbers."""

_SHRINKINGS: Final = 64
"""Times that ids are drawn from half the range, until several of one row fit together."""


@dataclass(frozen=True, slots=True, eq=False)
class IdMaker:
    """Makes ids of one feature."""

    name: str
    low: int
    high: int
    special: Int64Array
    keyed: tuple[tuple[IdRange, int], ...]
    """Computed rows of ids, and the first row that they may be."""
    random: np.random.Generator

    @classmethod
    def of(
        cls,
        feature: Sparse | IdSequence | Cross,
        cut: Cut,
        keys: Mapping[str, RowKeys],
        random: np.random.Generator,
    ) -> IdMaker:
        """Return the maker of a feature's ids.

        Args:
            feature: The feature.
            cut: The model, at least what of it is of the feature.
            keys: Keys of each table.
            random: Draws the ids.

        Raises:
            ExportError: No id is within all embeddings that look it up.
        """
        name = feature.name
        own = [(each, _first(each, keys)) for each in cut.ranges if each.features == (name,)]
        plain = [(each, first) for each, first in own if each.key is None]
        keyed = tuple((each, first) for each, first in own if each.key is not None)
        made = ids_made(feature)
        telling = [each for entry in cut.ranges if name in entry.features for each in _telling(entry)]
        if plain:
            low, high = max(-each.add for each, _ in plain), min(each.rows - each.add for each, _ in plain)
            low = max(low, 0) if high > 0 else low
            low = max([low, *(first - each.add for each, first in plain)])
        elif keyed and made is None:
            most = max(each.rows for each, _ in keyed)
            low, high = -2 * most, 3 * most
        else:
            low, high = 0, UNBOUND_IDS
        high = high if made is None else min(high, made)
        bounded = bool(plain) or made is not None
        special = {low, high - 1, *_padding_ids(feature, cut), *([] if bounded else telling)}
        special |= {each for each in telling if low <= each < high}
        if isinstance(feature, IdSequence):
            special.add(feature.pad)
        largest = _LARGEST_NUMBER if _is_number(name, cut) else 2**63
        allowed = [each for each in sorted(special) if (low <= each < high or not bounded) and abs(each) <= largest]
        if low >= high:
            raise ExportError(f"feature {name}: no id is within all embeddings that look it up")
        maker = cls(name, low, high, np.array(allowed, np.int64), keyed, random)
        return maker._with_special_that_fit() if keyed else maker

    def takes(self, ids: Int64Array) -> BoolArray:
        """Return which ids (N,) have a row in every embedding that they alone are looked up in."""
        held = np.ones(len(ids), np.bool_)
        for entry, first in self.keyed:
            held &= entry.holds(ids, first=first)
        return held if self.keyed else (ids >= self.low) & (ids < self.high)

    def ids(self, size: int, shrunk: int = 0) -> Int64Array:
        """Return so many ids, from a range that was halved `shrunk` times, or special ones."""
        high = self.low + max(1, (self.high - self.low) >> shrunk)
        ids = self.random.integers(self.low, high, size)
        if self.keyed:
            bad = ~self.takes(ids)
            ids[bad] = self.random.choice(self.special, int(bad.sum()))
        if shrunk:
            return ids
        return np.where(self.random.random(size) < SPECIAL_SHARE, self.random.choice(self.special, size), ids)

    def _with_special_that_fit(self) -> IdMaker:
        tried = np.unique(
            np.concatenate([self.special, self.random.integers(self.low, self.high, _TRIED), np.arange(UNBOUND_IDS)])
        )
        tried = tried[(tried >= self.low) & (tried < self.high) | np.isin(tried, self.special)]
        few = self.special[self.takes(self.special)]
        fitting = few if len(few) else tried[self.takes(tried)]
        if not len(fitting):
            raise ExportError(f"feature {self.name}: no id is within all embeddings that look it up")
        return IdMaker(self.name, self.low, self.high, fitting, self.keyed, self.random)


def fit_together(
    ids: Mapping[str, Int64Array],
    makers: Mapping[str, IdMaker],
    cut: Cut,
    keys: Mapping[str, RowKeys],
    random: np.random.Generator,
) -> dict[str, Int64Array]:
    """Return ids (N,) of single-valued features, those of a row changed that together have no row of some embedding.

    Raises:
        ExportError: None were found that have.
    """
    several = [(each, _first(each, keys)) for each in cut.ranges if len(each.features) > 1]
    made = dict(ids)
    if not several:
        return made
    together = list(dict.fromkeys(name for entry, _ in several for name in entry.features))
    for shrunk in range(_SHRINKINGS):
        fits = np.ones(len(made[together[0]]), np.bool_)
        for entry, first in several:
            fits &= entry.holds(*(made[name] for name in entry.features), first=first)
        good, bad = np.flatnonzero(fits), np.flatnonzero(~fits)
        if not len(bad):
            return made
        if len(good):
            chosen = random.choice(good, len(bad))
            for name in together:
                made[name][bad] = made[name][chosen]
            return made
        for name in together:
            made[name] = makers[name].ids(len(fits), shrunk + 1)
    raise ExportError(
        f"features {', '.join(together)}: no ids were found that together have a row in all embeddings of theirs"
    )


def by_feature(cut: Cut, names: Iterable[str]) -> dict[str, Cut]:
    """Return for each feature the model with those of its look-ups, ranges and arguments that the feature is part of.

    They are gone through once: a model has as many of them as features, or more.
    """
    uses, ranges, arguments = defaultdict(list), defaultdict(list), defaultdict(list)
    for use in cut.uses:
        for name in {use.feature} if use.kept_by is None else {use.feature, use.kept_by.feature}:
            uses[name].append(use)
    for entry in cut.ranges:
        for name in set(entry.features):
            ranges[name].append(entry)
    for features in cut.argument_features:
        for name in set(features):
            arguments[name].append(features)
    return {
        name: replace(cut, uses=tuple(uses[name]), ranges=tuple(ranges[name]), argument_features=tuple(arguments[name]))
        for name in names
    }


def _first(entry: IdRange, keys: Mapping[str, RowKeys]) -> int:
    return entry.lowest if entry.table is None else keys[entry.table].first_equal


def _telling(entry: IdRange) -> list[int]:
    return [] if entry.key is None else telling_ids(entry.key, entry.rows)


def _padding_ids(feature: Sparse | IdSequence | Cross, cut: Cut) -> list[int]:
    uses = [use for use in cut.uses if use.feature == feature.name and use.padding_row is not None]
    # With an expression, telling ids are near those that become the padding row.
    own = [use.padding_row - use.add for use in uses if use.padding_row is not None and use.key is None]
    rules = [use.kept_by for use in cut.uses if use.kept_by is not None and use.kept_by.feature == feature.name]
    return own + [rule.padding_id for rule in rules if rule.padding_id is not None]


def _is_number(name: str, cut: Cut) -> bool:
    """Return whether the dense program takes the ids themselves."""
    return any(name in features for features in cut.argument_features)
