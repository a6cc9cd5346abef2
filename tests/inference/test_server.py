"""The head's verbs over real gRPC and HTTP on loopback, in front of a fake router and program: statuses, limits,
deadlines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inference import stubs
from inference.catalog import Catalog, ServedVersion
from inference.client import AsyncClient
from inference.codec import as_call, encode_request
from inference.columns import Ragged
from inference.config import HeadConfig
from inference.http import HttpServer, application
from inference.methods import status_of
from inference.ports import claim
from inference.proto import ringpull_pb2 as pb
from inference.server import SERVICES, GrpcServer
from inference.service import AdminService, CallCounts, PredictorService
from inference.version import LoadedVersion
from ps.errors import (
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotOwner,
    RingpullError,
    StartupError,
    Unavailable,
)
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import SCHEMA, columns_of, make_manifest, make_tables, plain_row

pytestmark = pytest.mark.net

CONFIG = HeadConfig(max_message_bytes=100_000, max_candidates=50, max_values_per_row=20)


class HangingRouter(ReferenceRouter):
    """Answers only while its gate is open; raises what it was told to."""

    def __init__(self) -> None:
        super().__init__(make_tables())
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def pull(self, *arguments: Any, deadline_s: float) -> Any:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().pull(*arguments, deadline_s=deadline_s)


class Served:
    """A running server and what it stands on."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.router = HangingRouter()
        self.counts = CallCounts()
        loaded = LoadedVersion(Path("ranker/3"), make_manifest(), SCHEMA, EchoProgram())
        self.version = ServedVersion(loaded, self.router, executor, max_batch_rows=64)
        self.catalog = Catalog([self.version])
        self.predictor = PredictorService(self.catalog, CONFIG, self.counts)
        self.server = GrpcServer(self.predictor, AdminService(self.status), CONFIG)
        self.target = ""

    async def status(self) -> pb.ClusterStatus:
        return pb.ClusterStatus(head=self.target, requests=self.counts.requests, failed=self.counts.failed)

    async def raw(self, path: str, body: bytes, timeout_s: float = 60) -> bytes:
        async with grpc.aio.insecure_channel(self.target) as channel:
            return await channel.unary_unary(path)(body, timeout=timeout_s)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor)
        port = await served.server.start()
        served.target = f"127.0.0.1:{port}"
        yield served
        served.router.gate.set()
        await served.server.stop(grace_s=0)
        await served.version.batcher.close(timeout_s=60)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.target, timeout_s=60) as client:
        yield client


ROWS = [plain_row(1, item) for item in range(3)]


async def still_serves(client: AsyncClient) -> None:
    prediction = await client.predict("ranker", columns_of(ROWS), outputs=["input11"])
    assert prediction.outputs["input11"].tolist() == [[1.0, 2.0, 3.0]] * 3


# -- predict -----------------------------------------------------------------------------------------------------------


async def test_predict_answers_with_version_outputs_and_what_was_filled(client):
    columns = columns_of(ROWS)
    del columns["price"]
    prediction = await client.predict("ranker", columns, request_id="r-7")
    assert prediction.model == "ranker"
    assert prediction.version == 3
    assert prediction.request_id == "r-7"
    assert prediction.timings is None
    assert [(each.feature, each.reason) for each in prediction.filled] == [("price", "absent")]
    assert prediction.outputs["input11"].tolist() == [[1.0, 2.0, 0.5]] * 3


async def test_context_and_candidates_equal_all_rows_written_out(client):
    whole = await client.predict("ranker", columns_of(ROWS))
    split = await client.predict(
        "ranker", columns_of(ROWS, ["item"]), columns_of(ROWS[:1], [name for name in ROWS[0] if name != "item"])
    )
    assert whole.outputs.keys() == split.outputs.keys()
    for name, values in whole.outputs.items():
        np.testing.assert_array_equal(split.outputs[name], values)


