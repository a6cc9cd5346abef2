"""The answer to a top-k, as heads give it and clients return it: the rows with the largest scores for each query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.prediction import Filled, Unknown
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import keys_of_strings


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TopK:
    """Rows with the largest scores for each of Q queries. `keys, scores = answer` takes the two apart.

    Best first; rows of one score by key as uint64, the smallest first. Each key is there once.
    """

    model: str
    version: int
    """Version that answered: rows, queries by key and outputs are all of it."""
    table: str
    keys: NDArray[Any]
    """(Q, k): int64, or uint64 as the table's keys are; 0 beyond the count. Of a table keyed by strings they are
    strings (dtype object, None beyond the count) where those are known, else uint64 hashes: see `hashed`."""
    scores: NDArray[np.float32]
    """(Q, k): dot products or cosines; -inf beyond the count."""
    counts: NDArray[np.int64]
    """(Q,): rows of each query, fewer than k where there are no more."""
    hashed: bool = False
    """Whether the keys are hashes of strings, which tables do not have: `with_texts` finds them among those given."""
    found: NDArray[np.bool_] | None = None
    """(Q,): of queries by key, whether the table has the key; the query of one that it has not is its default vector.
    None: the queries were no keys."""
    missing: int = 0
    """Keys of these that are not found."""
    lost: int = 0
    """Slots of the ring, of 65,536, that no live shard could answer for, and whose rows were not looked at."""
    lost_queries: int = 0
    """Queries by key that no live shard could answer for: default vectors stand for them."""
    filled: tuple[Filled, ...] = ()
    """Features that were filled in, where the queries are an output of the model."""
    unknown: tuple[Unknown, ...] = ()
    """Features with unknown ids, likewise."""
    request_id: str = ""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.keys, self.scores))

    def items(self) -> list[list[tuple[Any, float]]]:
        """Return, for each query, its keys with their scores, best first."""
        return [
            list(zip(keys[:count].tolist(), scores[:count].tolist(), strict=True))
            for keys, scores, count in zip(self.keys, self.scores, self.counts, strict=True)
        ]

    def with_texts(self, texts: Sequence[str]) -> TopK:
        """Return the answer with strings for hashes.

        Args:
            texts: Keys of the table, or those that may be in the answer, in any order: a catalogue, say.

        Raises:
            InvalidInput: The table is not keyed by strings, or the key of a row is none of them.
        """
        if not self.hashed:
            raise InvalidInput(f"table {self.table} has keys that are no hashes of strings; they are as they are")
        return self.with_texts_of(texts, keys_of_strings(texts))

    def with_texts_of(self, texts: Sequence[str], hashes: NDArray[np.uint64]) -> TopK:
        """Return the answer with strings for hashes, given the hashes (N,) of N strings.

        Raises:
            InvalidInput: The key of a row is none of them.
        """
        valid = np.arange(self.keys.shape[1]) < self.counts[:, None]
        wanted, inverse = np.unique(self.keys[valid], return_inverse=True)
        places = np.full(len(wanted), -1, np.int64)
        if len(wanted) and len(hashes):
            near = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            hits = np.nonzero(wanted[near] == hashes)[0]
            places[near[hits]] = hits
        if len(wanted) and places.min() < 0:
            lacking = int(wanted[np.argmin(places)])
            raise InvalidInput(f"texts: none of the {len(hashes)} has the hash {lacking}, which is in the answer")
        found = np.array([texts[place] for place in places.tolist()], object)
        keys = np.full(self.keys.shape, None, object)
        keys[valid] = found[inverse]
        return replace(self, keys=keys, hashed=False)
