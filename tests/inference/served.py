"""A head's services over real gRPC on loopback, in front of a fake router and program."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.writer.service import writer_service_of
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.schema import Schema
from ringpull.router.pushed_rows import PushedRows, PushResult
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import SCHEMA, columns_of, make_manifest, make_tables, plain_row
from tests.reference import ReferenceTable

CONFIG = HeadConfig(max_message_bytes=100_000, max_candidates=50, max_values_per_row=20)


class HangingRouter(ReferenceRouter):
    """Answers only while its gate is open; raises what it was told to."""

    def __init__(self, tables: Mapping[str, ReferenceTable] | None = None) -> None:
        super().__init__(make_tables() if tables is None else tables)
        self.gate = asyncio.Event()
        self.gate.set()
        self.pulls_begun = 0
        self.error: Exception | None = None

    async def pull(self, *arguments: Any, deadline_s: float, max_reply_bytes: int = 0) -> Any:
        self.pulls_begun += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().pull(*arguments, deadline_s=deadline_s)

    async def push(self, pushed: PushedRows, *, deadline_s: float) -> PushResult:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().push(pushed, deadline_s=deadline_s)

    async def top_k(self, *arguments: Any, deadline_s: float) -> Any:
        self.pulls_begun += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().top_k(*arguments, deadline_s=deadline_s)


class Served:
    """A running server and what it stands on."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        config: HeadConfig = CONFIG,
        *,
        program: EchoProgram | None = None,
        max_batch_rows: int = 64,
        access: Access | None = None,
        manifest: Manifest | None = None,
        schema: Schema = SCHEMA,
        loaded: LoadedVersion | None = None,
        tables: Mapping[str, ReferenceTable] | None = None,
        live: Sequence[str] = (),
    ) -> None:
        self.router = HangingRouter(tables)
        if loaded is None:
            loaded = LoadedVersion(Path("ranker/3"), manifest or make_manifest(), schema, program or EchoProgram())
        self.version = ServedVersion(loaded, self.router, executor, max_batch_rows=max_batch_rows, live=live)
        self.catalog = Catalog([self.version])
        self.calls = CallMetrics()
        self.predictor = Predictor(self.catalog, config, watch=CallWatch(self.calls), access=access)
        self.counts = self.predictor.counts
        self.service = PredictorService(self.predictor, self.catalog)
        self.server = GrpcServer(
            self.service,
            AdminService(self.status, access),
            config,
            OperationsService(access=access),
            others=[writer_service_of(self.predictor, access or Unasked())],
        )
        self.target = ""

    async def status(self) -> pb.ClusterStatus:
        return pb.ClusterStatus(head=self.target, requests=self.counts.requests, failed=self.counts.failed)

    async def riding(
        self, first: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]
    ) -> list[asyncio.Task[Any]]:
        """Begin calls and return their tasks: the first is pulled alone, the others wait to ride together behind it.

        The gate is shut, and the test's to open. To count calls is not enough: one counts before its message has come.
        """
        self.router.gate.clear()
        begun = self.router.pulls_begun
        tasks = [asyncio.create_task(first)]
        while self.router.pulls_begun == begun:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(each) for each in others]
        while f"waiting={len(others)} " not in repr(self.version.batcher):
            await asyncio.sleep(0)
        return tasks

    async def raw(
        self, path: str, body: bytes, timeout_s: float = 60, *, metadata: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        async with grpc.aio.insecure_channel(self.target) as channel:
            return await channel.unary_unary(path)(body, timeout=timeout_s, metadata=metadata)


ROWS = [plain_row(1, item) for item in range(3)]


async def still_serves(client: AsyncClient) -> None:
    prediction = await client.predict("ranker", columns_of(ROWS), outputs=["input11"])
    assert prediction.outputs["input11"].tolist() == [[1.0, 2.0, 3.0]] * 3
