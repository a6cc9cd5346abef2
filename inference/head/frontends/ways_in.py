"""The ways into a head: its gRPC port, its HTTP port and the operators' door, opened together or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.door import Door
from ringpull.inference.head.frontends.grpc.answers import grpc_server
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import PredictorService
from ringpull.inference.head.frontends.http.head_metrics import HeadMetrics
from ringpull.inference.head.frontends.http.server import HttpServer, application
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.head.frontends.protocols import routes
from ringpull.inference.head.leadership import LeaderView


class WaysIn(NamedTuple):
    """Ways in that are open."""

    grpc: GrpcServer
    http: HttpServer
    door: Door
    grpc_port: int
    http_port: int

    @classmethod
    async def open(
        cls,
        parts: Parts,
        config: HeadConfig,
        tokens: Access | None,
        door_folders: Sequence[Callable[[], Path]],
        *,
        head: int,
        metrics: HeadMetrics | None,
        leader: Callable[[], LeaderView | None],
    ) -> WaysIn:
        """Listen, and serve.

        Args:
            tokens: Access by tokens; None: none are asked for.
            door_folders: See `Door`.
            head: Number of the head.

        Raises:
            StartupError: A port cannot be used; nothing listens then.
        """
        bound = claim("http", config.host, config.http_port, shared=config.share_port)
        door = Door(parts, config, tokens, door_folders, f"head-{head}.sock")
        grpc = None
        try:
            await door.open()
            access = tokens or Unasked(door.address)
            grpc = grpc_server(parts, config, access)
            grpc_port = await grpc.start()
            http_port = bound.getsockname()[1]
            told = () if metrics is None else metrics.listen(http_port, parts.predictor)
        except BaseException:
            # It is tried again, and would find its own ports in use.
            bound.close()
            await door.close(0)
            if grpc is not None:
                await grpc.stop(0)
            raise
        serving = grpc
        http = HttpServer(
            application(
                lambda: serving.serving,
                parts.status,
                PredictorService(parts.predictor, parts.catalog).models,
                [*told, *routes(parts)],
                leader,
                access,
                parts.operators.audit,
            ),
            bound,
            config.http_limits,
            None if metrics is None else metrics.connections,
            tls=parts.tls,
        )
        return cls(grpc, http, door, grpc_port, http_port)

    async def stop(self, timeout_s: float) -> None:
        """Take no new calls of gRPC and of operators, and answer those in flight within `timeout_s`; HTTP goes on."""
        await asyncio.gather(self.grpc.stop(timeout_s), self.door.close(timeout_s))
