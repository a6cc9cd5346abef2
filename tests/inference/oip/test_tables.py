"""Rows by key over the Open Inference Protocol: table T of model M is the model `M.T`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.head.frontends.oip.datatypes import read_raw
from ringpull.inference.head.frontends.oip.outputs import Output
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.inference.wire.json_writing import JsonWriter
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import OipServed, make_cities
from tests.inference.oip.requests import infer_request, typed_request
from tests.inference.tables_served import serve_tables_alone

KEYS = np.array([1, 4, 3, 2**62, 1])


def rows_of(reply: Any) -> dict[str, Any]:
    types = {"FP32": "<f4", "BOOL": "?"}
    return {
        each.name: np.frombuffer(raw, types[each.datatype]).reshape(each.shape)
        for each, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


async def code_of(oip: OipServed, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await oip.call("ModelInfer", request)
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.net
async def test_rows_and_what_was_found_are_those_of_the_table(oip: OipServed, http: HttpServed) -> None:
    rows, found = oip.router.tables["users"].pull(KEYS.view(np.uint64))
    assert 0 < found.sum() < len(KEYS)
    for form in (infer_request, typed_request):
        reply = await oip.call("ModelInfer", form({"KEYS": KEYS}, model_name="ranker.users", id="x"))
        assert (reply.model_name, reply.model_version, reply.id) == ("ranker.users", "3", "x")
        got = rows_of(reply)
        np.testing.assert_array_equal(got["ROWS"], rows)
        np.testing.assert_array_equal(got["FOUND"], found)
    asked = {"inputs": [{"name": "KEYS", "datatype": "INT64", "shape": [5, 1], "data": KEYS.tolist()}]}
    told = (await http.client.post("/v2/models/ranker.users/versions/3/infer", json=asked)).json()
    by_name = {each["name"]: each for each in told["outputs"]}
    assert (by_name["ROWS"]["shape"], by_name["FOUND"]["datatype"]) == ([5, 3], "BOOL")
    np.testing.assert_array_equal(np.array(by_name["ROWS"]["data"], np.float32), rows.ravel())
    assert by_name["FOUND"]["data"] == found.tolist()


@pytest.mark.net
async def test_outputs_are_given_as_asked_for(oip: OipServed) -> None:
    reply = await oip.call("ModelInfer", infer_request({"KEYS": KEYS}, ["FOUND"], model_name="ranker.users"))
    assert [each.name for each in reply.outputs] == ["FOUND"]


@pytest.fixture
async def feed(oip: OipServed) -> AsyncIterator[OipServed]:
    """A model of a table alone, keyed by strings, is served, too."""
    version = serve_tables_alone(oip, oip.version.executor)
    yield oip
    await version.close(timeout_s=60)


@pytest.mark.net
async def test_keys_may_be_strings(feed: OipServed) -> None:
    keys = np.array(["ü", "?", "a"], object)
    got = rows_of(await feed.call("ModelInfer", infer_request({"KEYS": keys}, model_name="feed.vectors")))
    assert got["ROWS"].tolist() == [[3, 4], [0, 0], [1, 2]]
    assert got["FOUND"].tolist() == [True, False, True]
    for wrong, named in ((np.array([1]), "keyed by strings"), (np.array([b"\xff"], object), "UTF-8")):
        code, details = await code_of(feed, infer_request({"KEYS": wrong}, model_name="feed.vectors"))
        assert (code, named in details) == ("INVALID_ARGUMENT", True), details
    code, details = await code_of(feed, infer_request(model_name="feed"))
    assert (code, "feed.vectors" in details) == ("INVALID_ARGUMENT", True)


@pytest.mark.net
async def test_tables_are_described_like_models(feed: OipServed) -> None:
    for name, key_type, dim in (("ranker.users", "INT64", 3), ("feed.vectors", "BYTES", 2)):
        told = await feed.call("ModelMetadata", name=name)
        assert (told.name, [(each.name, each.datatype, list(each.shape)) for each in told.inputs]) == (
            name,
            [("KEYS", key_type, [-1])],
        )
        assert [(each.name, each.datatype, list(each.shape)) for each in told.outputs] == [
            ("ROWS", "FP32", [-1, dim]),
            ("FOUND", "BOOL", [-1]),
        ]
        assert (await feed.call("ModelConfig", name=name)).config.name == name
        assert (await feed.call("ModelReady", name=name)).ready
    assert list((await feed.call("ModelMetadata", name="feed.vectors")).versions) == ["1"]
    assert not (await feed.call("ModelReady", name="ranker.nothing")).ready
    assert not (await feed.call("ModelReady", name="ranker.users", version="4")).ready
    feed.model_counts = {("ranker", 3): ModelCounts(calls=7)}
    (told,) = (await feed.call("ModelStatistics", name="ranker.users")).model_stats
    assert (told.name, told.version, told.inference_count) == ("ranker.users", "3", 7)


@pytest.mark.net
@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (infer_request({"KEYS": KEYS}, model_name="ranker.nothing"), "NOT_FOUND", "ranker.users"),
        (infer_request({"KEYS": KEYS}, model_name="ranker.users", model_version="4"), "NOT_FOUND", "version 4"),
        (infer_request({"user": KEYS}, model_name="ranker.users"), "INVALID_ARGUMENT", "KEYS alone"),
        (infer_request({"KEYS": KEYS, "user": KEYS}, model_name="ranker.users"), "INVALID_ARGUMENT", "KEYS alone"),
        (infer_request({"KEYS": KEYS}, ["rows"], model_name="ranker.users"), "INVALID_ARGUMENT", "output rows"),
        (infer_request({"KEYS": KEYS.reshape(1, 5)}, model_name="ranker.users"), "INVALID_ARGUMENT", "input KEYS"),
        (infer_request({"KEYS": KEYS * 0.5}, model_name="ranker.users"), "INVALID_ARGUMENT", "input KEYS"),
        (infer_request({"KEYS": np.array(["1"], object)}, model_name="ranker.users"), "INVALID_ARGUMENT", "integers"),
        (infer_request({"KEYS": np.zeros(9_000, np.int64)}, model_name="ranker.users"), "RESOURCE_EXHAUSTED", "keys"),
    ],
    ids=["table", "version", "input", "inputs", "output", "shape", "floats", "strings", "many"],
)
async def test_what_may_not_be_is_a_clear_error(oip: OipServed, request_: Any, code: str, named: str) -> None:
    told, details = await code_of(oip, request_)
    assert (told, named in details) == (code, True), details


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_rows_of_bytes_come_back_as_they_were(rows: list[bytes]) -> None:
    output = Output("ROWS", BytesRows.of(rows))
    assert (output.datatype, output.shape) == ("BYTES", (len(rows),))
    assert output.raw() == b"".join(len(row).to_bytes(4, "little") + row for row in rows)
    assert read_raw("ROWS", "BYTES", output.shape, output.raw()).tolist() == rows


def test_rows_of_bytes_are_json_where_they_are_text() -> None:
    out = JsonWriter(1 << 10)
    Output("ROWS", BytesRows.of([b"", "ü".encode()])).write(out)
    assert out.to_bytes().decode() == '["","ü"]'
    with pytest.raises(InvalidInput, match=r"output ROWS.*binary_data"):
        Output("ROWS", BytesRows.of([b"\xff"])).write(out)


@pytest.mark.net
async def test_a_model_that_is_called_like_a_table_is_meant(oip: OipServed) -> None:
    version = make_cities(oip.version.executor, oip.router, "ranker.users")
    oip.catalog.add(version)
    oip.catalog.show({"ranker": 3, "ranker.users": 1}, [("ranker", 3), ("ranker.users", 1)])
    reply = await oip.call(
        "ModelInfer", infer_request({"city": np.array(["paris"], object)}, model_name="ranker.users")
    )
    assert reply.outputs[0].name == "input0"
    await version.close(timeout_s=60)
