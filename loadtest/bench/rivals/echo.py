"""The least a grpc.aio server can do: answer each request with as many bytes as it is told to."""

from __future__ import annotations

from typing import Any

import typer
import uvloop

from ringpull.loadtest.bench.rivals.grpc_server import serve


def main(reply_bytes: int = typer.Option(..., help="Of every reply.")) -> None:
    reply = bytes(reply_bytes)

    async def answer(request: bytes, context: Any) -> bytes:
        return reply

    uvloop.run(serve(answer))


if __name__ == "__main__":
    typer.run(main)
