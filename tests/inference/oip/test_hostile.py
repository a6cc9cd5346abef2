"""Bytes of any kind by the Open Inference Protocol: an answer or a named refusal, never INTERNAL, and no memory for
what a shape or a length only claims."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.inference.head.frontends.grpc.methods import parse
from ringpull.inference.head.frontends.oip.datatypes import NAMES, read_raw
from ringpull.inference.head.frontends.oip.http_bodies import json_length, read_infer
from ringpull.inference.head.frontends.oip.infer_calls import InferCall
from ringpull.inference.head.frontends.oip.infer_messages import read_message
from ringpull.inference.head.frontends.oip.messages import ModelInferRequest
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.request.received import Limits
from ringpull.ps.errors import RingpullError
from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import CITIES, OipServed
from tests.inference.oip.requests import INFER, TENSORS, infer_request, typed_request
from tests.inference.oip.test_http import LENGTH, as_binary, as_json, json_of
from tests.inference.small_model import SCHEMA
from tests.mangling import mangled

LIMITS = Limits(max_candidates=50, max_values_per_row=20)

MESSAGES = [
    infer_request(id="seven", outputs=["input1"], parameters={"timeout": {"int64_param": 5}}).SerializeToString(),
    typed_request().SerializeToString(),
    infer_request({"city": np.array(["paris", "", "são paulo"], object)}, model_name="cities").SerializeToString(),
]
BODIES = [as_binary(), as_json(json_of(outputs=[{"name": "input1"}], id="seven"))]


def take_in(asked: InferCall) -> None:
    """Do with a request all that is done before shards are asked."""
    for schema in (SCHEMA, CITIES):
        with suppress(RingpullError):
            columns = columns_of(asked.tensors(), schema.features, LIMITS)
            schema.prepare_requests(*columns.columns(), columns.row_counts)


@pytest.mark.medium
@settings(max_examples=300)
@given(st.sampled_from(MESSAGES).flatmap(mangled) | st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(body: bytes) -> None:
    with suppress(RingpullError):
        take_in(read_message(parse(ModelInferRequest, body), LIMITS))


@pytest.mark.medium
@settings(max_examples=300)
@given(st.sampled_from([body for body, _ in BODIES]).flatmap(mangled), st.integers(0, 2_000).map(str) | st.text())
def test_any_bytes_are_a_body_or_refused(body: bytes, length: str) -> None:
    for stated in (None, length, BODIES[0][1][LENGTH]):
        with suppress(RingpullError):
            take_in(read_infer(body, json_length(body, stated), "ranker", "", LIMITS).call)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.medium
@settings(max_examples=300)
@given(
    st.sampled_from(["inputs", "outputs", "parameters", "id", "name", "datatype", "shape", "data"]),
    st.integers(0, len(TENSORS) - 1),
    JSON,
)
def test_any_value_of_a_field_is_taken_or_refused(field: str, place: int, value: Any) -> None:
    asked = json_of(outputs=[{"name": "input1"}])
    (asked if field in asked or field == "id" else asked["inputs"][place])[field] = value
    body, _ = as_json(asked)
    with suppress(RingpullError):
        take_in(read_infer(body, len(body), "ranker", "", LIMITS).call)


@given(
    st.sampled_from(NAMES),
    st.lists(st.integers(-2, 2**62) | st.integers(0, 9), max_size=3),
    st.binary(max_size=64),
)
def test_a_shape_is_only_a_claim(datatype: str, shape: list[int], raw: bytes) -> None:
    tracemalloc.start()
    with suppress(RingpullError):
        values = read_raw("item", datatype, shape, raw)
        assert values.shape == tuple(shape)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.net
@pytest.mark.medium
async def test_a_head_answers_or_names_what_is_wrong(oip: OipServed, http: HttpServed) -> None:
    """The same, through everything: no INTERNAL, no 500, and the head serves on."""
    rng = np.random.default_rng(7)

    def damaged(whole: bytes) -> bytes:
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] ^= int(rng.integers(1, 256))
        return bytes(content)

    codes = set()
    for _ in range(150):
        for whole in MESSAGES:
            try:
                await oip.raw(INFER, damaged(whole))
            except grpc.aio.AioRpcError as exc:
                codes.add(exc.code().name)
        for body, headers in BODIES:
            response = await http.client.post("/v2/models/ranker/infer", content=damaged(body), headers=headers)
            assert response.status_code in (200, 400, 404, 413), response.text
    assert "INVALID_ARGUMENT" in codes
    assert codes <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert len((await oip.call("ModelInfer", infer_request())).outputs) == 16
