"""The gRPC server of a head: services, health and reflection on one port or Unix socket, on the running event loop.

A head has two: one for everybody, and one at the operators' door.

Health is `grpc.health.v1`, per service and for the whole server (""): SERVING once started, NOT_SERVING while stopping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.asked_reflection import add_reflection
from ringpull.inference.head.frontends.grpc.health import Health
from ringpull.inference.head.frontends.grpc.limits import CallLimits
from ringpull.inference.head.frontends.grpc.methods import (
    Service,
    keep_headers_out_of_logs,
    method_handlers,
    service_handler,
)
from ringpull.inference.head.frontends.grpc.operations import SERVICE as OPERATIONS
from ringpull.inference.head.frontends.grpc.operations import MethodsOfOtherBuilds, OperationsService
from ringpull.inference.head.frontends.grpc.rehearsal import rehearse
from ringpull.inference.head.frontends.grpc.secure_port import add_port
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.grpc.taking_in import server
from ringpull.inference.head.frontends.ports import claim, joined
from ringpull.inference.head.frontends.unix_socket import UnixSocket
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.descriptors import part_of_descriptors
from ringpull.ps.errors import StartupError
from ringpull.ps.tls import LiveTls

PREDICTOR: Final = pb.DESCRIPTOR.services_by_name["Predictor"]
ADMIN: Final = pb.DESCRIPTOR.services_by_name["Admin"]
MIN_PING_INTERVAL_S: Final = 5.0
"""Time between keepalive pings of a client that are welcome. gRPC's clients send none more often than every 10 s; its
servers take those of an idle one for abuse when they come within 5 minutes, and hang up at the third."""

SERVICES: Final = (
    PREDICTOR.full_name,
    ADMIN.full_name,
    OPERATIONS.full_name,
    HEALTH,
    reflection.SERVICE_NAME,
)


DESCRIPTOR_SHARE: Final = 5 / 8
"""Part of the process's descriptors that connections of gRPC take at most; the rest is for HTTP, shards and files."""
DESCRIPTOR_SHARE_OF_DOOR: Final = 1 / 32
"""Part of them that connections at the operators' door take at most: its own, whoever crowds the port."""


class GrpcServer:
    """Serves a head's verbs from `start` to `stop`."""

    def __init__(
        self,
        predictor: PredictorService,
        admin: AdminService,
        config: HeadConfig,
        operations: OperationsService | None = None,
        tls: LiveTls | None = None,
        *,
        others: Sequence[Service] = (),
        descriptor_share: float = DESCRIPTOR_SHARE,
    ) -> None:
        keep_headers_out_of_logs()
        self._tls = tls
        self._config = config
        names = (*SERVICES, *(each.descriptor.full_name for each in others))
        self._health = Health(names)
        self._serving = False
        self._server = server(
            [
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                (
                    "grpc.max_allowed_incoming_connections",
                    part_of_descriptors(descriptor_share, config.max_connections),
                ),
                # A connection that does not begin, or shake hands, has a descriptor; by default for two minutes.
                ("grpc.server_handshake_timeout_ms", math.ceil(config.receive_timeout_s * 1e3)),
                ("grpc.server.max_pending_requests", config.max_pending_requests),
                ("grpc.server.max_pending_requests_hard_limit", config.max_pending_requests),
                # With it the kernel silently shares the port with whoever else sets it: wanted among our own only.
                ("grpc.so_reuseport", int(config.share_port)),
                *_renewals(config),
                *_pings(),
            ],
        )
        served = operations or OperationsService()
        self._receiving = predictor.receiving
        self._limits = CallLimits(
            predictor.receiving,
            self._server,
            max_streams=config.max_receiving_requests,
        )
        self._add(Service(PREDICTOR, predictor, predictor.admit, ("Predict", "Lookup", "TopK")))
        self._limits.add_generic_rpc_handlers((service_handler(ADMIN, admin),), predictor.admit)
        self._limits.add_generic_rpc_handlers(
            (service_handler(OPERATIONS, served), MethodsOfOtherBuilds(predictor.access)),
            served.admit,
        )
        for each in others:
            self._add(each)
        add_HealthServicer_to_server(self._health, self._limits)
        add_reflection(SERVICES, self._limits, predictor.access, [each.descriptor for each in others])

    def _add(self, service: Service) -> None:
        """Serve a service; those of its methods that may have a queue of their own have one."""
        name = service.descriptor.full_name
        handlers = method_handlers(service.descriptor, service.methods, service.receiving)
        generic = grpc.method_handlers_generic_handler(name, handlers)
        self._limits.add_generic_rpc_handlers((generic,), service.admit, service.free, service.own)
        self._limits.add_registered_method_handlers(name, handlers)

    @property
    def serving(self) -> bool:
        """Whether calls are welcome."""
        return self._serving

    async def start(self) -> int:
        """Listen and serve; return the port.

        Raises:
            StartupError: The port cannot be used; the message names it.
        """
        return await self.start_at("grpc", self._config.host, self._config.grpc_port)

    async def start_at(self, what: str, host: str, port: int) -> int:
        """Listen on an address and serve; return the port.

        Args:
            what: Name of the port, for messages.

        Raises:
            StartupError: The port cannot be used; the message names it.
        """
        # gRPC tells no reason when it cannot bind; claiming the port first does.
        claim(what, host, port, shared=self._config.share_port).close()
        try:
            bound = add_port(self._server, joined(host, port), self._tls)
        except RuntimeError as exc:
            raise StartupError(f"{what} port {port} on {host} cannot be used: {exc}") from exc
        await self._serve()
        return int(bound)

    async def start_on(self, socket: UnixSocket) -> str:
        """Listen on a Unix socket and serve; return its address.

        Raises:
            StartupError: It cannot be used; the message names it.
        """
        try:
            self._server.add_insecure_port(socket.address_to_bind)
        except RuntimeError as exc:
            raise StartupError(f"{socket.path} cannot be used: {exc}") from exc
        await self._serve()
        socket.show()
        return socket.address

    async def _serve(self) -> None:
        await rehearse()
        await self._server.start()
        self._serving = True

    async def stop(self, grace_s: float) -> None:
        """Turn health to NOT_SERVING, take no new calls, and end those in flight within `grace_s`.

        gRPC first closes the listening socket, so that whoever connects from now on reaches another head that shares
        the port, and tells its clients to go there (GOAWAY). A call that crosses that on its way ends as CANCELLED.
        """
        self._serving = False
        self._health.stop()
        await self._server.stop(grace_s)
        self._receiving.close()


def _pings() -> list[tuple[str, int]]:
    """Return the options that let clients keep an idle connection alive, through whatever forgets quiet ones."""
    return [
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(MIN_PING_INTERVAL_S * 1e3)),
    ]


def _renewals(config: HeadConfig) -> list[tuple[str, int]]:
    """Return the options that have clients connect anew now and then, where a new connection may reach another head."""
    return [("grpc.max_connection_age_ms", round(config.max_connection_age_s * 1e3))] if config.share_port else []
