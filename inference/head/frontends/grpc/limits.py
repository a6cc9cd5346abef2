"""The limits of calls over gRPC, whatever service they are of: how many there may be, and how their messages come.

gRPC itself gives a call of one message to its method once that message is here, waits for it for ever, and counts the
call meanwhile as one of those in flight. Here every method receives its message itself, within
`ringpull.inference.head.receiving`, and has a place among the calls in flight of its way in, which requests over HTTP
are among, too (`ringpull.inference.head.calls_in_flight`).

Calls that answer with a stream (watches of health, reflection) may stay for as long as they like, so they have a number
of their own: however many there are, there is room for the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final

import grpc
import grpc.aio

from ringpull.inference.head.calls_in_flight import one_too_many
from ringpull.inference.head.frontends.grpc.direct_calls import is_direct
from ringpull.inference.head.frontends.grpc.methods import end_call
from ringpull.inference.head.receiving import Incoming, Receiving
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError

PROBES: Final = ("Check",)
"""Methods of one message that wait behind no crowd of other calls."""

Behavior = Callable[[Any, grpc.aio.ServicerContext], Any]

Admit = Callable[[grpc.aio.ServicerContext], object]
"""Function that lets a caller in. Raises Unauthenticated or Forbidden where it does not."""


class CallLimits:
    """Counts calls, and makes limited methods of what gRPC is to serve. Owned by the event loop.

    It takes handlers as a server does, for code that adds its own to one.
    """

    def __init__(self, receiving: Receiving, server: grpc.aio.Server, *, max_streams: int) -> None:
        """Begin with no call.

        Args:
            receiving: Limits of calls whose message is not here, and of those in flight.
            server: What serves them.
            max_streams: Calls that answer with a stream.
        """
        self._receiving = receiving
        self._server = server
        self._max_streams = max_streams
        self._streams = 0

    def __repr__(self) -> str:
        return f"<CallLimits {self._receiving.in_flight!r}, {self._streams} streams, {self._receiving!r}>"

    def add_generic_rpc_handlers(
        self,
        handlers: Collection[grpc.GenericRpcHandler],
        admit: Admit | None = None,
        free: Collection[str] = (),
        own: Mapping[str, Admit] | None = None,
    ) -> None:
        """Serve these, limited.

        Args:
            admit: Called before the message of a method of one message is received: a stranger's is not. None: they are
                free, or ask by themselves.
            free: Names of methods for which it is not called.
            own: What is called instead of it, by the names of methods.
        """
        admits: dict[str, Admit | None] = {**dict.fromkeys(free), **(own or {})}
        self._server.add_generic_rpc_handlers([_Limited(self, each, admit, admits) for each in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Serve those among these that shall have a queue of their own within gRPC, limited: probes, and methods that
        receive their message themselves (`ringpull.inference.head.frontends.grpc.direct_calls`).

        The others are among the generic handlers, which whoever registers methods adds, too.
        """
        own = {name: self.limited(each) for name, each in handlers.items() if name in PROBES or is_direct(each)}
        if own:
            self._server.add_registered_method_handlers(service, own)

    def limited(self, handler: grpc.RpcMethodHandler, admit: Admit | None = None) -> grpc.RpcMethodHandler:
        """Return a method that is the same within the limits.

        Args:
            admit: As of `add_generic_rpc_handlers`.
        """
        if handler.response_streaming:
            inner = self._streaming(handler) if handler.request_streaming else self._one_message(handler, admit)
            return grpc.stream_stream_rpc_method_handler(
                _freed(self._among_streams(inner)),
                request_deserializer=handler.request_deserializer if handler.request_streaming else None,
                response_serializer=handler.response_serializer,
            )
        # A stream of requests receives within the limits by itself: see `ringpull.inference.head.predictor`.
        inner = handler.stream_unary if handler.request_streaming else self._one_message(handler, admit)
        return grpc.stream_unary_rpc_method_handler(
            _freed(self._among_calls(inner)), response_serializer=handler.response_serializer
        )

    def _among_calls(self, behavior: Behavior) -> Behavior:
        in_flight = self._receiving.in_flight

        async def call(messages: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                in_flight.begin()
            except LimitExceeded as exc:
                await end_call(context, exc)
            try:
                return await behavior(messages, context)
            finally:
                in_flight.end()

        return call

    def _among_streams(self, behavior: Behavior) -> Behavior:
        async def call(messages: Any, context: grpc.aio.ServicerContext) -> None:
            if self._streams >= self._max_streams:
                await end_call(context, one_too_many("streams are open", self._max_streams, "max_receiving_requests"))
            self._streams += 1
            try:
                await behavior(messages, context)
            finally:
                self._streams -= 1

        return call

    def _one_message(self, handler: grpc.RpcMethodHandler, admit: Admit | None) -> Behavior:
        """Return a method of one message that receives it within the limits."""
        behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        parse = handler.request_deserializer or bytes
        placed = not handler.response_streaming

        async def call(messages: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                if admit is not None:
                    admit(context)
                body = await self._receiving.receive(context.read(), Incoming(context.peer(), placed=placed))
                if body is grpc.aio.EOF:
                    raise InvalidInput("the call ended without a request message")
            except RingpullError as exc:
                await end_call(context, exc)
            try:
                request = parse(body)
            except Exception as exc:  # whatever a service parses with
                await end_call(context, InvalidInput(f"the request is no message of this method: {exc}"))
            if handler.response_streaming:
                return await _write(behavior(request, context), context)
            return await behavior(request, context)

        return call

    def _streaming(self, handler: grpc.RpcMethodHandler) -> Behavior:
        """Return a method of many messages, and answers: the first is received within the limits, and however long the
        others take, half of one takes memory within them."""

        async def each(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            incoming = Incoming(context.peer())
            try:
                while True:
                    yield await self._receiving.receive(anext(messages), incoming)
                    incoming = Incoming(context.peer(), idle=True)
            except StopAsyncIteration:
                return

        async def call(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
            try:
                await _write(handler.stream_stream(each(messages, context), context), context)
            except RingpullError as exc:
                await end_call(context, exc)

        return call


class _Limited(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Methods of another handler, each made limited when it is first called."""

    def __init__(
        self,
        limits: CallLimits,
        handler: grpc.GenericRpcHandler,
        admit: Admit | None,
        admits: Mapping[str, Admit | None],
    ) -> None:
        self._limits = limits
        self._admit = admit
        self._admits = admits
        self._handler = handler
        self._made: dict[str, grpc.RpcMethodHandler] = {}
        """Limited methods by name. The other handler's own names only: callers may send any."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the limited method that a call is for; None: it has none of that name."""
        made = self._made.get(details.method)
        if made is not None:
            return made
        handler = self._handler.service(details)
        if handler is None:
            return None
        made = self._limits.limited(handler, self._admits.get(details.method.rpartition("/")[2], self._admit))
        if self._handler.service(details) is handler:
            self._made[details.method] = made
        return made


async def _write(replies: Any, context: grpc.aio.ServicerContext) -> None:
    """Write the replies of a method: it yields them, or writes them by itself."""
    if not isinstance(replies, AsyncIterator):
        await replies
        return
    async for reply in replies:
        await context.write(reply)


def _freed(behavior: Behavior) -> Behavior:
    """Return a method whose calls are freed when they end.

    gRPC ends a call by an error that the call itself keeps. The frames that it came through, and those of the error
    that it was raised for, have the call's context: they hold each other, and the call, with all that has come of a
    message that nobody read, would stay until garbage is collected, thousands of refusals later.
    """

    async def call(messages: Any, context: grpc.aio.ServicerContext) -> Any:
        called = behavior(messages, context)
        del messages, context  # This frame is one of those.
        try:
            return await called
        except grpc.aio.AbortError as exc:
            exc.__context__ = exc.__traceback__ = None
            raise

    return call
