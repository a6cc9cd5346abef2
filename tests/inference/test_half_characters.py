"""Strings that are no text, at every door of a head: half a character in JSON, and bytes that are no UTF-8 over gRPC.

Hashed as a `str`, half a character ended the process (mmh3 5.3.1 reads at NULL), so each is refused by name here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import numpy as np
import pytest

from ringpull.inference.client import stubs
from ringpull.inference.head.access import Unasked
from ringpull.inference.head.frontends.grpc.operations import OperationsService
from ringpull.inference.head.frontends.grpc.server import GrpcServer
from ringpull.inference.head.frontends.grpc.service import AdminService
from ringpull.inference.head.frontends.oip.messages import message as oip_message
from ringpull.inference.head.frontends.oip.services import services as oip_services
from ringpull.inference.head.frontends.tfs import messages as tfs_messages
from ringpull.inference.head.frontends.tfs.services import services as tfs_services
from ringpull.inference.head.frontends.writer.service import writer_service_of
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.proto import writer_pb2
from ringpull.inference.schema.kinds import Cross, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Fingerprint, Hash
from ringpull.inference.wire.codec import as_call, encode_request
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.lookup_codec import encode_lookup
from ringpull.inference.wire.push_codec import PushTarget, encode_push
from ringpull.inference.wire.top_k_codec import encode_top_k
from ringpull.ps.spec import Pooling
from tests.inference.http_served import HttpServed, http_served, parts_of
from tests.inference.oip.requests import infer_request
from tests.inference.served import CONFIG, Served
from tests.inference.small_model import make_manifest
from tests.inference.tables_served import serve_tables_alone

pytestmark = pytest.mark.net

HALF = "bad\ud83d"
NO_UTF8 = b"bad\xed\xa0\xbd"
"""Bytes of half a character, as some languages write it."""
WELL = "bad\u65e5"
"""Text of as many bytes, whose place they take in a message."""
assert len(WELL.encode()) == len(NO_UTF8)

SCHEMA = Schema(
    [
        Sparse("town", dtype="string", transforms=(Hash(97),)),
        Sparse("tags", dtype="string", many=True, missing=()),
        Sparse("place", dtype="string", transforms=(Fingerprint(),), missing="x"),
        Cross("both", of=("town", "place"), buckets=12),
    ]
)
LOOKUPS = (
    LookupSpec(table="users", feature="town", pooling=Pooling.NONE),
    LookupSpec(table="shared", feature="tags", pooling=Pooling.SUM),
    LookupSpec(table="users", feature="both", pooling=Pooling.NONE),
)
FEATURES: dict[str, Any] = {"town": ["a", WELL], "tags": [[], ["b", WELL]]}
CONTEXT: dict[str, Any] = {"place": WELL}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with ThreadPoolExecutor(1) as executor:
        served = Served(executor, schema=SCHEMA, manifest=make_manifest(LOOKUPS, ("town",)))
        feed, access = serve_tables_alone(served, executor), Unasked()
        parts = parts_of(served, head_only=pb.ClusterStatus)
        served.server = GrpcServer(
            served.service,
            AdminService(served.status, access),
            CONFIG,
            OperationsService(access=access),
            others=[
                writer_service_of(served.predictor, access),
                *oip_services(parts, access, at_door=False),
                *tfs_services(parts, access, at_door=False),
            ],
        )
        served.target = f"127.0.0.1:{await served.server.start()}"
        yield served
        await served.server.stop(grace_s=0)
        for version in (served.version, feed):
            await version.close(timeout_s=60)


@pytest.fixture
async def http(served: Served) -> AsyncIterator[HttpServed]:
    async with http_served(served) as http:
        yield http


PREDICT, TABLE = "/v1/predict/ranker", "/v1/models/feed/tables/vectors"
OIP = "/v2/models/ranker/infer"


def oip(name: str, texts: list[str], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(texts)], "data": texts}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (PREDICT, {"features": FEATURES | {"town": ["a", HALF]}}, "feature town: row 1: a string cannot be written"),
        (PREDICT, {"features": FEATURES | {"tags": [[], ["b", HALF]]}}, "feature tags: row 1: a string cannot"),
        (PREDICT, {"features": FEATURES, "context": {"place": HALF}}, "feature place: row 0: a string cannot"),
        (PREDICT, {"features": {"town": {"strings": {"values": [HALF]}}}}, "feature town: "),
        (PREDICT, {"features": {HALF: ["a"]}}, "feature bad?: the model has no such feature"),
        (PREDICT, {"features": FEATURES, "outputs": [HALF]}, "request: "),
        ("/v1/models/ranker:predict", {"instances": [{"town": HALF, "tags": []}]}, "feature town: value 0"),
        ("/v1/models/ranker:predict", {"inputs": {"town": ["a", HALF], "tags": [[], []]}}, "feature town: value 1"),
        ("/v1/models/ranker:predict", {"inputs": {"town": [{"b64": "7aC9"}], "tags": [[]]}}, "is not UTF-8"),
        ("/v1/models/ranker:classify", {"examples": [{"town": HALF}]}, "error"),
        (OIP, {"inputs": [oip("town", ["a", HALF])]}, "feature town: value 1"),
        ("/v2/models/feed.vectors/infer", {"inputs": [oip("KEYS", ["a", HALF])]}, "value 1: a string cannot"),
        (f"{TABLE}:lookup", {"keys": ["a", HALF]}, "keys: key 1: a string cannot be written as UTF-8: 'bad"),
        (f"{TABLE}:top_k", {"like": ["a", HALF]}, "like: key 1: a string cannot"),
        (f"{TABLE}:top_k", {"vector": [1, 0], "exclude": [HALF]}, "exclude: key 0: a string cannot"),
        (f"{TABLE}:top_k", {"vector": [1, 0], "among": [["a", HALF]]}, "among: key 1: a string cannot"),
        (
            "/v1/models/ranker/tables/users:top_k",
            {"features": {"town": [HALF], "tags": [[]]}, "output": "input0"},
            "feature town: row 0",
        ),
    ],
    ids=range(17),
)
async def test_half_a_character_in_json_is_refused_by_name(
    served: Served, http: HttpServed, path: str, body: dict[str, Any], says: str
) -> None:
    reply = await http.client.post(path, content=json.dumps(body).encode())
    assert (reply.status_code, says in reply.text) == (400, True), reply.text
    whole = await http.client.post(path, content=json.dumps(body).replace("\\ud83d", "\\u65e5").encode())
    assert whole.status_code < 500, whole.text
    await still_serves(served)


async def still_serves(served: Served) -> None:
    await served.raw(stubs.PREDICT.path, encode_request(as_call("ranker", FEATURES, CONTEXT)).SerializeToString())


def sent(features: dict[str, Any], context: dict[str, Any] | None = None) -> pb.PredictRequest:
    return encode_request(as_call("ranker", features, context))


def infer(name: str, model: str) -> Any:
    return infer_request({name: np.array(["a", WELL], object)}, model_name=model)


NO_TAGS = pb.Column(raw=pb.RawBuffer(dtype=pb.STRING), raw_offsets=bytes(24))
TEXTS = pb.Column(strings=pb.StringList(values=["a", WELL]))
TYPED = pb.PredictRequest(model="ranker", features={"town": TEXTS, "tags": NO_TAGS})
FEED = {"model": "feed", "table": "vectors"}
RANKED = encode_top_k("ranker", "users", features={"town": [WELL], "tags": [[]]}, output="input0")
KEYED = encode_push(PushTarget(**FEED), KeyedRows.of(["a", WELL], np.ones((2, 2), np.float32)), writer="w", number=1)
TYPED_PUSH = writer_pb2.PushRequest(**FEED, keys=TEXTS, remove=True)
NAMED_PUSH = writer_pb2.PushRequest(**FEED, named=WELL, number=1, remove=True)
OIP_TEXTS = {"name": "town", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": [b"a", WELL.encode()]}}
OIP_TYPED = oip_message("ModelInferRequest")(model_name="ranker", inputs=[OIP_TEXTS])
OIP_CALL = "/inference.GRPCInferenceService/ModelInfer"
TFS_TEXTS = {"dtype": 7, "tensor_shape": {"dim": [{"size": 2}]}, "string_val": [b"a", WELL.encode()]}
TFS = tfs_messages.POOL.message("tensorflow.serving.PredictRequest")(
    model_spec={"name": "ranker"}, inputs={"town": TFS_TEXTS}
)
UNREAD = "not a valid|parse|UTF-8"
"""What is said of a message that protobuf does not read: its texts must be UTF-8."""
NO_TOWN = "feature town: row 1: a string is not UTF-8: .*at byte 3 of b'bad"


@pytest.mark.parametrize(
    ("path", "asked", "says"),
    [
        (stubs.PREDICT.path, sent({"town": ["a", WELL], "tags": [[], []]}), NO_TOWN),
        (stubs.PREDICT.path, sent({"town": ["a", "b"], "tags": [["c"], ["d", WELL]]}), "feature tags: row 1: a string"),
        (stubs.PREDICT.path, sent({"town": ["a"], "tags": [[]]}, {"place": WELL}), "feature place: row 0: a string"),
        (stubs.PREDICT.path, TYPED, UNREAD),
        (stubs.LOOKUP.path, encode_lookup(**FEED, keys=["a", WELL]), "keys: key 1: a string is not UTF-8"),
        (stubs.LOOKUP.path, pb.LookupRequest(**FEED, keys=TEXTS), UNREAD),
        (stubs.TOP_K.path, encode_top_k(**FEED, like=["a", WELL]), "like: .*not UTF-8"),
        (stubs.TOP_K.path, encode_top_k(**FEED, query=[1, 0], exclude=[WELL]), "exclude: .*not UTF-8"),
        (stubs.TOP_K.path, encode_top_k(**FEED, query=[1, 0], among=[WELL]), "among: .*not UTF-8"),
        (stubs.TOP_K.path, RANKED, "feature town: row 0"),
        (stubs.PUSH.path, KEYED, "keys: key 1: a string is not UTF-8"),
        (stubs.PUSH.path, TYPED_PUSH, UNREAD),
        (stubs.PUSH.path, NAMED_PUSH, UNREAD),
        (OIP_CALL, infer("town", "ranker"), NO_TOWN),
        (OIP_CALL, OIP_TYPED, NO_TOWN),
        (OIP_CALL, infer("KEYS", "feed.vectors"), "input KEYS: key 1: a string is not UTF-8"),
        ("/tensorflow.serving.PredictionService/Predict", TFS, NO_TOWN),
    ],
    ids=range(17),
)
async def test_bytes_that_are_no_utf8_are_refused_by_name(served: Served, path: str, asked: Any, says: str) -> None:
    body = asked.SerializeToString()
    assert body.count(WELL.encode()) == 1
    with pytest.raises(grpc.aio.AioRpcError, match=says) as raised:
        await served.raw(path, body.replace(WELL.encode(), NO_UTF8))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, raised.value.details()
    assert not served.router.pushed
    await still_serves(served)


async def test_a_character_split_between_two_keys_is_refused(served: Served) -> None:
    """Both end to end are UTF-8, and neither by itself."""
    whole = encode_lookup(**FEED, keys=["ab", "éa"]).SerializeToString()
    assert whole.count(b"ab\xc3\xa9a") == 1
    await served.raw(stubs.LOOKUP.path, whole)
    with pytest.raises(grpc.aio.AioRpcError, match="keys: key 0: a string is not UTF-8") as raised:
        await served.raw(stubs.LOOKUP.path, whole.replace(b"ab\xc3\xa9a", b"a\xc3\xa9aa"))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
