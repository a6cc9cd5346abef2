"""How long calls wait within gRPC before the event loop takes them in: measured by a call of our own that waits too.

A head takes calls in one by one. When there are more than it can even refuse, they wait where nobody sees them, and by
the time they are taken in their deadlines have come: all that is answered is late, for as long as the overload lasts.
Only a call in the same queue tells how long it is. It is sent to a port of its own, where no other head listens, and
only while the admission is refusing: in better times there is no such queue, and nothing is spent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

PAUSE_S: Final = 0.05
"""Between two calls, or two looks whether one is due: by then a standing queue has not got much longer."""
TIMEOUT_S: Final = 5.0
"""Longer than this, it is as bad as can be."""


class Backlog:
    """Measures while it runs. Owned by the event loop."""

    def __init__(self, troubled: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare to measure.

        Args:
            troubled: Whether it is worth measuring now.
            clock: Seconds.
        """
        self._troubled = troubled
        self._clock = clock
        self._sent_s: float | None = None
        self._last_s = 0.0

    def wait_s(self) -> float:
        """Return how long calls wait: as the last of ours did, or the one under way at least; 0 when not measured."""
        under_way_s = 0.0 if self._sent_s is None else self._clock() - self._sent_s
        return max(self._last_s, under_way_s)

    async def measure(self, target: str) -> None:
        """Measure the server that listens at `target`, now and then, until cancelled."""
        async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                if self._troubled():
                    await self._call(stub)
                else:
                    self._last_s = 0.0
                await asyncio.sleep(PAUSE_S)

    async def _call(self, stub: health_pb2_grpc.HealthStub) -> None:
        sent_s = self._sent_s = self._clock()
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                sent_s = self._clock()  # refused, or the server ends: that says nothing of a wait
        finally:
            self._sent_s = None
        self._last_s = self._clock() - sent_s
