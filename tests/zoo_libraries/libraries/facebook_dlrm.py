"""DLRM as facebook's reference code writes it (Naumov et al. 2019), which is on no registry: the idioms, written anew.

`forward(dense_x, lS_o, lS_i)` takes lists of offsets and of indices, one of each per table; the offsets lack the last.
The variants are those of its options: dot or cat interaction, tables of mixed dimensions, and the quotient-remainder
trick, in which two small tables stand for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ringpull import Dense, Schema, Sparse
from tests.zoo_libraries.model import DIM, ROWS, ZooModel

FEATURES = ("site", "clicked", "genres")
NUMBERS = 4
COLLISIONS = 4
SCHEMA = Schema(
    [*(Sparse(name, many=True, include_last_offset=False) for name in FEATURES), Dense("dense_x", width=NUMBERS)]
)


def mlp(*sizes: int) -> nn.Sequential:
    """Return layers of these sizes, each with ReLU."""
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in layer))


class QREmbeddingBag(nn.Module):
    """A bag whose rows are products of a row by quotient and a row by remainder."""

    def __init__(self, rows: int, dim: int, collisions: int) -> None:
        super().__init__()
        self.collisions = collisions
        self.weight_q = nn.Parameter(torch.randn((rows + collisions - 1) // collisions, dim))
        self.weight_r = nn.Parameter(torch.randn(collisions, dim))

    def forward(self, input: Tensor, offsets: Tensor) -> Tensor:
        quotient = torch.div(input, self.collisions, rounding_mode="floor")
        remainder = torch.remainder(input, self.collisions)
        by_quotient = nn.functional.embedding_bag(quotient, self.weight_q, offsets, mode="sum")
        by_remainder = nn.functional.embedding_bag(remainder, self.weight_r, offsets, mode="sum")
        return by_quotient * by_remainder


class PrEmbeddingBag(nn.Module):
    """A bag of few dimensions, projected to as many as the others have (mixed dimensions)."""

    def __init__(self, rows: int, dim: int, base_dim: int) -> None:
        super().__init__()
        self.embs = nn.EmbeddingBag(rows, dim, mode="sum")
        self.proj = nn.Linear(dim, base_dim, bias=False) if dim < base_dim else nn.Identity()

    def forward(self, input: Tensor, offsets: Tensor) -> Tensor:
        return self.proj(self.embs(input, offsets=offsets))


class DLRM_Net(nn.Module):
    """DLRM with lists of indices and offsets."""

    def __init__(self, bags: Sequence[nn.Module], interaction: str = "dot") -> None:
        super().__init__()
        self.emb_l = nn.ModuleList(bags)
        self.arch_interaction_op = interaction
        self.bot_l = mlp(NUMBERS, 32, DIM)
        vectors = len(bags) + 1
        width = DIM + vectors * (vectors - 1) // 2 if interaction == "dot" else DIM * vectors
        self.top_l = nn.Sequential(mlp(width, 16), nn.Linear(16, 1), nn.Sigmoid())

    def apply_emb(self, lS_o: Sequence[Tensor], lS_i: Sequence[Tensor]) -> list[Tensor]:
        """Return the pooled vectors of each table."""
        vectors = []
        for k, sparse_index_group_batch in enumerate(lS_i):
            vectors.append(self.emb_l[k](sparse_index_group_batch, lS_o[k]))
        return vectors

    def interact_features(self, x: Tensor, ly: list[Tensor]) -> Tensor:
        """Return x beside the products of all pairs of vectors, or all vectors."""
        if self.arch_interaction_op == "cat":
            return torch.cat([x, *ly], dim=1)
        (batch_size, d) = x.shape
        T = torch.cat([x, *ly], dim=1).view((batch_size, -1, d))
        Z = torch.bmm(T, torch.transpose(T, 1, 2))
        _, ni, nj = Z.shape
        li = torch.tensor([i for i in range(ni) for j in range(i)])
        lj = torch.tensor([j for i in range(nj) for j in range(i)])
        return torch.cat([x, Z[:, li, lj]], dim=1)

    def forward(self, dense_x: Tensor, lS_o: Sequence[Tensor], lS_i: Sequence[Tensor]) -> Tensor:
        """Return the scores (B, 1)."""
        x = self.bot_l(dense_x)
        return self.top_l(self.interact_features(x, self.apply_emb(lS_o, lS_i)))


def _ask(module: nn.Module, given: Mapping[str, Tensor]) -> Any:
    offsets = [given[f"{name}_offsets"] for name in FEATURES]
    return module(given["dense_x"], offsets, [given[name] for name in FEATURES])


def _model(name: str, bag: Callable[[], nn.Module], interaction: str = "dot") -> ZooModel:
    return ZooModel(
        name=name,
        build=lambda: DLRM_Net([bag() for _ in FEATURES], interaction),
        schema=SCHEMA,
        ask=_ask,
        options={
            "arguments": {"lS_o": [f"{name}_offsets" for name in FEATURES], "lS_i": list(FEATURES)},
        },
    )


MODELS = [
    _model("DLRM (dot)", lambda: nn.EmbeddingBag(ROWS, DIM, mode="sum", sparse=True)),
    _model("DLRM (cat)", lambda: nn.EmbeddingBag(ROWS, DIM, mode="sum", sparse=True), "cat"),
    _model("DLRM (mixed dimensions)", lambda: PrEmbeddingBag(ROWS, 8, DIM)),
    _model("DLRM (quotient-remainder)", lambda: QREmbeddingBag(ROWS * COLLISIONS, DIM, COLLISIONS)),
]
