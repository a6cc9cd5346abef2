"""A small model in several versions, and the oracle that knows every score of each: what a live change is checked by.

Three generated tables, looked up by ids, some of which no table has. A score is

    tanh(w_user . user[u] + w_item . sum(item[i]) + w_genre . mean(genre[g]) + b)

with rows and weights of its own in every version, so the version that a reply names tells which score is right. The
oracle sums in float64, straight from the arrays; an unknown id is a row of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull import Ragged, Schema, Sparse, export_model
from ringpull.inference.export.table_options import TableOptions

MODEL: Final = "checked"
DIM: Final = 16
ROWS: Final[Mapping[str, int]] = {"user": 120_000, "item": 60_000, "genre": 19}
TOLERANCE: Final = 1e-5
"""Error of a score, as a share of the largest magnitude on its way: sums in float32, in any order."""

ID_FACTOR: Final = 0x9E3779B97F4A7C15
"""Ids are row numbers times this: spread over all of int64, so that no array could be indexed by them."""

CANDIDATES: Final = 8
MAX_ITEMS: Final = 12
UNKNOWN_SHARE: Final = 0.03

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of one version, all of them."""

    tables: Mapping[str, NDArray[np.float32]]
    """Rows by table, (rows, DIM)."""
    top: NDArray[np.float32]
    """Weights of user, item and genre, (3 * DIM,)."""
    bias: np.float32

    @classmethod
    def of(cls, version: int, rows: Mapping[str, int] = ROWS) -> Weights:
        """Return the numbers of a version, the same wherever it is asked."""
        rng = np.random.default_rng(version)
        tables = {name: rng.standard_normal((count, DIM)).astype(np.float32) for name, count in rows.items()}
        return cls(tables, (rng.standard_normal(3 * DIM) / 8).astype(np.float32), np.float32(rng.standard_normal()))


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """One user and some candidates, as row numbers; a number past a table's rows is an unknown id."""

    user: int
    items: tuple[IntArray, ...]
    """Bags of items, one per candidate; any length."""
    genres: tuple[IntArray, ...]
    """Bags of genres, one per candidate; never empty."""

    def features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return features and context, as a client sends them."""
        features = {
            name: Ragged(ids_of(np.concatenate(bags)), np.cumsum([0, *map(len, bags)], dtype=np.int64))
            for name, bags in (("items", self.items), ("genres", self.genres))
        }
        return features, {"user": ids_of(np.array([self.user]))}


def ids_of(rows: IntArray) -> IntArray:
    """Return the ids of row numbers."""
    return (rows.astype(np.uint64) * np.uint64(ID_FACTOR)).view(np.int64)


def numbers_of(ids: IntArray) -> NDArray[np.uint64]:
    """Return the row numbers of ids; of an id that is no row's, some number past them all."""
    return ids.view(np.uint64) * np.uint64(pow(ID_FACTOR, -1, 2**64))


def make_requests(
    count: int,
    *,
    seed: int = 0,
    rows: Mapping[str, int] = ROWS,
    candidates: int = CANDIDATES,
    max_items: int = MAX_ITEMS,
) -> list[CheckedRequest]:
    """Return requests with bags of 0 to `max_items` items, and ids some of which are unknown."""
    rng = np.random.default_rng(seed)

    def numbers(table: str, size: int) -> IntArray:
        known = rng.integers(0, rows[table], size)
        return np.where(rng.random(size) < UNKNOWN_SHARE, known + rows[table], known)

    return [
        CheckedRequest(
            int(numbers("user", 1)[0]),
            tuple(numbers("item", int(rng.integers(0, max_items + 1))) for _ in range(candidates)),
            tuple(numbers("genre", int(rng.integers(1, 4))) for _ in range(candidates)),
        )
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Expected:
    """Scores that one version must answer to one request with."""

    scores: FloatArray
    """Scores, (candidates,)."""
    tolerance: FloatArray
    """Errors allowed, (candidates,)."""

    def wrong(self, scores: NDArray[Any]) -> bool:
        """Whether an answer is another one."""
        return scores.shape != self.scores.shape or bool((np.abs(scores - self.scores) > self.tolerance).any())


def expected(weights: Weights, request: CheckedRequest) -> Expected:
    """Score a request by plain sums."""
    user = _rows(weights, "user", np.array([request.user])).sum(axis=0)
    scores, largest = [], []
    for items, genres in zip(request.items, request.genres, strict=True):
        item = _rows(weights, "item", items)
        genre = _rows(weights, "genre", genres)
        pooled = np.concatenate([user, item.sum(axis=0), genre.sum(axis=0) / len(genres)])
        terms = pooled * weights.top.astype(np.float64)
        scores.append(np.tanh(terms.sum() + np.float64(weights.bias)))
        largest.append(max(1.0, np.abs(item).sum(axis=0, initial=0.0).max(initial=0.0), np.abs(terms).sum()))
    return Expected(np.array(scores), TOLERANCE * np.array(largest))


def _rows(weights: Weights, table: str, numbers: IntArray) -> FloatArray:
    rows = weights.tables[table]
    found = np.zeros((len(numbers), DIM))
    known = numbers < len(rows)
    found[known] = rows[numbers[known]]
    return found


class Checked(nn.Module):
    """The model itself; its `forward` is what `expected` says."""

    top: Tensor
    bias: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.user = nn.Embedding.from_pretrained(torch.from_numpy(weights.tables["user"]))  # type: ignore[no-untyped-call]
        self.item = _bag(weights, "item", "sum")
        self.genre = _bag(weights, "genre", "mean")
        self.register_buffer("top", torch.from_numpy(weights.top))
        self.register_buffer("bias", torch.tensor(weights.bias))

    def forward(
        self, user: Tensor, items: Tensor, items_offsets: Tensor, genres: Tensor, genres_offsets: Tensor
    ) -> Tensor:
        pooled = [self.user(user), self.item(items, items_offsets), self.genre(genres, genres_offsets)]
        return torch.tanh((torch.cat(pooled, dim=1) * self.top).sum(dim=1) + self.bias)


def _bag(weights: Weights, table: str, mode: str) -> nn.EmbeddingBag:
    return nn.EmbeddingBag.from_pretrained(torch.from_numpy(weights.tables[table]), mode=mode, include_last_offset=True)


def export_version(
    folder: Path,
    version: int,
    rows: Mapping[str, int] = ROWS,
    *,
    name: str = MODEL,
    tables: Mapping[str, TableOptions] | None = None,
    content: int | None = None,
) -> None:
    """Write `folder/VERSION/`.

    Args:
        tables: How tables are to be deployed, by name.
        content: The version whose numbers it has; None: its own.
    """
    export_model(
        Checked(Weights.of(version if content is None else content, rows)),
        Schema([Sparse("user"), Sparse("items", many=True), Sparse("genres", many=True)]),
        folder,
        version,
        keys={table: ids_of(np.arange(count)) for table, count in rows.items()},
        name=name,
        tables=tables,
        quiet=True,
    )
