"""Top-k as values: what the head asks of the router, and what comes back. `Router.top_k` answers it.

The score of a row is its dot product with the query, or the cosine of the angle between them: 0 where either is all
zeros. Rows go by score, the largest first, and those of one score by key as uint64, the smallest first; a NaN is no
score, so its row is never among them. A table has each key once, and so has an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import Float32Array, TableSpec, UInt64Array
from ringpull.ps.top_k_messages import MAX_K, MAX_LISTED_KEYS, MAX_QUERIES

Int64Array = NDArray[np.int64]

Metric = Literal["dot", "cosine"]
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)


@dataclass(frozen=True, slots=True)
class KeyLists:
    """List of keys for each of Q queries; duplicates count once."""

    keys: UInt64Array
    """(N,): the lists end to end."""
    offsets: Int64Array
    """(Q+1,): starts of the lists, the last being N."""

    @classmethod
    def of(cls, lists: Sequence[UInt64Array]) -> KeyLists:
        """Lay lists, uint64 (n,) each, end to end."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(keys) for keys in lists], out=offsets[1:])
        return cls(np.concatenate([np.empty(0, np.uint64), *lists]), offsets)

    def check(self, name: str, queries: int) -> None:
        """Check that there is one list for each query, within the limit.

        Raises:
            InvalidInput: Types, shapes or offsets are wrong.
            LimitExceeded: There are too many keys.
        """
        _check_array(f"top_k: keys to {name}", self.keys, np.uint64, (len(self.keys),))
        _check_array(f"top_k: offsets of keys to {name}", self.offsets, np.int64, (queries + 1,))
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.keys) or bool((np.diff(self.offsets) < 0).any()):
            raise InvalidInput(f"top_k: offsets of keys to {name} must ascend from 0 to {len(self.keys)}")
        if len(self.keys) > MAX_LISTED_KEYS:
            raise LimitExceeded(f"top_k: {len(self.keys)} keys to {name}; the limit is {MAX_LISTED_KEYS}")


@dataclass(frozen=True, slots=True)
class TopKQuery:
    """Queries against one table: of which rows the score is largest."""

    table: str
    vectors: Float32Array
    """(Q, dim), finite; one query each."""
    k: int
    metric: Metric = "dot"
    exclude: KeyLists | None = None
    """Keys that are not to be in the answer, of each query."""
    among: KeyLists | None = None
    """Keys of the only rows that are looked at, of each query; None: all rows."""

    def check(self, spec: TableSpec) -> None:
        """Check everything that a caller can get wrong.

        Raises:
            InvalidInput: Something does not fit the table, or each other.
            LimitExceeded: There are too many queries, results or keys.
        """
        if spec.is_bytes:
            raise InvalidInput(f"top_k: table {self.table} has rows of bytes, which are no vectors and have no score")
        _check_array("top_k: vectors", self.vectors, np.float32, (len(np.atleast_1d(self.vectors)), spec.dim))
        if not np.isfinite(self.vectors).all():
            raise InvalidInput("top_k: vectors must be finite; one holds NaN or an infinity")
        if self.metric not in METRICS:
            raise InvalidInput(f"top_k: metric is {self.metric!r}; it must be one of {', '.join(METRICS)}")
        if type(self.k) is not int or self.k < 1:
            raise InvalidInput(f"top_k: k is {self.k!r}; it must be an integer of at least 1")
        if self.k > MAX_K:
            raise LimitExceeded(f"top_k: k is {self.k}; the limit is {MAX_K}")
        if len(self.vectors) > MAX_QUERIES:
            raise LimitExceeded(f"top_k: {len(self.vectors)} queries in one call; the limit is {MAX_QUERIES}")
        for name, lists in (("exclude", self.exclude), ("look among", self.among)):
            if lists is not None:
                lists.check(name, len(self.vectors))


@dataclass(frozen=True, slots=True, eq=False)
class TopKResult:
    """Rows with the largest scores, of each of Q queries, best first. The arrays are the caller's."""

    keys: UInt64Array
    """(Q, k); 0 beyond the count."""
    scores: Float32Array
    """(Q, k); -inf beyond the count."""
    counts: Int64Array
    """(Q,): rows of each query; fewer than k where there are no more."""
    lost: int = 0
    """Slots of the ring, of 65,536, that no live shard could answer for, and whose rows were not looked at, as the
    table's policy `on_unavailable: default` allows."""
    epoch: int = 0
    """Epoch of the newest shard map by which shards were asked."""


def _check_array(what: str, array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InvalidInput(f"{what} are {array.dtype} {array.shape}; they must be {np.dtype(dtype)} {shape}")
