"""The HTTP front-end of a head: `/healthz`, `/status` and `/v1/models` as JSON, and the routes of all that speak HTTP.

The answers in JSON are those of gRPC's `Admin.GetStatus` and `Predictor.ListModels`, in protobuf's JSON form with the
fields' own names. Predictions and look-ups are routes of the protocols (`ringpull.inference.head.frontends.protocols`),
metrics those of `ringpull.inference.head.frontends.http.metrics`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import uvicorn
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.audit import AuditLog
from ringpull.inference.head.config import HttpLimits
from ringpull.inference.head.frontends.http.errors import failed, refused
from ringpull.inference.head.frontends.http.gate import asking
from ringpull.inference.head.frontends.http.limits import (
    MAX_HEADER_BYTES,
    ConnectionCounts,
    LimitedProtocol,
    LimitedServer,
)
from ringpull.inference.head.leadership import LeaderView
from ringpull.ps.errors import RingpullError
from ringpull.ps.tls import LiveTls
from ringpull.ps.wire.handshakes import Handshakes

HANDSHAKE_SHARE: Final = 1 / 8
"""Part of the head's event loop, on which predictions run, that handshakes of HTTPS take at most."""
LOOK_S: Final = 1.0
"""Time between two looks at the files of TLS."""
NO_SNIFFING: Final = ("X-Content-Type-Options", "nosniff")
"""Header of every answer: a browser is to take none for a page that says it is JSON."""

NOT_HTTPS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 28\r\n\r\n"
    b"This port speaks HTTPS only\n"
)


def application(
    healthy: Callable[[], bool],
    status: Callable[[], Awaitable[Message]],
    models: Callable[[], Awaitable[Message]],
    routes: Iterable[Route] = (),
    leader: Callable[[], LeaderView | None] = lambda: None,
    access: Access | None = None,
    audit: AuditLog | None = None,
) -> Starlette:
    """Return the ASGI application over three questions to the head.

    Args:
        routes: What else is answered: metrics, and the protocols (`ringpull.inference.head.frontends.protocols`).
        leader: Who leads, for the body of `/healthz`: predictions go on when nobody does, and so does its 200.
        access: Rule of who may ask; None: anyone.
        audit: Where it is told which operators were not let in; None: nowhere.
    """

    async def healthz(request: Request) -> JSONResponse:
        serving, led = healthy(), leader()
        body: dict[str, Any] = {"status": "SERVING" if serving else "NOT_SERVING"}
        if led is not None:
            body |= {"leader": led.leads} | ({} if led.leads else {"warning": led.warning})
        return JSONResponse(body, 200 if serving else 503)

    def answer(question: Callable[[], Awaitable[Message]]) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def endpoint(request: Request) -> JSONResponse:
            message = await question()
            return JSONResponse(
                MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            )

        return endpoint

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/status", answer(status)),
            Route("/v1/models", answer(models)),
            *routes,
        ],
        # Starlette raises an exception on when it has been answered by the handler of them all: uvicorn logs it.
        exception_handlers={RingpullError: failed, HTTPException: refused, Exception: failed},
        middleware=[asking(access or Unasked(), audit)],
    )
    # A redirect would lead to where the client's own header says.
    app.router.redirect_slashes = False
    # For what protocols answer to probes, and to operators.
    app.state.healthy, app.state.access = healthy, access or Unasked()
    return app


class HttpServer:
    """Serves an application on a socket that is already bound, on the running loop."""

    def __init__(
        self,
        app: Starlette,
        bound: socket.socket,
        limits: HttpLimits = HttpLimits(),  # noqa: B008  # frozen
        counts: ConnectionCounts | None = None,
        *,
        tls: LiveTls | None = None,
    ) -> None:
        """Begin to serve.

        Args:
            limits: Limits of its connections.
            counts: Counts of connections, which several servers may share; None: its own.
            tls: Certificate to show; None: it speaks plain HTTP.
        """
        self._handshakes = None if tls is None else _handshakes(tls)
        # Logging, signals and start-up belong to the head's process. (uvicorn touches signals on a main thread only.)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=LimitedProtocol,
            ws="none",
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            headers=[NO_SNIFFING],
        )
        self._server = LimitedServer(config, bound, limits, counts or ConnectionCounts(), self._handshakes)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve(sockets=[]))
        self._looking = None if tls is None else loop.create_task(_look_at(tls))

    async def stop(self) -> None:
        """Finish what is in flight, at most a second, and close the socket."""
        self._server.should_exit = True
        if self._handshakes is not None:
            self._handshakes.close()
        if self._looking is not None:
            self._looking.cancel()
        await self._task


def _handshakes(tls: LiveTls) -> Handshakes:
    """Return what shakes hands with clients. Their number is the server's to limit: they are connections that ask."""
    return Handshakes(lambda: tls.public_lately, share=HANDSHAKE_SHARE, plain_answer=NOT_HTTPS)


async def _look_at(tls: LiveTls) -> None:
    """Go by new files, again and again. In a thread: a disk may be slow, and strangers can connect often."""
    while True:
        await asyncio.to_thread(tls.refresh)
        await asyncio.sleep(LOOK_S)
