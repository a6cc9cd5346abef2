"""A head that does nothing: answers every Predict with the same bytes. What a load tool costs is measured on it.

python -m ringpull.loadtest.echo        prints `ready PORT`, serves until it is told to end
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from ringpull.inference.client.stubs import PREDICT
from ringpull.inference.proto import ringpull_pb2 as pb

SCORES: Final = 128
"""In its answer, as a head's to 128 candidates."""


def reply() -> bytes:
    """Return an answer as long as a real one, with timings."""
    response = pb.PredictResponse(model="echo", version=1, timings=pb.Timings(total_us=1))
    response.outputs["score"].CopyFrom(pb.Tensor(shape=[SCORES], data=bytes(4 * SCORES)))
    return response.SerializeToString()


async def _serve() -> None:
    answer = reply()

    async def predict(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    service, method = PREDICT.path.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(predict)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)
    print(f"ready {port}", flush=True)
    await told.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_serve())