async def test_many_callers_at_once_each_get_their_own_rows(client, served):
    async def ask(user: int) -> None:
        rows = [plain_row(user % 12, item % 12) for item in range(user, user + 1 + user % 4)]
        prediction = await client.predict("ranker", columns_of(rows), outputs=["input10"])
        assert prediction.outputs["input10"].tolist() == [[row["user"], row["item"]] for row in rows]

    served.router.gate.clear()
    calls = [asyncio.create_task(ask(user)) for user in range(40)]
    while served.counts.requests < 40:
        await asyncio.sleep(0)
    served.router.gate.set()
    await asyncio.gather(*calls)
    assert len(served.router.pulls) < 10  # what waited rode together


async def test_timings_name_every_stage_when_asked_for(client):
    prediction = await client.predict("ranker", columns_of(ROWS), with_timings=True)
    times = prediction.timings
    assert times is not None
    assert times.batch_rows == 3
    stages = times.decode_us + times.features_us + times.queue_us + times.lookup_us + times.dense_us
    assert min(times.decode_us, times.features_us, times.lookup_us, times.dense_us) > 0
    assert stages <= times.total_us


async def test_typed_request_gets_a_typed_reply_and_an_id(served):
    request = pb.PredictRequest(model="ranker", outputs=["input11"])
    for name in ("user", "item"):
        request.features[name].int64s.values.append(1)
    request.features["age"].floats.values.extend([4, 5])
    request.features["age"].width = 2
    reply = pb.PredictResponse.FromString(await served.raw(stubs.PREDICT.path, request.SerializeToString()))
    assert list(reply.outputs["input11"].floats) == [4, 5, 0.5]
    assert not reply.outputs["input11"].data
    assert reply.request_id


# -- bad input, each with its status, the server serving on ------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    return {key: column for key, column in columns_of(ROWS).items() if key != name}


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"model": "nobody"}, NotFound, "nobody.*ranker"),
        ({"version": 9}, NotFound, "no version 9.*3"),
        ({"features": {**columns_of(ROWS), "colour": np.arange(3)}}, InvalidInput, "colour"),
        ({"features": {**columns_of(ROWS), "item": np.array(["a", "b", "c"])}}, InvalidInput, "item.*int64"),
        ({"features": {**columns_of(ROWS), "item": np.arange(3) / 2}}, InvalidInput, "item.*int64"),
        ({"features": {**columns_of(ROWS), "item": np.arange(4)}}, InvalidInput, "has [34] rows"),
        ({"features": without("user")}, InvalidInput, "user.*absent"),
        ({"features": {**columns_of(ROWS), "age": np.ones((3, 3), np.float32)}}, InvalidInput, "age"),
        ({"features": {}}, InvalidInput, "no candidate"),
        ({"features": {"item": np.empty(0, np.int64)}, "context": {"user": [1]}}, InvalidInput, "no rows"),
        ({"context": {"user": [1]}}, InvalidInput, "user.*context"),
        ({"features": without("user"), "context": {"user": [1, 2]}}, InvalidInput, "user.*2 rows"),
        ({"outputs": ["input0", "loss"]}, InvalidInput, "loss.*input0"),
        ({"features": columns_of(ROWS * 20)}, LimitExceeded, "60 rows.*max_candidates is 50"),
        (
            {"features": {**columns_of(ROWS), "genres": Ragged(np.zeros(30, np.int64), [0, 1, 2, 30])}},
            LimitExceeded,
            "genres.*28 values.*max_values_per_row is 20",
        ),
        ({"features": {**columns_of(ROWS), "genres": np.zeros((3, 21), np.int64)}}, LimitExceeded, "genres.*21"),
        ({"features": {**columns_of(ROWS), "genres": np.zeros((3, 9000), np.int64)}}, LimitExceeded, "larger than max"),
    ],
)
async def test_bad_input_is_a_clear_error_and_the_server_serves_on(client, served, request_, error, message):
    arguments = {"model": "ranker", "features": columns_of(ROWS), **request_}
    with pytest.raises(error, match=message):
        await client.predict(arguments.pop("model"), arguments.pop("features"), **arguments)
    await still_serves(client)


