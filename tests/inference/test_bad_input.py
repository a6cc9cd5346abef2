"""Requests that may not be, over real gRPC: each gets its status and fails alone, and the server serves on."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from ringpull.inference.client import stubs
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.wire.codec import as_call, decode_response, encode_request
from ringpull.ps.errors import InvalidInput, LimitExceeded, NotFound
from tests.inference.served import ROWS, still_serves
from tests.inference.single_columns import request_of
from tests.inference.small_model import columns_of

pytestmark = pytest.mark.net


def without(name: str) -> dict[str, Any]:
    return {key: column for key, column in columns_of(ROWS).items() if key != name}


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"model": "nobody"}, NotFound, "nobody.*ranker"),
        ({"version": 9}, NotFound, "no version 9.*3"),
        ({"features": {**columns_of(ROWS), "colour": np.arange(3)}}, InvalidInput, "colour"),
        ({"features": {**columns_of(ROWS), "item": np.array(["a", "b", "c"])}}, InvalidInput, "item.*int64"),
        ({"features": {**columns_of(ROWS), "item": np.arange(3) / 2}}, InvalidInput, "item.*int64"),
        ({"features": {**columns_of(ROWS), "item": np.arange(4)}}, InvalidInput, "has [34] rows"),
        ({"features": without("user")}, InvalidInput, "user.*absent"),
        ({"features": {**columns_of(ROWS), "age": np.ones((3, 3), np.float32)}}, InvalidInput, "age"),
        ({"features": {}}, InvalidInput, "no candidate"),
        ({"features": {"item": np.empty(0, np.int64)}, "context": {"user": [1]}}, InvalidInput, "no rows"),
        ({"context": {"user": [1]}}, InvalidInput, "user.*context"),
        ({"features": without("user"), "context": {"user": [1, 2]}}, InvalidInput, "user.*2 rows"),
        ({"outputs": ["input0", "loss"]}, InvalidInput, "loss.*input0"),
        ({"features": columns_of(ROWS * 20)}, LimitExceeded, "60 rows.*max_candidates is 50"),
        (
            {"features": {**columns_of(ROWS), "genres": Ragged(np.zeros(30, np.int64), [0, 1, 2, 30])}},
            LimitExceeded,
            "genres.*28 values.*max_values_per_row is 20",
        ),
        ({"features": {**columns_of(ROWS), "genres": np.zeros((3, 21), np.int64)}}, LimitExceeded, "genres.*21"),
        pytest.param(
            {"features": {**columns_of(ROWS), "genres": np.zeros((3, 9000), np.int64)}},
            LimitExceeded,
            "larger than max",
            marks=pytest.mark.medium,
        ),
    ],
)
async def test_bad_input_is_a_clear_error_and_the_server_serves_on(client, served, request_, error, message):
    arguments = {"model": "ranker", "features": columns_of(ROWS), **request_}
    with pytest.raises(error, match=message):
        await client.predict(arguments.pop("model"), arguments.pop("features"), **arguments)
    await still_serves(client)


def column(**fields: Any) -> dict[str, pb.Column]:
    return {"genres": pb.Column(int64s=pb.Int64List(values=[1, 2, 3]), **fields)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (column(offsets=[0, 2, 1, 3]), "genres.*offsets"),
        (column(offsets=[0, 1, 2, 9]), "genres.*offsets"),
        (column(offsets=[1, 2, 3, 3]), "genres.*offsets"),
        (column(raw_offsets=b"12345"), "genres"),
        (column(offsets=[0, 1, 2, 3], weights=[1.0]), "genres"),
        ({"genres": pb.Column()}, "genres.*no values"),
        ({"age": pb.Column(raw=pb.RawBuffer(dtype=pb.FLOAT32, data=b"123"))}, "age"),
        ({"age": pb.Column(floats=pb.FloatList(values=[1, float("nan")] * 3), width=2)}, None),
        ({"price": pb.Column(floats=pb.FloatList(values=[1, float("inf"), 2]))}, "price.*infinite"),
    ],
)
async def test_hostile_columns_over_the_wire(client, served, columns, message):
    request = request_of(as_call("ranker", columns_of(ROWS)))
    for name, sent in columns.items():
        request.features[name].CopyFrom(sent)
    call = served.raw(stubs.PREDICT.path, request.SerializeToString())
    if message is None:  # age has a missing rule: NaN is filled, and said
        reply = pb.PredictResponse.FromString(await call)
        assert [(each.feature, each.reason, each.values) for each in reply.filled] == [("age", pb.Filled.MISSING, 3)]
    else:
        with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(client)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: packed.ClearField("data"), "features?.* more than the data holds"),
        (lambda packed: packed.ClearField("sizes"), "0 bytes of sizes for 8 columns"),
        (lambda packed: packed.ClearField("layout"), "bytes of sizes for 0 columns|no candidate columns"),
        (lambda packed: setattr(packed, "layout", b"\xff"), "not a valid ringpull.v1.PackedLayout"),
        (lambda packed: setattr(packed, "data", packed.data + bytes(8)), "take less than"),
        (lambda packed: setattr(packed, "data", packed.data + b"1"), "a multiple of 8"),
    ],
)
async def test_hostile_packed_columns_over_the_wire(client, served, change, message):
    request = encode_request(as_call("ranker", columns_of(ROWS)))
    change(request.packed)
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await served.raw(stubs.PREDICT.path, request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(client)


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\x0a\x7fab", bytes(range(200))])
@pytest.mark.parametrize("rpc", [stubs.PREDICT, stubs.GET_MODEL, stubs.LIST_MODELS, stubs.GET_STATUS])
async def test_body_that_is_no_message_is_an_invalid_argument(client, served, rpc, body):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw(rpc.path, body)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(client)


async def test_negative_version_is_an_invalid_argument(served):
    for rpc, message in (
        (stubs.PREDICT, pb.PredictRequest(model="ranker", version=-1)),
        (stubs.GET_MODEL, pb.GetModelRequest(model="ranker", version=-1)),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="version is -1") as caught:
            await served.raw(rpc.path, message.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_columns_sent_one_by_one_get_the_same_answer(client, served):
    packed = await client.predict(
        "ranker", columns_of(ROWS, ["item"]), columns_of(ROWS[:1], ["user", "genres", "tags"])
    )
    call = as_call("ranker", columns_of(ROWS, ["item"]), columns_of(ROWS[:1], ["user", "genres", "tags"]))
    body = await served.raw(stubs.PREDICT.path, request_of(call).SerializeToString())
    single = decode_response(pb.PredictResponse.FromString(body))
    assert single.filled == packed.filled
    for name, values in packed.outputs.items():
        np.testing.assert_array_equal(single.outputs[name], values)


async def test_bad_request_fails_alone_in_its_batch(client, served):
    bad = {**columns_of(ROWS), "tags": Ragged([1] * 3, [0, 1, 2, 3], [1, np.nan, 1])}
    sent = (columns_of(ROWS), columns_of(ROWS), bad, columns_of(ROWS[:1]))
    first, *calls = await served.riding(*(client.predict("ranker", columns) for columns in sent))
    served.router.gate.set()
    with pytest.raises(InvalidInput, match="feature tags: a weight is NaN or infinite"):
        await calls[1]
    expected = await first
    for call, rows in ((calls[0], 3), (calls[2], 1)):
        for name, values in (await call).outputs.items():
            np.testing.assert_array_equal(values, expected.outputs[name][:rows])
