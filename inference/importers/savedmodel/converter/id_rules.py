"""Rules by which an id has a row of a table, or none: each held against what a graph was seen to do with ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.fingerprints import buckets, told

NO_ROW: Final = -1
Int64Array = NDArray[np.int64]


class IdRule(ABC):
    """Row of each id."""

    @abstractmethod
    def rows(self, ids: Int64Array) -> Int64Array:
        """Return the row of each id, `NO_ROW` where it has none."""

    @abstractmethod
    def put(self, ids: Any) -> tuple[Any, Any]:
        """Return tensors: the row of each id, any where it has none, and whether it has one."""


@dataclass(frozen=True)
class OwnRow(IdRule):
    """An id is the number of its row. Below 0 it has none; beyond the table the graph fails."""

    def rows(self, ids: Int64Array) -> Int64Array:
        return np.maximum(ids, NO_ROW)

    def put(self, ids: Any) -> tuple[Any, Any]:
        return tf.maximum(ids, 0), ids >= 0


@dataclass(frozen=True)
class OwnRowOr(IdRule):
    """An id is the number of its row, where the table has that; all others have one row, or none, and -1 has none."""

    count: int
    other: int

    def rows(self, ids: Int64Array) -> Int64Array:
        inside = (ids >= 0) & (ids < self.count)
        return np.where(inside, ids, np.where(ids == -1, NO_ROW, self.other))

    def put(self, ids: Any) -> tuple[Any, Any]:
        inside = tf.logical_and(ids >= 0, ids < self.count)
        other = tf.constant(max(self.other, 0), tf.int64)
        there = inside if self.other == NO_ROW else tf.not_equal(ids, tf.constant(-1, tf.int64))
        return tf.where(inside, ids, other), there


@dataclass(frozen=True)
class Bucket(IdRule):
    """An id is a fingerprint, whose remainder is the row; those of no value have none."""

    count: int
    absent: tuple[int, ...]

    def rows(self, ids: Int64Array) -> Int64Array:
        rows = (ids.view(np.uint64) % np.uint64(self.count)).view(np.int64)
        return np.where(np.isin(ids, np.array(self.absent, np.int64)), NO_ROW, rows)

    def put(self, ids: Any) -> tuple[Any, Any]:
        there = tf.fill(tf.shape(ids), True)
        for each in self.absent:
            there = tf.logical_and(there, tf.not_equal(ids, tf.constant(each, tf.int64)))
        return buckets(ids, self.count), there


@dataclass(frozen=True)
class KnownOrBucket(IdRule):
    """An id is a fingerprint: a known one has the row that was seen, any other a bucket of the rows behind these."""

    count: int
    known: tuple[int, ...]
    seen: tuple[int, ...]
    absent: tuple[int, ...]

    def rows(self, ids: Int64Array) -> Int64Array:
        first = len(self.known)
        rows = first + (ids.view(np.uint64) % np.uint64(self.count - first)).view(np.int64)
        for each, row in zip(self.known, self.seen, strict=True):
            rows[ids == each] = row
        return np.where(np.isin(ids, np.array(self.absent, np.int64)), NO_ROW, rows)

    def put(self, ids: Any) -> tuple[Any, Any]:
        first = len(self.known)
        other = buckets(ids, self.count - first) + first
        known = told(ids, np.array(self.known, np.int64), np.array(self.seen, np.int64), NO_ROW)
        there = tf.not_equal(ids, tf.constant(self.absent[0], tf.int64)) if self.absent else tf.equal(ids, ids)
        for each in self.absent[1:]:
            there = tf.logical_and(there, tf.not_equal(ids, tf.constant(each, tf.int64)))
        return tf.where(known >= 0, known, other), there


@dataclass(frozen=True)
class RowOfCode(IdRule):
    """An id is the code of a known value, each of which was seen."""

    seen: tuple[int, ...]

    def rows(self, ids: Int64Array) -> Int64Array:
        return np.array(self.seen, np.int64)[ids]

    def put(self, ids: Any) -> tuple[Any, Any]:
        seen = np.array(self.seen, np.int64)
        first = int(np.argmax(seen >= 0))
        with_row = seen[first:]
        if (seen[:first] == NO_ROW).all() and (with_row == with_row[0] + np.arange(len(with_row))).all():
            return tf.maximum(ids + (int(with_row[0]) - first), 0), ids >= first
        row = tf.gather(tf.constant(seen), ids)
        return tf.maximum(row, 0), row >= 0


def rule_of(
    tried: Int64Array, rows: Int64Array, count: int, *, codes: bool = False, known: Int64Array | None = None
) -> IdRule | None:
    """Return the rule that gives these ids these rows; None: none of those known.

    Args:
        count: Rows of the table.
        codes: Whether ids are codes of known values, all of which were tried.
        known: Fingerprints of known values, which were tried; None: ids are no fingerprints.
    """
    if codes:
        return RowOfCode(tuple(rows.tolist()))
    candidates: list[IdRule]
    if known is not None:
        absent = tuple(tried[rows == NO_ROW].tolist())
        candidates = [Bucket(count, absent)]
        row_of = dict(zip(tried.tolist(), rows.tolist(), strict=True))
        with_row = [each for each in known.tolist() if each not in absent]
        if 0 < len(with_row) < count:
            candidates.append(KnownOrBucket(count, tuple(with_row), tuple(row_of[each] for each in with_row), absent))
    elif (tried >= count).any():  # the graph was seen not to fail
        candidates = [OwnRowOr(count, each) for each in set(rows[(tried < -1) | (tried >= count)].tolist())]
    else:
        candidates = [OwnRow()]
    return next((each for each in candidates if (each.rows(tried) == rows).all()), None)
