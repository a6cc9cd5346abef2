"""The gRPC server of a head: services, health and reflection on one port, on the running event loop.

Health is `grpc.health.v1`, per service and for the whole server (""): SERVING once started, NOT_SERVING while stopping.
"""

from __future__ import annotations

from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from inference.config import HeadConfig
from inference.methods import service_handler
from inference.operations import OperationsService
from inference.ports import claim
from inference.proto import operations_pb2
from inference.proto import ringpull_pb2 as pb
from inference.service import AdminService, PredictorService
from ps.errors import StartupError

PREDICTOR: Final = pb.DESCRIPTOR.services_by_name["Predictor"]
ADMIN: Final = pb.DESCRIPTOR.services_by_name["Admin"]
OPERATIONS: Final = operations_pb2.DESCRIPTOR.services_by_name["Operations"]
SERVICES: Final = (
    PREDICTOR.full_name,
    ADMIN.full_name,
    OPERATIONS.full_name,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


class GrpcServer:
    """Serves a head's verbs from `start` to `stop`."""

    def __init__(
        self,
        predictor: PredictorService,
        admin: AdminService,
        config: HeadConfig,
        operations: OperationsService | None = None,
    ) -> None:
        self._config = config
        self._health = health.aio.HealthServicer()
        self._serving = False
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=config.max_concurrent_requests,
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                # With it the kernel silently shares the port with whoever else sets it: wanted among our own only.
                ("grpc.so_reuseport", int(config.share_port)),
            ],
        )
        self._operations = operations or OperationsService(None)
        self._server.add_generic_rpc_handlers(
            (
                service_handler(PREDICTOR, predictor),
                service_handler(ADMIN, admin),
                service_handler(OPERATIONS, self._operations),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(SERVICES, self._server)

    @property
    def serving(self) -> bool:
        """Whether calls are welcome."""
        return self._serving

    async def start(self) -> int:
        """Listen and serve; return the port.

        Raises:
            StartupError: The port cannot be used; the message names it.
        """
        host, port = self._config.host, self._config.grpc_port
        # gRPC tells no reason when it cannot bind; claiming the port first does.
        claim("grpc", host, port, shared=self._config.share_port).close()
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as exc:
            raise StartupError(f"grpc port {port} on {host} cannot be used: {exc}") from exc
        await self._server.start()
        self._serving = True
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return int(bound)

    async def turn_away(self) -> None:
        """Turn health to NOT_SERVING, so that balancers send calls elsewhere; calls are still taken."""
        self._serving = False
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Turn away, take no new calls, and end those in flight within `grace_s`."""
        await self.turn_away()
        await self._server.stop(grace_s)
        self._operations.close()
