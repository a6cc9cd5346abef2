"""Eight small recommender models, each as its authors would write it, with the schema of its features.

They are ordinary torch: nothing in them knows of ringpull. Together they hold the ways in which embeddings are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Bucketize, Hash

DIM = 8


@dataclass(frozen=True)
class ZooModel:
    """One model of the zoo."""

    module: Callable[[], nn.Module]
    schema: Schema
    ids: Mapping[str, int]
    """How many ids each integer feature has, from 0."""
    tables: tuple[str, ...]
    """The embeddings that must become tables."""
    kept: tuple[str, ...] = ()
    """The embeddings that must stay in the dense program: one that is a table, too, is tied."""


class DLRM(nn.Module):
    """Bottom MLP, an EmbeddingBag per categorical feature, pairwise dot products, top MLP (Naumov et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleDict({name: nn.EmbeddingBag(40, DIM, mode="sum") for name in ("site", "device")})
        self.genres = nn.EmbeddingBag(20, DIM, mode="mean", padding_idx=0, include_last_offset=True)
        self.clicked = nn.EmbeddingBag(60, DIM, mode="sum", include_last_offset=True)
        self.bottom = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, DIM), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(DIM + 10, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(
        self,
        numbers: Tensor,
        site: Tensor,
        device: Tensor,
        genres: Tensor,
        genres_offsets: Tensor,
        clicked: Tensor,
        clicked_offsets: Tensor,
    ) -> Tensor:
        bottom = self.bottom(numbers)
        vectors = torch.stack(
            [
                bottom,
                self.bags["site"](site.unsqueeze(1)),
                self.bags["device"](device.unsqueeze(1)),
                self.genres(genres, genres_offsets),
                self.clicked(clicked, clicked_offsets),
            ],
            dim=1,
        )
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        rows, columns = torch.tril_indices(5, 5, offset=-1)
        return torch.sigmoid(self.top(torch.cat([bottom, products[:, rows, columns]], dim=1))).squeeze(1)


class DeepFM(nn.Module):
    """Factorisation machine and MLP over one table for all fields, told apart by constant offsets (Guo et al. 2017)."""

    def __init__(self, sizes: tuple[int, ...] = (10, 20, 30)) -> None:
        super().__init__()
        self.register_buffer("starts", torch.tensor([0, *sizes[:-1]]).cumsum(0))
        self.embedding = nn.Embedding(sum(sizes), DIM)
        self.linear = nn.Embedding(sum(sizes), 1)
        self.mlp = nn.Sequential(nn.Linear(len(sizes) * DIM, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, fields: Tensor) -> Tensor:
        index = fields + self.starts
        vectors = self.embedding(index)
        pairs = 0.5 * (vectors.sum(1).pow(2) - vectors.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.linear(index).sum(1) + pairs + self.mlp(vectors.flatten(1)))


class WideAndDeep(nn.Module):
    """A linear model of hashed and crossed ids beside an MLP (Cheng et al. 2016); two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.EmbeddingBag(1000, 1, mode="sum", include_last_offset=False)
        self.city = nn.Embedding(500, DIM)
        self.age = nn.Embedding(5, DIM)
        self.deep = nn.Sequential(nn.Linear(2 * DIM + 2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))

    def forward(
        self, words: Tensor, words_offsets: Tensor, words_weights: Tensor, city: Tensor, age: Tensor, price: Tensor
    ) -> dict[str, Tensor]:
        wide = self.wide(words, words_offsets, per_sample_weights=words_weights)
        deep = self.deep(torch.cat([self.city(city), self.age(age), price], dim=-1))
        return {"click": torch.sigmoid(wide + deep), "wide": wide}


class NeuMF(nn.Module):
    """Generalised matrix factorisation beside an MLP, each with tables of its own (He et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.gmf_user, self.gmf_item = nn.Embedding(50, DIM), nn.Embedding(70, DIM)
        self.mlp_user, self.mlp_item = nn.Embedding(50, 2 * DIM), nn.Embedding(70, 2 * DIM)
        self.mlp = nn.Sequential(nn.Linear(4 * DIM, 16), nn.ReLU(), nn.Linear(16, DIM), nn.ReLU())
        self.predict = nn.Linear(2 * DIM, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        gmf = self.gmf_user(user) * self.gmf_item(item)
        mlp = self.mlp(torch.cat([self.mlp_user(user), self.mlp_item(item)], dim=-1))
        return torch.sigmoid(self.predict(torch.cat([gmf, mlp], dim=-1))).view(-1)


class TwoTower(nn.Module):
    """A user and an item tower, scored by their cosine; the item table is shared by history and candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, DIM), nn.Embedding(70, DIM)
        self.history = nn.EmbeddingBag(70, DIM, mode="mean", include_last_offset=True)
        self.history.weight = self.item.weight
        self.user_tower, self.item_tower = nn.Linear(2 * DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, user: Tensor, item: Tensor, history: Tensor, history_offsets: Tensor) -> tuple[Tensor, Tensor]:
        past = self.history(history, history_offsets)
        users = functional.normalize(self.user_tower(torch.cat([self.user(user), past], dim=1)), dim=1)
        items = functional.normalize(self.item_tower(self.item(item)), dim=1)
        return (users * items).sum(dim=1), users


class DIN(nn.Module):
    """Attention of the candidate over an unpooled history (Zhou et al. 2018); the mask is made of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.category = nn.Embedding(70, DIM, padding_idx=0), nn.Embedding(9, DIM, padding_idx=0)
        self.attention = nn.Sequential(nn.Linear(8 * DIM, 16), nn.PReLU(), nn.Linear(16, 1))
        self.mlp = nn.Sequential(nn.Linear(4 * DIM, 16), nn.PReLU(), nn.Linear(16, 1))

    def forward(self, item: Tensor, category: Tensor, items: Tensor, categories: Tensor) -> Tensor:
        target = torch.cat([self.item(item), self.category(category)], dim=-1)
        past = torch.cat([self.item(items), self.category(categories)], dim=-1)
        query = target.unsqueeze(1).expand_as(past)
        scores = self.attention(torch.cat([query, past, query - past, query * past], dim=-1)).squeeze(-1)
        weights = torch.softmax(scores.masked_fill(items == 0, -1e9), dim=-1)
        interest = torch.bmm(weights.unsqueeze(1), past).squeeze(1)
        return self.mlp(torch.cat([target, interest], dim=-1)).squeeze(-1)


class SASRec(nn.Module):
    """Self-attention over a history with positions; item vectors are tied to the output layer (Kang & McAuley 2018)."""

    def __init__(self, items: int = 40, length: int = 6) -> None:
        super().__init__()
        self.item = nn.Embedding(items, DIM, padding_idx=0)
        self.position = nn.Embedding(length, DIM)
        self.country = nn.Embedding(12, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.query, self.key, self.value = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, history: Tensor, history_lengths: Tensor, country: Tensor) -> Tensor:
        length = history.shape[1]
        hidden = self.item(history) * DIM**0.5 + self.position(torch.arange(length, device=history.device))
        hidden = self.norm(hidden + self.country(country).unsqueeze(1))
        causal = torch.ones(length, length, dtype=torch.bool, device=history.device).triu(1)
        unseen = torch.arange(length, device=history.device) < (length - history_lengths).unsqueeze(1)
        scores = self.query(hidden) @ self.key(hidden).transpose(1, 2) / DIM**0.5
        scores = scores.masked_fill(causal | unseen.unsqueeze(1), -1e9)
        hidden = hidden + torch.softmax(scores, dim=-1) @ self.value(hidden)
        return hidden[:, -1] @ self.item.weight.T


class LogisticRegression(nn.Module):
    """One weight per id, one per number."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.ModuleList([nn.Embedding(size, 1) for size in (30, 50)])
        self.numbers = nn.Linear(2, 1)

    def forward(self, ad: Tensor, publisher: Tensor, numbers: Tensor) -> Tensor:
        return torch.sigmoid(self.ids[0](ad) + self.ids[1](publisher) + self.numbers(numbers))


ZOO: dict[str, ZooModel] = {
    "dlrm": ZooModel(
        DLRM,
        Schema(
            [
                Sparse("site"),
                Sparse("device"),
                Sparse("genres", many=True),
                Sparse("clicked", many=True, max_length=50),
                Dense("age"),
                Dense("context", width=2),
            ],
            {"numbers": ["age", "context"]},
        ),
        {"site": 40, "device": 40, "genres": 20, "clicked": 60},
        ("bags.site", "bags.device", "genres", "clicked"),
    ),
    "deepfm": ZooModel(
        DeepFM,
        Schema([Sparse("user"), Sparse("item"), Sparse("tag")], {"fields": ["user", "item", "tag"]}),
        {"user": 10, "item": 20, "tag": 30},
        ("embedding", "linear"),
    ),
    "wide_and_deep": ZooModel(
        WideAndDeep,
        Schema(
            [
                Sparse(
                    "words",
                    dtype="string",
                    many=True,
                    weighted=True,
                    transforms=(Hash(1000),),
                    include_last_offset=False,
                ),
                Sparse("city", dtype="string", transforms=(Hash(500),)),
                Sparse("age", dtype="float32", transforms=(Bucketize((18, 30, 45, 60)),)),
                Dense("price", width=2),
            ]
        ),
        {},
        ("wide", "city", "age"),
    ),
    "neumf": ZooModel(
        NeuMF,
        Schema([Sparse("user"), Sparse("item")]),
        {"user": 50, "item": 70},
        ("gmf_user", "gmf_item", "mlp_user", "mlp_item"),
    ),
    "two_tower": ZooModel(
        TwoTower,
        Schema([Sparse("user"), Sparse("item"), Sparse("history", many=True)]),
        {"user": 50, "item": 70, "history": 70},
        ("user", "item"),
    ),
    "din": ZooModel(
        DIN,
        Schema([Sparse("item"), Sparse("category"), IdSequence("items", length=5), IdSequence("categories", length=5)]),
        {"item": 70, "category": 9, "items": 70, "categories": 9},
        ("item", "category"),
    ),
    "sasrec": ZooModel(
        SASRec,
        Schema([IdSequence("history", length=6, pad_side="left"), Sparse("country")]),
        {"history": 40, "country": 12},
        ("country", "item"),
        ("item", "position"),
    ),
    "logistic_regression": ZooModel(
        LogisticRegression,
        Schema([Sparse("ad"), Sparse("publisher"), Dense("numbers", width=2)]),
        {"ad": 30, "publisher": 50},
        ("ids.0", "ids.1"),
    ),
}


def build(name: str) -> nn.Module:
    """Return the model called `name`, with the same random weights each time; batch norms have seen data."""
    torch.manual_seed(7)
    module = ZOO[name].module()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
    return module


def make_columns(name: str, rows: int, seed: int = 0) -> dict[str, Column]:
    """Return raw columns: bags of 0 to 4 values, the first empty; sequences that are also too long for the model."""
    random = np.random.default_rng([seed, rows])
    columns: dict[str, Column] = {}
    for feature in ZOO[name].schema.features:
        if isinstance(feature, Dense):
            columns[feature.name] = random.standard_normal((rows, feature.width), np.float32)
            continue
        assert isinstance(feature, Sparse | IdSequence)
        ragged = isinstance(feature, IdSequence) or feature.many
        longest = feature.length + 2 if isinstance(feature, IdSequence) else 4
        lengths = random.integers(0, longest + 1, rows) if ragged else np.ones(rows, np.int64)
        if ragged:
            lengths[0] = 0
        values: NDArray[Any] = random.integers(0, ZOO[name].ids.get(feature.name, 100), int(lengths.sum()))
        if feature.dtype == "string":
            values = np.array([f"w{value}" for value in values], object)
        elif feature.dtype == "float32":
            values = values.astype(np.float32)
        if not ragged:
            columns[feature.name] = values
            continue
        weights = random.standard_normal(len(values), np.float32) if getattr(feature, "weighted", False) else None
        columns[feature.name] = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]), weights)
    return columns
