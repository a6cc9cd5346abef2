"""A gRPC server that takes in many calls at once.

grpc.aio asks for one call, and for the next one when that has come: through a thread of its own, a socket and several
turns of the loop. Whatever else has arrived waits within gRPC, unseen by admission, and of a crowd so few requests are
here at a time that their batches are small. Here up to `AHEAD` calls are asked for ahead; grpc.aio is handed those that
have come one by one, as before.

It builds on what grpc.aio does not promise: a class of its own with a coroutine `_request_call`. Where that is not
found, the server is grpc.aio's as it is. Tried with grpcio 1.70, 1.76, 1.80, 1.83 and 1.85; a test fails where one
asks for calls in another way. Methods that most calls are of take a shorter way still
(`ringpull.inference.head.frontends.grpc.direct_calls`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import grpc.aio
from grpc._cython import cygrpc

from ringpull.inference.head.frontends.grpc.direct_calls import takes_directly

logger: Final = logging.getLogger(__name__)

AHEAD: Final = 32
"""Calls that are asked for at a time, or have come and are not handed over. They count as work only when they are, a
few turns of the loop after they have come, so there are no more than make a batch worth its price."""

_making: Final = Lock()
"""Held while a server is made: until it is, this process makes servers of our class."""


def server(options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """Return a server on the running loop, with these options of gRPC, that takes in many calls at once if it can."""
    plain = getattr(cygrpc, "AioServer", None)
    if not hasattr(plain, "_request_call"):
        logger.warning("gRPC %s hands over one call at a time: batches of small requests are smaller", grpc.__version__)
        return grpc.aio.server(options=options)
    with _making:
        # grpc.aio takes no server to build on; that it makes one of this class is all that is changed.
        cygrpc.AioServer = _many_at_once(takes_directly(plain, AHEAD))
        try:
            return grpc.aio.server(options=options)
        finally:
            cygrpc.AioServer = plain


def _many_at_once(plain: Any) -> type:
    class ManyAtOnce(plain):  # type: ignore[misc]
        """Server of gRPC's core that is asked for calls ahead. Owned by the event loop."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._asked: set[asyncio.Task[Any]] = set()
            """Calls that are asked for and have not come."""
            self._come: deque[asyncio.Task[Any]] = deque()
            """Calls that have come and are not handed over, in order; or what went wrong in their place."""
            self._comes: asyncio.Future[None] | None = None
            """Future that is done when one comes; None: nobody waits for that."""
            self._stopping = self._stopped = False
            """Whether it is told to stop; and whether what comes is handed to nobody any more."""

        async def _server_main_loop(self, *arguments: Any) -> None:
            try:
                await super()._server_main_loop(*arguments)
            finally:
                self._stopped = True  # Where a mistake ended it, a stop would wait for ever for calls to be taken.
                self._come.clear()

        def _make_request_call_future(self, method: bytes | None) -> Any:
            """Return the next call as a future; older builds of gRPC await `_request_call` instead."""
            if method is not None:  # one with a queue of its own
                return super()._make_request_call_future(method)
            self._ask_ahead()
            return self._come.popleft() if self._come else asyncio.get_running_loop().create_task(self._request_call())

        async def _request_call(self) -> Any:
            self._ask_ahead()
            while not self._come:
                self._comes = asyncio.get_running_loop().create_future()
                await self._comes
                self._ask_ahead()
            return self._come.popleft().result()

        def _ask_ahead(self) -> None:
            # What has come and waits is not gRPC's to refuse any more: it counts.
            wanted = AHEAD - len(self._come)
            if self._stopping:  # One at last, which gRPC ends: whoever waits for the next call hears of it.
                wanted = int(not self._come)
            while len(self._asked) < wanted:
                asked = asyncio.get_running_loop().create_task(super()._request_call())
                self._asked.add(asked)
                asked.add_done_callback(self._came)

        def _came(self, asked: asyncio.Task[Any]) -> None:
            self._asked.discard(asked)
            if asked.cancelled():
                return
            # An error is looked at, or Python warns of one that nobody is handed.
            if asked.exception() is not None or not self._stopped:
                self._come.append(asked)
            if self._comes is not None and not self._comes.done():
                self._comes.set_result(None)

        async def shutdown(self, grace: float | None) -> None:
            """Stop, when those that have come are handed over.

            A call that crosses that on its way is let go of, which ends it as CANCELLED: gRPC would wait for it.
            """
            self._stopping = True
            while self._come and not self._stopped:
                await asyncio.sleep(0)
            self._stopped = True
            await super().shutdown(grace)
            self._come.clear()

    return ManyAtOnce
