"""The Open Inference Protocol over HTTP: JSON and binary tensors, errors as `{"error": ...}`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.metrics.model_counts import ModelCounts
from tests.inference.http_served import HttpServed
from tests.inference.oip.oip_served import OipServed, make_cities
from tests.inference.oip.requests import ROWS, TENSORS, datatype_of, raw_of
from tests.inference.small_model import columns_of

pytestmark = pytest.mark.net

PATH = "/v2/models/ranker/infer"
LENGTH = "Inference-Header-Content-Length"

Sent = tuple[bytes, dict[str, str]]
"""Body and headers."""


def json_of(tensors: Mapping[str, NDArray[Any]] = TENSORS, *, flat: bool = False, **fields: Any) -> dict[str, Any]:
    inputs = [
        {
            "name": name,
            "datatype": datatype_of(values),
            "shape": values.shape,
            "data": (values.ravel() if flat else values).tolist(),
        }
        for name, values in tensors.items()
    ]
    return {"inputs": inputs, **fields}


def as_json(asked: Mapping[str, Any]) -> Sent:
    return json.dumps(asked).encode(), {}


def as_binary(tensors: Mapping[str, NDArray[Any]] = TENSORS, **fields: Any) -> Sent:
    raws = [raw_of(values) for values in tensors.values()]
    asked = json_of(tensors, **fields)
    for each, raw in zip(asked["inputs"], raws, strict=True):
        del each["data"]
        each["parameters"] = {"binary_data_size": len(raw)}
    header = json.dumps(asked).encode()
    return b"".join([header, *raws]), {LENGTH: str(len(header))}


async def post(http: HttpServed, sent: Sent, path: str = PATH, **headers: str) -> httpx.Response:
    return await http.client.post(path, content=sent[0], headers=sent[1] | headers)


def outputs_of(response: httpx.Response) -> dict[str, NDArray[np.float32]]:
    """The outputs of a reply, those in JSON and those in bytes."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    told, at = json.loads(response.content[:length]), length
    outputs = {}
    for each in told["outputs"]:
        assert each["datatype"] == "FP32"
        size = each.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(each["data"], np.float32)
        else:
            values, at = np.frombuffer(response.content[at : at + size], "<f4"), at + size
        outputs[each["name"]] = values.reshape(each["shape"])
    assert at == len(response.content)
    return outputs


FORMS: dict[str, Callable[[], Sent]] = {
    "nested": lambda: as_json(json_of()),
    "flat": lambda: as_json(json_of(flat=True)),
    "binary": lambda: as_binary(),
    "binary both ways": lambda: as_binary(parameters={"binary_data_output": True}),
}


@pytest.mark.medium
@pytest.mark.parametrize("form", FORMS)
async def test_an_inference_is_what_our_own_grpc_answers(oip: OipServed, http: HttpServed, form: str) -> None:
    async with AsyncClient(oip.target, timeout_s=60, retries=0) as client:
        expected = await client.predict("ranker", columns_of(ROWS))
    got = outputs_of(await post(http, FORMS[form]()))
    assert list(got) == [f"input{place}" for place in range(16)]
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


async def test_each_output_may_be_binary_or_not(http: HttpServed) -> None:
    outputs = [
        {"name": "input11", "parameters": {"binary_data": True}},
        {"name": "input0", "parameters": {"binary_data": False}},
        {"name": "input1"},
    ]
    response = await post(http, as_json(json_of(outputs=outputs, id="seven")), "/v2/models/ranker/versions/3/infer")
    told = json.loads(response.content[: int(response.headers[LENGTH])])
    assert (told["model_name"], told["model_version"], told["id"]) == ("ranker", "3", "seven")
    assert [each["name"] for each in told["outputs"]] == ["input11", "input0", "input1"]
    assert ["data" in each for each in told["outputs"]] == [False, True, True]
    assert outputs_of(response)["input11"].tolist() == [[1.0, 2.0, 3.0]] * 3
    assert response.headers["content-type"] == "application/octet-stream"


