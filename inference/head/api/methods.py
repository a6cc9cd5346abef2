"""gRPC method handlers built from the service descriptors of `ringpull.proto`, and from errors to status codes.

No generated gRPC stubs are needed: a service is an object with one coroutine per method, named as the method in snake
case, that takes the request's bytes and the call's context, and returns the reply message. (Bytes: so that decoding
is timed, and a body that is no such message gets INVALID_ARGUMENT, not INTERNAL.) What it raises becomes the call's
status here, once.

A method may have a gate, which is asked before a call's message is received: under overload that is most of the calls,
and their bytes are never copied out of the transport.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from inference.client.stubs import PUSHBACK
from ps.errors import CorruptData, DeadlineExceeded, InvalidInput, LimitExceeded, NotFound, Retryable, RingpullError

logger = logging.getLogger(__name__)

Method = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Message]]
Gate = Callable[[], RingpullError | None]
"""Why a call that comes now is refused, whatever it asks; None: it is not."""
M = TypeVar("M", bound=Message)

STATUS_OF: Final[tuple[tuple[type[RingpullError], grpc.StatusCode], ...]] = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Retryable, grpc.StatusCode.UNAVAILABLE),
    (CorruptData, grpc.StatusCode.DATA_LOSS),
)
"""The first class that fits decides; anything else is INTERNAL."""


def status_of(error: RingpullError) -> grpc.StatusCode:
    """Return the status code that a call ends with when `error` is raised."""
    return next((code for kind, code in STATUS_OF if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def parse(message_type: type[M], body: bytes) -> M:
    """Parse a request's bytes.

    Raises:
        InvalidInput: They are not a message of that type.
    """
    try:
        return message_type.FromString(body)
    except DecodeError as exc:
        raise InvalidInput(f"the request is not a valid {message_type.DESCRIPTOR.full_name}: {exc}") from exc


def service_handler(
    service: ServiceDescriptor, methods: object, gates: Mapping[str, Gate] | None = None
) -> grpc.GenericRpcHandler:
    """Return the handler of all unary methods of `service`, each served by the coroutine of `methods` of that name.

    Args:
        gates: By method name, for those that have one.
    """
    handlers = {
        _path(service, method.name): grpc.unary_unary_rpc_method_handler(
            _guarded(f"{service.full_name}/{method.name}", getattr(methods, _snake_case(method.name))),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in service.methods
    }
    return _ServiceHandler(handlers, {_path(service, name): gate for name, gate in (gates or {}).items()})


class _ServiceHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Finds the handler of a call by its path; of one that the gate refuses, a handler that receives no message."""

    def __init__(self, handlers: Mapping[str, Any], gates: Mapping[str, Gate]) -> None:
        self._handlers = handlers
        self._gates = gates

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        gate = self._gates.get(path)
        refusal = None if gate is None else gate()
        return self._handlers.get(path) if refusal is None else _refusing(refusal)


def _refusing(refusal: RingpullError) -> Any:
    # For the wire a stream of requests is like one request. But gRPC receives the messages of a stream only when they
    # are asked for: a refused call takes 146 us instead of 203 us (27 kB messages, 2 cores of an Intel Xeon).
    async def refuse(_messages: object, context: grpc.aio.ServicerContext) -> NoReturn:
        await _end(context, refusal)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _guarded(name: str, method: Method) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
    async def call(body: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await method(body, context)
        except RingpullError as exc:
            if status_of(exc) is grpc.StatusCode.INTERNAL:
                logger.error("%s: %s", name, exc, exc_info=exc)
            await _end(context, exc)
        except Exception as exc:
            # A bug here, not the caller's doing: its text may hold anything, so it goes to the log only.
            logger.exception("%s failed", name)
            await _end(context, RingpullError(f"internal error ({type(exc).__name__}); the server's log has more"))

    return call


async def _end(context: grpc.aio.ServicerContext, error: RingpullError) -> NoReturn:
    retry_after_s = error.retry_after_s if isinstance(error, LimitExceeded) else None
    metadata = () if retry_after_s is None else ((PUSHBACK, str(math.ceil(retry_after_s * 1e3))),)
    await context.abort(status_of(error), str(error), metadata)
    raise AssertionError("abort always raises")


def _path(service: ServiceDescriptor, method: str) -> str:
    return f"/{service.full_name}/{method}"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
