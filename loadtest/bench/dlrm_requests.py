"""The requests that all contenders of the end-to-end benches get: one user and 128 candidates, bags of 10 ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ringpull import Ragged
from ringpull.inference.wire.codec import PredictCall, as_call, encode_request
from ringpull.loadtest.dlrm import CANDIDATE, CANDIDATE_TABLES, CONTEXT, CONTEXT_TABLES, DENSE, MODEL, Dlrm

BAG = 10
CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Request:
    """One user, B candidates: 128 unless said otherwise."""

    dense: NDArray[np.float32]
    """Numbers of the candidates, (B, 13)."""
    context: NDArray[np.int64]
    """Ids of the user's bags, (13, 10)."""
    candidates: NDArray[np.int64]
    """Ids of the candidates' bags, (13, B, 10)."""

    @property
    def rows(self) -> int:
        """Number of candidates."""
        return len(self.dense)

    def to_bytes(self) -> bytes:
        """Return the buffers end to end: the least that the baselines' own protocols could send."""
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


def score_request(model: Dlrm, request: Request) -> Tensor:
    """Score one request in process."""
    return model.score_user(*map(torch.from_numpy, (request.dense, request.context, request.candidates)))


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


def payloads_of(count: int, rows: int, *, candidates: int = CANDIDATES) -> list[bytes]:
    """Return `make_requests` as bytes of ringpull's Predict."""
    return [payload_of(request) for request in make_requests(count, rows, candidates=candidates)]
