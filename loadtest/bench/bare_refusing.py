"""A bare grpc.aio server that knows its capacity: so many calls at a time, and all others are refused at once.

    python -m ringpull.loadtest.bench.bare_refusing [--at-a-time N] [--service-us N] [--reply-bytes N]

It prints `ready PORT` and serves until it is told to end. To serve a call is to take so much processor time in a
thread, outside Python's lock, as a dense program does. Nothing is decoded, and what is refused is not received: what is
lost at three times its top rate is what gRPC and the load generator take, which no admission gives back.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from ringpull.inference.client.stubs import CHANNEL_OPTIONS, PREDICT
from ringpull.loadtest.bench.echo import reply, serving

THREADS: Final = 2
_BYTES: Final = memoryview(bytes(16 << 20))
"""Bytes that are hashed as work: hashlib lets go of the lock meanwhile."""
_STEP: Final = _BYTES[: 256 << 10]
"""Bytes of a step of it, a few tenths of a millisecond."""
STEP_SHARE: Final = 0.9
"""Part of a call's work that is one step, as a dense program is: after each step a thread asks for Python's lock, and
waits for the event loop, which is never idle under overload."""


def bytes_per_s() -> float:
    """Return how many bytes are hashed in a second of processor time."""
    began_s = time.thread_time()
    hashlib.sha256(_BYTES)
    return len(_BYTES) / (time.thread_time() - began_s)


def work(cpu_s: float, rate: float = 0.0) -> None:
    """Take so much processor time, most of it in one step if `rate` says how many bytes are hashed in a second."""
    until_s = time.thread_time() + cpu_s
    hashlib.sha256(_BYTES[: int(STEP_SHARE * cpu_s * rate)])
    while time.thread_time() < until_s:
        hashlib.sha256(_STEP)


class Refusing:
    """The method of the server. Owned by the event loop."""

    def __init__(self, at_a_time: int, service_s: float, answer: bytes) -> None:
        self._at_a_time = at_a_time
        self._service_s = service_s
        self._answer = answer
        self._calls = 0
        self._pool = ThreadPoolExecutor(THREADS)
        self._rate = bytes_per_s()

    async def __call__(self, _messages: Any, context: grpc.aio.ServicerContext) -> bytes:
        """Receive and serve a call, or refuse it before it is received."""
        if self._calls >= self._at_a_time:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        self._calls += 1
        try:
            await context.read()
            if self._service_s:
                await asyncio.get_running_loop().run_in_executor(self._pool, work, self._service_s, self._rate)
            return self._answer
        finally:
            self._calls -= 1


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ringpull.loadtest.bench.bare_refusing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--at-a-time", type=int, default=16, help="calls served at a time")
    parser.add_argument("--service-us", type=float, default=0.0, help="processor time of a call besides gRPC's")
    parser.add_argument("--reply-bytes", type=int, help="length of every answer; default: a head's")
    options = parser.parse_args()
    answer = reply() if options.reply_bytes is None else bytes(options.reply_bytes)

    async def go() -> None:
        refusing = Refusing(options.at_a_time, options.service_us / 1e6, answer)
        # For gRPC a stream: the message of a call of one is received before the method hears of it.
        await serving(PREDICT.path, grpc.stream_unary_rpc_method_handler(refusing.__call__), CHANNEL_OPTIONS)

    uvloop.run(go())


if __name__ == "__main__":
    main()