async def test_bodies_come_and_go_compressed(http: HttpServed) -> None:
    plain = outputs_of(await post(http, as_binary()))
    for coding, packed in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        body, headers = as_binary()
        sent = packed(body), headers | {"Content-Encoding": coding, "Accept-Encoding": f"br, {coding};q=0.5"}
        response = await post(http, sent)
        assert response.headers["content-encoding"] == coding
        got = outputs_of(response)
        assert all((got[name] == values).all() for name, values in plain.items())
    response = await post(http, as_binary(), **{"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in response.headers


async def test_a_body_that_unpacks_to_too_much_is_refused(http: HttpServed) -> None:
    response = await post(http, (gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"}))
    assert (response.status_code, "max_message_bytes" in response.json()["error"]) == (413, True)


def changed(place: int, **changes: Any) -> Sent:
    """The request with fields of an input changed, or, where None, taken out."""
    asked = json_of()
    asked["inputs"][place].update(changes)
    asked["inputs"][place] = {name: value for name, value in asked["inputs"][place].items() if value is not None}
    return as_json(asked)


def longer(sent: Sent) -> Sent:
    return sent[0] + b"more", sent[1]


async def test_what_is_null_is_absent(http: HttpServed) -> None:
    expected = outputs_of(await post(http, as_json(json_of())))
    absent = {"id": None, "parameters": None, "outputs": None}
    for asked in (
        json_of(**absent),
        json_of(parameters={"timeout": None, "priority": None, "sequence_id": None, "binary_data_output": None}),
        json_of(outputs=[{"name": name, "parameters": None} for name in expected]),
        json_of(outputs=[{"name": name, "parameters": {"binary_data": None}} for name in expected]),
    ):
        got = outputs_of(await post(http, as_json(asked)))
        assert {name: values.tolist() for name, values in got.items()} == {
            name: values.tolist() for name, values in expected.items()
        }
    for changes in ({"parameters": None}, {"parameters": {"binary_data_size": None}}):
        asked = json_of()
        asked["inputs"][1].update(changes)
        assert outputs_of(await post(http, as_json(asked))).keys() == expected.keys()


async def test_nested_data_are_read_row_by_row_whatever_shape_they_have(http: HttpServed) -> None:
    by_shape = {}
    for data in ([[1, 2], [1, 2], [1, 2]], [[1, 2, 1], [2, 1, 2]], [1, 2, 1, 2, 1, 2]):
        asked = json_of({name: TENSORS[name] for name in ("user", "item")})
        asked["inputs"].append({"name": "history", "datatype": "INT64", "shape": [3, 2], "data": data})
        by_shape[str(data)] = (await post(http, as_json(asked))).json()
    first, *others = by_shape.values()
    assert "outputs" in first, first
    assert others == [first, first]


WRONG: dict[str, tuple[Sent, str]] = {
    "no JSON": ((b"{", {}), "not JSON"),
    "no text": ((b"\xff\xfe\xfd", {}), "UTF-8"),
    "deep nesting": ((b"[" * 90_000, {}), "nested"),
    "no object": ((b"[]", {}), "the body must be"),
    "no inputs": ((b"{}", {}), "inputs must be"),
    "inputs that are none": ((b'{"inputs": [1]}', {}), "inputs must be"),
    "no rows": (as_json({"inputs": []}), "candidate"),
    "no name": (changed(1, name=None), "inputs: each must have a name"),
    "no datatype": (changed(1, datatype=None), "input item: has no datatype"),
    "a datatype that is none": (changed(1, datatype="INT65"), "INT65"),
    "no shape": (changed(1, shape=None), "input item: its shape"),
    "a shape of fractions": (changed(1, shape=[3.0]), "input item: its shape"),
    "a shape beyond": (changed(1, shape=[2**62]), "input item: 3 values"),
    "a shape far beyond": (changed(1, shape=[10**2500, 10**2500]), "input item: its shape has a dimension above"),
    "no data": (changed(1, data=None), "input item: has no data"),
    "data that is no list": (changed(1, data="123"), "input item: its data must be a list"),
    "text for numbers": (changed(1, data=[1, 2, "3"]), "input item: its datatype is INT64"),
    "fractions for integers": (changed(1, data=[1, 2, 3.5]), "input item: its datatype is INT64"),
    "nulls": (changed(1, data=[1, 2, None]), "null"),
    "truth for numbers": (changed(1, data=[1, 2, True]), "boolean"),
    "integers beyond": (changed(1, data=[1, 2, 2**63]), "beyond INT64"),
    "integers far beyond": (changed(8, data=[[1, 10**400]]), "beyond FP32"),
    "lists beside values": (changed(8, data=[[1.0], 2.0]), "input age: its data has lists"),
    "NaN where it may not be": (changed(9, data=[float("inf")]), "price"),
    "numbers beside strings": (changed(1, datatype="BYTES", data=["a", 1, "c"]), "values of type integer"),
    "lists too deep": (changed(8, data=[[[1.0], [2.0]]]), "values of type list"),
    "strings for ids": (changed(1, datatype="BYTES", data=["a", "b", "c"]), "feature item"),
    "an input twice": (changed(1, name="user"), "input user: is twice"),
    "an unknown input": (changed(1, name="city"), "input city"),
    "parameters that are none": (changed(1, parameters=[]), "parameters must be"),
    "shared memory": (changed(1, parameters={"shared_memory_region": "x"}), "shared memory"),
    "data and bytes": (changed(1, parameters={"binary_data_size": 0}), "input item: has data and"),
    "bytes that are not there": (changed(1, data=None, parameters={"binary_data_size": 24}), "binary_data_size is 24"),
    "a size that is none": (changed(1, data=None, parameters={"binary_data_size": "24"}), "binary_data_size"),
    "bytes left over": (longer(as_binary()), "4 bytes after"),
    "a length beyond the body": ((as_binary()[0], {LENGTH: "100000"}), LENGTH),
    "a length that is none": ((as_binary()[0], {LENGTH: "-1"}), LENGTH),
    "a length within the JSON": ((as_binary()[0], {LENGTH: "10"}), "not JSON"),
    "outputs that are none": (as_json(json_of(outputs={"name": "input1"})), "outputs must be"),
    "an unknown output": (as_json(json_of(outputs=[{"name": "x"}])), "'x'"),
    "a flag that is none": (as_json(json_of(parameters={"binary_data_output": 1})), "binary_data_output"),
    "classes": (as_json(json_of(outputs=[{"name": "input1", "parameters": {"classification": 3}}])), "classification"),
    "a sequence": (as_json(json_of(parameters={"sequence_id": 3})), "sequence_id"),
    "an id that is none": (as_json(json_of(id=3)), "id must be"),
    "an unknown coding": ((as_json(json_of())[0], {"Content-Encoding": "br"}), "Content-Encoding"),
    "a coding that it is not in": ((as_json(json_of())[0], {"Content-Encoding": "gzip"}), "not gzip"),
    "half a coding": ((gzip.compress(as_json(json_of())[0])[:-9], {"Content-Encoding": "gzip"}), "ends too early"),
}


async def test_a_wrong_request_is_400_and_the_error_names_what(http: HttpServed) -> None:
    for case, (sent, named) in WRONG.items():
        response = await post(http, sent)
        assert response.status_code == 400, (case, response.text)
        assert response.json().keys() == {"error"}, case
        assert named in response.json()["error"], case


async def test_what_is_not_served_is_not_found(http: HttpServed) -> None:
    for path, status in {
        "/v2/models/nobody/infer": 404,
        "/v2/models/ranker/versions/4/infer": 404,
        "/v2/models/ranker/versions/latest/infer": 400,
        "/v2/nothing": 404,
        "/v2/models/ranker/infer/": 404,
    }.items():
        response = await post(http, as_json(json_of()), path)
        assert (response.status_code, response.json().keys()) == (status, {"error"}), path


async def test_a_timeout_is_kept(oip: OipServed, http: HttpServed) -> None:
    oip.router.gate.clear()
    response = await post(http, as_json(json_of(parameters={"timeout": 20_000})))
    assert response.status_code == 504
    oip.router.gate.set()


async def test_a_server_tells_of_itself(http: HttpServed) -> None:
    assert (await http.client.get("/v2/health/live")).json() == {"live": True}
    assert (await http.client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await http.client.get("/v2")).json()["extensions"][0] == "binary_tensor_data"


async def test_a_model_is_described(oip: OipServed, http: HttpServed) -> None:
    for path in ("/v2/models/ranker", "/v2/models/ranker/versions/3"):
        told = (await http.client.get(path)).json()
        assert told["inputs"][1] == {"name": "item", "datatype": "INT64", "shape": [-1]}
        config = (await http.client.get(f"{path}/config")).json()
        assert (config["max_batch_size"], config["input"][1]["data_type"]) == (0, "TYPE_INT64")
        assert (await http.client.get(f"{path}/ready")).json()["ready"]
        oip.model_counts = {("ranker", 3): ModelCounts(calls=7, queue_ns=9)}
        told = (await http.client.get(f"{path}/stats")).json()
        assert told["model_stats"][0]["inference_stats"]["queue"] == {"count": 7, "ns": 9}
    assert told["model_stats"] == (await http.client.get("/v2/models/stats")).json()["model_stats"][1:]
    for what in ("", "/config", "/ready", "/stats"):
        assert (await http.client.get(f"/v2/models/nobody{what}")).status_code == 404


async def test_the_index_lists_what_is_served(http: HttpServed) -> None:
    told = (await http.client.post("/v2/repository/index")).json()
    assert [(each["name"], each["version"], each["state"]) for each in told] == [
        ("cities", "1", "READY"),
        ("ranker", "3", "READY"),
    ]


async def test_an_index_of_what_is_ready_is_all_of_it(http: HttpServed) -> None:
    path = "/v2/repository/index"
    everything = (await http.client.post(path)).json()
    for body in (b"{}", b'{"ready": true}', b'{"ready": false}', b'{"ready": null}'):
        assert (await http.client.post(path, content=body)).json() == everything
    for body in (b"{", b"[]", b'{"ready": 1}'):
        response = await http.client.post(path, content=body)
        assert (response.status_code, response.json().keys()) == (400, {"error"}), body


async def test_a_model_called_stats_is_described_version_by_version(oip: OipServed, http: HttpServed) -> None:
    stats = make_cities(oip.cities.executor, oip.router, "stats")
    oip.catalog.add(stats)
    oip.catalog.show({"stats": 1}, [("stats", 1)])
    assert (await http.client.get("/v2/models/stats")).json().keys() == {"model_stats"}
    for path in ("/v2/models/stats/versions/1", "/v2/models/stats/config", "/v2/models/stats/ready"):
        assert (await http.client.get(path)).json()["name"] == "stats", path
    await stats.batcher.close(timeout_s=60)


async def test_strings_are_values(http: HttpServed) -> None:
    cities = {"city": np.array(["rome", "", "paris", "são paulo"], object)}
    for sent in (as_json(json_of(cities)), as_binary(cities)):
        response = await post(http, sent, "/v2/models/cities/infer")
        assert outputs_of(response)["input0"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("kind", ["system", "cuda"])
async def test_there_is_no_shared_memory(http: HttpServed, kind: str) -> None:
    path = f"/v2/{kind}sharedmemory"
    assert (await http.client.get(f"{path}/status")).json() == []
    assert (await http.client.get(f"{path}/region/x/status")).status_code == 404
    assert (await http.client.post(f"{path}/unregister")).status_code == 200
    assert (await http.client.post(f"{path}/region/x/unregister")).status_code == 200
    assert (await http.client.post(f"{path}/region/x/register", content=b"{}")).status_code == 501


async def test_settings_are_not_for_clients(http: HttpServed) -> None:
    for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/ranker/trace/setting"):
        assert (await http.client.get(path)).status_code == 501
        assert (await http.client.post(path, content=b"{}")).status_code == 501
