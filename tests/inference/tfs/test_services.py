"""How a head tells of TensorFlow Serving's services: health, reflection, and messages in a pool of their own."""

from __future__ import annotations

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ringpull.inference.head.frontends.tfs import messages
from tests.inference.tfs.requests import INPUTS, SPEC
from tests.inference.tfs.tfs_served import TfsServed

SERVICES = ["tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"]


@pytest.mark.net
async def test_health_knows_the_services(tfs: TfsServed) -> None:
    async with grpc.aio.insecure_channel(tfs.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in SERVICES:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.net
async def test_reflection_tells_of_services_in_other_pools(tfs: TfsServed) -> None:
    """Whoever knows nothing but the address can make the messages, as grpcurl does."""
    ask = reflection_pb2.ServerReflectionRequest
    asked = [
        ask(list_services=""),
        *(ask(file_containing_symbol=service) for service in (*SERVICES, "ringpull.v1.Predictor")),
        ask(file_by_filename="tensorflow.proto"),
        ask(all_extension_numbers_of_type="tensorflow.TensorProto"),
        ask(file_containing_symbol="tensorflow.NoSuchThing"),
    ]
    async with grpc.aio.insecure_channel(tfs.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, *files, one, extensions, unknown = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    assert {*SERVICES, "ringpull.v1.Predictor"} <= {each.name for each in listed.list_services_response.service}
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert list(extensions.all_extension_numbers_response.extension_number) == []
    assert len(one.file_descriptor_response.file_descriptor_proto) == 1
    for service, reply in zip((*SERVICES, "ringpull.v1.Predictor"), files, strict=True):
        pool = descriptor_pool.DescriptorPool()
        given = [
            descriptor_pb2.FileDescriptorProto.FromString(each)
            for each in reply.file_descriptor_response.file_descriptor_proto
        ]
        for file in reversed(given):  # What a file imports comes after it.
            pool.Add(file)
        assert pool.FindServiceByName(service).methods


def test_others_of_the_same_names_may_be_in_the_same_process() -> None:
    """A client of TensorFlow Serving beside a head: its messages are in protobuf's default pool."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorflow/core/framework/tensor.proto", package="tensorflow", syntax="proto3"
    )
    message = file.message_type.add(name="TensorProto")
    message.field.add(name="dtype", number=1, type="TYPE_INT32", label="LABEL_OPTIONAL")
    descriptor_pool.Default().Add(file)
    theirs = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("tensorflow.TensorProto"))
    assert theirs(dtype=9).SerializeToString() == messages.TensorProto(dtype="DT_INT64").SerializeToString()
    assert theirs is not messages.TensorProto


GOLDEN = {
    "tensor": (
        lambda: messages.TensorProto(dtype="DT_INT64", tensor_shape={"dim": [{"size": 2}]}, int64_val=[1, 300]),
        "0809120412020802520301ac02",
    ),
    "spec": (
        lambda: messages.ModelSpec(name="m", version={"value": 7}, signature_name="s"),
        "0a016d120208071a0173",
    ),
    "label": (lambda: messages.ModelSpec(name="m", version_label="stable"), "0a016d2206737461626c65"),
    "example": (
        lambda: messages.Example(features={"feature": {"a": {"float_list": {"value": [1.5]}}}}),
        "0a0f0a0d0a0161120812060a040000c03f",
    ),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_bytes(name: str) -> None:
    """Names of fields may be anything; their numbers and types are what clients have."""
    made, expected = GOLDEN[name]
    assert made().SerializeToString().hex() == expected


def test_a_request_is_what_it_was() -> None:
    request = messages.PredictRequest(model_spec=SPEC, inputs={"user": INPUTS["user"]}, output_filter=["score"])
    assert request.SerializeToString(deterministic=True).hex() == (
        "0a080a0672616e6b6572122a0a04757365721222080912041202080322180100000000000000010000000000000001000000000000001a"
        "0573636f7265"
    )
