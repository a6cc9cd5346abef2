"""`ringpull.v1.Operations` on a head: what operators ask is handed on to the coordinator.

It is served twice: at the operators' door, and on the port of predictions, where whoever may only look may only look.

The coordinator is asked in threads of its own, few, so that one that hangs holds up operators and nobody else. What is
asked and told is read and written there, too: a deployment of a thousand shards is many numbers.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from ringpull import __version__
from ringpull.inference.head.access import ANY_ROLE, Access, AtDoor
from ringpull.inference.head.audit import AuditLog, Entry
from ringpull.inference.head.frontends.grpc.methods import authorization_of, end_call, parse
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, RingpullError, Unavailable
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.operations import VERBS, OperatorVerbs
from ringpull.router.control.verbs import Request, Role, Verb

R = TypeVar("R")

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Operations"]

THREADS: Final = 4


class OperationsService:
    """The verbs, as one coroutine for `ringpull.inference.head.frontends.grpc.methods`."""

    def __init__(
        self,
        operations: OperatorVerbs | None,
        access: Access | None = None,
        audit: AuditLog | None = None,
        *,
        door: str = "admin",
    ) -> None:
        """Prepare the verbs.

        Args:
            operations: The way to the coordinator; None: there is none, and every verb says so.
            access: Who may ask what; None: whoever gets here, everything.
            audit: Where those that change something are told; None: as events only.
            door: Name of this way in, for the audit log.
        """
        self._operations = operations
        self._access = access or AtDoor()
        self._audit = audit or AuditLog()
        self._door = door
        self._threads = ThreadPoolExecutor(THREADS, "operations")

    def admit(self, context: grpc.aio.ServicerContext) -> None:
        """Let in whoever is known at all, before a message of theirs is received; whoever is not is told of.

        Raises:
            Unauthenticated: The caller has to show a token that is known here.
        """
        with self._audit.refusals_of(Entry("", "", context.peer(), self._door)):
            self._access.admit(authorization_of(context), *ANY_ROLE)

    async def call(self, body: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Have the coordinator carry out one verb."""
        message = parse(pb.OperationRequest, body)
        verb = VERBS.find(message.verb)
        if verb is not None and verb.role is not Role.OPERATE:
            return pb.OperationReply(reply=await asyncio.wrap_future(self._begin(message, context)))
        # One that is not known here may be one that changes something, of another build.
        entry = Entry(message.verb, message.request, context.peer(), self._door)
        try:
            with self._audit.refusals_of(entry):
                begun = self._begin(message, context, entry)
            # Told from where it is carried out: that goes on when whoever asked goes away.
            begun.add_done_callback(partial(self._tell, entry))
            return pb.OperationReply(reply=await asyncio.wrap_future(begun))
        finally:
            await self._audit.written()

    def _begin(
        self, message: pb.OperationRequest, context: grpc.aio.ServicerContext, entry: Entry | None = None
    ) -> Future[Any]:
        """Let the caller in, and hand the verb to a thread, which reads and writes it too: a plan may be large."""
        known = VERBS.find(message.verb)
        # First of all: which build this is, a stranger need not know.
        caller = self._access.admit(authorization_of(context), *(ANY_ROLE if known is None else (known.role,)))
        if entry is not None and known is not None:
            entry.who = caller.name
        if message.build != __version__:
            raise InvalidInput(_another_build(message.build))
        verb = VERBS.named(message.verb)
        if self._operations is None:
            raise Unavailable("this head was started without a coordinator; nothing can be changed through it")
        left_s = context.time_remaining()
        until_s = None if left_s is None else time.monotonic() + left_s
        return self._threads.submit(self._call_in_json, self._operations, verb, message.request, until_s)

    def _tell(self, entry: Entry, done: Future[Any]) -> None:
        self._audit.tell(entry, asyncio.CancelledError() if done.cancelled() else done.exception())

    @classmethod
    def _call_in_json(cls, operations: OperatorVerbs, verb: Verb[R], request: str, until_s: float | None) -> str:
        return VALUES.to_json(verb.reply, cls._call(operations, VALUES.from_json(verb.request, request), until_s))

    @staticmethod
    def _call(operations: OperatorVerbs, request: Request[R], until_s: float | None) -> R:
        """Ask the coordinator, unless whoever asks has given up meanwhile, while the threads were busy."""
        if until_s is None:
            return operations.call(request)
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the operators' threads of this head are busy; nothing was begun")
        return operations.call(request, within_s=left_s)

    def close(self) -> None:
        """End the threads once they are idle."""
        self._threads.shutdown(wait=False)


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
