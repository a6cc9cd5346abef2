"""An answer has a row for each that was sent, by the version that was asked, and nothing sent is passed over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ringpull import Dense, Schema
from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.tfs import messages, prediction_service, rest
from ringpull.inference.head.frontends.tfs.model_specs import named_by
from ringpull.inference.head.frontends.tfs.signatures import for_each_row
from tests.inference.fakes import ReferenceRouter
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import CONFIG
from tests.inference.small_model import plain_row
from tests.inference.tfs.requests import INPUTS, SPEC, example, refusal, signed
from tests.inference.tfs.rest_served import RestServed, loaded_of
from tests.inference.tfs.tensors import tensor
from tests.inference.tfs.tfs_served import TfsServed

pytestmark = pytest.mark.net


@pytest.fixture
async def http() -> AsyncIterator[HttpServed]:
    with ThreadPoolExecutor(1) as executor:
        served = RestServed(executor, CONFIG)
        async with http_served(served) as http:  # type: ignore[arg-type]
            yield http
        await served.stop()


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [True, False], ids=["in common", "own"])
@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize(
    ("model", "verb", "key", "value"),
    [
        ("half_plus_two", "predict", "predictions", 4.0),
        ("half_plus_two", "regress", "results", 4.0),
        ("classes", "predict", "predictions", [4.0, 2.0, 0.4]),
        ("classes", "classify", "results", [["", 4.0], ["", 2.0], ["", 0.4]]),
    ],
    ids=["value", "regress", "list", "classify"],
)
async def test_each_row_is_answered(
    http: HttpServed, model: str, verb: str, key: str, value: Any, count: int, context: bool
) -> None:
    rows = [{}] * count if context else [{"x": 4}] * count
    body = {"instances" if verb == "predict" else "examples": rows, "context": {"x": [4]} if context else {}}
    found = await http.client.post(f"/v1/models/{model}:{verb}", json=body)
    assert found.json() == {key: [value] * count}


async def test_each_example_is_answered_over_grpc(tfs: TfsServed) -> None:
    for count in (1, 3):
        given = {"example_list_with_context": {"examples": [{}] * count, "context": example(plain_row(1, 2))}}
        reply = await tfs.call("Classify", model_spec=signed("classes"), input=given)
        assert len(reply.result.classifications) == count


def test_an_answer_of_other_rows_is_none() -> None:
    """Should rows ever get lost on the way, a client gets an error, not an answer that looks right."""
    assert for_each_row(np.ones((1, 2), np.float32), 3).tolist() == [[1, 1]] * 3
    with pytest.raises(RuntimeError, match="2 rows; 3 were sent"):
        for_each_row(np.ones(2, np.float32), 3)


async def test_an_input_without_a_name_hides_no_unknown_one(tfs: TfsServed, http: HttpServed) -> None:
    inputs = {**INPUTS, "usr": tensor([1]), "": tensor([1])}
    code, message = await refusal(tfs.call("Predict", model_spec=SPEC, inputs=inputs))
    assert code == "INVALID_ARGUMENT"
    assert "the model has no such feature" in message
    found = await http.client.post("/v1/models/ranker:predict", json={"inputs": {"user": 1, "usr": 1, "": 1}})
    assert (found.status_code, "does not have named input" in found.text) == (400, True)


async def test_a_line_end_in_a_name_is_a_name(http: HttpServed) -> None:
    found = await http.client.post("/v1/models/h%0Alf:predict", json={"instances": [1]})
    assert (found.status_code, found.json()) == (404, {"error": "Servable not found for request: Latest(h\nlf)"})


# -- the version that was asked ----------------------------------------------------------------------------------------


def newer(executor: ThreadPoolExecutor) -> ServedVersion:
    """A version with another input and another output."""
    loaded = loaded_of("half_plus_two", 2, Schema([Dense("x2")]), {"z": ()}, lambda given: {"z": given["x2"][:, 0]})
    return ServedVersion(loaded, ReferenceRouter({}), executor, max_batch_rows=64)


@pytest.mark.parametrize("path", ["half_plus_two", "half_plus_two/labels/stable"])
async def test_a_publish_meanwhile_changes_nothing_for_a_request(
    http: HttpServed, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = http.served.catalog
    live = {each.key[0]: each.key[1] for each in catalog.live()}
    before = [each.key for each in catalog.loaded()]
    catalog.show(live, before, labels={"half_plus_two": {"stable": 1}})
    read = rest.read_question

    def publish(*given: Any) -> Any:
        question = read(*given)
        if ("half_plus_two", 2) not in [each.key for each in catalog.loaded()]:
            catalog.add(newer(catalog.get("half_plus_two").executor))
        others = [key for key in before if key[0] != "half_plus_two"]
        catalog.show({**live, "half_plus_two": 2}, [*others, ("half_plus_two", 2)])  # none is kept
        return question

    monkeypatch.setattr(rest, "read_question", publish)
    found = await http.client.post(f"/v1/models/{path}:predict", json={"instances": [4]})
    assert (found.status_code, found.json()) == (200, {"predictions": [4.0]})
    assert catalog.get("half_plus_two").key == ("half_plus_two", 2)
    await catalog.get("half_plus_two").batcher.close(timeout_s=60)


@pytest.mark.parametrize("method", ["Predict", "Regress"])
async def test_so_it_is_over_grpc(tfs: TfsServed, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "columns_of" if method == "Predict" else "columns_of_input"
    read = getattr(prediction_service, name)

    def publish(*given: Any) -> Any:
        columns = read(*given)
        tfs.catalog.add(newer(tfs.version.executor))
        tfs.catalog.show({"half_plus_two": 2}, [("half_plus_two", 2)])
        return columns

    monkeypatch.setattr(prediction_service, name, publish)
    given: dict[str, Any] = {"input": {"example_list": {"examples": [example(plain_row(1, 2))]}}}
    reply = await tfs.call(method, model_spec=signed("score"), **({"inputs": INPUTS} if method == "Predict" else given))
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("ranker", 3)
    await tfs.catalog.get("half_plus_two").batcher.close(timeout_s=60)


def test_who_names_no_version_may_be_answered_by_a_lighter_one(tfs_version: ServedVersion) -> None:
    columns: Any = None
    for spec, number in ({"name": "m"}, 0), ({"name": "m", "version": {"value": 3}}, 3), ({"version_label": "a"}, 3):
        named = named_by(messages.PredictRequest(model_spec=spec))
        request = prediction_service._request(columns, named, tfs_version, ())
        assert (request.version, request.served) == (number, tfs_version)


@pytest.fixture
async def tfs_version(tfs: TfsServed) -> ServedVersion:
    return tfs.version


# -- metadata ----------------------------------------------------------------------------------------------------------


async def test_metadata_is_made_once_for_each_version(
    tfs: TfsServed, http: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    for module in (prediction_service, rest):
        make = module.signature_map
        monkeypatch.setattr(module, "signature_map", lambda served, make=make: made.append(served.key) or make(served))
    asked = {"model_spec": SPEC, "metadata_field": ["signature_def"]}
    first, second = [await tfs.call("GetModelMetadata", **asked) for _ in range(2)]
    assert first == second
    assert made == [("ranker", 3)]
    texts = [(await http.client.get(f"/v1/models/half_plus_{name}/metadata")).text for name in ("two", "two", "three")]
    assert made[1:] == [("half_plus_two", 1), ("half_plus_three", 123)]
    assert texts[0] == texts[1]
    assert json.loads(texts[2])["model_spec"]["name"] == "half_plus_three"
