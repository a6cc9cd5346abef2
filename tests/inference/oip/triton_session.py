"""A session of the unchanged tritonclient with a head; run in an environment of its own, which has neither ringpull nor
its protobuf. It prints what it saw as JSON.

    python triton_session.py GRPC_TARGET HTTP_TARGET TENSORS.npz ANSWERS_FOLDER
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from triton_fields import fields_of  # beside this file
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

CITIES = ["rome", "", "paris", "são paulo"]


def inputs_of(kind: Any, tensors: dict[str, Any], **how: Any) -> list[Any]:
    inputs = []
    for name, values in tensors.items():
        each = kind.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        each.set_data_from_numpy(values, **how)
        inputs.append(each)
    return inputs


def error_of(call: Any, *arguments: Any, **named: Any) -> str:
    try:
        call(*arguments, **named)
    except InferenceServerException as exc:
        return str(exc.status())
    return ""


def told_of(client: Any) -> dict[str, Any]:
    """Return what a client is told by its methods that both kinds of client have."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": [client.is_model_ready("ranker"), client.is_model_ready("ranker", "3")],
        "model not ready": [client.is_model_ready("nobody"), client.is_model_ready("ranker", "4")],
        "unknown model": error_of(client.get_model_metadata, "nobody"),
        "load with files": error_of(client.load_model, "ranker", config="{}", files={"file:1/model": b"x"}),
        "load": error_of(client.load_model, "ranker"),
        "unload": error_of(client.unload_model, "ranker"),
        "share memory": error_of(client.register_system_shared_memory, "x", "/x", 8),
    }


def main(grpc_target: str, http_target: str, tensors_path: str, answers: str) -> None:
    with np.load(tensors_path) as file:
        tensors = dict(file)
    cities = {"city": np.array([each.encode() for each in CITIES], object)}
    grpc = tritonclient.grpc.InferenceServerClient(grpc_target)
    http = tritonclient.http.InferenceServerClient(http_target)
    results = {
        "grpc": grpc.infer("ranker", inputs_of(tritonclient.grpc, tensors), request_id="seven", priority=1),
        "grpc gzip": grpc.infer("ranker", inputs_of(tritonclient.grpc, tensors), compression_algorithm="gzip"),
        "http binary": http.infer("ranker", inputs_of(tritonclient.http, tensors)),
        "http json": http.infer(
            "ranker",
            inputs_of(tritonclient.http, tensors, binary_data=False),
            outputs=[tritonclient.http.InferRequestedOutput(f"input{n}", binary_data=False) for n in range(16)],
        ),
        "http gzip": http.infer(
            "ranker",
            inputs_of(tritonclient.http, tensors),
            request_compression_algorithm="gzip",
            response_compression_algorithm="gzip",
        ),
        "http deflate": http.infer(
            "ranker",
            inputs_of(tritonclient.http, tensors),
            request_compression_algorithm="deflate",
            response_compression_algorithm="deflate",
        ),
        "http async": http.async_infer("ranker", inputs_of(tritonclient.http, tensors)).get_result(),
        "cities grpc": grpc.infer("cities", inputs_of(tritonclient.grpc, cities)),
        "cities http": http.infer("cities", inputs_of(tritonclient.http, cities)),
        "cities json": http.infer("cities", inputs_of(tritonclient.http, cities, binary_data=False)),
    }
    for name, result in results.items():
        reply = result.get_response()
        outputs = [each["name"] for each in reply["outputs"]] if "http" in name or "json" in name else None
        names = outputs or [each.name for each in reply.outputs]
        np.savez(f"{answers}/{name}.npz", **{each: result.as_numpy(each) for each in names})
    statistics = grpc.get_inference_statistics("ranker", as_json=True)["model_stats"][0]
    told = {
        "fields": fields_of(service_pb2.DESCRIPTOR) | fields_of(model_config_pb2.DESCRIPTOR),
        "data types": dict(model_config_pb2.DataType.items()),
        "id": results["grpc"].get_response().id,
        "grpc": told_of(grpc) | {"metadata": grpc.get_model_metadata("ranker", as_json=True)["name"]},
        "http": told_of(http) | {"metadata": http.get_model_metadata("ranker")["name"]},
        "config": [
            grpc.get_model_config("ranker", as_json=True)["config"]["name"],
            http.get_model_config("ranker")["max_batch_size"],
        ],
        "server": [grpc.get_server_metadata(as_json=True)["name"], http.get_server_metadata()["name"]],
        "index": [
            grpc.get_model_repository_index(as_json=True)["models"],
            http.get_model_repository_index(),
        ],
        "statistics": [
            statistics["name"],
            http.get_inference_statistics("ranker")["model_stats"][0]["name"],
            len(http.get_inference_statistics()["model_stats"]),
        ],
        "memory": [grpc.get_system_shared_memory_status(as_json=True), http.get_system_shared_memory_status()],
        "log settings": [error_of(grpc.get_log_settings), error_of(http.get_log_settings)],
    }
    grpc.unregister_system_shared_memory()
    http.unregister_cuda_shared_memory()
    print(json.dumps(told))


main(*sys.argv[1:])
