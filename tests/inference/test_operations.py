"""What operators ask goes over gRPC to the coordinator as it was meant, and so do its answers and refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ringpull import __version__
from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.coordinator_state import VALUES
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.events import Member
from ringpull.router.control.head_counts import Growing, HeadCounts
from ringpull.router.control.moves import MoveSummary
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import (
    VERBS,
    Asker,
    ChangeStatus,
    Control,
    ControlChange,
    DeploymentStatus,
    GetChange,
    GetStatus,
    LabelVersion,
    Latency,
    ListMembers,
    LoadModel,
    MemberState,
    ModelSource,
    Overview,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
    ServeModels,
    UnloadModel,
)
from ringpull.router.control.plain_values import PlainValues
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.router.coordinated import MiniDeployment, version

STATUS = ChangeStatus(
    id=7,
    kind=Kind.REBALANCE,
    subject="shards 2 -> 4",
    phase=Phase.ROUTING,
    paused=True,
    members_done=1,
    members=3,
    copied_bytes=1 << 40,
    bytes_to_copy=1 << 41,
    before=Latency(1.5, 9.0),
    now=Latency(2.0, 11.0),
    trouble="shard 3: gone",
)
PLAN = MoveSummary(
    ranges=2,
    assigned_bytes=768,
    copied_bytes=768,
    streamed=True,
    min_bytes=700,
    shard_bytes_before={0: 5},
    shard_bytes_after={0: 3, 3: 2},
    shard_bytes_gained={0: 0, 3: 768},
)
DEPLOYMENT = DeploymentStatus(
    spec=initial_spec(range(3), [version(1), version(4, "other")]),
    resident_bytes={0: 1 << 33, 2: 5},
    nodes={0: "a", 1: "b", 2: "b"},
    requests=1 << 34,
    traffic={"m/one": TableTraffic(5, 2, 1)},
    highest_live={"m": 3},
)
MEMBERS = (MemberState(Member("shard", 3), "abc", ""), MemberState(Member("head", 0), "", "it does not answer"))


ANSWERS = {
    "publish": STATUS,
    "rollback": STATUS,
    "rebalance": STATUS,
    "load": STATUS,
    "unload": STATUS,
    "serve": STATUS,
    "label": STATUS,
    "control": STATUS,
    "restart": None,
    "change": ChangeStatus(error="given up"),
    "plan": PLAN,
    "status": DEPLOYMENT,
    "members": MEMBERS,
}


class FakeOperations:
    def __init__(self) -> None:
        self.asked: list[object] = []
        self.error: Exception | None = None

    def call(self, request: Any, *, within_s: float | None = None) -> Any:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return ANSWERS[VERBS.of(request).name]

    def map(self, asker: Asker) -> ShardMap:
        raise Unavailable("not asked here")

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        raise Unavailable("not asked here")


@pytest.fixture
def fake() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def client(fake: FakeOperations) -> Iterator[OperationsClient]:
    """Of a head that serves nothing but its verbs."""
    head = HeadProcess(HeadConfig(), fake)
    shard_map = ShardMap(1, (ShardAddress(0, "127.0.0.1", 1),), Ring.even([0]), {})
    address = head.route(shard_map, {}, ())
    with OperationsClient(f"{address.host}:{address.grpc_port}") as client:
        yield client
    head.drain(timeout_s=0)


REQUESTS = [
    Publish(model="m"),
    Publish(model="m", version=3, folder="/models/m", keep=0),
    Rollback(model="m"),
    Rollback(model="m", version=2),
    Rebalance(),
    Rebalance(shards=0, replicas={"m/t": 2, "u": ALL}, drain_node="n", bytes_per_s=0.5),
    LoadModel(folder="/models/m"),
    LoadModel(folder="m", version=3, replicas={"m/t": 2, "u": ALL}, trust_files=True),
    UnloadModel(model="m"),
    ServeModels(
        models=(ModelSource(name="m", versions=(2, 3), labels={"a": 2}), ModelSource(name="n", folder="/n", latest=0))
    ),
    LabelVersion(model="m", labels={"stable": 3}, remove=("canary",)),
    ControlChange(Control.ABORT),
    GetChange(),
    PlanRebalance(Rebalance(shards=3, replicas={"m/t": 2})),
    GetStatus(),
    ListMembers(),
    RestartMember(member=Member("shard", 3), incarnation="abc", drain_s=2.5),
    RestartMember(member=Member("head", 0), incarnation="def", drain_s=0, force=True),
]


@pytest.mark.net
def test_every_verb_reaches_the_coordinator_and_its_answer_comes_back(
    client: OperationsClient, fake: FakeOperations
) -> None:
    for request in REQUESTS:
        assert client.call(request) == ANSWERS[VERBS.of(request).name]
    assert fake.asked == REQUESTS
    assert {VERBS.of(request).name for request in REQUESTS} == set(ANSWERS)


@pytest.mark.net
def test_what_is_asked_and_told_is_read_and_written_beside_the_loop(
    client: OperationsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, str] = {}
    for name in ("to_json", "from_json"):
        of_all = getattr(PlainValues, name)

        def noted(self: PlainValues, *arguments: Any, of_all: Any = of_all) -> Any:
            threads.setdefault(arguments[0].__name__, threading.current_thread().name)
            return of_all(self, *arguments)

        monkeypatch.setattr(PlainValues, name, noted)
    here = VERBS.named("plan")
    message = pb.OperationRequest(
        build=__version__, verb="plan", request=VALUES.to_json(here.request, PlanRebalance(Rebalance(shards=3)))
    )
    threads.clear()
    with grpc.insecure_channel(client.target) as channel:
        channel.unary_unary("/ringpull.v1.Operations/Call")(message.SerializeToString(), timeout=60)
    assert {kind: name.startswith("operations") for kind, name in threads.items()} == {
        "PlanRebalance": True,
        "MoveSummary": True,
    }


@pytest.mark.net
@pytest.mark.parametrize("request_", [each for each in REQUESTS if VERBS.of(each).role.value == "operate"], ids=repr)
def test_the_port_of_predictions_lets_nobody_change_anything(
    client: OperationsClient, fake: FakeOperations, request_: Any
) -> None:
    """Whoever may predict is no operator: `tests/inference/test_door.py` has who is."""
    verb = VERBS.of(request_)
    message = pb.OperationRequest(build=__version__, verb=verb.name, request=VALUES.to_json(verb.request, request_))
    with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/ringpull.v1.Operations/Call")(message.SerializeToString(), timeout=600)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert fake.asked == []


@pytest.mark.net
def test_a_process_drains_for_a_time_that_can_be(client: OperationsClient, fake: FakeOperations) -> None:
    for drain_s in (-1.0, float("nan"), 1e9):
        with pytest.raises(InvalidInput, match="drain_s is"):
            client.call(RestartMember(member=Member("shard", 3), incarnation="abc", drain_s=drain_s))
    assert fake.asked == []


@pytest.mark.net
def test_refusals_come_back_as_they_were(client: OperationsClient, fake: FakeOperations) -> None:
    fake.error = InvalidInput("shards is 0; it must be from 1")
    with pytest.raises(InvalidInput, match="shards is 0; it must be from 1"):
        client.call(Rebalance(shards=0))
    fake.error = Unavailable("the coordinator is being restarted")
    with pytest.raises(Unavailable, match="being restarted"):
        client.call(GetChange())


@pytest.mark.net
def test_a_head_without_a_coordinator_says_so() -> None:
    head = HeadProcess(HeadConfig())
    address = head.route(ShardMap(1, (ShardAddress(0, "127.0.0.1", 1),), Ring.even([0]), {}), {}, ())
    with (
        OperationsClient(f"{address.host}:{address.grpc_port}") as client,
        pytest.raises(Unavailable, match="without a coordinator"),
    ):
        client.call(GetChange())
    head.drain(timeout_s=0)


@given(
    st.builds(
        Rebalance,
        shards=st.none() | st.integers(-(2**63), 2**63 - 1),
        replicas=st.dictionaries(st.text(min_size=1), st.integers(0, 999_999) | st.just(ALL)),
        drain_node=st.text(),
        bytes_per_s=st.none() | st.floats(allow_nan=False),
    )
)
def test_any_rebalance_comes_back_as_it_was(request: Rebalance) -> None:
    assert VALUES.from_json(Rebalance, VALUES.to_json(Rebalance, request)) == request


PUBLISH = {"model": "m", "version": 0, "folder": "", "keep": None, "trust_files": False}
REBALANCE = {"shards": None, "replicas": {}, "drain_node": "", "bytes_per_s": None}


@pytest.mark.parametrize(
    ("verb", "fields", "error"),
    [
        ("publish", {**PUBLISH, "model": ""}, "model is empty"),
        ("publish", {**PUBLISH, "keep": "2"}, "keep is '2'; it must be a whole number"),
        ("publish", {"model": "m"}, "version is missing"),
        ("rollback", {"model": "m", "version": -1}, "version is -1"),
        ("rollback", {"model": "m", "version": 1, "force": True}, "force is unknown; the fields are model, version"),
        ("rebalance", {**REBALANCE, "replicas": {"t": "many"}}, r"replicas\['t'\] is 'many'"),
        ("rebalance", {**REBALANCE, "replicas": {"t": -1}}, r"replicas\['t'\] is -1"),
        ("rebalance", {**REBALANCE, "replicas": {"t": 10**40}}, "it must be a whole number from 0 to 999999 or 'all'"),
        ("plan", {"rebalance": {**REBALANCE, "shards": "4"}}, r"rebalance\.shards is '4'"),
        (
            "restart",
            {"member": {"role": "router", "id": 0}, "incarnation": "", "drain_s": 0, "force": False},
            r"member\.role is 'router'; it must be 'shard' or 'head'",
        ),
        ("control", {"control": "stop"}, "'pause', 'resume', 'abort'"),
        ("change", [], "it must be an object"),
    ],
)
def test_bad_requests_name_the_field(verb: str, fields: object, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        VALUES.from_json(VERBS.named(verb).request, json.dumps(fields))


def test_specs_of_real_changes_travel() -> None:
    deployment = MiniDeployment(Random(3))
    deployment.begin(Kind.BRING_UP, initial_spec(range(3), [version(1)]))
    deployment.settle()
    assert deployment.saved.spec is not None
    status = DeploymentStatus(spec=deployment.saved.spec, resident_bytes={}, nodes={}, requests=0, traffic={})
    assert VALUES.from_json(DeploymentStatus, VALUES.to_json(DeploymentStatus, status)) == status


# -- other builds ------------------------------------------------------------------------------------------------------


def refused(target: str, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    """Return how a head refuses a call that no client of this build makes."""
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/ringpull.v1.Operations/{method}")(message, timeout=600)
    return raised.value.code(), raised.value.details()


@pytest.mark.net
@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        (
            pb.OperationRequest(build="0.0.1", verb="change", request="{}"),
            "INVALID_ARGUMENT",
            "asked by ringpull 0.0.1",
        ),
        (pb.OperationRequest(verb="change", request="{}"), "INVALID_ARGUMENT", "asked by another build of ringpull"),
        (pb.OperationRequest(build=__version__, verb="scrub", request="{}"), "NOT_FOUND", "there is no verb 'scrub'"),
        (pb.OperationRequest(build=__version__, verb="change", request=""), "INVALID_ARGUMENT", "is not JSON"),
        (pb.OperationRequest(build=__version__, verb="change", request="[" * 9999), "INVALID_ARGUMENT", "is not JSON"),
        (pb.OperationRequest(build=__version__, verb="change", request='{"x": 1}'), "INVALID_ARGUMENT", "x is unknown"),
    ],
)
def test_what_another_build_asks_is_refused_by_name(
    client: OperationsClient, fake: FakeOperations, message: pb.OperationRequest, code: str, error: str
) -> None:
    status, details = refused(client.target, "Call", message.SerializeToString())
    assert (status.name, error in details) == (code, True), details
    assert fake.asked == []


@pytest.mark.net
@pytest.mark.parametrize("method", ["Submit", "GetChange", "GetFacts"])
def test_methods_that_earlier_builds_had_are_refused_by_name(client: OperationsClient, method: str) -> None:
    status, details = refused(client.target, method, b"")
    assert status is grpc.StatusCode.UNIMPLEMENTED
    assert f"this head is of ringpull {__version__}" in details
    assert "operate it with the ringpull that serves it" in details


@pytest.mark.net
def test_reflection_tells_how_verbs_travel(client: OperationsClient) -> None:
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="ringpull.v1.Operations")
    with grpc.insecure_channel(client.target) as channel:
        [reply] = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=600)
    assert list(reply.file_descriptor_response.file_descriptor_proto) == [pb.DESCRIPTOR.serialized_pb]


@contextmanager
def head_of_another_build(reply: str | None) -> Iterator[OperationsClient]:
    """Serve a head that answers every verb with this, or has no verbs of today."""
    server = grpc.server(ThreadPoolExecutor(1))
    if reply is not None:
        answer = pb.OperationReply(reply=reply).SerializeToString()
        method = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("ringpull.v1.Operations", {"Call": method}),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with OperationsClient(f"127.0.0.1:{port}", timeout_s=10) as client:
        yield client
    server.stop(0).wait()


@pytest.mark.net
def test_a_head_of_an_earlier_build_is_told_apart() -> None:
    with (
        head_of_another_build(None) as client,
        pytest.raises(InvalidInput, match=rf"{client.target} is not served by this build of ringpull, .*: ") as raised,
    ):
        client.call(GetChange())
    assert str(raised.value).endswith(": Method not found!; operate it with the ringpull that serves it")


@pytest.mark.net
@pytest.mark.parametrize("reply", ["", "[]", '{"spec": {"ring": 1}}', '{"kind": "new"}'])
def test_replies_that_are_not_of_this_build_are_told(reply: str) -> None:
    with head_of_another_build(reply) as client:
        for request in (GetStatus(), GetChange(), ListMembers()):
            if reply == "[]" and request == ListMembers():
                assert client.call(request) == ()
                continue
            with pytest.raises(InvalidInput, match="of another build"):
                client.call(request)
