"""The slow truth: tables as dictionaries, pooling as loops, in float64. Everything is compared with it.

"Equal" is ARCHITECTURE.md's: |a - b| <= 1e-5 x max(1, |a|, largest intermediate magnitude). Rows themselves are
bit-exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import Pooling


def key_of_string(text: str | bytes) -> int:
    """Return the uint64 key of one string."""
    return int(keys_of_strings([text])[0])


class ReferenceTable:
    """A table as a dictionary from uint64 key to float32 row."""

    def __init__(
        self, dim: int, rows: Mapping[int, NDArray[np.float32]], default: NDArray[np.float32] | None = None
    ) -> None:
        self.dim = dim
        self.rows = dict(rows)
        self.default = np.zeros(dim, np.float32) if default is None else default

    @classmethod
    def from_arrays(
        cls, keys: NDArray, rows: NDArray[np.float32], default: NDArray[np.float32] | None = None
    ) -> ReferenceTable:
        mask = (1 << 64) - 1
        return cls(rows.shape[1], {int(key) & mask: row for key, row in zip(keys, rows, strict=True)}, default)

    def row(self, key: int) -> NDArray[np.float32]:
        return self.rows.get(int(key), self.default)

    def pull(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rows (N, D) and whether each key is known (N,)."""
        values = np.array([self.row(int(key)) for key in keys], np.float32).reshape(len(keys), self.dim)
        return values, np.array([int(key) in self.rows for key in keys], bool)

    def pull_bags(
        self,
        keys: NDArray[np.uint64],
        offsets: NDArray[np.int64],
        pooling: Pooling,
        weights: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """Pooled bags (B, D), summed in float64; an empty bag is zeros."""
        out = np.zeros((len(offsets) - 1, self.dim), np.float64)
        for bag in range(len(offsets) - 1):
            begin, end = int(offsets[bag]), int(offsets[bag + 1])
            if begin == end:
                continue
            rows = np.array([self.row(int(key)) for key in keys[begin:end]], np.float64)
            if weights is not None:
                rows *= weights[begin:end, None].astype(np.float64)
            out[bag] = rows.max(axis=0) if pooling is Pooling.MAX else rows.sum(axis=0)
            if pooling is Pooling.MEAN:
                out[bag] /= end - begin
        return out

    def top_k(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        cosine: bool = False,
        exclude: Iterable[int] = (),
        among: Iterable[int] | None = None,
    ) -> list[tuple[int, float]]:
        """Keys and scores of the best rows, best first, to the last bit: see `row_scores`."""
        left_out, allowed = {int(key) for key in exclude}, None if among is None else {int(key) for key in among}
        keys = [key for key in self.rows if key not in left_out and (allowed is None or key in allowed)]
        scores = row_scores(np.array([self.rows[key] for key in keys], np.float32).reshape(-1, self.dim), query, cosine)
        found = [(key, float(score)) for key, score in zip(keys, scores, strict=True) if not np.isnan(score)]
        return sorted(found, key=lambda each: (-each[1], each[0]))[:k]


def row_scores(rows: NDArray[np.float32], query: NDArray[np.float32], cosine: bool = False) -> NDArray[np.float32]:
    """Scores (N,) of rows (N, D): float32 sums in the order that ps/README.md lays down."""
    if not cosine:
        return lane_sums(rows, query)
    length = np.sqrt((query.astype(np.float64) ** 2).sum())
    unit = (query.astype(np.float64) / (length or 1.0)).astype(np.float32)
    with np.errstate(all="ignore"):
        squares = lane_sums(rows, rows)
        scores = lane_sums(rows, unit) / np.sqrt(squares)
        for i in np.flatnonzero(~((squares > 1e-30) & (squares < 1e30))):
            row = rows[i].astype(np.float64)
            product, total = 0.0, 0.0
            for number, other in zip(row, unit.astype(np.float64), strict=True):
                product += number * other
                total += number * number
            scores[i] = np.float32(product / np.sqrt(total)) if total != 0 else 0.0
    return scores


def lane_sums(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums (N,) of products of rows (N, D): column c goes to lane c % 16, then lanes are halved."""
    lanes = np.zeros((len(rows), 16), np.float32)
    with np.errstate(all="ignore"):
        for column in range(rows.shape[1]):
            lanes[:, column % 16] += rows[:, column] * others[..., column]
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


class ReferenceBytes:
    """A table of bytes as a dictionary from uint64 key to row."""

    dim = 0

    def __init__(self, rows: Mapping[int, bytes]) -> None:
        self.rows = dict(rows)

    def pull(self, keys: NDArray[np.uint64]) -> tuple[list[bytes], NDArray[np.bool_]]:
        """N rows, and whether each key is known (N,)."""
        known = np.array([int(key) in self.rows for key in keys], bool)
        return [self.rows.get(int(key), b"") for key in keys], known


def assert_close(actual: NDArray, expected: NDArray, largest: float = 1.0) -> None:
    """Assert ARCHITECTURE.md's tolerance; `largest`: largest intermediate magnitude, where it exceeds the result's."""
    actual64, expected64 = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual64.shape == expected64.shape, f"shapes differ: {actual64.shape} and {expected64.shape}"
    bound = 1e-5 * np.maximum(max(1.0, largest), np.abs(expected64))
    worst = np.abs(actual64 - expected64) - bound
    assert not (worst > 0).any(), f"largest difference {np.abs(actual64 - expected64).max()} is over the tolerance"
