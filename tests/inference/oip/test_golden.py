"""Golden bytes: what tritonclient 2.73 makes of a request, and of a reply."""

from __future__ import annotations

import numpy as np

from ringpull.inference.head.frontends.oip.infer_messages import read_message
from ringpull.inference.head.frontends.oip.messages import ModelInferRequest
from ringpull.inference.head.frontends.oip.outputs import Answer, Output
from ringpull.inference.head.request.received import Limits
from tests.inference.oip.test_http import LENGTH, as_binary

REQUEST = (
    "0a0672616e6b65721a01372a100a046974656d1205494e5436341a01022a100a0463697479120542595445531a010232"
    "070a0573636f72653a10010000000000000002000000000000003a0a02000000c3a900000000"
)
"""`ModelInferRequest` of `item` [1, 2] and `city` ["é", ""], output `score`, id 7."""

REPLY = "0a0672616e6b65721201331a01372a110a0573636f72651204465033321a02020132080000003f00000040"
"""`ModelInferResponse` of version 3, output `score` [[0.5], [2]], id 7."""


def test_the_bytes_of_a_request_are_read() -> None:
    asked = read_message(ModelInferRequest.FromString(bytes.fromhex(REQUEST)), Limits(50, 20))
    head = asked.head
    assert (head.model, head.version, asked.request_id, head.outputs) == ("ranker", 0, "7", ("score",))
    assert {name: values.tolist() for name, values in asked.tensors().items()} == {
        "item": [1, 2],
        "city": ["é".encode(), b""],
    }


def test_a_reply_is_these_bytes() -> None:
    values = np.array([[0.5], [2]], np.float32)
    reply = Answer(model="ranker", version=3, outputs=(Output("score", values),)).message("7")
    assert reply.SerializeToString(deterministic=True).hex() == REPLY


def test_strings_lie_behind_their_lengths_after_the_json() -> None:
    body, headers = as_binary({"city": np.array(["é", ""], object)})
    assert body[int(headers[LENGTH]) :].hex() == "02000000c3a900000000"
