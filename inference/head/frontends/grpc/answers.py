"""A gRPC server of a head, made as often as there are ways in: at its port, and at the operators' door."""

from __future__ import annotations

from ringpull.inference.head.access import Access
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import DESCRIPTOR_SHARE, DESCRIPTOR_SHARE_OF_DOOR, GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.operators import DOOR
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.protocols import services


def grpc_server(parts: Parts, config: HeadConfig, access: Access, *, at_door: bool = False) -> GrpcServer:
    """Return a server that listens nowhere yet.

    Args:
        access: Rule of who may have what there; predictions go by that of the predictor.
        at_door: Whether it is to be the operators' door.
    """
    return GrpcServer(
        PredictorService(parts.predictor, parts.catalog, access, at_door=at_door),
        AdminService(parts.status, access, head_only=parts.head_only, at_door=at_door),
        config,
        OperationsService(parts.operators, access, door=DOOR if at_door else "grpc"),
        parts.tls,
        others=services(parts, access, at_door=at_door),
        descriptor_share=DESCRIPTOR_SHARE_OF_DOOR if at_door else DESCRIPTOR_SHARE,
    )