def column(**fields: Any) -> dict[str, pb.Column]:
    return {"genres": pb.Column(int64s=pb.Int64List(values=[1, 2, 3]), **fields)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (column(offsets=[0, 2, 1, 3]), "genres.*offsets"),
        (column(offsets=[0, 1, 2, 9]), "genres.*offsets"),
        (column(offsets=[1, 2, 3, 3]), "genres.*offsets"),
        (column(raw_offsets=b"12345"), "genres"),
        (column(offsets=[0, 1, 2, 3], weights=[1.0]), "genres"),
        ({"genres": pb.Column()}, "genres.*no values"),
        ({"age": pb.Column(raw=pb.RawBuffer(dtype=pb.FLOAT32, data=b"123"))}, "age"),
        ({"age": pb.Column(floats=pb.FloatList(values=[1, float("nan")] * 3), width=2)}, None),
        ({"price": pb.Column(floats=pb.FloatList(values=[1, float("inf"), 2]))}, "price.*infinite"),
    ],
)
async def test_hostile_columns_over_the_wire(client, served, columns, message):
    request = encode_request(as_call("ranker", columns_of(ROWS)))
    for name, sent in columns.items():
        request.features[name].CopyFrom(sent)
    call = served.raw(stubs.PREDICT.path, request.SerializeToString())
    if message is None:  # age has a missing rule: NaN is filled, and said
        reply = pb.PredictResponse.FromString(await call)
        assert [(each.feature, each.reason, each.values) for each in reply.filled] == [("age", pb.Filled.MISSING, 3)]
    else:
        with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(client)


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\x0a\x7fab", bytes(range(200))])
@pytest.mark.parametrize("rpc", [stubs.PREDICT, stubs.GET_MODEL, stubs.LIST_MODELS, stubs.GET_STATUS])
async def test_body_that_is_no_message_is_an_invalid_argument(client, served, rpc, body):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw(rpc.path, body)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(client)


