"""gRPC method handlers built from the service descriptors of `ringpull.proto`, and from errors to status codes.

No generated gRPC stubs are needed: a service is an object with one coroutine per method, named as the method in snake
case, that takes the request's bytes and the call's context, and returns the reply message. (Bytes: so that decoding
is timed, and a body that is no such message gets INVALID_ARGUMENT, not INTERNAL.) What it raises becomes the call's
status here, once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ps.errors import CorruptData, DeadlineExceeded, InvalidInput, LimitExceeded, NotFound, Retryable, RingpullError

logger = logging.getLogger(__name__)

Method = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Message]]
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


def service_handler(service: ServiceDescriptor, methods: object) -> grpc.GenericRpcHandler:
    """Return the handler of all unary methods of `service`, each served by the coroutine of `methods` of that name."""
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                _guarded(f"{service.full_name}/{method.name}", getattr(methods, _snake_case(method.name))),
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
        },
    )


def _guarded(name: str, method: Method) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
    async def call(body: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await method(body, context)
        except RingpullError as exc:
            code, details = status_of(exc), str(exc)
            if code is grpc.StatusCode.INTERNAL:
                logger.error("%s: %s", name, exc, exc_info=exc)
        except Exception as exc:
            # A bug here, not the caller's doing: its text may hold anything, so it goes to the log only.
            logger.exception("%s failed", name)
            code, details = (
                grpc.StatusCode.INTERNAL,
                f"internal error ({type(exc).__name__}); the server's log has more",
            )
        await context.abort(code, details)
        raise AssertionError("abort always raises")

    return call


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
