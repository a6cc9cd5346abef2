"""gRPC as a client needs it, in its sync and asyncio form: method paths, channel options, and what failures mean.

The paths and message types come from the service descriptors of `ringpull.proto`; no generated stubs are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ringpull.inference.client.connecting import NO_GRPC, NOT_CONNECTED, advice, through_proxy
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.retry import BRIEF_CHARS, Failure
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.proto import writer_pb2
from ringpull.inference.wire.status_codes import PUSHBACK, STATUSES
from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, RingpullError, Unauthenticated, Unavailable

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # The server's limits decide, and answer by name; gRPC's own default would cut replies off at 4 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)

_ERRORS: Final[dict[grpc.StatusCode, type[RingpullError]]] = {
    **{grpc.StatusCode[each.grpc]: each.error for each in STATUSES if issubclass(each.error, RingpullError)},
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # These clients cancel nothing themselves: the server stopped, or too many waited there, before it took the call.
    grpc.StatusCode.CANCELLED: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Rpc:
    """One unary method of the public contract."""

    path: str
    reply: type[Message]

    @classmethod
    def of(cls, method: MethodDescriptor) -> Rpc:
        """Return the method that a descriptor describes."""
        return cls(f"/{method.containing_service.full_name}/{method.name}", GetMessageClass(method.output_type))

    @classmethod
    def named(cls, service: str, method: str) -> Rpc:
        """Return the method of a service by their names in `ringpull.proto`."""
        return cls.of(pb.DESCRIPTOR.services_by_name[service].methods_by_name[method])

    def on(self, channel: Any) -> Any:
        """Return the method's callable on a channel, sync or asyncio."""
        return channel.unary_unary(
            self.path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=self.reply.FromString,
        )


PREDICT: Final = Rpc.named("Predictor", "Predict")
LOOKUP: Final = Rpc.named("Predictor", "Lookup")
TOP_K: Final = Rpc.named("Predictor", "TopK")
GET_MODEL: Final = Rpc.named("Predictor", "GetModel")
LIST_MODELS: Final = Rpc.named("Predictor", "ListModels")
GET_STATUS: Final = Rpc.named("Admin", "GetStatus")
_WRITER: Final = writer_pb2.DESCRIPTOR.services_by_name["Writer"].methods_by_name
PUSH: Final = Rpc.of(_WRITER["Push"])
ROUTE: Final = Rpc.of(_WRITER["Route"])


NOTHING: Final = Credentials()
"""Credentials of a client that has none."""

BARE: Final = ("CANCELLED", "RST_STREAM", "Received RST_STREAM with error code 8", "no details")
"""gRPC's words for a call that was ended without a status: so do servers that have too many waiting, before they look
at it, and those that stop."""

PUSHBACK_DIGITS: Final = 9
"""Digits of a pause in milliseconds that is believed: up to 11 days."""


def error_of(target: str, error: Any, credentials: Credentials = NOTHING) -> RingpullError:
    """Return our error for a failed call (`grpc.RpcError` with code and details), with the server's message."""
    failure = failure_of(target, error, credentials)
    if failure.kind is LimitExceeded:
        return LimitExceeded(failure.text, retry_after_s=failure.retry_after_s)
    return failure.kind(failure.text)


def failure_of(target: str, error: Any, credentials: Credentials = NOTHING) -> Failure:
    """Return what a failed call (`grpc.RpcError`) means, to a client that may send it again.

    Args:
        credentials: Credentials of the client, for what to do about a connection that does not come about.
    """
    code, details = error.code(), error.details() or "no details"
    kind = _ERRORS.get(code)
    cancelled = code is grpc.StatusCode.CANCELLED
    turned_away = cancelled and details in BARE
    if kind is None:
        text = f"{target}: {code.name}: {details}"
    else:
        text = f"{target}: {details}" if kind is Unavailable else details
    if turned_away:
        text += ": it took no more calls, or was stopping"
    elif more := _advice(target, kind, details, credentials):
        text += f" ({more})"
    may_retry = kind is Unavailable
    retry_after_s = None
    if kind in (Unavailable, LimitExceeded) and (asked := _pushback(error)) is not None:
        retry_after_s = _seconds(asked)
        may_retry = retry_after_s is not None
    brief = details if len(details) <= BRIEF_CHARS else f"{details[:BRIEF_CHARS]}..."
    return Failure(
        kind or RingpullError,
        text,
        f"{code.name} ({brief})",
        may_retry,
        retry_after_s,
        cancelled=cancelled,
        turned_away=turned_away,
    )


def _advice(target: str, kind: type[RingpullError] | None, details: str, credentials: Credentials) -> str:
    if details.startswith((NOT_CONNECTED, NO_GRPC)):
        return advice(target, details, credentials)
    if kind is DeadlineExceeded:
        return through_proxy(target)
    if kind is Unauthenticated and not credentials.token:
        return "this client shows no token: token=, --token or RINGPULL_TOKEN give it one"
    return ""


def _pushback(error: Any) -> str | None:
    return next((value for key, value in error.trailing_metadata() or () if key == PUSHBACK), None)


def _seconds(asked: str) -> float | None:
    """Return the wait that a server asked for; None: do not come back, which is also what anything odd means (A6)."""
    plain = asked.isascii() and asked.isdecimal() and len(asked) <= PUSHBACK_DIGITS
    return int(asked) / 1e3 if plain else None
