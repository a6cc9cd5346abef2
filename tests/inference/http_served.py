"""A head's HTTP over a real socket, with all of its protocols, in front of a fake router and program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.routing import Route

from ringpull.inference.head.config import HttpLimits
from ringpull.inference.head.frontends.http.limits import ConnectionCounts
from ringpull.inference.head.frontends.http.server import HttpServer, application
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.head.frontends.protocols import routes
from tests.inference.served import Served
from tests.patience import PATIENCE_S


def parts_of(served: Served, **others: Any) -> Parts:
    """Return the parts of a head that protocols stand on; `others` replace some."""
    given = {
        "predictor": served.predictor,
        "catalog": served.catalog,
        "status": served.status,
        "head_only": None,
        "operators": Operators(None),
    }
    return Parts(**{**given, **others})


class HttpServed:
    """HTTP of a head on a port of its own."""

    def __init__(
        self, served: Served, limits: HttpLimits, routes_besides: Sequence[Route], parts: Parts | None = None
    ) -> None:
        self.served = served
        self.parts = parts or parts_of(served)
        self.counts = ConnectionCounts()
        bound = claim("http", "127.0.0.1", 0)
        self.port = int(bound.getsockname()[1])
        self.server = HttpServer(
            application(
                lambda: True,
                served.status,
                served.service.models,
                [*routes(self.parts), *routes_besides],
                access=served.predictor.access,
                audit=self.parts.operators.audit,
            ),
            bound,
            limits,
            self.counts,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=PATIENCE_S)

    async def raw(self, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, and send these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def http_served(
    served: Served,
    *routes_besides: Route,
    parts: Parts | None = None,
    limits: HttpLimits = HttpLimits(timeout_s=600),  # noqa: B008  # frozen
) -> AsyncIterator[HttpServed]:
    """Serve the HTTP of a head; `routes_besides` are answered, too."""
    http = HttpServed(served, limits, routes_besides, parts)
    try:
        yield http
    finally:
        await http.client.aclose()
        await http.server.stop()
