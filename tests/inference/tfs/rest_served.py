"""Models of TensorFlow Serving's own examples, served over HTTP: programs in numpy in place of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringpull import Dense, Schema, Sparse
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc.service import PredictorService
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.dense_program import ProgramTensor, RuntimeFacts
from ringpull.inference.model.manifest import FileEntry, Manifest, ProgramInput, ProgramOutput
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.transforms import Hash
from tests.inference.fakes import ReferenceRouter

Arrays = Mapping[str, NDArray[np.float32]]
Function = Callable[[Arrays], Arrays]

NOTHING = FileEntry(path="x", bytes=0, xxh3="0" * 16)


class NumpyProgram:
    """Computes outputs from the arguments of a model, by name."""

    device = "cpu"
    runtime = RuntimeFacts(name="torch", version="2.9.1", provider="cpu", threads=1)

    def __init__(self, arguments: Sequence[str], function: Function) -> None:
        self._arguments = arguments
        self._function = function

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        given = {}
        for name, tensor in zip(self._arguments, inputs, strict=True):
            given[name] = tensor.values if tensor.row_index is None else tensor.values[tensor.row_index]
        return {name: np.asarray(values, np.float32) for name, values in self._function(given).items()}


def loaded_of(
    model: str,
    version: int,
    schema: Schema,
    shapes: Mapping[str, tuple[int, ...]],
    function: Function,
) -> LoadedVersion:
    """A version without tables, whose outputs have rows of these shapes; bags are no arguments of its."""
    arguments = [feature.name for feature in schema.features if not (isinstance(feature, Sparse) and feature.many)]
    manifest = Manifest(
        model=model,
        version=version,
        created="2026-01-01T00:00:00Z",
        schema=NOTHING,
        program=NOTHING,
        tables=(),
        lookups=(),
        inputs=tuple(ProgramInput(kind="argument", argument=name) for name in arguments),
        outputs=tuple(ProgramOutput(name=name, shape=shape) for name, shape in shapes.items()),
    )
    return LoadedVersion(Path(f"{model}/{version}"), manifest, schema, NumpyProgram(arguments, function))  # type: ignore[arg-type]


def half_plus(number: int) -> Function:
    return lambda given: {"y": given["x"][:, 0] * np.float32(0.5) + np.float32(number)}


def wide(given: Arrays) -> Arrays:
    return {"total": given["signal"].sum(axis=1), "sensor": given["sensor"].reshape(-1, 2, 2)}


def ranked(given: Arrays) -> Arrays:
    return {"score": given["item"] - 50 + given["price"][:, 0]}


RANKER = Schema([Sparse("user"), Sparse("item"), Sparse("genres", many=True), Dense("price")])
X = Schema([Dense("x", missing=7.0)])
WIDE = Schema([Sparse("tag", dtype="string", transforms=[Hash(1_000)]), Dense("signal", 5), Dense("sensor", 4)])

LOADED = (
    loaded_of("half_plus_two", 1, X, {"y": ()}, half_plus(2)),
    loaded_of("half_plus_three", 123, X, {"y": ()}, half_plus(3)),
    loaded_of("half.plus_four", 4, X, {"y": ()}, half_plus(4)),
    loaded_of("half.plus_four", 5, X, {"y": (1,)}, lambda given: {"y": given["x"] * np.float32(0.5) + 5}),
    loaded_of("ranker", 1, RANKER, {"score": ()}, ranked),
    loaded_of("wide", 1, WIDE, {"total": (), "sensor": (2, 2)}, wide),
    loaded_of("classes", 1, X, {"scores": (3,)}, lambda given: {"scores": given["x"] * np.float32([1.0, 0.5, 0.1])}),
)


class RestServed:
    """What `http_served` serves: the catalog of these versions, and a predictor over it."""

    def __init__(self, executor: Executor, config: HeadConfig, loaded: Sequence[LoadedVersion] = LOADED) -> None:
        self.versions = [ServedVersion(each, ReferenceRouter({}), executor, max_batch_rows=64) for each in loaded]
        self.catalog = Catalog(self.versions)
        self.predictor = Predictor(self.catalog, config)
        self.counts = self.predictor.counts
        self.service = PredictorService(self.predictor, self.catalog)

    async def status(self) -> pb.ClusterStatus:
        return pb.ClusterStatus()

    async def stop(self) -> None:
        for each in self.versions:
            await each.batcher.close(timeout_s=60)
