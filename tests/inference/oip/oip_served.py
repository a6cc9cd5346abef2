"""A head that speaks the Open Inference Protocol on loopback, in front of a fake router and program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.audit import AuditLog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService
from ringpull.inference.head.frontends.oip.messages import message
from ringpull.inference.head.frontends.oip.services import services
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.proto import ringpull_pb2 as pb
from tests.inference.served import CONFIG, Served

SERVICE = "/inference.GRPCInferenceService/"


class OipServed(Served):
    """A running server of the protocol."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        config: HeadConfig = CONFIG,
        *,
        access: Access | None = None,
        **others: Any,
    ) -> None:
        super().__init__(executor, config, access=access, **others)
        self.model_counts: dict[tuple[str, int], ModelCounts] = {}
        self.parts = Parts(
            predictor=self.predictor,
            catalog=self.catalog,
            status=self.status,
            head_only=pb.ClusterStatus,
            operations=None,
            audit=AuditLog(),
            counts=self.counted,
        )
        self.server = GrpcServer(
            self.service,
            AdminService(self.status, access),
            config,
            OperationsService(None, access),
            others=services(self.parts, access or Unasked(), at_door=False),
        )

    async def counted(self) -> Mapping[tuple[str, int], ModelCounts]:
        return self.model_counts

    async def start(self) -> None:
        self.target = f"127.0.0.1:{await self.server.start()}"

    async def stop(self) -> None:
        await self.server.stop(grace_s=0)
        await self.version.batcher.close(timeout_s=60)

    async def call(
        self, method: str, request: Any = None, *, metadata: Sequence[tuple[str, str]] = (), **fields: Any
    ) -> Any:
        """Call a method with a message, or with one that is made of `fields`."""
        descriptor = METHODS[method]
        if request is None:
            request = message(descriptor.input_type.name)(**fields)
        body = await self.raw(SERVICE + method, request.SerializeToString(), metadata=metadata)
        return message(descriptor.output_type.name).FromString(body)


def _methods() -> dict[str, Any]:
    from ringpull.inference.head.frontends.oip.messages import SERVICE as descriptor

    return {method.name: method for method in descriptor.methods}


METHODS = _methods()
