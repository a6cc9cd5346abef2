"""Both clients against a small head on loopback: what travels, what comes back, and what errors become."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass

from ringpull.inference.client.client import AsyncClient, Client
from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.request.received import Limits
from ringpull.inference.prediction import Filled, Prediction, Timings
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.wire.codec import encode_response
from ringpull.ps.errors import (
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    ProtocolError,
    RingpullError,
    Unavailable,
    UnmetCondition,
)

pytestmark = pytest.mark.net

STATUS = {code.name: code for code in grpc.StatusCode}


class FakeHead:
    """Scores item + 100 * user. A model named like a status code fails with it; `slow` answers when released."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: list[pb.PredictRequest] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def predict(self, request: pb.PredictRequest, context: grpc.aio.ServicerContext) -> pb.PredictResponse:
        self.requests.append(request)
        self.asked.set()
        if request.model in STATUS:
            await context.abort(STATUS[request.model], f"{request.model} it is")
        if request.model == "slow":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if request.model == "liar":
            return pb.PredictResponse(outputs={"score": pb.Tensor(shape=[5], data=b"1234")})
        call = decode_request(request, Limits(2_000_000, 10))
        features, context = call.columns.columns()
        user = context["user"][0] if context else 0
        prediction = Prediction(
            outputs={"score": (features["item"] + 100 * user).astype(np.float32)},
            version=call.version or 9,
            filled=(Filled("price", "absent", 1),),
            timings=Timings(total_us=5) if call.with_timings else None,
            model=call.model,
            request_id=call.request_id,
        )
        return encode_response(prediction)

    async def get_model(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.Model:
        return pb.Model(name=request.model, version=request.version or 9)

    async def list_models(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name="a"), pb.Model(name="b")])

    async def get_status(self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext) -> pb.ClusterStatus:
        return pb.ClusterStatus(head="here", epoch=3)


def handler_of(service: str, methods: dict[str, object]) -> grpc.GenericRpcHandler:
    descriptor = pb.DESCRIPTOR.services_by_name[service]
    return grpc.method_handlers_generic_handler(
        descriptor.full_name,
        {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=GetMessageClass(descriptor.methods_by_name[name].input_type).FromString,
                response_serializer=GetMessageClass(descriptor.methods_by_name[name].output_type).SerializeToString,
            )
            for name, method in methods.items()
        },
    )


@pytest.fixture
async def head() -> AsyncIterator[FakeHead]:
    fake = FakeHead()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        [
            handler_of(
                "Predictor",
                {"Predict": fake.predict, "GetModel": fake.get_model, "ListModels": fake.list_models},
            ),
            handler_of("Admin", {"GetStatus": fake.get_status}),
        ]
    )
    fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(None)


@pytest.fixture
async def client(head: FakeHead) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(head.target) as client:
        yield client


async def test_predict(client: AsyncClient) -> None:
    prediction = await client.predict(
        "ranker", {"item": [1, 2]}, {"user": 7}, version=4, with_timings=True, request_id="r"
    )
    assert prediction.outputs["score"].tolist() == [701, 702]
    assert prediction.outputs["score"].flags.writeable
    assert (prediction.version, prediction.model, prediction.request_id) == (4, "ranker", "r")
    assert prediction.filled == (Filled("price", "absent", 1),)
    assert prediction.timings == Timings(total_us=5)


async def test_what_is_sent(client: AsyncClient, head: FakeHead) -> None:
    await client.predict(
        "ranker",
        {"item": np.array([1, 2]), "genres": [["a"], []], "vector": np.ones((2, 3))},
        {"user": [7]},
        outputs=["score"],
    )
    (request,) = head.requests
    assert request.version == 0
    assert list(request.outputs) == ["score"]
    assert list(pb.PackedLayout.FromString(request.packed.layout).columns) == [
        pb.PackedColumn(name="genres", dtype=pb.STRING, ragged=True),
        pb.PackedColumn(name="item", dtype=pb.INT64),
        pb.PackedColumn(name="vector", dtype=pb.FLOAT32, width=3),
        pb.PackedColumn(name="user", dtype=pb.INT64, context=True),
    ]
    assert np.frombuffer(request.packed.sizes, np.int64).tolist() == [2, 1, 2, 2, 2, 6, 1, 1]
    assert not request.features


async def test_metadata_and_status(client: AsyncClient) -> None:
    assert await client.model("ranker") == pb.Model(name="ranker", version=9)
    assert (await client.model("ranker", 2)).version == 2
    assert [model.name for model in await client.models()] == ["a", "b"]
    assert await client.status() == pb.ClusterStatus(head="here", epoch=3)


