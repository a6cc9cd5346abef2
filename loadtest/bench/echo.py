"""A head that does nothing: answers every Predict with the same bytes. What a load tool costs is measured on it.

    python -m ringpull.loadtest.bench.echo [--reply-bytes N]        prints `ready PORT`, serves until it is told to end

It is also the floor under every head: a bare grpc.aio server, told how many bytes to answer with.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.inference.proto import ringpull_pb2 as pb

SCORES: Final = 128
"""Scores of the answer, as a head's to 128 candidates."""


def reply() -> bytes:
    """Return an answer as long as a real one, with timings."""
    response = pb.PredictResponse(model="echo", version=1, timings=pb.Timings(total_us=1))
    response.outputs["score"].CopyFrom(pb.Tensor(shape=[SCORES], data=bytes(4 * SCORES)))
    return response.SerializeToString()


async def serve(path: str, answer: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
    """Serve one method, bytes in and bytes out, on a free port of loopback until told to end; prints `ready PORT`."""
    await serving(path, grpc.unary_unary_rpc_method_handler(answer), CHANNEL_OPTIONS)


async def serving(path: str, handler: grpc.RpcMethodHandler, options: Sequence[tuple[str, Any]]) -> None:
    """Serve one method by its handler, as `serve` does."""
    server = grpc.aio.server(options=options)
    service, method = path.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    print(f"ready {port}", flush=True)
    await stop.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ringpull.loadtest.bench.echo", description=__doc__)
    parser.add_argument("--reply-bytes", type=int, help="length of every answer; default: a real one")
    size = parser.parse_args().reply_bytes
    same = reply() if size is None else bytes(size)

    async def answer(request: bytes, context: Any) -> bytes:
        return same

    uvloop.run(serve(PREDICT.path, answer))


if __name__ == "__main__":
    main()
