"""Rival (b): the whole model, all tables local, in one plain grpc.aio server."""

from __future__ import annotations

import typer

from ringpull.loadtest.bench import dlrm
from ringpull.loadtest.bench.rivals.grpc_server import serve_model


def main(rows: int = typer.Option(..., help="Rows per table."), threads: int = typer.Option(1)) -> None:
    import torch

    torch.set_num_threads(2)
    model = dlrm.make_model(rows)

    def score(data: bytes) -> bytes:
        with torch.inference_mode():
            return model.score_request(dlrm.Request.from_bytes(data)).numpy().tobytes()

    serve_model(score, threads=threads)


if __name__ == "__main__":
    typer.run(main)
