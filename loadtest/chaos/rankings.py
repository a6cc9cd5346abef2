"""Rankings: which items are the best by a query, of each version, and whether an answer of a top-k has them.

A row's score is summed in float64 here, so two items whose scores differ by less than float32 sums err may change
places. Ties are what tests of top-k are about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.top_k_answer import TopK
from ringpull.loadtest.chaos.checked_model import (
    DIM,
    TOLERANCE,
    CheckedRequest,
    FloatArray,
    Weights,
    numbers_of,
)

RANKED_TABLE: Final = "item"
K: Final = 10
RANKED_EVERY: Final = 5
"""Requests of which one has a ranking besides."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Question for the best items by a query, but some."""

    query: NDArray[np.float32]
    """(DIM,)."""
    excluded: NDArray[np.int64]
    """Numbers of rows that are not to be among them; some of no row."""

    @classmethod
    def of(cls, number: int, request: CheckedRequest) -> Ranking:
        """Return the ranking that goes with a request: by any query, without the request's items."""
        query = np.random.default_rng([number, 0x70B]).standard_normal(DIM).astype(np.float32)
        return cls(query, np.concatenate([np.empty(0, np.int64), *request.items]))


@dataclass(frozen=True, slots=True)
class Best:
    """Answer that one version must give to a ranking."""

    ranking: Ranking
    rows: NDArray[np.float32]
    """(N, DIM): all rows of the version."""
    scores: FloatArray
    """(K,): scores of the best ones, descending."""
    tolerance: float
    """Error allowed of a score."""

    @classmethod
    def of(cls, ranking: Ranking, weights: Weights) -> Best:
        """Rank all rows of a version."""
        rows = weights.tables[RANKED_TABLE]
        scores = rows.astype(np.float64) @ ranking.query.astype(np.float64)
        scores[ranking.excluded[ranking.excluded < len(rows)]] = -np.inf
        largest = float((np.abs(rows) @ np.abs(ranking.query)).max())
        return cls(ranking, rows, np.sort(scores)[::-1][:K], TOLERANCE * max(1.0, largest))

    def wrong(self, answer: TopK) -> bool:
        """Whether an answer is another one, or not of all rows."""
        if answer.lost or answer.counts.tolist() != [len(self.scores)]:
            return True
        numbers = numbers_of(answer.keys[0])
        if len(np.unique(numbers)) < len(numbers) or (numbers >= len(self.rows)).any():
            return True
        own = self.rows[numbers].astype(np.float64) @ self.ranking.query.astype(np.float64)
        far = (np.abs(each - own) > 2 * self.tolerance for each in (self.scores, answer.scores[0]))
        return bool(np.isin(numbers, self.ranking.excluded).any() or any(each.any() for each in far))
