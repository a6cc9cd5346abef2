"""The cost of width: processor time of a lone request per feature, as the slope between 100 and 1,000 of them.

Every feature is an id with a small table of its own, half of them the user's, sent once, and the dense program is one
sum: what a request costs is what its features cost, and onnxruntime's inputs with them. Requests come one at a time, so
none shares its cost with others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ringpull.inference.importers.imported_tables import ImportedTable
from ringpull.inference.importers.version_writer import CheckRows, OnnxVersion, write_onnx_version
from ringpull.inference.model.manifest import LookupSpec, ProgramInput, ProgramOutput
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.loadtest.bench.harness import QUICK, Report, interleave
from ringpull.loadtest.bench.load import Server
from ringpull.loadtest.deployment import Deployment, deployed
from ringpull.loadtest.dlrm import cache_folder
from ringpull.ps.spec import Float32Array, Pooling, TableSpec

MODEL: Final = "wide"
OUTPUT: Final = "score"
WIDTHS: Final = (100, 1_000)
CANDIDATES: Final = (1, 128)
ROWS: Final = 64
DIM: Final = 8
SHARDS: Final = 2
REQUESTS: Final = 16
SECONDS: Final = 1.0 if QUICK else 1.5
ROUNDS: Final = 2 if QUICK else 6
_OPSET: Final = 17
_IR_VERSION: Final = 9


def main() -> None:
    narrow, wide = WIDTHS
    report = Report(f"CPU of head and {SHARDS} shards for a lone request, us of {narrow} features")
    with deployed(wide_folder(narrow), SHARDS) as few, deployed(wide_folder(wide), SHARDS) as many:
        for candidates in CANDIDATES:
            samples = interleave(
                {str(width): cpu_us(each, width, candidates) for width, each in zip(WIDTHS, (few, many), strict=True)},
                rounds=ROUNDS,
            )
            request_us = [samples.median(str(width)) for width in WIDTHS]
            slope = (request_us[1] - request_us[0]) / (wide - narrow)
            figure, other = (f"{us:,.0f}" for us in request_us)
            report.row(f"a request, candidates: {candidates}", figure, f"{wide:,} features {other}")
            report.row("a feature of it", f"{slope:.2f}")
            report.key(f"us_per_feature_{candidates}", slope)
    report.finish()


def cpu_us(deployment: Deployment, width: int, candidates: int) -> Callable[[], float]:
    """Return what measures microseconds of processor time of a deployment per request."""
    payloads = [payload(width, candidates, seed) for seed in range(REQUESTS)]
    server = Server(deployment.target, processes=deployment.running())
    return lambda: server.closed_loop(payloads, in_flight=1, seconds=SECONDS).server_cpu_per_call_s * 1e6


def payload(width: int, candidates: int, seed: int) -> bytes:
    """Return an encoded request: the first half of the features are the user's."""
    random = np.random.default_rng(seed)
    names = names_of(width)
    user, item = names[: width // 2], names[width // 2 :]
    call = as_call(
        MODEL,
        {name: random.integers(0, ROWS, candidates) for name in item},
        {name: random.integers(0, ROWS, 1) for name in user},
    )
    return encode_request(call).SerializeToString()


def wide_folder(width: int) -> Path:
    """Return the model folder `.../wide` with so many features, writing it first if this machine has none.

    It is written as importers write: torch's export of as many features takes minutes.
    """
    folder = cache_folder() / f"width-{width}" / MODEL
    if (folder / "1" / "manifest.json").exists():
        return folder
    random, names = np.random.default_rng(0), names_of(width)
    rows = {name: random.standard_normal((ROWS, DIM)).astype(np.float32) for name in names}
    weight = (random.standard_normal((width * DIM, 1)) / np.sqrt(width * DIM)).astype(np.float32)
    schema = Schema([Sparse(name) for name in names])
    parts = OnnxVersion(
        schema=schema,
        rest=one_layer(names, weight),
        tables={
            name: ImportedTable(
                pieces=[(np.arange(ROWS), rows[name])],
                spec=TableSpec(name=name, dim=DIM),
                keyed_by="row number",
                features=(name,),
            )
            for name in names
        },
        lookups=tuple(LookupSpec(table=name, feature=name, pooling=Pooling.NONE) for name in names),
        inputs=tuple(ProgramInput(kind="lookup", lookup=number) for number in range(width)),
        outputs=(ProgramOutput(name=OUTPUT, shape=(1,)),),
    )

    def scores(ids: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        sums = np.concatenate([rows[name][ids[name]] for name in names], axis=1) @ weight
        return {OUTPUT: 1 / (1 + np.exp(-sums))}

    checked = schema.prepare({name: random.integers(0, ROWS, 4) for name in names}, 4)
    write_onnx_version(parts, folder, 1, reference=scores, check=[CheckRows(served=checked)], quiet=True)
    return folder


def one_layer(names: Sequence[str], weight: Float32Array) -> ModelProto:
    """Return the dense program: the sigmoid of one linear layer on the vectors of all features."""
    nodes = [
        helper.make_node("Concat", list(names), ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weight"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], [OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", DIM]) for name in names],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def names_of(width: int) -> tuple[str, ...]:
    """Return the names of so many features."""
    return tuple(f"feature_{number:04}" for number in range(width))


if __name__ == "__main__":
    main()