async def test_negative_version_is_an_invalid_argument(served):
    for rpc, message in (
        (stubs.PREDICT, pb.PredictRequest(model="ranker", version=-1)),
        (stubs.GET_MODEL, pb.GetModelRequest(model="ranker", version=-1)),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="version is -1") as caught:
            await served.raw(rpc.path, message.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# -- bad luck ----------------------------------------------------------------------------------------------------------


async def test_deadline_of_the_call_is_kept_while_a_shard_hangs(client, served):
    served.router.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await client.predict("ranker", columns_of(ROWS), timeout_s=0.05)
    served.router.gate.set()
    await still_serves(client)


async def test_call_without_a_deadline_gets_the_heads_own(served):
    config = HeadConfig(default_timeout_s=0.05)
    server = GrpcServer(PredictorService(served.catalog, config, served.counts), AdminService(served.status), config)
    port = await server.start()
    served.router.gate.clear()
    request = encode_request(as_call("ranker", columns_of(ROWS)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(stubs.PREDICT.path)(request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.stop(grace_s=0)


async def test_caller_who_goes_away_is_not_served(client, served):
    served.router.gate.clear()
    first = asyncio.create_task(client.predict("ranker", columns_of(ROWS)))
    while not served.counts.requests:
        await asyncio.sleep(0)
    gone = asyncio.create_task(client.predict("ranker", columns_of(ROWS[:1])))
    while served.counts.requests < 2:
        await asyncio.sleep(0)
    gone.cancel()
    while "waiting=1" in repr(served.version.batcher) and not gone.done():
        await asyncio.sleep(0)
    served.router.gate.set()
    await first
    await still_serves(client)
    assert served.counts.failed == 0


async def test_dead_shards_are_unavailable_and_named(client, served):
    served.router.error = Unavailable("table users: no live shard")
    with pytest.raises(Unavailable, match="table users: no live shard"):
        await client.predict("ranker", columns_of(ROWS))
    served.router.error = None
    await still_serves(client)
    assert (served.counts.requests, served.counts.failed) == (2, 1)


async def test_bug_is_internal_and_its_text_stays_in_the_log(client, served, caplog):
    served.router.error = ZeroDivisionError("secret detail")
    with pytest.raises(RingpullError, match=r"INTERNAL.*ZeroDivisionError") as caught:
        await client.predict("ranker", columns_of(ROWS))
    assert "secret detail" not in str(caught.value)
    assert "secret detail" in caplog.text
    served.router.error = None
    await still_serves(client)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (LimitExceeded("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (DeadlineExceeded("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (NotOwner("x", epoch=1), grpc.StatusCode.UNAVAILABLE),
        (CorruptData("x"), grpc.StatusCode.DATA_LOSS),
        (StartupError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_every_error_has_its_status(error, code):
    assert status_of(error) is code


# -- metadata, health, reflection --------------------------------------------------------------------------------------


async def test_model_describes_features_outputs_and_tables(client):
    model = await client.model("ranker")
    assert (model.name, model.version, list(model.versions)) == ("ranker", 3, [3])
    features = {feature.name: feature for feature in model.features}
    assert "user_item" not in features  # crosses are made, not sent
    assert (features["age"].kind, features["age"].width, features["age"].optional) == ("dense", 2, True)
    assert (features["tags"].many, features["tags"].weighted) == (True, True)
    assert (features["history"].kind, features["history"].max_length) == ("sequence", 4)
    assert {table.name: table.dim for table in model.tables} == dict.fromkeys(make_tables(), 3)
    assert (model.outputs[0].name, list(model.outputs[0].shape)) == ("input0", [3])
    assert await client.models() == [model]
    with pytest.raises(NotFound):
        await client.model("ranker", 4)


async def test_status_is_served(client, served):
    assert (await client.status()).head == served.target


async def test_health_is_per_service_and_turns_when_stopping(served):
    async with grpc.aio.insecure_channel(served.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(served.server.stop(grace_s=5))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping
    assert not served.server.serving


async def test_reflection_lists_services_and_their_file(served):
    async with grpc.aio.insecure_channel(served.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="ringpull.v1.Predictor"),
        ]
        replies = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    assert {service.name for service in replies[0].list_services_response.service} == set(SERVICES)
    assert pb.DESCRIPTOR.serialized_pb in replies[1].file_descriptor_response.file_descriptor_proto


async def test_calls_in_flight_finish_when_stopping(client, served):
    served.router.gate.clear()
    call = asyncio.create_task(client.predict("ranker", columns_of(ROWS)))
    while served.counts.requests == 0:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(served.server.stop(grace_s=60))
    while served.server.serving:
        await asyncio.sleep(0)
    served.router.gate.set()
    assert (await call).version == 3
    await stopping


# -- ports and HTTP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_port_in_use_is_an_error_that_names_it_even_when_shareable(options):
    with socket.socket() as stranger:
        for option in options:
            stranger.setsockopt(socket.SOL_SOCKET, option, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(StartupError, match=f"grpc port {port} on 127.0.0.1"):
            claim("grpc", "127.0.0.1", port)


def test_host_of_another_machine_is_a_startup_error():
    with pytest.raises(StartupError, match=r"http .*192\.0\.2\.1"):  # TEST-NET-1, RFC 5737
        claim("http", "192.0.2.1", 0)


async def test_grpc_server_does_not_share_a_port(served):
    port = int(served.target.rpartition(":")[2])
    second = GrpcServer(served.predictor, AdminService(served.status), HeadConfig(grpc_port=port))
    with pytest.raises(StartupError, match=str(port)):
        await second.start()
    await second.stop(grace_s=0)


async def test_http_answers_health_status_and_models(served):
    healthy = True

    async def models() -> pb.ListModelsResponse:
        return served.predictor.models()

    bound = claim("http", "127.0.0.1", 0)
    server = HttpServer(application(lambda: healthy, served.status, models), bound)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}") as http:
        assert (await http.get("/healthz")).json() == {"status": "SERVING"}
        assert (await http.get("/status")).json()["head"] == served.target
        model = (await http.get("/v1/models")).json()["models"][0]
        assert model["name"] == "ranker"
        assert model["features"][0]["optional"] is False  # defaults are written out
        assert (await http.get("/nothing")).status_code == 404
        healthy = False
        assert (await http.get("/healthz")).status_code == 503
    await server.stop()


# -- config ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["max_candidates", "default_timeout_s", "dense_threads", "max_message_bytes"])
def test_config_refuses_what_is_not_over_zero(field):
    with pytest.raises(InvalidInput, match=field):
        HeadConfig(**{field: 0})


def test_config_refuses_a_port_out_of_range():
    with pytest.raises(InvalidInput, match="http_port is 70000"):
        HeadConfig(http_port=70_000)
