"""The metrics of a head put together: what is kept, what reads it, and the port that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from starlette.routing import Route

from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.http.limits import ConnectionCounts
from ringpull.inference.head.frontends.http.limits_metrics import LimitsCollector
from ringpull.inference.head.frontends.http.metrics import metrics_application, metrics_routes
from ringpull.inference.head.frontends.http.server import HttpServer
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.head.leadership import LeaderView
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.metrics import HeadCollector
from ringpull.inference.head.predictor import Predictor
from ringpull.ps.errors import Unavailable
from ringpull.ps.metric_families import registry_of
from ringpull.ps.tls import LiveTls
from ringpull.router.client import Router
from ringpull.router.control.operations import Operations
from ringpull.router.control.scraping import ScrapeTarget


class HeadMetrics:
    """The metrics of one head. Owned by the event loop."""

    def __init__(
        self,
        config: HeadConfig,
        catalog: Catalog,
        router: Router,
        operations: Operations | None = None,
        leader: Callable[[], LeaderView | None] = lambda: None,
        tls: LiveTls | None = None,
    ) -> None:
        """Begin to count; nothing is listened on yet.

        Args:
            operations: The way to the coordinator, which knows of all processes; None: nobody does.
            leader: The coordinator as this head hears it.
            tls: TLS of this head, and of every other process.
        """
        self.calls = CallMetrics()
        self.connections: Final = ConnectionCounts()
        """HTTP connections of the head, over all its ports."""
        self._config = config
        self._operations = operations
        self._catalog = catalog
        self._router = router
        self._leader = leader
        self._tls = tls
        # Of its own: a coordinator that hangs holds up nobody else who asks it.
        self._asking = ThreadPoolExecutor(1, "targets")
        self._own: HttpServer | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """Port that serves them; 0 before `listen`."""
        return self._port

    def listen(self, http_port: int, predictor: Predictor) -> list[Route]:
        """Open a port of its own where heads share theirs; return what the head's HTTP is to serve besides.

        Args:
            http_port: Port of the head's HTTP.
            predictor: Predictor of the head.

        Raises:
            StartupError: No port is to be had.
        """
        registry = registry_of(
            [
                HeadCollector(self._catalog, self._router, self.calls, predictor.admission, self._leader),
                LimitsCollector((predictor.receiving, predictor.receiving_at_door), self.connections),
            ]
        )
        shared = self._config.share_port
        self._port = http_port
        if shared:
            bound = claim("metrics", self._config.host, 0)
            self._port = bound.getsockname()[1]
            self._own = HttpServer(
                metrics_application(registry, predictor.access),
                bound,
                self._config.http_limits,
                self.connections,
                tls=self._tls,
            )
        return metrics_routes(registry, self._targets, shared=shared, https=self._tls is not None)

    async def stop(self) -> None:
        """Close what `listen` opened."""
        self._asking.shutdown(wait=False, cancel_futures=True)
        if self._own is not None:
            await self._own.stop()

    async def _targets(self) -> tuple[ScrapeTarget, ...]:
        operations = self._operations
        if operations is None:
            raise Unavailable("this head was started without one")
        return await asyncio.get_running_loop().run_in_executor(self._asking, operations.scrape_targets)