def blocking_calls(target: str) -> dict[str, object]:
    with Client(target) as client:
        return {
            "score": client.predict("ranker", {"item": [1, 2]}, context={"user": 7}).outputs["score"].tolist(),
            "model": client.model("ranker").name,
            "models": [model.name for model in client.models()],
            "epoch": client.status().epoch,
            "repr": repr(client),
        }


async def test_the_sync_client_says_the_same(head: FakeHead) -> None:
    assert await asyncio.to_thread(blocking_calls, head.target) == {
        "score": [701, 702],
        "model": "ranker",
        "models": ["a", "b"],
        "epoch": 3,
        "repr": f"<Client {head.target}>",
    }


async def test_threads_share_a_sync_client(head: FakeHead) -> None:
    """Each of many calls in flight gets its own answer."""

    def run() -> list[list[float]]:
        with Client(head.target) as client, ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(client.predict, "ranker", {"item": [n]}) for n in range(64)]
            return [call.result().outputs["score"].tolist() for call in calls]

    assert await asyncio.to_thread(run) == [[n] for n in range(64)]


async def test_replies_over_grpcs_default_limit(client: AsyncClient) -> None:
    items = np.arange(2_000_000)
    prediction = await client.predict("ranker", {"item": items})
    assert prediction.outputs["score"].nbytes == 8_000_000


ERRORS = [
    ("INVALID_ARGUMENT", InvalidInput),
    ("NOT_FOUND", NotFound),
    ("RESOURCE_EXHAUSTED", LimitExceeded),
    ("DEADLINE_EXCEEDED", DeadlineExceeded),
    ("UNAVAILABLE", Unavailable),
    ("DATA_LOSS", CorruptData),
    ("FAILED_PRECONDITION", UnmetCondition),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
async def test_a_status_becomes_our_error_with_the_servers_message(client, head, code, kind) -> None:
    with pytest.raises(kind, match=f"{code} it is"):
        await client.predict(code, {"item": [1]})
    with pytest.raises(kind, match=f"{code} it is"), Client(head.target) as sync:
        await asyncio.to_thread(sync.predict, code, {"item": [1]})


async def test_other_statuses_are_the_root_error_with_their_name(client: AsyncClient) -> None:
    with pytest.raises(RingpullError, match=f"{client.target}: INTERNAL: INTERNAL it is"):
        await client.predict("INTERNAL", {"item": [1]})


async def test_a_reply_that_does_not_add_up(client: AsyncClient) -> None:
    with pytest.raises(ProtocolError, match="output score"):
        await client.predict("liar", {"item": [1]})


@pytest.mark.medium
async def test_no_answer_in_time(client: AsyncClient, head: FakeHead) -> None:
    timeout_s = 0.5
    while not head.asked.is_set():  # on a busy machine a call may not arrive in its time
        with pytest.raises(DeadlineExceeded):
            await client.predict("slow", {"item": [1]}, timeout_s=timeout_s)
        timeout_s *= 2
    await head.cancelled.wait()  # the deadline travelled: the server stopped too


async def test_no_time_left_asks_nobody(client: AsyncClient, head: FakeHead) -> None:
    with pytest.raises(DeadlineExceeded, match="no time left"):
        await client.predict("ranker", {"item": [1]}, timeout_s=0)
    assert head.requests == []


async def test_cancelling_a_call_cancels_it_at_the_server(client: AsyncClient, head: FakeHead) -> None:
    call = asyncio.create_task(client.predict("slow", {"item": [1]}))
    await head.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await head.cancelled.wait()


async def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    # Port 1 needs root to listen on, and nothing does.
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await client.predict("ranker", {"item": [1]})


async def test_bad_values_do_not_leave_the_client(client: AsyncClient, head: FakeHead) -> None:
    with pytest.raises(InvalidInput, match="feature item: values of type int, str"):
        await client.predict("ranker", {"item": [1, "a"]})
    assert head.requests == []


async def test_a_closed_client_says_so(head: FakeHead) -> None:
    client = AsyncClient(head.target)
    await client.close()
    with pytest.raises(RingpullError, match="closed"):
        await client.predict("ranker", {"item": [1]})
    sync = Client(head.target)
    sync.close()
    with pytest.raises(RingpullError, match="closed"):
        sync.predict("ranker", {"item": [1]})


async def test_closing_a_client_fails_its_calls_in_flight(head: FakeHead) -> None:
    client = AsyncClient(head.target)
    call = asyncio.create_task(client.predict("slow", {"item": [1]}))
    await head.asked.wait()
    await client.close()
    with pytest.raises(RingpullError, match="the client was closed"):
        await call


@pytest.mark.medium
def test_a_client_loads_neither_torch_nor_numba_nor_ray() -> None:
    code = (
        "import sys; from ringpull import AsyncClient, Client, Ragged;"
        "print([name for name in ('torch', 'numba', 'ray') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
