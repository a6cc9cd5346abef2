"""The plain grpc.aio server around a function from one request's bytes to its scores' bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import uvloop

from loadtest.bench.rivals import METHOD


def serve(score: Callable[[bytes], bytes], *, threads: int) -> None:
    """Serve `score` on a free port of loopback until killed; prints `ready PORT`."""
    uvloop.run(_serve(score, threads))


async def _serve(score: Callable[[bytes], bytes], threads: int) -> None:
    pool = ThreadPoolExecutor(threads)
    loop = asyncio.get_running_loop()

    async def handle(request: bytes, context: Any) -> bytes:
        return await loop.run_in_executor(pool, score, request)

    _, service, method = METHOD.split("/")
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    handlers = {method: grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready {port}", flush=True)
    await server.wait_for_termination()
