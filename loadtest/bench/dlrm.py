"""The recommender that the end-to-end benches serve, and its requests.

DLRM: 13 context and 13 candidate tables of dim 64, bags of 10 ids summed, 13 dense numbers per candidate; bottom
512-256-64, dot interaction, top 512-256-1. A request is one user and 128 candidates. All contenders share these
weights and requests.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ringpull import Ragged
from ringpull.inference.wire.codec import PredictCall, as_call, encode_request

MODEL = "dlrm"
CONTEXT_TABLES = 13
CANDIDATE_TABLES = 13
DENSE = 13
DIM = 64
BAG = 10
CANDIDATES = 128

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

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the rows of every table (rows, 64), by name; they are not copied."""
        return {
            name.removesuffix(".weight"): parameter.detach().numpy()
            for name, parameter in self.tables.named_parameters()
        }

    def forward(self, dense: Tensor, **bags: Tensor) -> Tensor:
        pooled = [self.tables[name](bags[name], bags[f"{name}_offsets"]) for name in CONTEXT + CANDIDATE]
        return self.score(dense, pooled)

    def score_request(self, request: Request) -> Tensor:
        """Score one request as a careful user would in process: the context's bags are pooled once."""
        one = torch.tensor([0, BAG])
        many = torch.arange(0, request.rows * BAG + 1, BAG)
        pooled = [
            self.tables[name](torch.from_numpy(request.context[i]), one).expand(request.rows, DIM)
            for i, name in enumerate(CONTEXT)
        ]
        pooled += [
            self.tables[name](torch.from_numpy(request.candidates[i].reshape(-1)), many)
            for i, name in enumerate(CANDIDATE)
        ]
        return self.score(torch.from_numpy(request.dense), pooled)


# export_model binds arguments by parameter name: say the names that `**bags` stands for.
_NAMES = ("self", "dense", *(f"{name}{part}" for name in CONTEXT + CANDIDATE for part in ("", "_offsets")))
Dlrm.forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in _NAMES]
)


@dataclass(frozen=True, slots=True)
class Request:
    """One user, B candidates: 128 unless said otherwise."""

    dense: NDArray[np.float32]
    """(B, 13)."""
    context: NDArray[np.int64]
    """(13, 10)."""
    candidates: NDArray[np.int64]
    """(13, B, 10)."""

    @property
    def rows(self) -> int:
        """How many candidates."""
        return len(self.dense)

    def to_bytes(self) -> bytes:
        """Return the buffers end to end: the least that the rivals' own protocols could send."""
        return self.dense.tobytes() + self.context.tobytes() + self.candidates.tobytes()

    @classmethod
    def from_bytes(cls, buffer: bytes) -> Request:
        """Read what `to_bytes` wrote of a request of 128 candidates."""
        data = bytearray(buffer)  # torch wants memory it could write to
        dense_bytes, context_bytes = CANDIDATES * DENSE * 4, CONTEXT_TABLES * BAG * 8
        return cls(
            np.frombuffer(data, np.float32, CANDIDATES * DENSE).reshape(CANDIDATES, DENSE),
            np.frombuffer(data, np.int64, CONTEXT_TABLES * BAG, dense_bytes).reshape(CONTEXT_TABLES, BAG),
            np.frombuffer(data, np.int64, offset=dense_bytes + context_bytes).reshape(
                CANDIDATE_TABLES, CANDIDATES, BAG
            ),
        )


def make_model(rows: int, seed: int = 0) -> Dlrm:
    """Return the model with weights of a fixed seed, in eval mode."""
    torch.manual_seed(seed)
    return Dlrm(rows).eval()


def make_requests(count: int, rows: int, *, candidates: int = CANDIDATES, seed: int = 1) -> list[Request]:
    """Return `count` requests with uniform ids below `rows`."""
    rng = np.random.default_rng(seed)
    return [
        Request(
            rng.standard_normal((candidates, DENSE)).astype(np.float32),
            rng.integers(0, rows, (CONTEXT_TABLES, BAG)),
            rng.integers(0, rows, (CANDIDATE_TABLES, candidates, BAG)),
        )
        for _ in range(count)
    ]


def call_of(request: Request, *, with_timings: bool = False) -> PredictCall:
    """Return the request as a call of ringpull's client."""
    offsets = np.arange(0, request.rows * BAG + 1, BAG, dtype=np.int64)
    one = np.array([0, BAG], np.int64)
    features: dict[str, Any] = {"dense": request.dense}
    features.update({name: Ragged(request.candidates[i].reshape(-1), offsets) for i, name in enumerate(CANDIDATE)})
    context = {name: Ragged(request.context[i], one) for i, name in enumerate(CONTEXT)}
    return as_call(MODEL, features, context, with_timings=with_timings)


def payload_of(request: Request, *, with_timings: bool = False) -> bytes:
    """Return the request as bytes of ringpull's Predict."""
    return encode_request(call_of(request, with_timings=with_timings)).SerializeToString()
