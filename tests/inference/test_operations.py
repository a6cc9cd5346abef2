"""What operators ask goes over gRPC to the coordinator as it was meant, and so do its answers and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.proto import operations_codec as codec
from ringpull.inference.proto import operations_pb2 as pb
from ringpull.ps.errors import InvalidInput, Unavailable
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import ALL
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.events import Member
from ringpull.router.control.facts import TableTraffic
from ringpull.router.control.moves import MovePlan, TableMove
from ringpull.router.control.operations import (
    ChangeStatus,
    Control,
    Facts,
    Latency,
    MemberState,
    Publish,
    Rebalance,
    Request,
    Rollback,
)
from ringpull.router.control.world import first_world
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
PLAN = MovePlan(
    (TableMove(3, "m", 1, "t", (SlotRange(0, 10), SlotRange(65_000, 65_536)), 12, 768),),
    True,
    700,
    {0: 5},
    {0: 3, 3: 2},
)
FACTS = Facts(
    world=first_world(range(3), [version(1), version(4, "other")]),
    resident_bytes={0: 1 << 33, 2: 5},
    nodes={0: "a", 1: "b", 2: "b"},
    requests=1 << 34,
    traffic={"m/one": TableTraffic(5, 2, 1)},
)
MEMBERS = (MemberState(Member("shard", 3), "abc", ""), MemberState(Member("head", 0), "", "it does not answer"))


class FakeOperations:
    def __init__(self) -> None:
        self.asked: list[object] = []
        self.error: Exception | None = None

    def submit(self, request: Request) -> ChangeStatus:
        return self._answer(request, STATUS)

    def change(self) -> ChangeStatus:
        return self._answer("change", ChangeStatus(error="given up"))

    def control(self, verb: Control) -> ChangeStatus:
        return self._answer(verb, STATUS)

    def plan(self, request: Rebalance) -> MovePlan:
        return self._answer(request, PLAN)

    def facts(self) -> Facts:
        return self._answer("facts", FACTS)

    def members(self) -> tuple[MemberState, ...]:
        return self._answer("members", MEMBERS)

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool = False) -> None:
        self._answer((member, incarnation, drain_s, force), None)

    def map(self) -> ShardMap:
        raise Unavailable("not asked here")

    def _answer(self, asked, answer):
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return answer


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
]


@pytest.mark.net
def test_every_verb_reaches_the_coordinator_and_its_answer_comes_back(
    client: OperationsClient, fake: FakeOperations
) -> None:
    for request in REQUESTS:
        assert client.submit(request) == STATUS
    assert fake.asked == REQUESTS
    assert client.change() == ChangeStatus(error="given up")
    assert client.control(Control.ABORT) == STATUS
    assert client.plan(REQUESTS[-1]) == PLAN  # type: ignore[arg-type]
    assert client.facts() == FACTS
    assert fake.asked[len(REQUESTS) :] == ["change", Control.ABORT, REQUESTS[-1], "facts"]


@pytest.mark.net
def test_members_are_told_and_sent_away(client: OperationsClient, fake: FakeOperations) -> None:
    assert client.members() == MEMBERS
    client.restart(Member("shard", 3), "abc", drain_s=2.5)
    client.restart(Member("head", 0), "def", drain_s=0, force=True)
    assert fake.asked[1:] == [(Member("shard", 3), "abc", 2.5, False), (Member("head", 0), "def", 0.0, True)]
    for drain_s in (-1.0, float("nan"), 1e9):
        with pytest.raises(InvalidInput, match="drain_s is"):
            client.restart(Member("shard", 3), "abc", drain_s=drain_s)
    assert len(fake.asked) == 3


@pytest.mark.net
def test_refusals_come_back_as_they_were(client: OperationsClient, fake: FakeOperations) -> None:
    fake.error = InvalidInput("shards is 0; it must be from 1")
    with pytest.raises(InvalidInput, match="shards is 0; it must be from 1"):
        client.submit(Rebalance(shards=0))
    fake.error = Unavailable("the coordinator is being restarted")
    with pytest.raises(Unavailable, match="being restarted"):
        client.change()


@pytest.mark.net
def test_a_head_without_a_coordinator_says_so() -> None:
    head = HeadProcess(HeadConfig())
    address = head.route(ShardMap(1, (ShardAddress(0, "127.0.0.1", 1),), Ring.even([0]), {}), {}, ())
    with (
        OperationsClient(f"{address.host}:{address.grpc_port}") as client,
        pytest.raises(Unavailable, match="without a coordinator"),
    ):
        client.change()
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
    message = pb.ChangeRequest.FromString(codec.encode_request(request).SerializeToString())
    assert codec.decode_request(message) == request


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (pb.ChangeRequest(), "give publish, rollback or rebalance"),
        (pb.ChangeRequest(publish=pb.Publish()), "model is empty"),
        (pb.ChangeRequest(rollback=pb.Rollback(model="m", version=-1)), "version is -1"),
        (pb.ChangeRequest(rebalance=pb.Rebalance(replicas={"t": "many"})), "replicas of t is 'many'"),
        (pb.ChangeRequest(rebalance=pb.Rebalance(replicas={"t": "-1"})), "replicas of t is '-1'"),
        (pb.ChangeRequest(rebalance=pb.Rebalance(replicas={"t": "9" * 40})), "it must be a number or 'all'"),
    ],
)
def test_bad_requests_name_the_field(message: pb.ChangeRequest, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        codec.decode_request(message)


def test_bad_verbs_and_worlds_of_another_build_are_told() -> None:
    with pytest.raises(InvalidInput, match="role is 'router'; it must be shard or head"):
        codec.decode_members(pb.Members(members=[pb.MemberState(role="router")]))
    with pytest.raises(InvalidInput, match="pause, resume, abort"):
        codec.decode_control(pb.ControlRequest(verb="stop"))
    for world in ("", "[]", '{"ring": 1}'):
        with pytest.raises(InvalidInput, match="of another build"):
            codec.decode_facts(pb.Facts(world=world))
    with pytest.raises(InvalidInput, match="of another build"):
        codec.decode_status(pb.ChangeStatus(kind="new"))


def test_worlds_of_real_changes_travel() -> None:
    deployment = MiniDeployment(Random(3))
    deployment.begin(Kind.BRING_UP, first_world(range(3), [version(1)]))
    deployment.settle()
    assert deployment.saved.world is not None
    facts = Facts(world=deployment.saved.world, resident_bytes={}, nodes={}, requests=0, traffic={})
    assert codec.decode_facts(codec.encode_facts(facts)) == facts
