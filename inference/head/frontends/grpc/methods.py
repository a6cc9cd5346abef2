"""gRPC method handlers built from the service descriptors of `ringpull.proto`, and from errors to status codes.

No generated gRPC stubs are needed: a service is an object with one coroutine per method, named as the method in snake
case, that takes the request's bytes and the call's context, and returns the reply message, or its bytes where it has
written them itself, beside the event loop. (Bytes: so that decoding is timed, and a body that is no such message gets
INVALID_ARGUMENT, not INTERNAL.) What it raises becomes the call's status here, once.

A method may receive its message itself, after it has seen the call's deadline: under overload most calls are refused,
and their bytes are never copied out of the transport.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ringpull.inference.wire.status_codes import PUSHBACK, public_text, status_of
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[bytes]]
"""Function that receives the message of a call, once. Raises InvalidInput where there is none."""
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Service:
    """Service as a server takes it: its methods by name, in snake case, and who is let in at all."""

    descriptor: ServiceDescriptor
    methods: object
    """Object with a coroutine for each method."""
    admit: Callable[[grpc.aio.ServicerContext], object]
    """Function that lets a caller in before its message is received; raises Unauthenticated or Forbidden."""
    receiving: tuple[str, ...] = ()
    """Names of methods that receive their message themselves."""
    free: tuple[str, ...] = ()
    """Names of methods that anyone may call: probes have no token."""
    own: Mapping[str, Callable[[grpc.aio.ServicerContext], object]] = field(default_factory=dict)
    """Names of methods with an `admit` of their own: of operators' verbs it is told who was not let in."""


AUTHORIZATION: Final = "authorization"


def authorization_of(context: grpc.aio.ServicerContext) -> str | None:
    """Return what the caller of a call shows of itself, for `Access.admit`; None: nothing.

    Several headers are as one with all of their values, as in HTTP: no such value is a token.
    """
    shown = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
    if not shown:
        return None
    return ", ".join(value if isinstance(value, str) else value.decode("latin-1") for value in shown)


def keep_headers_out_of_logs() -> None:
    """Have gRPC log no header that is not UTF-8: it would, whole, for every call, and a header may hold a secret."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_no_header)


def _is_of_no_header(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


_CODES: Final = {code.name: code for code in grpc.StatusCode}


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code that a call ends with when `error` is raised."""
    return _CODES[status_of(error).grpc]


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
    service: ServiceDescriptor, methods: object, receiving: Collection[str] = ()
) -> grpc.GenericRpcHandler:
    """Return the handler of all of `method_handlers`."""
    return grpc.method_handlers_generic_handler(service.full_name, method_handlers(service, methods, receiving))


def method_handlers(
    service: ServiceDescriptor, methods: object, receiving: Collection[str] = ()
) -> dict[str, grpc.RpcMethodHandler]:
    """Return the unary methods of `service` by name, each served by the coroutine of `methods` of that name.

    Args:
        receiving: Names of those that receive their message themselves: they are given a `Receive` for the bytes.
    """

    def handler(name: str, output: Descriptor) -> grpc.RpcMethodHandler:
        method, full_name = getattr(methods, _snake_case(name)), f"{service.full_name}/{name}"
        serialize = _serializer(GetMessageClass(output))
        if name not in receiving:
            return grpc.unary_unary_rpc_method_handler(_guarded(full_name, method), response_serializer=serialize)
        # For the wire a stream of requests is like one request. But gRPC receives the messages of a stream only when
        # they are asked for: a refused call takes 146 us instead of 203 us (27 kB messages, 2 cores of an Intel Xeon).
        return grpc.stream_unary_rpc_method_handler(
            _guarded(full_name, method, _receive_of), response_serializer=serialize
        )

    return {method.name: handler(method.name, method.output_type) for method in service.methods}


def _serializer(message_type: type[Message]) -> Callable[[Message | bytes], bytes]:
    to_bytes = message_type.SerializeToString
    return lambda reply: reply if isinstance(reply, bytes) else to_bytes(reply)


def _itself(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return request


def _receive_of(_messages: object, context: grpc.aio.ServicerContext) -> Receive:
    return partial(_received, context)


async def _received(context: grpc.aio.ServicerContext) -> bytes:
    body = await context.read()
    if body is grpc.aio.EOF:
        raise InvalidInput("the call ended without a request message")
    return bytes(body)


def _guarded(
    name: str,
    method: Callable[[Any, grpc.aio.ServicerContext], Awaitable[Message]],
    given: Callable[[Any, grpc.aio.ServicerContext], object] = _itself,
) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]:
    """Return a method whose errors are its call's status.

    Args:
        given: Returns what the method is given in place of what gRPC gives.
    """

    async def call(request: Any, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await method(given(request, context), context)
        except RingpullError as exc:
            if code_of(exc) is grpc.StatusCode.INTERNAL:
                logger.error("%s: %s", name, exc, exc_info=exc)
            await end_call(context, exc)
        except Exception as exc:
            logger.exception("%s failed", name)  # a bug here, not the caller's doing
            await end_call(context, exc)

    return call


async def end_call(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call with an error, as its status, and with the hint when to come back if it has one."""
    retry_after_s = error.retry_after_s if isinstance(error, LimitExceeded) else None
    metadata = () if retry_after_s is None else ((PUSHBACK, str(math.ceil(retry_after_s * 1e3))),)
    await context.abort(code_of(error), public_text(error), metadata)
    raise AssertionError("abort always raises")


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
