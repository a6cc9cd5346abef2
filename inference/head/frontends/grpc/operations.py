"""`ringpull.v1.Operations` on a head: what operators ask is handed on to the coordinator.

It is served twice: at the operators' door, and on the port of predictions, where whoever may only look may only look.

What is asked and told is read and written in the operators' threads: a deployment of a thousand shards is many numbers.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial
from typing import Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from ringpull import __version__
from ringpull.inference.head.access import ANY_ROLE, Access, AtDoor
from ringpull.inference.head.audit import Entry
from ringpull.inference.head.frontends.grpc.methods import authorization_of, end_call, parse
from ringpull.inference.head.frontends.operators import DOOR, Operators, call_in_time
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, OperatorVerbs
from ringpull.router.control.verbs import Role, Verb

R = TypeVar("R")

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Operations"]


class OperationsService:
    """The verbs, as one coroutine for `ringpull.inference.head.frontends.grpc.methods`."""

    def __init__(self, operators: Operators | None = None, access: Access | None = None, *, door: str = DOOR) -> None:
        """Prepare the verbs.

        Args:
            operators: The way to the coordinator; None: there is none, and every verb says so.
            access: Who may ask what; None: whoever gets here, everything.
            door: Name of this way in, for the audit log.
        """
        self._operators = operators or Operators(None)
        self._access = access or AtDoor()
        self._door = door

    def admit(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all, before a message of theirs is received; whoever is not is told of.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
        """
        with self._operators.audit.refusals_of(Entry("", "", context.peer(), self._door)):
            self._access.admit(authorization_of(context), *ANY_ROLE)

    async def call(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Have the coordinator carry out one verb."""
        message = parse(pb.OperationRequest, body)
        verb = VERBS.find(message.verb)
        if verb is not None and verb.role is not Role.OPERATE:
            looked = await asyncio.wrap_future(self._begin(message, context))
            return pb.OperationReply(reply=looked)
        # One that is not known here may be one that changes something, of another build.
        entry = Entry(message.verb, message.request, context.peer(), self._door)
        reply = await self._operators.audited(entry, lambda: self._begin(message, context, entry))
        return pb.OperationReply(reply=reply)

    def _begin(
        self, message: pb.OperationRequest, context: grpc.aio.ServicerContext, entry: Entry | None = None
    ) -> Future[str]:
        """Let the caller in, and hand the verb to a thread, which reads and writes it too: a plan may be large."""
        known = VERBS.find(message.verb)
        # First of all: which build this is, a stranger need not know.
        caller = self._access.admit(authorization_of(context), *(ANY_ROLE if known is None else (known.role,)))
        if entry is not None and known is not None:
            entry.who = caller.name
        if message.build != __version__:
            raise InvalidInput(_another_build(message.build))
        verb = VERBS.named(message.verb)
        left_s = context.time_remaining()
        until_s = None if left_s is None else time.monotonic() + left_s
        return self._operators.begin(partial(_call_in_json, verb, message.request), self._door, until_s)


def _call_in_json(verb: Verb[R], request: str, operations: OperatorVerbs, until_s: float | None) -> str:
    return VALUES.to_json(verb.reply, call_in_time(operations, VALUES.from_json(verb.request, request), until_s))


class MethodsOfOtherBuilds(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers calls of methods that the service had in earlier builds, or has in later ones, by saying so.

    Args:
        access: Rule of who is told; any role will do.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a method of the service that has no other one."""
        if not details.method.startswith(f"/{SERVICE.full_name}/"):
            return None
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, request: bytes, context: grpc.aio.ServicerContext) -> NoReturn:
        try:
            self._access.admit(authorization_of(context), *ANY_ROLE)
        except RingpullError as exc:
            await end_call(context, exc)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _another_build(""))
        raise AssertionError("abort always raises")


def _another_build(theirs: str) -> str:
    asked = f"ringpull {theirs}" if theirs else "another build of ringpull"
    return (
        f"this head is of ringpull {__version__}, and was asked by {asked}; operate it with the ringpull that serves it"
    )
