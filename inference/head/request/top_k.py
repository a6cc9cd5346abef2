"""A request for the rows of a table with the largest scores, over any protocol, and what is checked of it.

Its queries come in one of three ways: vectors; keys, whose rows are the queries; columns of a prediction, an output of
which is the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.wire.column_codec import LENGTHS, ColumnBytes
from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import KeyType
from ringpull.ps.top_k_messages import MAX_K, MAX_LISTED_KEYS, MAX_QUERIES
from ringpull.router.top_k import METRICS, KeyLists, Metric

FLOAT32_BYTES: Final = 4
KEY_BYTES: Final = 8


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryKeys:
    """Keys whose rows are the queries."""

    keys: NDArray[np.uint64]
    """(Q,): keys. An int64 is taken bit for bit, a string is hashed."""
    key_type: KeyType | None = None
    """Type in which they were sent; None: there are none."""
    table: str = ""
    """Table of the same version that has them; empty: the one whose rows are ranked."""
    keep_self: bool = False
    """Whether a key's own row may be in the answer, where that is the same table."""


class Strings(Sequence[str]):
    """Strings of a column, each decoded when it is asked for: of a million, an answer has ten."""

    def __init__(self, column: ColumnBytes) -> None:
        self._data = column.data
        self._ends: Final = np.cumsum(np.frombuffer(column.lengths, LENGTHS), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        begin = int(self._ends[place - 1]) if place else 0
        try:
            return self._data[begin : int(self._ends[place])].decode()
        except UnicodeDecodeError as exc:  # its end is within a character
            raise InvalidInput(f"keys: a string is not UTF-8: {exc}") from exc


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ListedKeys:
    """Keys that are excluded, or the only ones that are wanted."""

    keys: NDArray[np.uint64]
    """(N,): keys of all lists end to end."""
    key_type: KeyType | None = None
    offsets: NDArray[np.int64] | None = None
    """(Q+1,): starts of a list for each query; None: there is one, for all of them."""
    texts: ColumnBytes | None = None
    """The strings that they were; None: they were integers."""

    def strings(self) -> Strings:
        """Return the strings."""
        assert self.texts is not None
        return Strings(self.texts)

    def check(self, name: str, queries: int) -> None:
        """Check lists against the number of queries.

        Raises:
            InvalidInput: Offsets do not fit.
            LimitExceeded: There are too many keys.
        """
        total, offsets = len(self.keys), self.offsets
        if offsets is None:
            each = f" for each of {queries} queries" if queries > 1 else ""
            if total * queries > MAX_LISTED_KEYS:
                raise LimitExceeded(f"{name}: {total} keys{each}; the most is {MAX_LISTED_KEYS} in all")
            return
        if len(offsets) != queries + 1:
            raise InvalidInput(
                f"{name}: has {len(offsets) - 1} lists for {queries} queries; give one each, or one for all"
            )
        # Neighbours are compared, not subtracted: differences of hostile offsets can wrap around to look right.
        if offsets[0] != 0 or offsets[-1] != total or bool((offsets[1:] < offsets[:-1]).any()):
            raise InvalidInput(
                f"{name}: offsets must start at 0, never decrease and end at the number of keys, {total}; they start at"
                f" {offsets[0]} and end at {offsets[-1]}"
            )
        if total > MAX_LISTED_KEYS:
            raise LimitExceeded(f"{name}: {total} keys; the most is {MAX_LISTED_KEYS}")

    def laid_out(self, queries: int) -> KeyLists:
        """Return a list for each query."""
        if self.offsets is not None:
            return KeyLists(self.keys, self.offsets)
        total = len(self.keys)
        return KeyLists(np.tile(self.keys, queries), np.arange(queries + 1, dtype=np.int64) * total)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TopKRequest:
    """Request for the rows with the largest scores."""

    model: str
    table: str
    """Table whose rows are ranked; empty: the one that an output of the model is made for."""
    k: int
    metric: Metric = "dot"
    version: int = 0
    """Version asked for; 0: the live one."""
    label: str = ""
    """Label of the version asked for; empty: none."""
    vectors: NDArray[np.float32] | None = None
    """(Q, dim): queries."""
    like: QueryKeys | None = None
    """Queries, by key."""
    columns: ReceivedColumns | None = None
    """Columns of a prediction whose output is the queries."""
    output: str = ""
    """Name of that output; empty: the only one that can be."""
    exclude: ListedKeys | None = None
    among: ListedKeys | None = None
    request_id: str = ""

    @property
    def queries(self) -> int:
        """Number of queries."""
        if self.vectors is not None:
            return len(self.vectors)
        if self.like is not None:
            return len(self.like.keys)
        return 0 if self.columns is None else self.columns.rows

    def check(self) -> None:
        """Check all that can be checked without knowing the table.

        Raises:
            InvalidInput: Queries come in no way, or in several; k or the metric is none; lists do not fit the queries.
            LimitExceeded: It asks for too much at once.
        """
        given = {"vectors": self.vectors, "like": self.like, "features": self.columns}
        ways = [name for name, value in given.items() if value is not None]
        if len(ways) != 1:
            raise InvalidInput(
                "the queries come in one way, as vectors, like (keys) or features;"
                f" these are there: {', '.join(ways) or 'none'}"
            )
        if self.output and self.columns is None:
            raise InvalidInput("output: names what is computed of features, and there are none")
        if self.metric not in METRICS:
            raise InvalidInput(f"metric: is {self.metric!r:.80}; it must be one of {', '.join(METRICS)}")
        if self.k < 1:
            raise InvalidInput(f"k: is {self.k}; it must be at least 1")
        check_sizes(self.k, self.queries)
        for name, lists in (("exclude", self.exclude), ("among", self.among)):
            if lists is not None:
                lists.check(name, self.queries)


def check_sizes(k: int, queries: int) -> None:
    """Check how many rows are asked for, and for how many queries.

    Raises:
        InvalidInput: There are no queries.
        LimitExceeded: They are too many.
    """
    if k > MAX_K:
        raise LimitExceeded(f"k: is {k}; the most is {MAX_K}")
    if not queries:
        raise InvalidInput("there are no queries; give one at least")
    if queries > MAX_QUERIES:
        raise LimitExceeded(f"there are {queries} queries; the most is {MAX_QUERIES} in one request")


def check_vectors(vectors: NDArray[np.float32], dim: int, table: str) -> None:
    """Check queries against the table that they are asked of.

    Raises:
        InvalidInput: They have another number of numbers, or one that is not finite.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dim:
        raise InvalidInput(
            f"vectors: have the shape {vectors.shape}; rows of table {table} have {dim} numbers: (Q, {dim})"
        )
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InvalidInput(f"vectors: vectors[{row}] holds NaN or an infinity")


def with_more(lists: KeyLists | None, more: NDArray[np.uint64]) -> KeyLists:
    """Return lists, one for each of Q queries, with more keys (Q, m) besides."""
    queries, count = more.shape
    begins = np.arange(queries + 1, dtype=np.int64) * count
    if lists is None:
        return KeyLists(more.ravel(), begins)
    ends = np.repeat(lists.offsets[1:], count)
    return KeyLists(np.insert(lists.keys, ends, more.ravel()), lists.offsets + begins)
