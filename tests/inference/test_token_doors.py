"""Tokens at every door of a head: gRPC with a plain client, HTTP, and a protocol of somebody else's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ringpull import __version__
from ringpull.inference.client import stubs
from ringpull.inference.head.access import Access, Unasked
from ringpull.inference.head.frontends.http.gate import PAGE, ROLES
from ringpull.inference.head.frontends.http.metrics import metrics_application
from ringpull.inference.head.frontends.http.server import application
from ringpull.inference.head.frontends.page import routes as page_routes
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.proto import operations_pb2
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.status_codes import PUSHBACK, http_headers
from ringpull.ps.errors import LimitExceeded
from ringpull.ps.metric_families import registry_of
from ringpull.router.control.verbs import Role
from tests.clock import Clock
from tests.inference.served import CONFIG, ROWS, Served
from tests.inference.small_model import columns_of, plain_row
from tests.inference.test_toy_front_end import body_of
from tests.inference.toy_front_end import ToyFrontEnd, ask

pytestmark = pytest.mark.net

LIMITED = {"requests": "requests_per_s = 2", "rows": "rows_per_s = 4", "flight": "in_flight = 1"}
TEXT = "".join(
    f'[[token]]\nname = "{name}"\ntoken = "s3cret-{name}-0123456789"\nroles = ["{role}"]\n{more}\n'
    for name, role, more in (
        *((role.value, role.value, "") for role in Role),
        *((name, "predict", limit) for name, limit in LIMITED.items()),
        ("strict", "predict", "requests_per_s = 1\nrows_per_s = 4\nin_flight = 1"),
    )
)


def shown(name: str) -> str:
    return f"Bearer s3cret-{name}-0123456789"


REQUEST = encode_request(as_call("ranker", columns_of(ROWS), {})).SerializeToString()

Outcome = tuple[str, str]


class Doors(Served):
    """A served model that asks for tokens, and what it answers."""

    def __init__(self, executor: ThreadPoolExecutor, access: Access) -> None:
        super().__init__(executor, CONFIG, access=access)

    async def ask(self, path: str, body: bytes, *authorization: str) -> Outcome:
        try:
            await self.raw(path, body, metadata=[("authorization", each) for each in authorization])
        except grpc.aio.AioRpcError as error:
            self.trailing: Mapping[str, Any] = dict(error.trailing_metadata() or ())
            return error.code().name, error.details() or ""
        return "OK", ""

    async def predict(self, *authorization: str, rows: int = 3) -> Outcome:
        columns = columns_of([plain_row(1, item % 12) for item in range(rows)])
        return await self.ask(
            stubs.PREDICT.path, encode_request(as_call("ranker", columns, {})).SerializeToString(), *authorization
        )


@pytest.fixture
async def doors(clock: Clock) -> AsyncIterator[Doors]:
    with ThreadPoolExecutor(1) as executor:
        doors = Doors(executor, Tokens(TokenSettings(entries=parse_tokens(TEXT, "here")), clock))
        doors.target = f"127.0.0.1:{await doors.server.start()}"
        yield doors
        doors.router.gate.set()
        await doors.server.stop(grace_s=0)
        await doors.version.batcher.close(timeout_s=60)


GET_MODEL = pb.GetModelRequest(model="ranker").SerializeToString()
GRPC: Mapping[str, tuple[str, bytes, set[str]]] = {
    "Predict": ("/ringpull.v1.Predictor/Predict", REQUEST, {"predict"}),
    "GetModel": ("/ringpull.v1.Predictor/GetModel", GET_MODEL, {"read", "operate", "predict"}),
    "ListModels": ("/ringpull.v1.Predictor/ListModels", b"", {"read", "operate", "predict"}),
    "GetStatus": ("/ringpull.v1.Admin/GetStatus", b"", {"read", "operate"}),
}


@pytest.mark.parametrize("method", GRPC)
async def test_each_method_asks_for_its_role(doors: Doors, method: str) -> None:
    path, body, may = GRPC[method]
    for role in Role:
        code, message = await doors.ask(path, body, shown(role))
        assert code == ("OK" if role in may else "PERMISSION_DENIED"), (role, message)
        assert code == "OK" or f"token {role} may not do that" in message
    code, message = await doors.ask(path, body)
    assert code == "UNAUTHENTICATED"
    assert message == "a token is asked for here: send the header `authorization: Bearer TOKEN`"


@pytest.mark.parametrize("method", GRPC)
async def test_who_may_not_learns_nothing_of_what_is_asked(doors: Doors, method: str) -> None:
    """A body that is no message, a model that is not there: one answer to all of them."""
    path = GRPC[method][0]
    for body in (b"\xff\xff", pb.GetModelRequest(model="nobody").SerializeToString(), b"x" * 1000):
        assert (await doors.ask(path, body))[0] == "UNAUTHENTICATED"
        assert (await doors.ask(path, body, shown("write")))[0] == "PERMISSION_DENIED"


MALFORMED: Sequence[tuple[str, ...]] = (
    (shown("predict"), shown("predict")),
    (shown("predict"), "Basic x"),
    (shown("predict").replace("Bearer", "Basic"),),
    (shown("predict").replace("Bearer ", ""),),
    (shown("nobody"),),
    ("",),
    ("Bearer",),
    ("Bearer " + "x" * 5000,),  # from 8 KiB on gRPC refuses metadata by chance, from 16 KiB on always
)


@pytest.mark.parametrize("headers", MALFORMED, ids=lambda headers: ", ".join(headers)[:40])
async def test_what_is_no_authorization(doors: Doors, headers: Sequence[str]) -> None:
    code, message = await doors.predict(*headers)
    assert code == "UNAUTHENTICATED", message
    assert "0123456789" not in message


async def test_a_request_that_was_received_is_taken_whatever_its_rows(doors: Doors, clock: Clock) -> None:
    assert await doors.predict(shown("strict"), rows=8) == ("OK", "")
    clock.now_s += 1  # now rows are owed no more, and none are there
    for _ in range(2):
        code, message = await doors.predict(shown("strict"), rows=1)
        assert code == "RESOURCE_EXHAUSTED"
        clock.now_s += 0.25
    assert "requests_per_s is 1" in message


HEADERS_FRAME, END_STREAM_AND_HEADERS = 1, 0x5


def literal(name: bytes, value: bytes) -> bytes:
    """A header of HPACK that no table keeps (RFC 7541, 6.2.2), its lengths under 2 ** 14."""

    def text(of: bytes) -> bytes:
        if len(of) < 127:
            return bytes([len(of)]) + of
        rest = len(of) - 127
        return bytes([127, rest % 128 | 128, rest // 128]) + of

    return b"\x00" + text(name) + text(value)


@pytest.mark.parametrize(
    "more", [b"\xe9\xff", "ключ".encode(), b"\xff" * 500, b"\x01"], ids=lambda more: repr(more)[:20]
)
async def test_bytes_that_no_client_of_grpc_sends(doors: Doors, more: bytes, caplog: pytest.LogCaptureFixture) -> None:
    value = shown("predict").encode() + more
    headers = b"".join(
        literal(name, of)
        for name, of in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", stubs.PREDICT.path.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"authorization", value),
        )
    )
    reader, writer = await asyncio.open_connection(*doors.target.split(":"))
    settings = bytes(3) + b"\x04" + bytes(5)
    frame = len(headers).to_bytes(3, "big") + bytes([HEADERS_FRAME, END_STREAM_AND_HEADERS]) + (1).to_bytes(4, "big")
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame + headers)
    received = b""
    async with asyncio.timeout(60):
        while b"grpc-status" not in received:
            received += (part := await reader.read(10_000))
            assert part, received
    writer.close()
    assert b"grpc-status\x0216" in received, received  # 16: UNAUTHENTICATED
    assert (await doors.predict(shown("predict")))[0] == "OK"
    assert caplog.records
    assert "s3cret" not in caplog.text


async def test_nothing_is_asked_where_there_are_no_tokens(served: Served) -> None:
    for headers in MALFORMED:
        metadata = [("authorization", each) for each in headers]
        for path, body, _ in GRPC.values():
            await served.raw(path, body, metadata=metadata)


async def test_a_refused_call_is_not_read(doors: Doors) -> None:
    """Its caller sends no message at all, and is answered nevertheless."""
    async with grpc.aio.insecure_channel(doors.target) as channel:
        call = channel.stream_unary(stubs.PREDICT.path)(timeout=60)
        with pytest.raises(grpc.aio.AioRpcError, match="a token is asked for here"):
            await call
    assert doors.predictor.admission.in_flight_bytes == 0
    assert doors.calls.calls == {("", "UNAUTHENTICATED"): 1}


@pytest.mark.parametrize(
    "path",
    [
        stubs.GET_MODEL.path,
        stubs.LIST_MODELS.path,
        stubs.GET_STATUS.path,
        "/ringpull.v1.Operations/Call",
        "/ringpull.v1.Operations/OfAnotherBuild",
    ],
)
async def test_no_message_of_a_stranger_is_received(doors: Doors, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """It sends none, and is answered nevertheless: what it might send takes no memory."""
    async with grpc.aio.insecure_channel(doors.target) as channel:
        for metadata in ([], [("authorization", shown("nobody"))]):
            call = channel.stream_unary(path)(timeout=60, metadata=metadata)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(doors.predictor.receiving) == 0
    told = [each for each in caplog.records if each.name == "ringpull.audit"]
    assert len(told) == (2 if "Operations" in path else 0)
    assert all((each.verb, each.outcome) == ("", "UNAUTHENTICATED") for each in told)  # type: ignore[attr-defined]


async def test_health_is_free_and_reflection_for_whoever_is_known(doors: Doors) -> None:
    async def list_services(*metadata: tuple[str, str]) -> Any:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in stub.ServerReflectionInfo(iter([request]), timeout=60, metadata=metadata):
            return [each.name for each in reply.list_services_response.service]
        return []

    async with grpc.aio.insecure_channel(doors.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=60)).status == 1
        for role in Role:
            assert "ringpull.v1.Predictor" in await list_services(("authorization", shown(role)))
        for metadata in ([], [("authorization", shown("nobody"))]):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await list_services(*metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


# -- HTTP --------------------------------------------------------------------------------------------------------------


def browser(access: Access) -> httpx.AsyncClient:
    async def status() -> Message:
        return pb.ClusterStatus(head="here")

    async def refuses() -> Message:
        raise LimitExceeded("too many", retry_after_s=0.25)

    app = application(lambda: True, status, refuses, access=access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://head", timeout=60)


@pytest.fixture
async def http(doors: Doors) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(doors.predictor.access) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("/status", {"read", "operate"}),
        ("/metrics", {"read", "operate"}),
        ("/metrics/targets", {"read", "operate"}),
        ("/v1/models", {"read", "operate", "predict"}),
        ("/openapi.json", {"read", "operate", "predict"}),
        ("/nothing", set(Role)),
        ("/page", set(Role)),
        ("/status/", set(Role)),
    ],
)
async def test_each_path_asks_for_its_role(http: httpx.AsyncClient, path: str, may: set[str]) -> None:
    for role in Role:
        answer = await http.get(path, headers={"Authorization": shown(role)})
        assert (answer.status_code == 403) == (role not in may), answer.text
    for headers in ({}, {"Authorization": shown("nobody")}):
        answer = await http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["code"] == "UNAUTHENTICATED"


@pytest.mark.medium
async def test_what_is_not_here_cannot_be_told_from_what_is(http: httpx.AsyncClient) -> None:
    answers = {
        (answer.status_code, answer.text)
        for path in (*ROLES, "/nothing", "/status/", "/healthz/", "//healthz", "/healthz/../status")
        for method in ("GET", "POST", "OPTIONS", "HEAD", "NONSENSE")
        if (answer := await http.request(method, path)).text and answer.url.path not in PAGE  # as httpx has cut it
    }
    assert len(answers) == 1


async def test_the_page_asks_for_a_token_itself(http: httpx.AsyncClient) -> None:
    assert {path for path in PAGE if (await http.get(path)).status_code != 404} == set(), "it is free, and not here"
    assert set(page_routes.FILES) == PAGE


async def test_a_probe_has_no_token(http: httpx.AsyncClient) -> None:
    for headers in ({}, {"Authorization": "nonsense"}):
        assert (await http.get("/healthz", headers=headers)).json() == {"status": "SERVING"}


@pytest.mark.parametrize(
    "headers",
    [
        *MALFORMED,
        (b"Bearer \xe9",),
        ("Bearer " + "x" * (1 << 20),),
        (" " + shown("read"),),
        (shown("read"), shown("read")),
    ],
    ids=lambda headers: repr(headers)[:40],
)
async def test_what_is_no_authorization_over_http(http: httpx.AsyncClient, headers: Sequence[str | bytes]) -> None:
    pairs = [(b"authorization", each if isinstance(each, bytes) else each.encode()) for each in headers]
    assert (await http.get("/status", headers=pairs)).status_code == 401


async def test_http_asks_nobody_where_there_are_no_tokens() -> None:
    async with browser(Unasked()) as http:
        for headers in ({}, {"Authorization": "nonsense"}):
            assert (await http.get("/status", headers=headers)).json()["head"] == "here"
        assert (await http.get("/nothing")).status_code == 404


async def test_a_port_for_metrics_alone_asks_too(doors: Doors) -> None:
    app = metrics_application(registry_of([]), doors.predictor.access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://head") as http:
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/metrics", headers={"Authorization": shown("predict")})).status_code == 403
        assert (await http.get("/metrics", headers={"Authorization": shown("read")})).status_code == 200


async def test_a_refusal_says_when_to_come_back(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/models", headers={"Authorization": shown("read")})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_a_hint_over_http_is_in_whole_seconds() -> None:
    hints = {seconds: http_headers(LimitExceeded("", retry_after_s=seconds)) for seconds in (0.001, 1.0, 1.001, 90.0)}
    assert [each["Retry-After"] for each in hints.values()] == ["1", "1", "2", "90"]
    assert http_headers(LimitExceeded("too large")) == {}


# -- another protocol --------------------------------------------------------------------------------------------------


async def test_a_front_end_that_forgets_to_say_who_asks_is_closed_not_open(doors: Doors) -> None:
    toy = ToyFrontEnd(doors.predictor)
    await toy.start()
    body = body_of()
    assert (await ask(toy.port, None, 10))["http"] == 401
    assert (await ask(toy.port, body, authorization=shown("read")))["http"] == 403
    assert (await ask(toy.port, body, authorization=shown("predict")))["code"] == "OK"
    assert (await ask(toy.port, body, authorization=shown("requests")))["code"] == "OK"
    assert (await ask(toy.port, body, authorization=shown("requests")))["code"] == "OK"
    refused = await ask(toy.port, None, 10, authorization=shown("requests"))
    assert (refused["http"], refused["retry_after_s"]) == (429, 0.5)
    assert toy.bodies_read == 3
    toy.server.close()


# -- quotas ------------------------------------------------------------------------------------------------------------


async def test_requests_a_second(doors: Doors, clock: Clock) -> None:
    assert [(await doors.predict(shown("requests")))[0] for _ in range(2)] == ["OK", "OK"]
    code, message = await doors.predict(shown("requests"))
    assert code == "RESOURCE_EXHAUSTED"
    assert message == "token requests is over its quota: requests_per_s is 2; ask again in 500 ms"
    assert doors.trailing[PUSHBACK] == "500"
    assert (await doors.predict(shown("predict")))[0] == "OK", "each token has its own"
    clock.now_s += 0.5
    assert (await doors.predict(shown("requests")))[0] == "OK"


async def test_rows_a_second_are_taken_before_they_are_scored(doors: Doors, clock: Clock) -> None:
    assert (await doors.predict(shown("rows"), rows=3))[0] == "OK"
    pulls = doors.router.pulls_begun
    code, message = await doors.predict(shown("rows"), rows=3)
    assert (code, doors.router.pulls_begun) == ("RESOURCE_EXHAUSTED", pulls)
    assert message == "token rows is over its quota: rows_per_s is 4; ask again in 500 ms"
    assert (await doors.predict(shown("rows"), rows=1))[0] == "OK"
    clock.now_s += 1
    assert (await doors.predict(shown("rows"), rows=40))[0] == "OK", "a large one passes, and leaves a debt"
    assert "ask again in 9250 ms" in (await doors.predict(shown("rows"), rows=1))[1]


async def test_what_is_no_request_takes_no_rows(doors: Doors) -> None:
    message = encode_request(as_call("ranker", columns_of(ROWS), {}, outputs=["none such"])).SerializeToString()
    for _ in range(5):
        assert (await doors.ask(stubs.PREDICT.path, message, shown("rows")))[0] == "INVALID_ARGUMENT"
    assert (await doors.predict(shown("rows"), rows=4))[0] == "OK"


async def test_in_flight_comes_back_also_from_whoever_goes_away(doors: Doors) -> None:
    doors.router.gate.clear()
    begun = asyncio.create_task(doors.predict(shown("flight")))
    while not doors.router.pulls_begun:
        await asyncio.sleep(0.001)
    code, message = await doors.predict(shown("flight"))
    assert (code, "in_flight is 1" in message) == ("RESOURCE_EXHAUSTED", True)
    begun.cancel()
    doors.router.gate.set()
    async with asyncio.timeout(60):
        while (await doors.predict(shown("flight")))[0] != "OK":
            await asyncio.sleep(0.001)
    assert (await doors.predict(shown("flight")))[0] == "OK"


async def test_what_the_head_refuses_itself_takes_nothing(doors: Doors) -> None:
    admission = doors.predictor.admission
    doors.predictor.admission = Full()  # type: ignore[assignment]
    for _ in range(5):
        assert (await doors.predict(shown("strict")))[0] == "RESOURCE_EXHAUSTED"
    doors.predictor.admission = admission
    assert (await doors.predict(shown("strict")))[0] == "OK"
    assert "requests_per_s is 1" in (await doors.predict(shown("strict")))[1]
    assert doors.calls.callers == {("strict", "RESOURCE_EXHAUSTED"): 6, ("strict", "OK"): 1}
    assert doors.calls.over_quota == {("strict", "requests_per_s"): 1}


class Full:
    """An overloaded head's admission."""

    def expect(self, deadline_s: float) -> Any:
        raise LimitExceeded("overloaded", retry_after_s=0.1)


