"""The head's verbs over real gRPC and HTTP on loopback, in front of a fake router and program: statuses, limits,
deadlines."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ringpull.inference.client import stubs
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.grpc import service
from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.frontends.grpc.methods import code_of
from ringpull.inference.head.frontends.grpc.server import SERVICES, GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService, PredictorService
from ringpull.inference.head.frontends.http.server import HttpServer, application
from ringpull.inference.head.frontends.metadata import describe
from ringpull.inference.head.frontends.ports import claim
from ringpull.inference.head.predictor import Predictor
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.proto import writer_pb2
from ringpull.inference.schema.schema import Dense, IdSequence, Schema, Sparse
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.column_codec import encode_column
from ringpull.inference.wire.messages import column_message
from ringpull.ps.errors import (
    ChangeGivenUp,
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
from tests.inference.served import ROWS, still_serves
from tests.inference.small_model import columns_of, make_manifest, make_tables, plain_row
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

WRITER = "ringpull.v1.Writer"

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

    calls = await served.riding(*map(ask, range(40)))
    served.router.gate.set()
    await asyncio.gather(*calls)
    assert len(served.router.pulls) == 3, "what waited rode together, 99 rows of which a batch takes 64"


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


@pytest.mark.parametrize("packed", [False, True])
async def test_columns_that_come_one_by_one_are_read_beside_the_loop_where_they_are_long(served, monkeypatch, packed):
    """Value by value, of which there may be millions; packed ones are read where they lie."""
    on_loop = []

    def told(*given):
        on_loop.append(threading.current_thread() is threading.main_thread())
        return decode_request(*given)

    monkeypatch.setattr(service, "decode_request", told)
    columns = columns_of(ROWS, ["user", "item"])
    message = encode_request(as_call("ranker", columns, {}))
    if not packed:
        features = {name: column_message(encode_column(name, column)) for name, column in columns.items()}
        message = pb.PredictRequest(model="ranker", features=features)
    body = message.SerializeToString()
    await served.raw(stubs.PREDICT.path, body)
    monkeypatch.setattr("ringpull.inference.head.aside.ON_LOOP_BYTES", len(body) - 1)
    await served.raw(stubs.PREDICT.path, body)
    assert on_loop == [True, packed]


# -- bad luck ----------------------------------------------------------------------------------------------------------


async def test_deadline_of_the_call_is_kept_while_a_shard_hangs(client, served):
    served.router.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await client.predict("ranker", columns_of(ROWS), timeout_s=0.05)
    served.router.gate.set()
    await still_serves(client)


async def test_call_without_a_deadline_gets_the_heads_own(served):
    config = HeadConfig(default_timeout_s=0.05)
    service = PredictorService(Predictor(served.catalog, config), served.catalog)
    server = GrpcServer(service, AdminService(served.status), config)
    port = await server.start()
    served.router.gate.clear()
    request = encode_request(as_call("ranker", columns_of(ROWS)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(stubs.PREDICT.path)(request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.stop(grace_s=0)


async def test_a_message_that_never_comes_is_not_waited_for_longer(served):
    config = HeadConfig(default_timeout_s=0.05)
    predictor = Predictor(served.catalog, config)
    server = GrpcServer(PredictorService(predictor, served.catalog), AdminService(served.status), config)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        call = channel.stream_unary(stubs.PREDICT.path)()
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert predictor.admission.pressure() == predictor.admission.in_flight_bytes == 0
        ended = channel.stream_unary(stubs.PREDICT.path)()
        await ended.done_writing()
        assert await ended.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await ended.details() == "the call ended without a request message"
    await server.stop(grace_s=0)


@pytest.mark.medium
async def test_a_missed_deadline_is_a_failure_whoever_ends_the_call_first(client, served):
    served.router.gate.clear()

    async def miss(timeout_s: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await client.predict("ranker", columns_of(ROWS), timeout_s=timeout_s)

    timeout_s = 1.0
    while not served.counts.requests:  # On a busy machine a client may give up before the head has heard of a call.
        await asyncio.gather(*[miss(timeout_s) for _ in range(40)])
        timeout_s *= 2
    async with asyncio.timeout(PATIENCE_S):
        while served.predictor.admission.in_flight_bytes or served.counts.failed < served.counts.requests:
            await asyncio.sleep(0.001)
    assert 0 < served.counts.failed == served.counts.requests


async def test_an_endless_error_is_cut_so_that_it_arrives(client):
    name = "é" * 20_000
    with pytest.raises(InvalidInput, match=r"(é){900}.*\.\.\. \(2\d{4} characters\)$"):
        await client.predict("ranker", {**columns_of(ROWS), name: [1, 2, 3]})


async def test_caller_who_goes_away_is_not_served(client, served):
    first, gone = await served.riding(
        client.predict("ranker", columns_of(ROWS)), client.predict("ranker", columns_of(ROWS[:1]))
    )
    begun = served.router.pulls_begun
    gone.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while "waiting=0 " not in repr(served.version.batcher):
            await asyncio.sleep(0)
    served.router.gate.set()
    await first
    await still_serves(client)
    assert served.router.pulls_begun == 2 * begun, "a pull of whoever was there, and none besides"
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
        (ChangeGivenUp("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (StartupError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_every_error_has_its_status(error, code):
    assert code_of(error) is code


# -- metadata, health, reflection --------------------------------------------------------------------------------------


def test_model_says_which_lists_are_never_empty():
    schema = Schema(
        [Sparse("a", many=True, never_empty=True), IdSequence("b", length=2, never_empty=True), Sparse("c"), Dense("d")]
    )
    model = describe(LoadedVersion(Path("ranker/3"), make_manifest((), ("d",)), schema, None), [3])
    assert [feature.name for feature in model.features if feature.never_empty] == ["a", "b"]


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
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        stopping = asyncio.create_task(served.server.stop(grace_s=3600))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Watches end, and hold the stop up no longer.
        assert await watch.read() is grpc.aio.EOF
        await stopping
    assert not served.server.serving


async def test_reflection_lists_services_and_their_file(served):
    async with grpc.aio.insecure_channel(served.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="ringpull.v1.Predictor"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=WRITER),
        ]
        replies = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    assert {service.name for service in replies[0].list_services_response.service} == {*SERVICES, WRITER}
    assert pb.DESCRIPTOR.serialized_pb in replies[1].file_descriptor_response.file_descriptor_proto
    assert writer_pb2.DESCRIPTOR.serialized_pb in replies[2].file_descriptor_response.file_descriptor_proto


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
    second = GrpcServer(served.service, AdminService(served.status), HeadConfig(grpc_port=port))
    with pytest.raises(StartupError, match=str(port)):
        await second.start()
    await second.stop(grace_s=0)


async def test_http_answers_health_status_and_models(served, caplog):
    healthy, wrong = True, False

    async def models() -> pb.ListModelsResponse:
        if wrong:
            raise Unavailable("no shard map yet")
        return await served.service.models()

    async def bug() -> pb.ListModelsResponse:
        raise ZeroDivisionError("secret detail")

    bound = claim("http", "127.0.0.1", 0)
    server = HttpServer(application(lambda: healthy, served.status, models), bound)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}") as http:
        answered = await http.get("/healthz")
        assert (answered.json(), answered.headers["x-content-type-options"]) == ({"status": "SERVING"}, "nosniff")
        assert not any(name.startswith("access-control") for name in answered.headers), "no page of others reads it"
        assert (await http.get("/status")).json()["head"] == served.target
        model = (await http.get("/v1/models")).json()["models"][0]
        assert model["name"] == "ranker"
        assert model["features"][0]["optional"] is False  # defaults are written out
        assert (await http.get("/nothing")).status_code == 404
        wrong = True
        failed = await http.get("/v1/models")
        assert (failed.status_code, failed.json()) == (503, {"code": "UNAVAILABLE", "message": "no shard map yet"})
        healthy = False
        assert (await http.get("/healthz")).status_code == 503
        wrong, served.service.models = False, bug
        hidden = await http.get("/v1/models")
        assert (hidden.status_code, hidden.json()["code"]) == (500, "INTERNAL")
        assert hidden.json()["message"] == "internal error (ZeroDivisionError); the server's log has more"
    assert "secret detail" in caplog.text
    await server.stop()


# -- config ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["max_candidates", "default_timeout_s", "dense_threads", "max_message_bytes"])
def test_config_refuses_what_is_not_over_zero(field):
    with pytest.raises(InvalidInput, match=field):
        HeadConfig(**{field: 0})


def test_config_refuses_a_port_out_of_range():
    with pytest.raises(InvalidInput, match="http_port is 70000"):
        HeadConfig(http_port=70_000)
