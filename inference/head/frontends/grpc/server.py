"""The gRPC server of a head: services, health and reflection on one port, on the running event loop.

Health is `grpc.health.v1`, per service and for the whole server (""): SERVING once started, NOT_SERVING while stopping.
"""

from __future__ import annotations

from typing import Final

import grpc.aio
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.asked_reflection import add_reflection
from ringpull.inference.head.frontends.grpc.health import Health
from ringpull.inference.head.frontends.grpc.limits import CallLimits
from ringpull.inference.head.frontends.grpc.methods import service_handler
from ringpull.inference.head.frontends.grpc.operations import SERVICE as OPERATIONS
from ringpull.inference.head.frontends.grpc.operations import MethodsOfOtherBuilds, OperationsService
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.descriptors import part_of_descriptors
from ringpull.ps.errors import StartupError

PREDICTOR: Final = pb.DESCRIPTOR.services_by_name["Predictor"]
ADMIN: Final = pb.DESCRIPTOR.services_by_name["Admin"]
SERVICES: Final = (
    PREDICTOR.full_name,
    ADMIN.full_name,
    OPERATIONS.full_name,
    HEALTH,
    reflection.SERVICE_NAME,
)


DESCRIPTOR_SHARE: Final = 5 / 8
"""Part of the process's descriptors that connections of gRPC take at most; the rest is for HTTP, shards and files."""


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
        self._health = Health(SERVICES)
        self._serving = False
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                (
                    "grpc.max_allowed_incoming_connections",
                    part_of_descriptors(DESCRIPTOR_SHARE, config.max_connections),
                ),
                ("grpc.server.max_pending_requests", config.max_pending_requests),
                ("grpc.server.max_pending_requests_hard_limit", config.max_pending_requests),
                # With it the kernel silently shares the port with whoever else sets it: wanted among our own only.
                ("grpc.so_reuseport", int(config.share_port)),
                *_renewals(config),
            ],
        )
        self._operations = operations or OperationsService(None)
        self._receiving = predictor.receiving
        self._limits = CallLimits(
            predictor.receiving,
            self._server,
            max_calls=config.max_concurrent_requests,
            max_streams=config.max_receiving_requests,
        )
        self._limits.add_generic_rpc_handlers(
            (
                service_handler(PREDICTOR, predictor, receiving=("Predict",)),
                service_handler(ADMIN, admin),
                service_handler(OPERATIONS, self._operations),
                MethodsOfOtherBuilds(),
            )
        )
        add_HealthServicer_to_server(self._health, self._limits)
        add_reflection(SERVICES, self._limits, predictor.access)

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
        return int(bound)

    async def stop(self, grace_s: float) -> None:
        """Turn health to NOT_SERVING, take no new calls, and end those in flight within `grace_s`.

        gRPC first closes the listening socket, so that whoever connects from now on reaches another head that shares
        the port, and tells its clients to go there (GOAWAY). A call that crosses that on its way ends as CANCELLED.
        """
        self._serving = False
        self._health.stop()
        await self._server.stop(grace_s)
        self._receiving.close()
        self._operations.close()


def _renewals(config: HeadConfig) -> list[tuple[str, int]]:
    """Return the options that have clients connect anew now and then, where a new connection may reach another head."""
    return [("grpc.max_connection_age_ms", round(config.max_connection_age_s * 1e3))] if config.share_port else []
