"""What the doors cost: one model asked over every protocol that a head speaks, and rows by key beside Redis.

The 128-candidate DLRM, the same values in every protocol, as clients of that protocol send them: ours packs columns;
the Open Inference Protocol and TensorFlow Serving's send each feature as a tensor of rows. Bytes are made before, the
generator is one, the order of each round is drawn.

Rows by key: keys per second of the server's processor time, of head and shard, against redis-server's, by the better
of MGET and a pipeline of GETs, 1,000 keys a call.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull import export_tables
from ringpull.inference.client.stubs import LOOKUP, PREDICT
from ringpull.inference.head.frontends.oip.messages import ModelInferRequest
from ringpull.inference.head.frontends.tfs.messages import PredictRequest
from ringpull.inference.wire.lookup_codec import encode_lookup
from ringpull.loadtest.bench import redis_server
from ringpull.loadtest.bench.asked_rates import PATIENT, in_drawn_order
from ringpull.loadtest.bench.dlrm_requests import BAG, Request, make_requests, payload_of
from ringpull.loadtest.bench.harness import QUICK, Report, Samples
from ringpull.loadtest.bench.http_load import HttpRun, HttpTarget, post
from ringpull.loadtest.bench.load import Run, Server
from ringpull.loadtest.deployment import deployed
from ringpull.loadtest.dlrm import CANDIDATE, CONTEXT, MODEL, dlrm_folder
from ringpull.loadtest.process import cpu_seconds

ROWS: Final = 10_000 if QUICK else 50_000
SHARDS: Final = 2
REQUESTS: Final = 16 if QUICK else 64
IN_FLIGHT: Final = 8
SECONDS: Final = 1.0
ROUNDS: Final = 4

KEYS: Final = 1_000
"""Keys of a look-up."""
DIM: Final = 64
BYTES: Final = 400
"""Bytes of a row of bytes."""
TABLE_ROWS: Final = 50_000 if QUICK else 500_000
LOOKUPS: Final = 200 if QUICK else 500
"""Calls of a round."""

OIP_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
OIP_TYPES: Final = {"float32": "FP32", "int64": "INT64"}
TFS_TYPES: Final = {"float32": 1, "int64": 9}


def main() -> None:
    report = Report(f"Doors: the DLRM of 128 candidates over each protocol, {IN_FLIGHT} in flight; rows by key")
    protocols(report)
    for kind in ("vectors", "bytes"):
        lookups(report, kind)
    report.finish()


def tensors_of(request: Request) -> dict[str, NDArray[Any]]:
    """Return a request as named tensors: bags of one length as a tensor of rows, the user's of one row."""
    tensors: dict[str, NDArray[Any]] = {"dense": request.dense}
    tensors |= {name: request.context[i].reshape(1, BAG) for i, name in enumerate(CONTEXT)}
    return tensors | {name: request.candidates[i] for i, name in enumerate(CANDIDATE)}


