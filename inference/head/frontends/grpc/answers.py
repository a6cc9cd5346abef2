"""What a head answers over gRPC, served as often as there are ways in: at its port, and at the operators' door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ringpull.inference.head.access import Access
from ringpull.inference.head.audit import AuditLog
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import DESCRIPTOR_SHARE, DESCRIPTOR_SHARE_OF_DOOR, GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.status import GetClusterStatus
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.tls import LiveTls
from ringpull.router.control.operations import OperatorVerbs


@dataclass(frozen=True, slots=True)
class Answers:
    """Parts of a head that answer, whoever asks."""

    predictor: Predictor
    catalog: Catalog
    status: GetClusterStatus
    head_only: Callable[[], pb.ClusterStatus]
    """Function that returns what the head knows of itself."""
    operations: OperatorVerbs | None
    """The way to the coordinator; None: there is none."""
    audit: AuditLog
    tls: LiveTls | None = None
    """Certificate of its ports; None: they are not encrypted. A Unix socket never is."""

    def server(self, config: HeadConfig, access: Access, *, at_door: bool = False) -> GrpcServer:
        """Return a server that listens nowhere yet.

        Args:
            access: Rule of who may have what there; predictions go by that of the predictor.
            at_door: Whether it is to be the operators' door.
        """
        operations = OperationsService(self.operations, access, self.audit, door="admin" if at_door else "grpc")
        return GrpcServer(
            PredictorService(self.predictor, self.catalog, access, at_door=at_door),
            AdminService(self.status, access, head_only=self.head_only, at_door=at_door),
            config,
            operations,
            self.tls,
            descriptor_share=DESCRIPTOR_SHARE_OF_DOOR if at_door else DESCRIPTOR_SHARE,
        )

    async def models(self) -> pb.ListModelsResponse:
        """Return the live version of every model."""
        return await PredictorService(self.predictor, self.catalog).models()
