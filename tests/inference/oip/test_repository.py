"""Models that come and go by the protocol: operators' verbs, for whoever may operate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest

from ringpull.inference.head.access import AtDoor
from ringpull.inference.head.frontends.oip.messages import message
from ringpull.ps.errors import ChangeGivenUp, InvalidInput, NotFound, Unavailable
from ringpull.router.control.operations import LoadModel, UnloadModel
from tests.inference.http_served import HttpServed, http_served
from tests.inference.oip.oip_served import SERVICE, OipServed

pytestmark = pytest.mark.net


@pytest.fixture
async def door() -> AsyncIterator[OipServed]:
    """A head at whose ports everybody is an operator, as at its door."""
    with ThreadPoolExecutor(1) as executor:
        served = OipServed(executor, access=AtDoor(), at_door=True)
        await served.start()
        yield served
        await served.stop()


async def over_grpc(door: OipServed, verb: str, name: str, *parameters: str) -> str:
    """Load or unload, and return the code."""
    request = message(f"RepositoryModel{verb}Request")(model_name=name)
    for each in parameters:
        request.parameters[each].string_param = "{}"
    try:
        await door.call(f"RepositoryModel{verb}", request)
    except grpc.aio.AioRpcError as exc:
        return str(exc.code().name)
    return "OK"


async def over_http(http: HttpServed, verb: str, name: str, *parameters: str) -> httpx.Response:
    sent = {"parameters": dict.fromkeys(parameters, "{}")} if parameters else None
    return await http.client.post(f"/v2/repository/models/{name}/{verb.lower()}", json=sent)


CASES = [
    ("Load", "newcomer", LoadModel(folder="newcomer", model="newcomer")),
    ("Load", "ranker", LoadModel(folder="ranker", model="ranker")),
    ("Unload", "ranker", UnloadModel(model="ranker")),
]


async def test_a_load_is_a_load_of_the_model_of_that_name(door: OipServed) -> None:
    for verb, name, request in CASES:
        assert await over_grpc(door, verb, name) == "OK"
        assert door.coordinator.asked.pop() == request
    async with http_served(door, parts=door.parts) as http:
        for verb, name, request in CASES:
            assert (await over_http(http, verb, name)).status_code == 200
            assert door.coordinator.asked.pop() == request
        assert (await over_http(http, "Unload", "ranker", "unload_dependents")).status_code == 200


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidInput("no such folder"), "INVALID_ARGUMENT", 400),
        (NotFound("not served here"), "NOT_FOUND", 404),
        (ChangeGivenUp("shard 0: damaged"), "FAILED_PRECONDITION", 409),
        (Unavailable("gone"), "UNAVAILABLE", 503),
    ],
    ids=["input", "unknown", "given up", "away"],
)
async def test_what_goes_wrong_is_told(door: OipServed, error: Exception, code: str, status: int) -> None:
    door.coordinator.error = error
    async with http_served(door, parts=door.parts) as http:
        for verb in ("Load", "Unload"):
            assert await over_grpc(door, verb, "newcomer") == code
            response = await over_http(http, verb, "newcomer")
            assert (response.status_code, response.json()) == (status, {"error": str(error)})


@pytest.mark.parametrize("parameter", ["config", "file:1/model.bin", "my_own"])
async def test_files_and_configuration_are_refused(door: OipServed, parameter: str) -> None:
    assert await over_grpc(door, "Load", "newcomer", parameter) == "INVALID_ARGUMENT"
    async with http_served(door, parts=door.parts) as http:
        response = await over_http(http, "Load", "newcomer", parameter)
        assert (response.status_code, parameter in response.json()["error"]) == (400, True)
        for body in (b"[", b"[]", b'{"parameters": []}'):
            response = await http.client.post("/v2/repository/models/newcomer/load", content=body)
            assert response.status_code == 400
    assert door.coordinator.asked == []


@pytest.mark.parametrize("name", ["", "../other", "/models/other", "s3://bucket/model", ".hidden"])
async def test_no_model_is_loaded_from_elsewhere(door: OipServed, name: str) -> None:
    assert await over_grpc(door, "Load", name) == "INVALID_ARGUMENT"
    assert door.coordinator.asked == []


async def test_who_may_not_operate_changes_nothing(oip: OipServed, http: HttpServed) -> None:
    for verb in ("Load", "Unload"):
        for parameters in ((), ("config",)):
            assert await over_grpc(oip, verb, "ranker", *parameters) == "PERMISSION_DENIED"
            response = await over_http(http, verb, "ranker", *parameters)
            assert (response.status_code, response.json().keys()) == (403, {"error"})
    assert oip.coordinator.asked == []


async def test_who_may_not_operate_is_told_that_and_not_what_is_wrong(oip: OipServed, http: HttpServed) -> None:
    path = "/v2/repository/models/ranker"
    for verb in ("load", "unload"):
        for body in (b"{", b"[]", b'{"parameters": 1}', bytes(1 << 20)):
            response = await http.client.post(f"{path}/{verb}", content=body)
            assert (response.status_code, response.json().keys()) == (403, {"error"}), body[:20]
        response = await http.client.post(f"{path}/{verb}", headers={"Request-Timeout": "soon"})
        assert response.status_code == 403
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await oip.raw(f"{SERVICE}RepositoryModel{verb.title()}", b"\xff")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_body_whose_fields_are_null_has_none(door: OipServed) -> None:
    async with http_served(door, parts=door.parts) as http:
        for body in (b"", b"{}", b'{"parameters": null}', b'{"parameters": {"config": null}}'):
            response = await http.client.post("/v2/repository/models/newcomer/load", content=body)
            assert response.status_code == 200, (body, response.text)
            assert door.coordinator.asked.pop() == LoadModel(folder="newcomer", model="newcomer")
