"""The generated recommender that `make loadtest` and the end-to-end benches serve.

DLRM: 13 context and 13 candidate tables of dim 64, bags of 10 ids summed, 13 dense numbers per candidate; bottom
512-256-64, dot interaction, top 512-256-1.

Triton's instances (`ringpull.loadtest.bench.baselines.triton`) run a copy of this file where there is no ringpull.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MODEL = "dlrm"
CONTEXT_TABLES = 13
CANDIDATE_TABLES = 13
DENSE = 13
DIM = 64

CONTEXT = tuple(f"context_{i}" for i in range(CONTEXT_TABLES))
CANDIDATE = tuple(f"candidate_{i}" for i in range(CANDIDATE_TABLES))


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    """An ordinary DLRM; its forward takes the features by name, as `export_model` binds them."""

    pairs: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {name: nn.EmbeddingBag(rows, DIM, mode="sum", include_last_offset=True) for name in CONTEXT + CANDIDATE}
        )
        self.bottom = _mlp(DENSE, 512, 256, DIM)
        vectors = 1 + CONTEXT_TABLES + CANDIDATE_TABLES
        self.top = _mlp(DIM + vectors * (vectors - 1) // 2, 512, 256)
        self.out = nn.Linear(256, 1)
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, -1), persistent=False)

    def score(self, dense: Tensor, pooled: list[Tensor]) -> Tensor:
        """Score (B, 13) dense numbers and 26 pooled (B, 64) vectors: (B, 1)."""
        x = self.bottom(dense)
        vectors = torch.stack([x, *pooled], dim=1)
        dots = vectors @ vectors.transpose(1, 2)
        pairs = dots[:, self.pairs[0], self.pairs[1]]
        return torch.sigmoid(self.out(self.top(torch.cat([x, pairs], dim=1))))

    def score_user(self, dense: Tensor, context: Tensor, candidates: Tensor) -> Tensor:
        """Score one user and B candidates as a careful user would in process: the user's bags are pooled once.

        Args:
            dense: (B, 13) numbers.
            context: Ids of the user's bags, (13, L).
            candidates: Ids of the candidates' bags, (13, B, L).
        """
        _, rows, length = candidates.shape
        one = torch.tensor([0, length])
        many = torch.arange(0, rows * length + 1, length)
        pooled = [self.tables[name](ids, one).expand(rows, -1) for name, ids in zip(CONTEXT, context, strict=True)]
        pooled += [self.tables[name](ids.reshape(-1), many) for name, ids in zip(CANDIDATE, candidates, strict=True)]
        return self.score(dense, pooled)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the rows of every table (rows, 64), by name; they are not copied."""
        return {
            name.removesuffix(".weight"): parameter.detach().numpy()
            for name, parameter in self.tables.named_parameters()
        }

    def forward(self, dense: Tensor, **bags: Tensor) -> Tensor:
        pooled = [self.tables[name](bags[name], bags[f"{name}_offsets"]) for name in CONTEXT + CANDIDATE]
        return self.score(dense, pooled)


# export_model binds arguments by parameter name: say the names that `**bags` stands for.
_NAMES = tuple(f"{name}{part}" for name in CONTEXT + CANDIDATE for part in ("", "_offsets"))
Dlrm.forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        *(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "dense")),
        *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in _NAMES),
    ]
)


def make_model(rows: int, seed: int = 0) -> Dlrm:
    """Return the model with weights of a fixed seed, in eval mode."""
    torch.manual_seed(seed)
    return Dlrm(rows).eval()


def cache_folder() -> Path:
    """Return where generated models and tables are kept between runs: $RINGPULL_BENCH_CACHE, or a temporary folder."""
    folder = Path(os.environ.get("RINGPULL_BENCH_CACHE") or Path(tempfile.gettempdir()) / "ringpull-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def dlrm_folder(rows: int, precision: Literal["float32", "bfloat16"] = "float32") -> Path:
    """Return the model folder `.../dlrm` with `rows` rows per table, exporting it first if this machine has none.

    Args:
        precision: Precision of the dense program.
    """
    from ringpull import Dense, Schema, Sparse, export_model

    short = "" if precision == "float32" else f"-{precision}"
    folder = cache_folder() / f"rows-{rows}{short}" / MODEL
    if not (folder / "1" / "manifest.json").exists():
        names = CONTEXT + CANDIDATE
        schema = Schema(features=[Dense("dense", width=DENSE), *(Sparse(name, many=True) for name in names)])
        print(f"exporting a DLRM of {len(names)} tables x {rows:,} rows", flush=True)
        export_model(make_model(rows), schema, folder, 1, dense_precision=precision, quiet=True)
    return folder
