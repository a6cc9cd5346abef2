"""Metrics over a head's HTTP: `/metrics` for a scraper, `/metrics/targets` to tell it of all processes there are.

The targets are in the form of Prometheus's HTTP service discovery: whoever knows one head finds every head and shard.
Each process is scraped by itself, so nothing is counted twice, and one that hangs fails its own scrape only. Heads that
share a port have a port of their own for that: on the shared one the kernel chooses who answers, and counters of
several heads under one address would go up and down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.http.gate import asking
from ringpull.ps.errors import RingpullError
from ringpull.router.control.scraping import ScrapeTarget

Targets = Callable[[], Awaitable[Sequence[ScrapeTarget]]]

TARGETS_TIMEOUT_S: Final = 5.0
"""Time to wait for the coordinator, below a scraper's own patience. Prometheus keeps the targets it has meanwhile."""

WILDCARDS: Final = ("0.0.0.0", "::")


def metrics_routes(registry: CollectorRegistry, targets: Targets, *, shared: bool, https: bool = False) -> list[Route]:
    """Return the routes for the port that all of a head's HTTP is on.

    Args:
        registry: Registry of this head.
        targets: Asks for all processes there are; raises a `RingpullError` when nobody answers.
        shared: Other heads serve on that port too.
        https: All processes serve their metrics over TLS.
    """
    own = Route("/metrics", _Exposition(registry))
    return [Route("/metrics", _whose) if shared else own, Route("/metrics/targets", _answer(targets, https))]


def metrics_application(registry: CollectorRegistry, access: Access) -> Starlette:
    """Return the application for a port that is this head's alone."""
    app = Starlette(routes=[Route("/metrics", _Exposition(registry))], middleware=[asking(access)])
    app.router.redirect_slashes = False
    return app


class _Exposition:
    """The ASGI application of `/metrics`, on the loop that owns what is counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # To compress takes the event loop longer than to send, on the networks that heads are on.
        self._app = make_asgi_app(registry, disable_compression=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _whose(request: Request) -> Response:
    return PlainTextResponse(
        "Several heads share this port. Each tells its metrics on a port of its own: see /metrics/targets.\n", 404
    )


def _answer(targets: Targets, https: bool) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(TARGETS_TIMEOUT_S):
                found = await targets()
        except (RingpullError, TimeoutError) as exc:
            return PlainTextResponse(f"the coordinator does not say: {str(exc) or 'no answer in time'}\n", 503)
        # Who listens on every interface is reached where this request came to.
        here = request.url.hostname or ""
        scheme = {"__scheme__": "https"} if https else {}
        return JSONResponse(
            [
                {
                    "targets": [_address(here if each.host in WILDCARDS else each.host, each.port)],
                    "labels": {"role": each.role, "member": each.member} | scheme,
                }
                for each in found
            ]
        )

    return endpoint


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
