"""A head's HTTP with the page, on a thread of its own, that tells whatever a test has it tell."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.http.server import HttpServer, application
from ringpull.inference.head.frontends.page import routes as page_routes
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import RingpullError
from tests.inference.page.deployments import busy

Predict = Callable[[dict[str, Any]], dict[str, Any]]


class PageHead:
    """A head that tells `status`, or fails with `error`; `predict` answers what the form sends."""

    def __init__(self, access: Access | None, port: int = 0) -> None:
        self.status = busy()
        self.error: RingpullError | None = None
        self.predict: Predict = lambda request: {"model": request["model"], "version": "7", "outputs": {}}
        self.asked: list[dict[str, Any]] = []
        """Requests of the form."""
        self.looks = 0
        self._access = access
        bound = claim("http", "127.0.0.1", port)
        self.port = int(bound.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        self._bound = bound
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._call(self._serve())

    def stop(self) -> None:
        self._call(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> HttpServer:
        predict = Route("/v1/predict", self._predict, methods=["POST"])
        page = page_routes.routes(None)  # type: ignore[arg-type]  # it needs none of them
        app = application(lambda: True, self._status, self._status, [predict, *page], access=self._access)
        return HttpServer(app, self._bound)

    async def _status(self) -> pb.ClusterStatus:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.status

    async def _predict(self, request: Request) -> JSONResponse:
        self.asked.append(json.loads(await request.body()))
        return JSONResponse(self.predict(self.asked[-1]))

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@contextmanager
def page_head(access: Access | None = None, port: int = 0) -> Iterator[PageHead]:
    head = PageHead(access, port)
    try:
        yield head
    finally:
        head.stop()
