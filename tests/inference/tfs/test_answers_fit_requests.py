"""An answer has a row for each that was sent, and nothing that was sent is passed over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.inference.http_served import http_served
from tests.inference.served import CONFIG
from tests.inference.tfs.requests import INPUTS, SPEC, refusal
from tests.inference.tfs.rest_served import RestServed
from tests.inference.tfs.tensors import tensor
from tests.inference.tfs.tfs_served import TfsServed

pytestmark = pytest.mark.net


@pytest.mark.parametrize(
    ("verb", "rows", "answer"),
    [("predict", "instances", "predictions"), ("regress", "examples", "results")],
)
async def test_rows_that_have_all_in_common_are_answered_each(verb: str, rows: str, answer: str) -> None:
    with ThreadPoolExecutor(1) as executor:
        served = RestServed(executor, CONFIG)
        async with http_served(served) as http:
            body = {rows: [{}, {}, {}], "context": {"x": 4}}
            found = await http.client.post(f"/v1/models/half_plus_two:{verb}", json=body)
        await served.stop()
    assert found.json() == {answer: [4.0, 4.0, 4.0]}


async def test_an_input_without_a_name_hides_no_unknown_one(tfs: TfsServed) -> None:
    inputs = {**INPUTS, "usr": tensor([1]), "": tensor([1])}
    code, message = await refusal(tfs.call("Predict", model_spec=SPEC, inputs=inputs))
    assert code == "INVALID_ARGUMENT"
    assert "the model has no such feature" in message
