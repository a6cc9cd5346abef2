"""Baseline (b): the whole model, all tables local, in one plain grpc.aio server."""

from __future__ import annotations

import typer

from ringpull.loadtest.bench.baselines.grpc_server import serve_model
from ringpull.loadtest.bench.dlrm_requests import Request, score_request
from ringpull.loadtest.dlrm import make_model


def main(
    rows: int = typer.Option(..., help="Rows per table."),
    threads: int = typer.Option(1, help="Threads that score requests."),
    torch_threads: int = typer.Option(1, help="Threads that torch computes a request with."),
) -> None:
    import torch

    torch.set_num_threads(torch_threads)
    model = make_model(rows)

    def score(data: bytes) -> bytes:
        with torch.inference_mode():
            return score_request(model, Request.from_bytes(data)).numpy().tobytes()

    serve_model(score, threads=threads)


if __name__ == "__main__":
    typer.run(main)
