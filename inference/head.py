"""The head: versions, router, gRPC and HTTP put together on one event loop.

Start order: versions are loaded and rehearsed before any port is opened, so what can be reached can serve. Stop
order: the other way round; what is in flight is answered first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from inference.catalog import Catalog, ServedVersion
from inference.config import HeadConfig
from inference.dense import pin_threads
from inference.http import HttpServer, application
from inference.metadata import describe
from inference.ports import claim
from inference.proto import ringpull_pb2 as pb
from inference.server import GrpcServer
from inference.service import AdminService, CallCounts, PredictorService
from inference.status import shard_statuses, table_statuses
from inference.version import LoadedVersion
from ps.wire.connection import Connection
from router.client import Router
from router.shard_map import ShardAddress, ShardMap

STATUS_TIMEOUT_S = 2.0
"""How long a status waits for a shard's numbers before it calls the shard dead."""


class HeadAddress(NamedTuple):
    """Where a head listens."""

    host: str
    grpc_port: int
    http_port: int


async def connect(address: ShardAddress) -> Connection:
    """Open the data plane's connection to a shard."""
    return await Connection.connect(address.host, address.port)


class Head:
    """One inference head, from `start` to `stop`, on the loop that called `start`."""

    def __init__(self, config: HeadConfig, shard_map: ShardMap) -> None:
        self.config = config
        self._shard_map = shard_map
        self._router = Router(connect)
        self._router.update(shard_map)
        self._counts = CallCounts()
        self._started_s = time.monotonic()
        # One thread: the dense program is the bottleneck it feeds, and torch brings threads of its own.
        self._dense = ThreadPoolExecutor(1, "dense", initializer=pin_threads, initargs=(config.dense_threads,))
        self._catalog = Catalog([])
        self._address: HeadAddress | None = None
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None

    def __repr__(self) -> str:
        return f"Head({self._address}, epoch {self._shard_map.epoch}, {self._catalog!r}, {self._counts})"

    async def start(self, version_dirs: Sequence[str | Path]) -> HeadAddress:
        """Load the versions, then listen.

        Raises:
            InvalidInput: A folder is not there, or a version is given twice.
            CorruptData: A version is half-written or damaged.
            StartupError: A port cannot be used.
        """
        served = [await asyncio.to_thread(self._load, Path(folder)) for folder in version_dirs]
        self._catalog = Catalog(served)
        for each in served:
            manifest = each.loaded.manifest
            self._router.register(manifest.model, manifest.version, each.loaded.specs())
        predictor = PredictorService(self._catalog, self.config, self._counts)

        async def models() -> pb.ListModelsResponse:
            return predictor.models()

        bound = claim("http", self.config.host, self.config.http_port)
        try:
            self._grpc = grpc = GrpcServer(predictor, AdminService(self.status), self.config)
            grpc_port = await grpc.start()
        except BaseException:
            bound.close()
            raise
        self._address = HeadAddress(self.config.host, grpc_port, bound.getsockname()[1])
        self._http = HttpServer(application(lambda: grpc.serving, self.status, models), bound)
        return self._address

    def update_map(self, shard_map: ShardMap) -> None:
        """Route by a newer shard map; an older one is ignored."""
        if shard_map.epoch > self._shard_map.epoch:
            self._shard_map = shard_map
            self._router.update(shard_map)

    async def status(self) -> pb.ClusterStatus:
        """Return the cluster as this head sees it, asking every shard."""
        shard_map = self._shard_map
        statistics = await self._router.statistics(deadline_s=time.monotonic() + STATUS_TIMEOUT_S)
        served = self._catalog.served()
        return pb.ClusterStatus(
            head="" if self._address is None else f"{self._address.host}:{self._address.grpc_port}",
            epoch=shard_map.epoch,
            shards=shard_statuses(shard_map, statistics),
            tables=table_statuses(shard_map, statistics, [each.loaded for each in served]),
            models=[describe(each.loaded, self._catalog.versions(each.loaded.manifest.model)) for each in served],
            requests=self._counts.requests,
            failed=self._counts.failed,
            uptime_s=time.monotonic() - self._started_s,
            device=served[0].loaded.program.device if served else "",
        )

    async def stop(self, timeout_s: float) -> None:
        """Refuse new calls as UNAVAILABLE, answer those in flight within `timeout_s`, and close everything."""
        deadline_s = time.monotonic() + timeout_s
        if self._grpc is not None:
            await self._grpc.turn_away()
        # The batchers refuse by name; gRPC, once it stops, would cut off a call that just arrived as CANCELLED.
        await asyncio.gather(*(served.batcher.close(timeout_s) for served in self._catalog.served()))
        if self._grpc is not None:
            await self._grpc.stop(max(0.0, deadline_s - time.monotonic()))
        if self._http is not None:
            await self._http.stop()
        await self._router.close()
        self._dense.shutdown()

    def _load(self, folder: Path) -> ServedVersion:
        loaded = LoadedVersion.load(folder, device=self.config.device)
        return ServedVersion(loaded, self._router, self._dense, max_batch_rows=self.config.max_batch_rows)
