"""`ringpull.v1.Operations` on a head: what operators ask is handed on to the coordinator.

The coordinator is asked in threads of its own, few, so that one that hangs holds up operators and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import grpc.aio
from google.protobuf.message import Message

from ringpull.inference.head.frontends.grpc.methods import parse
from ringpull.inference.proto import operations_codec as codec
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.router.control.operations import Operations

T = TypeVar("T")

THREADS: Final = 4

MAX_DRAIN_S: Final = 3600.0
"""Of a restart: a process that has stopped taking requests must not linger."""


class OperationsService:
    """The verbs, as coroutines for `inference.head.frontends.grpc.methods`."""

    def __init__(self, operations: Operations | None) -> None:
        """Prepare the verbs.

        Args:
            operations: The way to the coordinator; None: there is none, and every verb says so.
        """
        self._operations = operations
        self._threads = ThreadPoolExecutor(THREADS, "operations")

    async def submit(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Begin a change."""
        request = codec.decode_request(parse(pb.ChangeRequest, body))
        return codec.encode_status(await self._ask(lambda operations: operations.submit(request)))

    async def get_change(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Tell the change under way, or how the last one ended."""
        parse(pb.GetChangeRequest, body)
        return codec.encode_status(await self._ask(lambda operations: operations.change()))

    async def control_change(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Pause, resume or give up the change under way."""
        verb = codec.decode_control(parse(pb.ControlRequest, body))
        return codec.encode_status(await self._ask(lambda operations: operations.control(verb)))

    async def plan_rebalance(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Tell what a rebalance would move."""
        request = codec.decode_rebalance(parse(pb.Rebalance, body))
        return codec.encode_plan(await self._ask(lambda operations: operations.plan(request)))

    async def get_facts(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Tell what plans are made from."""
        parse(pb.GetFactsRequest, body)
        return codec.encode_facts(await self._ask(lambda operations: operations.facts()))

    async def get_members(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Tell how every shard and head is."""
        parse(pb.GetMembersRequest, body)
        return codec.encode_members(await self._ask(lambda operations: operations.members()))

    async def restart_member(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Have one process end, to be started anew."""
        request = parse(pb.RestartRequest, body)
        member = codec.decode_member(request.role, request.number)
        if not 0 <= request.drain_s <= MAX_DRAIN_S:
            raise InvalidInput(f"drain_s is {request.drain_s}; it must be from 0 to {MAX_DRAIN_S:g}")
        await self._ask(
            lambda operations: operations.restart(
                member, request.incarnation, drain_s=request.drain_s, force=request.force
            )
        )
        return pb.RestartReply()

    def close(self) -> None:
        """End the threads once they are idle."""
        self._threads.shutdown(wait=False)

    async def _ask(self, verb: Callable[[Operations], T]) -> T:
        operations = self._operations
        if operations is None:
            raise Unavailable("this head was started without a coordinator; nothing can be changed through it")
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: verb(operations))
