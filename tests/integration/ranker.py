"""A model as users write them: ids with a vocabulary, hashed strings, bags, a history, numbers; embeddings in plain
torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull import Dense, IdSequence, Ragged, Schema, Sparse, export_model
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.transforms import Hash, Log, Vocabulary

USERS = Vocabulary([int(user) for user in np.random.default_rng(11).integers(-(2**62), 2**62, 200)])
"""Raw ids anywhere in int64, as real ones are."""
ITEMS, GENRES, TOWNS = 150, 19, 64

SCHEMA = Schema(
    [
        Sparse("user", transforms=(USERS,)),
        Sparse("item"),
        Sparse("town", dtype="string", transforms=(Hash(TOWNS),), missing=""),
        Sparse("genres", many=True),
        Sparse("liked", many=True, weighted=True),
        IdSequence("history", length=5, pad=0, pad_side="left"),
        Dense("age", transforms=(Log(),), missing=1.0),
        Dense("price", width=2),
    ]
)


class Ranker(nn.Module):
    """Scores a row by an MLP over its embeddings, and says how much its history weighs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.user = nn.Embedding(len(USERS.ids) + 1, 8)
        self.item = nn.Embedding(ITEMS, 8)
        self.town = nn.Embedding(TOWNS, 4)
        self.genres = nn.EmbeddingBag(GENRES, 4, mode="mean", padding_idx=0, include_last_offset=True)
        self.liked = nn.EmbeddingBag(ITEMS, 8, mode="sum", include_last_offset=True)
        self.top = nn.Sequential(nn.Linear(8 + 8 + 4 + 4 + 8 + 8 + 3, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(
        self,
        user: Tensor,
        item: Tensor,
        town: Tensor,
        genres: Tensor,
        genres_offsets: Tensor,
        liked: Tensor,
        liked_offsets: Tensor,
        liked_weights: Tensor,
        history: Tensor,
        age: Tensor,
        price: Tensor,
    ) -> dict[str, Tensor]:
        """Return `score` (B,) and `interest` (B, 8)."""
        target = self.item(item)
        past = self.item(history)
        attention = torch.softmax((past * target[:, None]).sum(-1), dim=1)
        interest = (attention[:, :, None] * past).sum(1)
        bags = [self.genres(genres, genres_offsets), self.liked(liked, liked_offsets, liked_weights)]
        features = [self.user(user), target, self.town(town), *bags, interest, age, price]
        return {"score": torch.sigmoid(self.top(torch.cat(features, 1)).squeeze(1)), "interest": interest}


def export_ranker(folder: Path, version: int = 1, seed: int = 0) -> tuple[Ranker, Path]:
    """Export to `folder/ranker/VERSION`; return the module and the version's folder."""
    module = Ranker(seed).eval()
    export_model(module, SCHEMA, folder / "ranker", version, keys={"user": USERS}, quiet=True)
    return module, folder / "ranker" / str(version)


def offline(module: nn.Module, columns: Mapping[str, Column], rows: int) -> dict[str, NDArray[np.float32]]:
    """The module's own predictions for `rows` rows written out, as training would compute them."""
    arguments = SCHEMA.arguments(SCHEMA.prepare(columns, rows), tuple(inspect.signature(module.forward).parameters))
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(np.array(values)) for name, values in arguments.items()})
    return {name: values.numpy() for name, values in outputs.items()}


def random_columns(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    """Columns of `rows` rows; some users are unknown, some bags empty, some ages missing."""

    def bag(limit: int, ids: int, first: int = 0) -> Ragged:
        return Ragged.from_lists([rng.integers(first, ids, rng.integers(0, limit)) for _ in range(rows)], np.int64)

    liked = bag(6, ITEMS)
    weights = rng.normal(size=len(liked.values)).astype(np.float32)
    ages = rng.uniform(1, 80, rows).astype(np.float32)
    ages[rng.random(rows) < 0.2] = np.nan
    return {
        "user": rng.choice([*USERS.ids, 5, -5], rows),
        "item": rng.integers(0, ITEMS, rows),
        "town": np.array([f"town {each}" for each in rng.integers(0, 300, rows)], object),
        "genres": bag(5, GENRES),
        "liked": Ragged(liked.values, liked.offsets, weights),
        "history": bag(9, ITEMS, 1),
        "age": ages,
        "price": rng.normal(size=(rows, 2)).astype(np.float32),
    }


def repeated(columns: Mapping[str, Column], rows: int) -> dict[str, Column]:
    """Columns of one row, written out `rows` times."""
    written: dict[str, Column] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            weights = None if column.weights is None else np.tile(column.weights, rows)
            offsets = np.arange(rows + 1) * len(column.values)
            written[name] = Ragged(np.tile(column.values, rows), offsets, weights)
        else:
            written[name] = np.repeat(column, rows, axis=0)
    return written
