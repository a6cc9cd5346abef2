"""gRPC's reflection, for whoever is known: what can be asked here is told to every token, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable
from contextlib import suppress
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from ringpull.inference.head.access import ANY_ROLE, Access
from ringpull.inference.head.frontends.grpc.methods import authorization_of, end_call
from ringpull.ps.errors import RingpullError


def add_reflection(
    services: Collection[str], server: Any, access: Access, others: Iterable[ServiceDescriptor] = ()
) -> None:
    """Add the service to a server, or to what takes handlers as one does (`CallLimits`).

    Args:
        services: Full names of the services that it tells of, in protobuf's default pool.
        access: Rule of who may ask; any role will do.
        others: Services that it tells of, too, in whatever pool they are.
    """
    others = tuple(others)
    names = (*services, *(each.full_name for each in others))
    pools = _Pools((*(each.file.pool for each in others), descriptor_pool.Default()))
    add_ServerReflectionServicer_to_server(_Reflection(names, pools, access), server)


class _Pools:
    """Descriptor pools as reflection looks into one: the first that has what is asked for answers, alone.

    The default one is the last: it may hold the messages of others' protocols as well, for a client in this process.
    """

    def __init__(self, pools: Iterable[Any]) -> None:
        self._pools = tuple(dict.fromkeys(pools))

    def _first(self, find: str, name: str) -> Any:
        for pool in self._pools:
            with suppress(KeyError):
                return getattr(pool, find)(name)
        raise KeyError(name)

    def FindFileByName(self, name: str) -> Any:
        return self._first("FindFileByName", name)

    def FindFileContainingSymbol(self, name: str) -> Any:
        return self._first("FindFileContainingSymbol", name)

    def FindMessageTypeByName(self, name: str) -> Any:
        return self._first("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        return message.file.pool.FindAllExtensions(message)


class _Reflection(aio.ReflectionServicer):  # type: ignore[misc]  # grpc has no types
    def __init__(self, services: Collection[str], pools: _Pools, access: Access) -> None:
        super().__init__(services, pools)
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
