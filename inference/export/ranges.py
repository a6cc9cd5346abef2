"""Ranges of ids: for which ids of its features each embedding of a model has a row.

Tables answer any id, those they lack with a default. The dense program fails at an id beyond the rows of an embedding
that stays, of a constant, or of the scores of all items: the ids that it takes are written into the version
(`limits_of`), and made-up rows keep to those that the module takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.made_lists import ids_made
from ringpull.inference.model.manifest import IdLimit
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput

if TYPE_CHECKING:  # it needs torch, which importers of graphs do without
    from ringpull.inference.export.indices.index import Part

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1
_VERIFIED: Final = 4096
"""Ids of each kind that limits read off an expression are held against."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """One look-up of an embedding: the ids that it has a row for."""

    features: tuple[str, ...]
    add: int
    key: KeyExpression | None
    rows: int
    table: str | None
    """Table that the embedding became; None: it stays in the dense program."""
    lowest: int = 0
    """First row: below 0 where negative ones count from behind."""
    within: tuple[int, int] = (LOWEST, HIGHEST)
    """Bounds [low, high) of the ids that there are: of a graph that takes shorter numbers."""

    @classmethod
    def of(cls, part: Part, rows: int, table: str | None, lowest: int = 0) -> IdRange:
        """Return the range of one part of an index of so many rows."""
        return cls(tuple(each.feature for each in part.sources), part.add, part.key, rows, table, lowest)

    def rows_of(self, *ids: Int64Array) -> Int64Array:
        """Return the row of each id (N,), one of each feature."""
        return ids[0] + np.int64(self.add) if self.key is None else self.key.evaluate(*ids)

    def holds(self, *ids: Int64Array, first: int | None = None) -> BoolArray:
        """Return for which ids (N,) there is a row, from the `first` on; None: the lowest."""
        found = self.rows_of(*ids)
        return (found >= (self.lowest if first is None else first)) & (found < self.rows)

    def limit(self) -> tuple[int, int] | None:
        """Return the bounds [low, high) of the ids that have a row; None: all have, or no bounds tell which."""
        least, most = self.within
        if self.key is None:
            return max(least, self.lowest - self.add), min(most, self.rows - self.add)
        points = self._there(np.array(telling_ids(self.key, self.rows), np.int64))
        held = self.holds(points)
        if held.all() or not held.any():
            return None
        inside = np.flatnonzero(held)
        first, last = int(inside[0]), int(inside[-1])
        low = least if first == 0 else self._edge(int(points[first - 1]), int(points[first]))
        high = most if last == len(points) - 1 else self._edge(int(points[last]), int(points[last + 1]))
        tried = np.concatenate([points, _spread(low, high)])
        tried = self._there(tried)
        within = (tried >= low) & ((tried < high) | (high == HIGHEST))
        return (low, high) if bool((self.holds(tried) == within).all()) else None

    def _there(self, ids: Int64Array) -> Int64Array:
        """Return those of ids that there are."""
        least, most = self.within
        return ids[(ids >= least) & ((ids < most) | (most == HIGHEST))]

    def _edge(self, before: int, after: int) -> int:
        """Return the first id from which on it is as for `after`, by halving."""
        wanted = bool(self.holds(np.array([after], np.int64))[0])
        while after - before > 1:
            middle = (before + after) // 2
            if bool(self.holds(np.array([middle], np.int64))[0]) == wanted:
                after = middle
            else:
                before = middle
        return after


def check_held(given: Prepared, ranges: Iterable[IdRange]) -> None:
    """Check that the module has a row for every id of an exporter's own rows, prepared as training prepares them.

    The tables of a version would take any id: what is measured would be their default vectors.

    Raises:
        InvalidInput: It has none; names the feature, the row, and what would be right.
    """
    for each in ranges:
        features = [given.features[name] for name in each.features]
        ids = [feature.ids for feature in features if feature.ids is not None]
        held = each.holds(*ids)
        if held.all():
            continue
        place, offsets, limit = int(np.argmin(held)), features[0].offsets, each.limit()
        row = place if offsets is None else int(np.searchsorted(offsets, place, "right")) - 1
        found = ", ".join(str(own[place]) for own in ids)
        there = f"{each.rows:,} rows" if limit is None else f"rows for ids from {limit[0]} to {limit[1] - 1}"
        where = "what its dense program indexes" if each.table is None else f"table {each.table}"
        raise InvalidInput(
            f"check_columns: feature {', '.join(each.features)}: to the module row {row} is {found}, and {where} has"
            f" {there}. Give what training takes: row numbers, or raw ids of a feature that makes row numbers of them,"
            " as by transforms=[Vocabulary(ids)]"
        )


def telling_ids(key: KeyExpression, rows: int) -> list[int]:
    """Return ids, ascending, at which an expression may change what it does: near its constants, and where ints end."""
    centres = {0, rows, -rows}
    for step in key.steps:
        if step.operator == "constant" and abs(step.value) < 2**63:
            number = int(step.value)
            centres |= {number, -number, number + rows, rows - number, number * rows}
    for power in (16, 24, 31, 32, 53, 62, 63):
        centres |= {2**power, -(2**power)}
    near = {centre + by for centre in centres for by in (-2, -1, 0, 1, 2)}
    return sorted(each for each in near if LOWEST <= each <= HIGHEST)


def _spread(low: int, high: int) -> Int64Array:
    """Return ids of all magnitudes, and many within bounds."""
    random = np.random.default_rng(0)
    anything = random.integers(LOWEST, HIGHEST, _VERIFIED, np.int64, endpoint=True)
    shifted = anything >> random.integers(0, 63, _VERIFIED)
    return np.concatenate([anything, shifted, random.integers(low, high, _VERIFIED, np.int64)])


def limits_of(ranges: Iterable[IdRange], schema: Schema) -> tuple[IdLimit, ...]:
    """Return what must be known of requests: the ids of each feature that embeddings which stay dense have rows for.

    Raises:
        InvalidInput: A feature's `beyond` is no such id.
    """
    found: dict[str, tuple[int, int]] = {}
    for each in ranges:
        if each.table is not None or len(each.features) > 1 or (limit := each.limit()) is None:
            continue
        (name,) = each.features
        low, high = found.get(name, (LOWEST, HIGHEST))
        found[name] = max(low, limit[0]), min(high, limit[1])
    limits = []
    for name, (low, high) in found.items():
        made = ids_made(schema[name])
        if low < high and not (made is not None and low <= 0 and made <= high):
            beyond = getattr(schema[name], "beyond", None)
            if beyond is not None and not low <= beyond < high:
                raise InvalidInput(f"feature {name}: beyond is {beyond}; the model takes ids from {low} to {high - 1}")
            limits.append(IdLimit(feature=name, low=low, high=high))
    return tuple(limits)
