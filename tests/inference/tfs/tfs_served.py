"""A head that speaks TensorFlow Serving's protocol on loopback, in front of a fake router and program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.operators import Operators
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.services import services
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from tests.inference.fakes import EchoProgram
from tests.inference.served import CONFIG, Served
from tests.inference.small_model import ARGUMENTS, LOOKUPS, SCHEMA, make_manifest

OUTPUTS = (
    ProgramOutput(name="score", shape=()),
    ProgramOutput(name="column", shape=(1,)),
    ProgramOutput(name="classes", shape=(3,)),
    ProgramOutput(name="history", shape=(4, 3)),
)
"""Outputs of the model: of one value a row, twice, of three, and of a matrix."""


class ScoringProgram(EchoProgram):
    """Gives sums and inputs of the small model as outputs of the shapes that `OUTPUTS` says."""

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        echo = super().run(inputs, rows)
        named = {name: echo[f"input{len(LOOKUPS) + place}"] for place, name in enumerate(ARGUMENTS)}
        pooled = sum(echo[f"input{place}"].sum(axis=1) for place in (1, 2, 3, 4, 5, 7, 8))
        return {
            "score": named["pair"].sum(axis=1) + pooled,
            "column": named["pair"][:, :1] - named["pair"][:, 1:],
            "classes": named["numbers"],
            "history": echo["input6"],
        }


class TfsServed(Served):
    """A running server of the protocol."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        config: HeadConfig = CONFIG,
        *,
        access: Access | None = None,
        outputs: Sequence[ProgramOutput] = OUTPUTS,
        **parts: Any,
    ) -> None:
        super().__init__(executor, config, access=access)
        manifest = replace(make_manifest(), outputs=tuple(outputs))
        loaded = LoadedVersion(Path("ranker/3"), manifest, SCHEMA, ScoringProgram())  # type: ignore[arg-type]
        self.version = ServedVersion(loaded, self.router, executor, max_batch_rows=64)
        self.catalog = Catalog([self.version])
        self.predictor = Predictor(self.catalog, config, access=access)
        self.counts = self.predictor.counts
        self.service = PredictorService(self.predictor, self.catalog)
        given: Mapping[str, Any] = {
            "predictor": self.predictor,
            "catalog": self.catalog,
            "status": self.status,
            "head_only": pb.ClusterStatus,
            "operators": Operators(None),
        }
        self.parts = Parts(**{**given, **parts})
        self.server = GrpcServer(
            self.service,
            AdminService(self.status, access),
            config,
            OperationsService(access=access),
            others=services(self.parts, access or Unasked(), at_door=False),
        )

    async def start(self) -> None:
        self.target = f"127.0.0.1:{await self.server.start()}"

    async def stop(self) -> None:
        self.router.gate.set()
        await self.server.stop(grace_s=0)
        await self.version.batcher.close(timeout_s=60)

    async def call(
        self, method: str, request: Any = None, *, metadata: Sequence[tuple[str, str]] = (), **fields: Any
    ) -> Any:
        """Call a method with a message, or with one that is made of `fields`."""
        descriptor, path = METHODS[method]
        if request is None:
            request = messages.POOL.message(descriptor.input_type.full_name)(**fields)
        body = request if isinstance(request, bytes) else request.SerializeToString()
        reply = await self.raw(path, body, metadata=metadata)
        return messages.POOL.message(descriptor.output_type.full_name).FromString(reply)


METHODS = {
    method.name: (method, f"/{service.full_name}/{method.name}")
    for service in (messages.PREDICTION_SERVICE, messages.MODEL_SERVICE)
    for method in service.methods
}
