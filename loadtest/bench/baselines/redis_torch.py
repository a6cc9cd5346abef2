"""Baseline (c): rows in Redis, fetched with MGET and pooled with numpy, the rest in torch, behind plain grpc.aio."""

from __future__ import annotations

from typing import Any

import numpy as np
import redis
import torch
import typer

from ringpull.loadtest import dlrm
from ringpull.loadtest.bench.baselines.grpc_server import serve_model
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES, Request
from ringpull.loadtest.bench.redis_server import fill


def main(
    rows: int = typer.Option(..., help="Rows per table."),
    redis_port: int = typer.Option(...),
    threads: int = typer.Option(2),
) -> None:
    torch.set_num_threads(1)
    model = dlrm.make_model(rows)
    client: Any = redis.Redis(port=redis_port)
    for name, weight in model.weights().items():
        fill(client, name, weight)

    def score(data: bytes) -> bytes:
        request = Request.from_bytes(data)
        keys = [f"{name}:{i}" for name, ids in zip(dlrm.CONTEXT, request.context, strict=True) for i in ids.tolist()]
        keys += [
            f"{name}:{i}"
            for name, ids in zip(dlrm.CANDIDATE, request.candidates, strict=True)
            for i in ids.reshape(-1).tolist()
        ]
        vectors = np.frombuffer(b"".join(client.mget(keys)), np.float32).reshape(-1, BAG, dlrm.DIM).sum(axis=1)
        context, candidates = np.split(vectors, [dlrm.CONTEXT_TABLES])
        pooled = [torch.from_numpy(v).expand(CANDIDATES, dlrm.DIM) for v in context]
        pooled += list(torch.from_numpy(candidates.reshape(dlrm.CANDIDATE_TABLES, CANDIDATES, dlrm.DIM)))
        with torch.inference_mode():
            return model.score(torch.from_numpy(request.dense.copy()), pooled).numpy().tobytes()

    serve_model(score, threads=threads)


if __name__ == "__main__":
    typer.run(main)