# -- what is told of it ------------------------------------------------------------------------------------------------


async def test_callers_are_counted_and_logged_by_name_and_no_secret_is_told(
    doors: Doors, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for name in ("predict", "read", "requests", "requests", "requests", "rows", "rows", "nobody"):
        said.append((await doors.predict(shown(name)))[1])
        said.append((await http.get("/status", headers={"Authorization": shown(name)})).text)
    said.append((await doors.predict(shown("predict"), shown("read")))[1])
    assert doors.calls.callers == {
        ("predict", "OK"): 1,
        ("requests", "OK"): 2,
        ("requests", "RESOURCE_EXHAUSTED"): 1,
        ("rows", "OK"): 1,
        ("rows", "RESOURCE_EXHAUSTED"): 1,
    }
    assert doors.calls.over_quota == {("requests", "requests_per_s"): 1, ("rows", "rows_per_s"): 1}
    assert doors.calls.calls["", "UNAUTHENTICATED"] == 2
    lines = [(record.getMessage(), getattr(record, "caller", None)) for record in caplog.records]
    assert ("predict answered", "predict") in lines
    assert ("predict failed", "requests") in lines
    told = [str(vars(record)) for record in caplog.records]
    everything = "\n".join([*said, *told, caplog.text, repr(doors.predictor.access), repr(doors.predictor)])
    assert "s3cret" not in everything


async def test_a_stranger_is_not_told_which_build_this_is(doors: Doors) -> None:
    of_another_build = operations_pb2.OperationRequest(verb="no_such_verb", build="9.9").SerializeToString()
    for method in ("Call", "Publish"):
        path = f"/ringpull.v1.Operations/{method}"
        code, message = await doors.ask(path, of_another_build)
        assert (code, __version__ in message) == ("UNAUTHENTICATED", False)
        assert __version__ in (await doors.ask(path, of_another_build, shown("read")))[1]
