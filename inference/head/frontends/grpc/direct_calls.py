"""Calls of chosen methods, taken straight from gRPC's core to the method.

grpc.aio takes a call in through one loop for all methods: a task that asks for it, a wait for that task and those of
all other queues, a search for the method among all handlers, a tuple of the headers that the search might want. That is
a third of what the event loop does for a call that is refused. A method that is registered with the core has a queue of
its own; here as many calls of it as shall be taken at once are asked for, and each becomes the task that grpc.aio would
make of it, when it comes.

Of a call's context only what methods of ours use is there: `add_done_callback` calls nothing, and there is no iterator
of messages.

It builds on what grpc.aio does not promise: `NEEDED`. Where one of these is not found, or takes other arguments, such
methods are served as all others are; and where they do something else than was found here (`rehearsal.py`). Found in
grpcio 1.84 and 1.85; those up to 1.83 lack some.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from functools import cache, partial
from typing import Any, Final

import grpc
from grpc._cython import cygrpc

logger: Final = logging.getLogger(__name__)

NEEDED: Final = ("_RequestCallError", "_ServicerContext")
"""Names of grpc.aio's core that a call is served by."""
NEEDED_FUNCTIONS: Final = {
    "_finish_handler_with_unary_response": (
        "rpc_state",
        "unary_handler",
        "request",
        "servicer_context",
        "response_serializer",
        "loop",
    ),
    "_handle_cancellation_from_core": ("rpc_task", "rpc_state", "loop"),
    "_handle_exceptions": ("rpc_state", "rpc_coro", "loop", "method_name"),
}
"""Functions of it, and the parameters that they have to have."""
NEEDED_OF_SERVER: Final = (
    "_make_request_call_future",
    "_request_call",
    "_request_registered_call",
    "add_registered_method_handlers",
)
"""Methods of its server by which it is taken in."""

FIRST_PAUSE_S: Final = 0.05
"""Time after which calls are asked for again that could not be; twice as long each time."""
LONGEST_PAUSE_S: Final = 5.0

_refused: Final[list[str]] = []
"""What this build does otherwise than is needed; empty: nothing that is known."""

Ask = Callable[[], Coroutine[Any, Any, Any]]
"""Function that returns a coroutine for the next call, which ends with it."""


@cache
def available() -> bool:
    """Whether this build of grpc.aio has what is needed; if not, the log says so, once."""
    server = getattr(cygrpc, "AioServer", None)
    missing = [each for each in NEEDED if not hasattr(cygrpc, each)]
    missing += [each for each in NEEDED_OF_SERVER if not hasattr(server, each)]
    missing += [name for name, parameters in NEEDED_FUNCTIONS.items() if _parameters(name) != parameters]
    if missing:
        logger.info("calls are taken in by grpc.aio's own loop: this build has other ones than %s", ", ".join(missing))
    return not missing


def refuse(why: str) -> None:
    """Have servers that start from now on take in no calls directly, as this build does not do what is needed."""
    _refused.append(why)
    logger.warning("calls are taken in by grpc.aio's own loop: served directly, %s", why)


def _parameters(name: str) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(getattr(cygrpc, name)).parameters)
    except (AttributeError, TypeError, ValueError):
        return ()


def is_direct(handler: grpc.RpcMethodHandler) -> bool:
    """Whether a method is served here: one that receives its message itself, and answers with one, if that can be."""
    return bool(handler.request_streaming and not handler.response_streaming) and available()


