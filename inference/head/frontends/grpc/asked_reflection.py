"""gRPC's reflection, for whoever is known: what can be asked here is told to every token, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection
from typing import Any

import grpc.aio
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.frontends.grpc.methods import authorization_of, end_call
from ringpull.ps.errors import RingpullError


def add_reflection(services: Collection[str], server: Any, access: Access) -> None:
    """Add the service to a server, or to what takes handlers as one does (`CallLimits`).

    Args:
        services: Full names of the services that it tells of.
        access: Rule of who may ask; any role will do.
    """
    add_ServerReflectionServicer_to_server(_Reflection(services, access), server)


class _Reflection(aio.ReflectionServicer):  # type: ignore[misc]  # grpc has no types
    def __init__(self, services: Collection[str], access: Access) -> None:
        super().__init__(services)
        self._access = access

    async def ServerReflectionInfo(
        self, requests: AsyncIterable[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        try:
            self._access.admit(authorization_of(context), *ANY_ROLE)
        except RingpullError as exc:
            await end_call(context, exc)
        async for answer in super().ServerReflectionInfo(requests, context):
            yield answer
