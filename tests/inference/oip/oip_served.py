"""A head that speaks the Open Inference Protocol on loopback, in front of a fake router and program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.counts import DeploymentCounts
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService
from ringpull.inference.head.frontends.oip.messages import message
from ringpull.inference.head.frontends.oip.services import services
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import Asker, ChangeStatus
from tests.inference.fakes import EchoProgram
from tests.inference.http_served import parts_of
from tests.inference.served import CONFIG, Served
from tests.inference.small_model import make_manifest

SERVICE = "/inference.GRPCInferenceService/"

CITIES = Schema(
    [
        Sparse("city", dtype="string", transforms=(Vocabulary(("paris", "são paulo")),)),
        Sparse("guests", missing=2),
        Dense("size", width=2, missing=0.5),
    ]
)
"""Features of the model `cities`, none of which is ragged; its output `input0` are the numbers of its strings."""


def make_cities(executor: ThreadPoolExecutor, router: Any, name: str = "cities") -> ServedVersion:
    manifest = replace(make_manifest((), ("city", "guests", "size")), model=name, version=1)
    loaded = LoadedVersion(Path(f"{name}/1"), manifest, CITIES, EchoProgram())
    return ServedVersion(loaded, router, executor, max_batch_rows=64)


class Coordinator:
    """A coordinator that carries out every change at once, or raises what it was told to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None

    def call(self, request: Any, *, within_s: float | None = None) -> ChangeStatus:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return ChangeStatus(id=7, kind=Kind.LOAD, subject="it", phase=None)


class OipServed(Served):
    """A running server of the protocol."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        config: HeadConfig = CONFIG,
        *,
        access: Access | None = None,
        at_door: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(executor, config, access=access, **others)
        self.cities = make_cities(executor, self.router)
        self.catalog.add(self.cities)
        self.catalog.show({"ranker": 3, "cities": 1}, [("ranker", 3), ("cities", 1)])
        self.model_counts: dict[tuple[str, int], ModelCounts] = {}
        tally = self.predictor._watch.tally
        for version in self.catalog.loaded():
            tally.loaded(*version.key)
        self.head_counts = DeploymentCounts(
            tally,
            Asker(head=0, incarnation="one"),
            None,
            lambda: [version.key for version in self.catalog.loaded()],
        )
        self.coordinator = Coordinator()
        self.operators = Operators(self.coordinator)
        self.parts = parts_of(self, head_only=pb.ClusterStatus, operators=self.operators, counts=self.counted)
        access = access or Unasked("unix:/the/door")
        self.server = GrpcServer(
            self.service,
            AdminService(self.status, access),
            config,
            OperationsService(self.operators, access),
            others=services(self.parts, access, at_door=at_door),
        )

    async def counted(self) -> Mapping[tuple[str, int], ModelCounts]:
        """What was set, or else what a head counts."""
        return self.model_counts or await self.head_counts.of_models()

    async def start(self) -> None:
        self.target = f"127.0.0.1:{await self.server.start()}"

    async def stop(self) -> None:
        self.head_counts.close()
        self.operators.close()
        await self.server.stop(grace_s=0)
        for version in (self.version, self.cities):
            await version.batcher.close(timeout_s=60)

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
