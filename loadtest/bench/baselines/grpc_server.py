"""The plain grpc.aio server around a function from one request's bytes to its reply's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop

from ringpull.loadtest.bench.baselines import METHOD
from ringpull.loadtest.bench.echo import serve


def serve_model(score: Callable[[bytes], bytes], *, threads: int) -> None:
    """Serve `score`, run in `threads` threads, until killed."""
    pool = ThreadPoolExecutor(threads)

    async def answer(request: bytes, context: Any) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(pool, score, request)

    uvloop.run(serve(METHOD, answer))