def oip_payload(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return tensors as `ModelInferRequest`, with raw contents."""
    message = ModelInferRequest(model_name=MODEL)
    for name, values in tensors.items():
        message.inputs.add(name=name, datatype=OIP_TYPES[values.dtype.name], shape=values.shape)
        message.raw_input_contents.append(values.tobytes())
    payload: bytes = message.SerializeToString()
    return payload


def oip_http(request: Request) -> bytes:
    """Return a request in the binary form over HTTP."""
    tensors = tensors_of(request)
    inputs = [
        {
            "name": name,
            "datatype": OIP_TYPES[values.dtype.name],
            "shape": values.shape,
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in tensors.items()
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = header + b"".join(values.tobytes() for values in tensors.values())
    return post(f"/v2/models/{MODEL}/infer", body, f"Inference-Header-Content-Length: {len(header)}")


def tfs_payload(request: Request) -> bytes:
    """Return a request as TensorFlow Serving's `PredictRequest`, with contents as they lie in memory."""
    message = PredictRequest()
    message.model_spec.name = MODEL
    for name, values in tensors_of(request).items():
        tensor = message.inputs[name]
        tensor.dtype = TFS_TYPES[values.dtype.name]
        for size in values.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = values.tobytes()
    payload: bytes = message.SerializeToString()
    return payload


def rest(request: Request) -> bytes:
    """Return a request as TensorFlow Serving's REST, columns."""
    body = json.dumps({"inputs": {name: values.tolist() for name, values in tensors_of(request).items()}})
    return post(f"/v1/models/{MODEL}:predict", body.encode(), "Content-Type: application/json")


def protocols(report: Report) -> None:
    """Report requests/s and processor time a request of each protocol, against our own over gRPC."""
    requests = make_requests(REQUESTS, ROWS)
    with deployed(dlrm_folder(ROWS), SHARDS, *PATIENT) as up:
        over_http = HttpTarget(up.http, up.running())
        cpu_us: dict[str, list[float]] = {}

        def grpc(method: str, payloads: Sequence[bytes]) -> Callable[[], Run]:
            server = Server(up.target, method, up.running())
            return partial(server.closed_loop, payloads, in_flight=IN_FLIGHT, seconds=SECONDS)

        def http(payloads: list[bytes]) -> Callable[[], HttpRun]:
            return partial(over_http.closed_loop, payloads, in_flight=IN_FLIGHT, seconds=SECONDS)

        measured: dict[str, Callable[[], Run | HttpRun]] = {
            "own_grpc": grpc(PREDICT.path, [payload_of(each) for each in requests]),
            "oip": grpc(OIP_METHOD, [oip_payload(tensors_of(each)) for each in requests]),
            "tfs": grpc("/tensorflow.serving.PredictionService/Predict", [tfs_payload(each) for each in requests]),
            "oip_http_binary": http([oip_http(each) for each in requests]),
            "rest": http([rest(each) for each in requests]),
        }

        def rate(name: str) -> Callable[[], float]:
            def measure() -> float:
                run = measured[name]()
                cpu_us.setdefault(name, []).append(run.server_cpu_per_call_s * 1e6)
                return run.calls_per_s

            return measure

        samples = in_drawn_order({name: rate(name) for name in measured}, rounds=ROUNDS)
    cpu = Samples({name: values[1:] for name, values in cpu_us.items()})
    for name in list(measured)[1:]:
        pair = (name, "own_grpc")
        report.compare(f"requests/s, {name}", samples, pair, key=f"{name}_vs_own_grpc")
        report.compare(f"CPU us a request, {name}", cpu, pair, key=f"{name}_cpu_vs_own_grpc")


def lookups(report: Report, kind: str) -> None:
    """Report keys per second of the server's processor time, against Redis."""
    key = "lookup_vs_redis" if kind == "vectors" else "lookup_bytes_vs_redis"
    what = f"keys/s per CPU second, {DIM} floats" if kind == "vectors" else f"the same, {BYTES} bytes"
    if (why := redis_server.missing()) is not None:
        report.absent(what, why, key)
        return
    rng = np.random.default_rng(3)
    values = rng.standard_normal((TABLE_ROWS, DIM if kind == "vectors" else BYTES // 4)).astype(np.float32)
    asked = rng.integers(0, TABLE_ROWS, (LOOKUPS, KEYS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringpull-bench-"))) / "rows"
        given: Any = values if kind == "vectors" else [row.tobytes() for row in values]
        export_tables({"t": (np.arange(TABLE_ROWS), given)}, folder, 1, quiet=True)
        up = stack.enter_context(deployed(folder, 1, *PATIENT))
        port, process = stack.enter_context(redis_server.private_redis())
        ours = Server(up.target, method=LOOKUP.path, processes=up.running())
        payloads = [encode_lookup("rows", "t", keys).SerializeToString() for keys in asked]
        redis = _redis(port, values)

        def keys_per_cpu_s() -> float:
            run = ours.closed_loop(payloads, in_flight=IN_FLIGHT, seconds=SECONDS)
            return KEYS / run.server_cpu_per_call_s

        def of_redis(ask: Callable[[list[str]], object]) -> Callable[[], float]:
            names = [[f"t:{each}" for each in keys] for keys in asked.tolist()]

            def measure() -> float:
                before_s = cpu_seconds([process])
                for each in names:
                    ask(each)
                return KEYS * LOOKUPS / (cpu_seconds([process]) - before_s)

            return measure

        contenders = {"ours": keys_per_cpu_s} | {name: of_redis(ask) for name, ask in redis.items()}
        samples = in_drawn_order(contenders, rounds=ROUNDS)
    best = max(redis, key=samples.median)
    report.compare(f"{what} ({best})", samples, ("ours", best), key=key)


def _redis(port: int, values: NDArray[np.float32]) -> Mapping[str, Callable[[list[str]], object]]:
    import redis

    client = redis.Redis(port=port)
    redis_server.fill(client, "t", values)

    def pipelined(names: list[str]) -> object:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.get(name)
        return pipeline.execute()

    return {"redis_mget": client.mget, "redis_pipeline": pipelined}


if __name__ == "__main__":
    main()
