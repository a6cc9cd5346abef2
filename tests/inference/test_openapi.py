"""The OpenAPI document: a valid one, of what is served now, whose every example is answered as it stands."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.json.openapi import document
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served

pytestmark = pytest.mark.net

MODELS_PATH = "/v1/predict/ranker"


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async with http_served(served) as http:
        yield http


async def document_of(http: HttpServed) -> dict[str, Any]:
    answer = await http.client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return dict(answer.json())


def examples_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                yield path, operation, example["value"]


def check(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


async def test_it_is_valid(http: HttpServed) -> None:
    OpenAPIV31SpecValidator(await document_of(http)).validate()
    OpenAPIV31SpecValidator(document([], asks_tokens=True)).validate()


async def tell_true_shapes(http: HttpServed) -> None:
    """Have the small model's manifest say how wide its outputs are; it says the same of all."""
    loaded = http.served.version.loaded
    asked = {"features": {"user": [1], "item": [1], "history": [[1]]}}
    outputs = (await http.client.post(MODELS_PATH, json=asked)).json()["outputs"]
    shapes = {name: np.array(values).shape[1:] for name, values in outputs.items()}
    told = tuple(replace(each, shape=shapes[each.name]) for each in loaded.manifest.outputs)
    object.__setattr__(loaded, "manifest", replace(loaded.manifest, outputs=told))


@pytest.mark.medium
async def test_each_example_is_a_request_that_is_answered_as_it_says(http: HttpServed) -> None:
    await tell_true_shapes(http)
    document = await document_of(http)
    posted = set()
    for path, operation, value in examples_of(document):
        check(value, operation["requestBody"]["content"]["application/json"]["schema"], document)
        answer = await http.client.post(path, json=value)
        assert answer.status_code == 200, (path, answer.text)
        check(answer.json(), operation["responses"]["200"]["content"]["application/json"]["schema"], document)
        posted.add(path)
    assert posted == {path for path, operations in document["paths"].items() if "post" in operations}
    assert {MODELS_PATH, "/v1/predict", "/v1/models/ranker:predict"} < posted


async def test_what_may_be_looked_at_is_there(http: HttpServed) -> None:
    document = await document_of(http)
    looked = [path for path, operations in document["paths"].items() if "get" in operations]
    assert looked == ["/healthz", "/status", "/v1/models"]
    for path in looked:
        assert (await http.client.get(path)).status_code == 200
    failed = await http.client.post("/v1/predict", json={})
    check(failed.json(), document["components"]["schemas"]["Error"], document)


async def test_schemas_are_of_the_models_own_features(http: HttpServed) -> None:
    schemas = (await document_of(http))["components"]["schemas"]
    features = schemas["ranker.features"]["properties"]
    assert features.keys() == {"user", "item", "genres", "tags", "history", "recent", "age", "price"}, "without crosses"
    assert features["item"] == {
        "type": "array",
        "items": {"type": "integer", "format": "int64"},
        "description": "sparse, int64, required",
    }
    assert features["age"]["items"] == {
        "type": "array",
        "items": {"type": "number", "format": "float"},
        "minItems": 2,
        "maxItems": 2,
    }
    assert features["history"]["items"]["type"] == "array"
    assert features["price"]["description"] == "dense, float32, optional"
    assert "Required, here or in context: user, item." in schemas["ranker.features"]["description"]
    outputs = schemas["ranker.answer"]["properties"]["outputs"]["properties"]
    assert len(outputs) == 16
    assert outputs["input0"]["items"]["maxItems"] == 3


async def test_what_does_not_fit_a_schema_is_refused_by_the_head_too(http: HttpServed) -> None:
    document = await document_of(http)
    schema = document["components"]["schemas"]["ranker.features"]
    for wrong in ({"item": ["a"]}, {"item": [0.5]}, {"age": [[1.0]]}, {"colour": [1]}):
        features = {"user": [1], "item": [1]} | wrong
        with pytest.raises(jsonschema.ValidationError):
            check(features, schema, document)
        assert (await http.client.post(MODELS_PATH, json={"features": features})).status_code == 400


async def test_names_of_operations_are_all_different_and_identifiers(served: Served) -> None:
    names = [
        operation["operationId"]
        for operations in document([served.version], asks_tokens=False)["paths"].values()
        for operation in operations.values()
    ]
    assert len(set(names)) == len(names)
    assert "predict_ranker" in names
    assert all(re.fullmatch(r"[0-9A-Za-z_]+", name) for name in names)


async def test_it_changes_when_models_come_and_go(http: HttpServed) -> None:
    first = await http.client.get("/openapi.json")
    etag = first.headers["etag"]
    for asked in (etag, f'"other", {etag}'):
        same = await http.client.get("/openapi.json", headers={"If-None-Match": asked})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    http.served.catalog.show({}, [])
    gone = await http.client.get("/openapi.json", headers={"If-None-Match": etag})
    assert gone.status_code == 200
    assert gone.headers["etag"] != etag
    assert MODELS_PATH not in gone.json()["paths"]


def of_names(served: Served, *names: str) -> list[ServedVersion]:
    """Return the served version under other names."""
    versions = []
    for name in names:
        version, loaded = copy(served.version), copy(served.version.loaded)
        object.__setattr__(loaded, "manifest", replace(loaded.manifest, model=name))
        version.loaded = loaded
        versions.append(version)
    return versions


async def test_models_of_any_name_are_told_apart(served: Served) -> None:
    names = ["a", "a.features", "a-b", "a.b", "a_b", "0", "Z" * 128]
    found = document(of_names(served, *names), asks_tokens=False)
    OpenAPIV31SpecValidator(found).validate()
    for name in names:
        assert f"/v1/predict/{name}" in found["paths"]
        assert {f"{name}.features", f"{name}.context", f"{name}.answer"} < found["components"]["schemas"].keys()


async def test_tokens_are_told_of_where_they_are_asked_for(served: Served) -> None:
    found = document([served.version], asks_tokens=True)
    assert found["security"] == [{"token": []}]
    assert found["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert found["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in document([served.version], asks_tokens=False)
