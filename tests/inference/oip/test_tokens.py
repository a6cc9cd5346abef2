"""Tokens at the doors of the Open Inference Protocol: probes are free, everything else asks for its role."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from ringpull.inference.head.audit import AuditLog
from ringpull.inference.head.frontends.http.gate import OIP_HEALTH
from ringpull.inference.head.frontends.oip.messages import message
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.router.control.verbs import Role
from tests.clock import Clock
from tests.inference.http_served import http_served
from tests.inference.oip.oip_served import METHODS, OipServed
from tests.inference.oip.requests import infer_request
from tests.inference.oip.test_http import as_binary
from tests.inference.test_token_doors import TEXT, shown

pytestmark = pytest.mark.net

DESCRIBE = {"read", "operate", "predict"}
GRPC: dict[str, tuple[Any, set[str]]] = {
    "ModelInfer": (infer_request(), {"predict"}),
    "ServerMetadata": (message("ServerMetadataRequest")(), DESCRIBE),
    "ModelMetadata": (message("ModelMetadataRequest")(name="ranker"), DESCRIBE),
    "ModelConfig": (message("ModelConfigRequest")(name="ranker"), DESCRIBE),
    "ModelStatistics": (message("ModelStatisticsRequest")(name="ranker"), DESCRIBE),
    "RepositoryIndex": (message("RepositoryIndexRequest")(), DESCRIBE),
    "RepositoryModelLoad": (message("RepositoryModelLoadRequest")(model_name="ranker"), {"operate"}),
    "RepositoryModelUnload": (message("RepositoryModelUnloadRequest")(model_name="ranker"), {"operate"}),
}
HTTP = {
    ("POST", "/v2/models/ranker/infer"): {"predict"},
    ("GET", "/v2"): DESCRIBE,
    ("GET", "/v2/models/ranker"): DESCRIBE,
    ("GET", "/v2/models/ranker/config"): DESCRIBE,
    ("GET", "/v2/models/stats"): DESCRIBE,
    ("POST", "/v2/repository/index"): DESCRIBE,
    ("POST", "/v2/repository/models/ranker/load"): {"operate"},
    ("POST", "/v2/repository/models/ranker/unload"): {"operate"},
}


@pytest.fixture
async def guarded(clock: Clock) -> AsyncIterator[OipServed]:
    with ThreadPoolExecutor(1) as executor:
        served = OipServed(executor, access=Tokens(TokenSettings(entries=parse_tokens(TEXT, "here")), clock))
        await served.start()
        yield served
        await served.stop()


async def code_of(served: OipServed, method: str, request: Any, *tokens: str) -> str:
    try:
        await served.call(method, request, metadata=[("authorization", each) for each in tokens])
    except grpc.aio.AioRpcError as exc:
        return str(exc.code().name)
    return "OK"


async def test_each_method_asks_for_its_role(guarded: OipServed) -> None:
    for method, (request, may) in GRPC.items():
        assert await code_of(guarded, method, request) == "UNAUTHENTICATED", method
        for role in Role:
            expected = "OK" if role in may else "PERMISSION_DENIED"
            assert await code_of(guarded, method, request, shown(role)) == expected, (method, role)


async def test_so_does_each_path(guarded: OipServed) -> None:
    body, headers = as_binary()
    async with http_served(guarded, parts=guarded.parts) as http:
        for (verb, path), may in HTTP.items():
            sent = {"content": body, "headers": headers} if path.endswith("infer") else {"headers": {}}
            response = await http.client.request(verb, path, **sent)
            assert (response.status_code, response.json().keys()) == (401, {"error"}), path
            for role in Role:
                with_token = {**sent, "headers": {**sent["headers"], "authorization": shown(role)}}
                response = await http.client.request(verb, path, **with_token)
                assert response.status_code == (200 if role in may else 403), (path, role, response.text)


async def test_probes_are_free(guarded: OipServed) -> None:
    assert (await guarded.call("ServerLive")).live
    assert (await guarded.call("ServerReady")).ready
    asks = [method for method in METHODS if method not in ("ServerLive", "ServerReady")]
    for method in asks:
        request = message(METHODS[method].input_type.name)()
        assert await code_of(guarded, method, request) == "UNAUTHENTICATED", method
    async with http_served(guarded, parts=guarded.parts) as http:
        for path in OIP_HEALTH:
            assert (await http.client.get(path)).status_code == 200, path
        assert (await http.client.get("/v2/models/ranker/ready")).status_code == 401


async def test_every_refusal_of_a_load_is_told_in_the_audit_log(guarded: OipServed, tmp_path: Path) -> None:
    guarded.operators.audit = AuditLog(tmp_path / "audit.jsonl")  # type: ignore[misc]
    wrong = message("RepositoryModelLoadRequest")(model_name="ranker")
    wrong.parameters["config"].string_param = "{}"
    expected = []
    async with http_served(guarded, parts=guarded.parts) as http:
        for tokens, code in (
            ((), "UNAUTHENTICATED"),
            (("read",), "PERMISSION_DENIED"),
            (("operate",), "INVALID_ARGUMENT"),
        ):
            headers = {"authorization": shown(tokens[0])} if tokens else {}
            response = await http.client.post(
                "/v2/repository/models/ranker/load", json={"parameters": {"config": "{}"}}, headers=headers
            )
            assert response.json().keys() == {"error"}
            assert await code_of(guarded, "RepositoryModelLoad", wrong, *map(shown, tokens)) == code
            expected += [("load", door, code) for door in ("http", "grpc")]
        await http.client.post("/v2/models/ranker/infer")
    await guarded.operators.audit.written()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["verb"], line["door"], line["outcome"]) for line in lines] == expected
