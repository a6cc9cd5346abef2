"""`grpc.health.v1` of a head: every service of it is as well as the whole, SERVING until it stops.

Watches end with the stop, after their last word: a stream that never ends would hold a graceful stop up for as long as
that may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

WHOLE_SERVER: Final = ""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """The health of these services, by their full names, and of the whole server."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = frozenset((WHOLE_SERVER, *services))
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answer NOT_SERVING from now on."""
        self._stopping.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer once. A service that is not here is NOT_FOUND."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} is served here")
        return self._answer(request.service)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Answer now and when that changes. A service that is not here is SERVICE_UNKNOWN."""
        await context.write(self._answer(request.service))
        if not self._stopping.is_set():
            await self._stopping.wait()
            await context.write(self._answer(request.service))

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        elif self._stopping.is_set():
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        else:
            status = health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse(status=status)
