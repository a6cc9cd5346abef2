"""Merge of top-k: takes the best rows of each query from all shards, gives the best of them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.compiled import kernel
from ringpull.ps.hashing import keys_of
from ringpull.ps.spec import Float32Array, UInt64Array
from ringpull.ps.top_k_messages import TopKReply
from ringpull.router.top_k import Int64Array, TopKResult

ROW_BYTES: Final = 32
"""Memory that a row takes while replies are merged: 12 in its reply, and 20 where all rows lie end to end, with their
keys."""


def merge_bytes(shards: int, rows: int, queries: int, k: int) -> int:
    """Return the memory that the replies to a top-k take at most until they are merged.

    Args:
        shards: Number of shards, each of which answers once with `k` rows of each query, or as many as it has.
        rows: Rows of the table, which all of them have together.
    """
    return ROW_BYTES * queries * min(shards * k, rows)


@kernel()
def _merge(
    begins: Int64Array,
    ends: Int64Array,
    all_keys: UInt64Array,
    all_scores: Float32Array,
    keys: UInt64Array,
    scores: Float32Array,
    counts: Int64Array,
) -> None:
    """Write rows of each query, of lists that begin and end at `begins` and `ends`, both (lists, Q); both change."""
    lists, queries = begins.shape
    for query in range(queries):
        taken = 0
        while taken < keys.shape[1]:
            best = -1
            at = np.int64(0)
            for number in range(lists):
                other = begins[number, query]
                if other == ends[number, query]:
                    continue
                score = all_scores[other]
                if best < 0 or score > all_scores[at] or (score == all_scores[at] and all_keys[other] < all_keys[at]):
                    best, at = number, other
            if best < 0:
                break
            keys[query, taken], scores[query, taken] = all_keys[at], all_scores[at]
            begins[best, query] += 1
            taken += 1
        counts[query] = taken


def merged(replies: Sequence[TopKReply], queries: int, k: int, *, lost: int, epoch: int) -> TopKResult:
    """Return the best `k` rows of each query, of those in replies about different slots, in whatever order."""
    counts = np.array([reply.counts for reply in replies], np.int64).reshape(len(replies), queries)
    ends = np.cumsum(counts.reshape(-1)).reshape(counts.shape)
    positions: list[NDArray[np.uint64]] = [np.empty(0, np.uint64), *[reply.positions for reply in replies]]
    all_scores: list[NDArray[np.float32]] = [np.empty(0, np.float32), *[reply.scores for reply in replies]]
    result = TopKResult(
        np.zeros((queries, k), np.uint64),
        np.full((queries, k), -np.inf, np.float32),
        np.zeros(queries, np.int64),
        lost,
        epoch,
    )
    _merge(
        ends - counts,
        ends,
        keys_of(np.concatenate(positions)),
        np.concatenate(all_scores),
        result.keys,
        result.scores,
        result.counts,
    )
    return result