class DirectCalls:
    """Calls of one method, asked for and served. Owned by the event loop."""

    def __init__(self, name: str, handler: grpc.RpcMethodHandler, ask: Ask, ahead: int) -> None:
        """Ask for nothing yet.

        Args:
            name: Full name of the method, for gRPC's logs.
            handler: A method for which `is_direct`.
            ask: Asks the core for the next call of it.
            ahead: Calls that are asked for at a time.
        """
        self._name = name
        self._method = handler.stream_unary
        self._serialize = handler.response_serializer
        self._ask = ask
        self._ahead = ahead
        self._asked = 0
        self._pause_s = FIRST_PAUSE_S
        self._again: asyncio.TimerHandle | None = None
        """Timer until calls are asked for again that could not be; None: all that shall be are."""
        self._served: set[asyncio.Task[Any]] = set()
        """Tasks of calls that are being served: the event loop itself holds none."""

    def __repr__(self) -> str:
        return f"<DirectCalls of {self._name}: {self._asked} asked for, {len(self._served)} being served>"

    @property
    def asked(self) -> int:
        """Calls that are asked for and have not come."""
        return self._asked

    def begin(self) -> None:
        """Ask for calls, until `end`."""
        while self._asked < self._ahead and self._again is None:
            self._asked += 1
            _go_on(self._ask(), self._come, self._none_comes)

    def end(self) -> None:
        """Ask for no more. What is asked for fails when the server stops, and what comes until then is served."""
        self._ahead = 0
        if self._again is not None:
            self._again.cancel()

    def _come(self, state: Any) -> None:
        self._asked -= 1
        self._pause_s = FIRST_PAUSE_S
        self.begin()  # first: whatever becomes of this call, others come
        try:
            self._serve(state)
        except Exception:
            logger.exception("%s: a call that came cannot be served", self._name)

    def _none_comes(self, error: Exception) -> None:
        self._asked -= 1
        if self._ahead == 0 or self._again is not None:  # the server stops, or another one of these failed, too
            return
        if not isinstance(error, cygrpc._RequestCallError):
            logger.error("%s: gRPC's core cannot be asked for a call: %r", self._name, error, exc_info=error)
        self._again = asyncio.get_running_loop().call_later(self._pause_s, self._ask_again)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _ask_again(self) -> None:
        self._again = None
        self.begin()

    def _serve(self, state: Any) -> None:
        loop = asyncio.get_running_loop()
        context = cygrpc._ServicerContext(state, None, None, loop)
        answered = cygrpc._finish_handler_with_unary_response(state, self._method, None, context, self._serialize, loop)
        task = loop.create_task(cygrpc._handle_exceptions(state, answered, loop, self._name))
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        # It hears of a caller who went away before the task has begun.
        _go_on(cygrpc._handle_cancellation_from_core(task, state, loop), _ended, _never_told)


def takes_directly(plain: Any, ahead: int) -> Any:
    """Return a server of gRPC's core, built on `plain`, that serves registered methods for which `is_direct` here.

    Args:
        ahead: Calls of each that are asked for at a time.
    """

    class TakesDirectly(plain):  # type: ignore[misc]
        """Server of gRPC's core whose loop some calls pass by. Owned by the event loop."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._direct: dict[bytes, DirectCalls] = {}
            """Methods that are served directly, by their names."""

        def add_registered_method_handlers(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
            super().add_registered_method_handlers(handlers)
            for name, handler in handlers.items():
                if is_direct(handler):
                    ask = partial(super()._request_registered_call, name.encode())
                    self._direct[name.encode()] = DirectCalls(name, handler, ask, ahead)

        def _make_request_call_future(self, method: bytes | None) -> Any:
            if method in self._direct and not _refused:
                self._direct[method].begin()
                return asyncio.get_running_loop().create_future()  # for nothing, until grpc.aio's loop ends it
            return super()._make_request_call_future(method)

        async def shutdown(self, grace: float | None) -> None:
            for direct in self._direct.values():
                direct.end()
            await super().shutdown(grace)

    return TakesDirectly


def _go_on(
    coroutine: Coroutine[Any, Any, Any], ended: Callable[[Any], None], failed: Callable[[Exception], None]
) -> None:
    """Run a coroutine until it waits for a future, and go on with it when that is done, in the same turn of the loop.

    As a task does, but a task begins a turn later, and whoever waits for it hears of its end another turn later.
    """
    try:
        waited_for = coroutine.send(None)
    except StopIteration as end:
        ended(end.value)
    except Exception as exc:  # of gRPC
        failed(exc)
    else:
        waited_for._asyncio_future_blocking = False  # as a task says that it has seen what is waited for
        waited_for.add_done_callback(lambda _: _go_on(coroutine, ended, failed))


def _ended(_: object) -> None:
    """Do nothing with what a coroutine returned."""


def _never_told(error: Exception) -> None:
    logger.warning("gRPC's core does not tell when a caller goes away: %r", error)
