"""Calls of TensorFlow Serving's protocol of any bytes at all: an answer or a refusal, never an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.frontends.tfs import messages
from tests.inference.tfs.requests import INPUTS, SPEC, example, signed
from tests.inference.tfs.tensors import dims
from tests.inference.tfs.tfs_served import METHODS, TfsServed
from tests.mangling import mangled

pytestmark = [pytest.mark.net, pytest.mark.medium]

Send = Callable[[str, bytes], str]

CONTEXT = {"examples": [example({"item": 1})], "context": example({"user": 2})}
BODIES = {
    "Predict": messages.PredictRequest(model_spec=SPEC, inputs=INPUTS, output_filter=["score"]),
    "Classify": messages.ClassificationRequest(
        model_spec=signed("classes"), input={"example_list": {"examples": [example({"user": 1, "item": 2})]}}
    ),
    "Regress": messages.RegressionRequest(model_spec=signed("score"), input={"example_list_with_context": CONTEXT}),
    "GetModelMetadata": messages.GetModelMetadataRequest(model_spec=SPEC, metadata_field=["signature_def"]),
    "GetModelStatus": messages.GetModelStatusRequest(model_spec=SPEC),
    "HandleReloadConfigRequest": messages.ReloadConfigRequest(
        config={"model_config_list": {"config": [{"name": "ranker", "base_path": "/models/ranker"}]}}
    ),
}
OURS = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS")


@pytest.fixture(scope="module")
def send() -> Iterator[Send]:
    """A way to send bytes to a served model, which stays open over many examples; returns the code."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as executor:

        async def begin() -> tuple[TfsServed, grpc.aio.Channel]:
            served = TfsServed(executor)
            await served.start()
            return served, grpc.aio.insecure_channel(served.target)

        served, channel = runner.run(begin())

        async def call(method: str, body: bytes) -> str:
            try:
                await channel.unary_unary(METHODS[method][1])(body, timeout=60)
            except grpc.aio.AioRpcError as exc:
                return str(exc.code().name)
            return "OK"

        yield lambda method, body: runner.run(call(method, body))
        runner.run(channel.close())
        runner.run(served.stop())


@settings(max_examples=400, deadline=None)
@given(data=st.data(), method=st.sampled_from(sorted(BODIES)))
def test_no_bytes_end_as_an_error_of_ours(send: Send, data: st.DataObject, method: str) -> None:
    body = data.draw(mangled(BODIES[method].SerializeToString()) | st.binary(max_size=200))
    assert send(method, body) not in OURS


SIZES = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**16, 2**31 - 1, 2**31, 2**63 - 1])


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(["user", "genres", "genres_offsets", "tags_weights", "age", "price"]),
    dtype=st.integers(0, 24),
    sizes=st.lists(SIZES, max_size=3),
    content=st.sampled_from([b"", b"\x00", b"\x00" * 8, b"\xff" * 24]),
    numbers=st.lists(st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]), max_size=4),
)
def test_no_tensor_ends_as_an_error_of_ours(
    send: Send, name: str, dtype: int, sizes: list[int], content: bytes, numbers: list[int]
) -> None:
    tensor = messages.TensorProto(
        dtype=dtype,
        tensor_shape=dims(*sizes),
        tensor_content=content,
        int64_val=numbers,
        int_val=numbers,
        float_val=numbers,
        half_val=numbers,
        string_val=[str(number).encode() for number in numbers],
    )
    request = messages.PredictRequest(model_spec=SPEC, inputs={**INPUTS, name: tensor})
    assert send("Predict", request.SerializeToString()) not in OURS
