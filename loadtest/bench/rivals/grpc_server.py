"""The plain grpc.aio server around a function from one request's bytes to its reply's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import uvloop

from ringpull.loadtest.bench.rivals import METHOD


def serve_model(score: Callable[[bytes], bytes], *, threads: int) -> None:
    """Serve `score`, run in `threads` threads, until killed."""
    pool = ThreadPoolExecutor(threads)

    async def answer(request: bytes, context: Any) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(pool, score, request)

    uvloop.run(serve(answer))


async def serve(answer: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
    """Serve on a free port of loopback until killed; prints `ready PORT`."""
    _, service, method = METHOD.split("/")
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready {port}", flush=True)
    await server.wait_for_termination()
