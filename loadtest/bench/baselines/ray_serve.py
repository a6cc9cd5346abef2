"""Baseline (d): the whole model, all tables local, as a Ray Serve deployment behind Serve's gRPC proxy.

Serve takes protobuf messages only, so a request and its reply travel inside `google.protobuf.BytesValue`.
"""

from __future__ import annotations

import tempfile

import ray
import torch
import typer
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions

from ringpull.loadtest.bench.dlrm_requests import Request, score_request
from ringpull.loadtest.dlrm import make_model
from ringpull.loadtest.process import free_port, wait_until_ended

STORE_BYTES = 200 << 20


class Scorer:
    """One replica: decodes, scores, encodes."""

    def __init__(self, rows: int) -> None:
        torch.set_num_threads(1)
        self._model = make_model(rows)

    def Score(self, request: BytesValue) -> BytesValue:
        with torch.inference_mode():
            scores = score_request(self._model, Request.from_bytes(request.value))
        return BytesValue(value=scores.numpy().tobytes())


def add_to_server(servicer: object, server: object) -> None:
    """Register the method as generated code would: Serve hands us its proxy as `servicer`."""
    import grpc

    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Score,  # type: ignore[attr-defined]
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers(  # type: ignore[attr-defined]
        (grpc.method_handlers_generic_handler("bench.Baseline", {"Score": handler}),)
    )


def main(rows: int = typer.Option(..., help="Rows per table.")) -> None:
    with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
        _serve(rows, free_port(), folder)


def _serve(rows: int, port: int, folder: str) -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        namespace="baseline",
        object_store_memory=STORE_BYTES,
        # of its own, so that two Rays of one machine share nothing
        _temp_dir=folder,
    )
    options = gRPCOptions(
        port=port, grpc_servicer_functions=["ringpull.loadtest.bench.baselines.ray_serve.add_to_server"]
    )
    serve.start(grpc_options=options, http_options={"port": 0, "host": "127.0.0.1"})
    deployment = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=16)(Scorer)
    serve.run(deployment.bind(rows), name="baseline", route_prefix="/baseline")
    print(f"ready {port}", flush=True)
    wait_until_ended()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
