"""What an unchanged client of TensorFlow Serving does, run by a Python that has tensorflow and not ringpull.

Arguments: address, file of tensors by name, and a folder: for the outputs of each way to ask, as `WAY.npz`, and the
requests as they were sent, as `WAY.bin`. What else was told goes to the standard output, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

TARGET, TENSORS, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
CHANNEL = grpc.insecure_channel(TARGET)
PREDICTIONS = prediction_service_pb2_grpc.PredictionServiceStub(CHANNEL)
MODELS = model_service_pb2_grpc.ModelServiceStub(CHANNEL)
TIMEOUT_S = 60


def predict_request(tensors: dict[str, Any], **spec: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "ranker"
    for name, value in spec.items():
        setattr(request.model_spec, name, value)
    for name, values in tensors.items():
        made = values if isinstance(values, TensorProto) else tf.make_tensor_proto(values)
        request.inputs[name].CopyFrom(made)
    return request


def predict(way: str, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    reply = PREDICTIONS.Predict(request, TIMEOUT_S)
    np.savez(FOLDER / f"{way}.npz", **{name: tf.make_ndarray(each) for name, each in reply.outputs.items()})
    (FOLDER / f"{way}.bin").write_bytes(request.SerializeToString(deterministic=True))
    return reply


def example(row: dict[str, Any]) -> tf.train.Example:
    features = {}
    for name, values in row.items():
        if values.dtype.kind == "f":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features))


def rows_of(tensors: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of tensors, each with its part of those that have offsets."""
    rows = []
    for place in range(len(tensors["user"])):
        row = {}
        for name, values in tensors.items():
            owner = name.removesuffix("_weights")
            if f"{owner}_offsets" in tensors:
                begin, end = tensors[f"{owner}_offsets"][place : place + 2]
                row[name] = values[begin:end]
            elif not name.endswith("_offsets"):
                row[name] = np.atleast_1d(values[place])
        rows.append(row)
    return rows


def refused(call: Any, request: Any) -> list[str]:
    try:
        call(request, TIMEOUT_S)
    except grpc.RpcError as exc:
        return [exc.code().name, exc.details()]
    return ["OK", ""]


def ask_in_all_forms(tensors: dict[str, Any], told: dict[str, Any]) -> None:
    spec = predict("whole", predict_request(tensors)).model_spec
    told["spec"] = [spec.name, spec.version.value, spec.signature_name]
    lists = {name: values.tolist() for name, values in tensors.items()}
    listed = predict_request(
        {name: tf.make_tensor_proto(values, tensors[name].dtype) for name, values in lists.items()}
    )
    predict("lists", listed)
    small = {"user": np.int32, "item": np.int16, "price": np.float64, "age": np.float16}
    predict(
        "other types",
        predict_request({**tensors, **{name: tensors[name].astype(each) for name, each in small.items()}}),
    )
    brain = tf.cast(tensors["price"], tf.bfloat16)
    predict("bfloat16", predict_request({**tensors, "price": brain.numpy()}))
    constant = tf.make_tensor_proto(3.0, shape=[len(tensors["price"])])
    predict("constant", predict_request({**tensors, "price": constant}))
    once = {name: values[:1] for name, values in tensors.items() if name in ("user", "age")}
    predict("context", predict_request({**tensors, **once}))
    chosen = predict_request(tensors, signature_name="serving_default")
    chosen.model_spec.version.value = 3
    chosen.output_filter.append("score")
    predict("chosen", chosen)


def send_examples(tensors: dict[str, Any], told: dict[str, Any]) -> None:
    rows = [example(row) for row in rows_of(tensors)]
    regression = regression_pb2.RegressionRequest()
    regression.model_spec.name, regression.model_spec.signature_name = "ranker", "score"
    regression.input.example_list.examples.extend(rows)
    told["values"] = [each.value for each in PREDICTIONS.Regress(regression, TIMEOUT_S).result.regressions]
    classification = classification_pb2.ClassificationRequest()
    classification.model_spec.name, classification.model_spec.signature_name = "ranker", "classes"
    own = [{name: values for name, values in row.items() if name != "user"} for row in rows_of(tensors)]
    listed_with_context = classification.input.example_list_with_context
    listed_with_context.examples.extend(map(example, own))
    listed_with_context.context.CopyFrom(example({"user": tensors["user"][:1]}))
    classified = PREDICTIONS.Classify(classification, TIMEOUT_S).result.classifications
    told["classes"] = [[each.score for each in row.classes] for row in classified]


def ask_about_the_model(told: dict[str, Any]) -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "ranker"
    found = get_model_metadata_pb2.SignatureDefMap()
    told["unpacked"] = PREDICTIONS.GetModelMetadata(asked, TIMEOUT_S).metadata["signature_def"].Unpack(found)
    default = found.signature_def["serving_default"]
    told["method"] = default.method_name
    told["inputs"] = {
        name: [tf.dtypes.as_dtype(each.dtype).name, tf.TensorShape(each.tensor_shape).as_list()]
        for name, each in default.inputs.items()
    }
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "ranker"
    told["states"] = [
        [each.version, each.state, each.status.error_code]
        for each in MODELS.GetModelStatus(status, TIMEOUT_S).model_version_status
    ]


def be_refused(tensors: dict[str, Any], told: dict[str, Any]) -> None:
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "other"
    unknown = predict_request(tensors)
    unknown.model_spec.name = "other"
    reload = model_management_pb2.ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="ranker", base_path="/models/ranker", model_platform="tensorflow")
    told["refused"] = {
        "status": refused(MODELS.GetModelStatus, status),
        "model": refused(PREDICTIONS.Predict, unknown),
        "label": refused(PREDICTIONS.Predict, predict_request(tensors, version_label="canary")),
        "signature": refused(PREDICTIONS.Predict, predict_request(tensors, signature_name="other")),
        "strings": refused(PREDICTIONS.Predict, predict_request({**tensors, "user": ["a", "b", "c"]})),
        "reload": refused(MODELS.HandleReloadConfigRequest, reload),
    }


def main() -> None:
    with np.load(TENSORS) as file:
        tensors = dict(file)
    told: dict[str, Any] = {}
    ask_in_all_forms(tensors, told)
    send_examples(tensors, told)
    ask_about_the_model(told)
    be_refused(tensors, told)
    print(json.dumps(told))


main()
