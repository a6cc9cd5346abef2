"""Pushed rows and the coordinator: first pushes wait until it is saved, and owners stay while there are any."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from ringpull.ps.errors import UnmetCondition
from ringpull.ps.ring import Ring
from ringpull.router.control.change import CoordinatorState, Kind, Phase
from ringpull.router.control.changes import rebalance_of
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.events import Assign, Begin, Command, ShardSeen
from ringpull.router.control.operations import Rebalance
from ringpull.router.control.pushed_tables import Names, PushedTable, live_lineages
from tests.router.coordinated import MiniDeployment, version

LINEAGE, OTHER = 0xAA, 0xBB
USERS: Names = (("m", LINEAGE, "one"),)


def of(lineage: int, *numbers: int) -> DeploymentSpec:
    versions = [replace(version(number), identity=f"{number:016x}", lineage_of=f"{lineage:016x}") for number in numbers]
    return initial_spec(range(2), versions)


FIRST = of(LINEAGE, 1)


class Deployment(MiniDeployment):
    """A deployment that is up, and what its shards were told of pushed rows."""

    def __init__(self, spec: DeploymentSpec = FIRST, state: CoordinatorState | None = None) -> None:
        super().__init__(Random(1), state=state)
        self.told: dict[int, list[Names]] = {0: [], 1: [], 2: []}
        assert self.begin(Kind.BRING_UP, spec)
        self.settle()

    def _execute(self, command: Command) -> None:
        if isinstance(command, Assign):
            self.told[command.shard].append(command.pushed)
        super()._execute(command)

    def seen(self, shard: int, *, has: Names = (), wants: Names = ()) -> None:
        mini = self.shards[shard]
        self.tell(
            ShardSeen(shard, mini.incarnation, mini.address, "node", int(mini.settled), pushed=has, wants_to_push=wants)
        )

    def go(self, kind: Kind, target: DeploymentSpec) -> None:
        assert self.begin(kind, target)
        self.settle()


def moved(spec: DeploymentSpec) -> DeploymentSpec:
    return replace(spec, ring=spec.ring.with_shards([0, 1, 2]))


def test_a_shard_is_told_once_it_is_saved() -> None:
    deployment = Deployment()
    deployment.seen(1, wants=USERS)
    assert deployment.saved.pushed == {1: (PushedTable(*USERS[0]),)}
    deployment.settle()
    assert deployment.told[1][-1] == USERS
    told = len(deployment.told[1])
    deployment.seen(1, has=USERS, wants=USERS)
    deployment.settle()
    assert len(deployment.told[1]) == told
    assert deployment.told[0][-1] == ()
    again = state_from_dict(json.loads(json.dumps(state_to_dict(deployment.saved))))
    assert again == deployment.saved
    assert "pushed" not in state_to_dict(Deployment().saved)


def test_owners_and_copies_stay_while_there_are_pushed_rows() -> None:
    deployment = Deployment()
    deployment.go(Kind.REBALANCE, moved(FIRST))
    spec = deployment.saved.spec
    assert spec is not None
    deployment.seen(2, has=USERS)
    machine = Coordinator(deployment.saved)
    for target in (
        replace(spec, ring=spec.ring.with_shards([0, 1])),
        replace(spec, replicas={**spec.replicas, ("m", "one"): 2}),
    ):
        with pytest.raises(UnmetCondition, match="of m/one, on shards 2"):
            machine.take(Begin(Kind.REBALANCE, "less", target))
    machine.take(Begin(Kind.PUBLISH, "m/2", replace(spec, versions=(*spec.versions, *of(LINEAGE, 2).versions))))


def test_a_node_with_pushed_rows_is_not_drained() -> None:
    deployment = Deployment()
    deployment.seen(0, has=USERS)
    drain = rebalance_of(
        FIRST, Rebalance(drain_node="bad"), nodes={0: "bad", 1: "good"}, free_nodes=["bad", "good", "new"]
    )
    with pytest.raises(UnmetCondition, match=r"of m/one, on shards 0; export a full version that follows nothing"):
        Coordinator(deployment.saved).take(drain)


def test_while_owners_change_no_first_push_is_let_in_and_afterwards_it_is() -> None:
    deployment = Deployment()
    assert deployment.begin(Kind.REBALANCE, moved(FIRST))
    phases = set()
    while deployment.saved.change is not None:
        phases.add(deployment.saved.change.phase)
        deployment.seen(0, wants=USERS)
        if deployment.saved.change is not None:
            assert deployment.saved.pushed == {}
        deployment.heartbeat()
        deployment.execute_one()
        deployment.answer_one()
    assert phases >= {Phase.PREPARING, Phase.DUAL_OWNERSHIP}
    deployment.settle()
    deployment.seen(0, wants=USERS)
    assert list(deployment.saved.pushed) == [0]


def test_what_belongs_to_no_open_lineage_is_forgotten_and_never_noted() -> None:
    deployment = Deployment()
    deployment.seen(0, has=(("m", OTHER, "one"),), wants=(("other", LINEAGE, "one"),))
    assert deployment.saved.pushed == {}
    deployment.seen(0, wants=USERS)
    deployment.go(Kind.PUBLISH, replace(FIRST, versions=(*FIRST.versions, *of(OTHER, 2).versions), live={"m": 2}))
    assert list(deployment.saved.pushed) == [0]  # version 1 is kept, and may be rolled back to
    deployment.go(Kind.PUBLISH, replace(FIRST, versions=of(OTHER, 2).versions, live={"m": 2}))
    assert deployment.saved.pushed == {}
    assert deployment.told[0][-1] == ()
    deployment.go(Kind.REBALANCE, moved(deployment.saved.spec or FIRST))


def led(spec: DeploymentSpec, live: int, *, ring: Ring | None = None) -> DeploymentSpec:
    return replace(spec, live={"m": live}, ring=ring or spec.ring)


BOTH = replace(FIRST, versions=(*FIRST.versions, *of(OTHER, 2).versions))


def test_the_live_lineage_is_the_one_that_all_specs_agree_on() -> None:
    assert live_lineages([led(BOTH, 1)]) == {"m": LINEAGE}
    assert live_lineages([led(BOTH, 1), led(BOTH, 2)]) == {}
    assert live_lineages([led(BOTH, 2), moved(led(BOTH, 2))]) == {"m": OTHER}
    assert live_lineages([led(BOTH, 2), replace(BOTH, versions=(), live={})]) == {}
    assert live_lineages([replace(BOTH, versions=(), live={}), led(BOTH, 2)]) == {}
    assert live_lineages([of(LINEAGE, 1), of(LINEAGE, 1, 2)]) == {"m": LINEAGE}  # a delta, of the same one
    nameless = replace(FIRST, versions=(version(1),))
    assert live_lineages([nameless]) == {}


def test_no_shard_comes_or_goes_in_the_change_that_makes_another_lineage_live() -> None:
    deployment = Deployment(led(BOTH, 1))
    alone = BOTH.ring.with_shards([0])
    with pytest.raises(UnmetCondition, match="another lineage of m goes live in another"):
        deployment.tell(Begin(Kind.REBALANCE, "x", led(BOTH, 2, ring=alone)))
    deployment.go(Kind.REBALANCE, led(BOTH, 1, ring=alone))
    assert not deployment.begin(Kind.PUBLISH, moved(led(BOTH, 2)))
    deployment.go(Kind.PUBLISH, led(BOTH, 2, ring=alone))
    deployment.go(Kind.REBALANCE, moved(led(BOTH, 2)))
    assert all(deployment.shards[shard].live == {"m": OTHER} for shard in range(3))


@pytest.mark.parametrize("seed", range(30))
def test_no_shard_takes_a_lineage_for_live_while_a_head_has_another_one(seed: int) -> None:
    """See `MiniDeployment.check`: at no time, whoever crashes."""
    random = Random(seed)
    deployment = MiniDeployment(random, heads=2)
    assert deployment.begin(Kind.BRING_UP, led(BOTH, 1))
    deployment.settle()
    deployment.check_rest()
    deployment.unlucky = 0.1
    agreed = 0
    for _ in range(4):
        spec = deployment.saved.spec
        assert spec is not None
        ring = spec.ring.with_shards(sorted(random.sample(range(4), random.randint(1, 3))))
        target = led(spec, random.choice([1, 2]), ring=random.choice([spec.ring, ring]))
        if not deployment.begin(Kind.PUBLISH, target):
            assert set(spec.shards) != set(target.shards)
            assert deployment.begin(Kind.REBALANCE, replace(target, live=spec.live))
        for _ in range(100):
            deployment.something_happens()
            deployment.check()
            agreed += any(mini.live for mini in deployment.shards.values())
        deployment.settle()
        assert deployment.saved.spec is not None
        lineage = deployment.lineages["m", deployment.saved.spec.live["m"]]
        assert all(mini.live == {"m": lineage} for mini in deployment.shards.values())
        deployment.unlucky = 0.1
    assert agreed > 20


# -- the next deployment on the same folder ----------------------------------------------------------------------------


def begun(state: CoordinatorState, target: DeploymentSpec) -> DeploymentSpec:
    """Return the spec that a bring-up leads to."""
    machine = Coordinator(state)
    machine.take(Begin(Kind.BRING_UP, "all", target))
    assert machine.state.change is not None
    return machine.state.change.target


def test_the_next_deployment_knows_who_had_pushed_rows_and_tells_them() -> None:
    deployment = Deployment()
    deployment.seen(1, has=USERS)
    left = state_from_dict(json.loads(json.dumps(state_to_dict(deployment.saved.left_behind))))
    assert (left.pushed, left.before, left.spec) == ({1: (PushedTable(*USERS[0]),)}, FIRST, None)
    assert left.left_behind == left  # where that ends before it serves
    deployment = Deployment(state=left)
    assert deployment.told == {0: [()], 1: [USERS], 2: []}
    assert (deployment.saved.before, deployment.saved.pushed) == (None, left.pushed)
    deployment = Deployment(of(OTHER, 1), state=left)
    assert deployment.saved.pushed == {}  # of no lineage that is open
    assert Deployment().saved.left_behind.pushed == {}


def test_its_shards_are_those_that_have_the_rows() -> None:
    deployment = Deployment()
    deployment.go(Kind.REBALANCE, moved(FIRST))
    deployment.seen(2, has=USERS)
    left = deployment.saved.left_behind
    assert left.before is not None
    three = initial_spec(range(3), FIRST.versions)
    assert three.ring != left.before.ring
    assert begun(left, three).ring == left.before.ring
    for target in (FIRST, replace(three, ring=three.ring.with_ranks(2), replicas={("m", "one"): 2})):
        with pytest.raises(UnmetCondition, match="of 3 shards, and lie where its shards had them: serve with --shards"):
            begun(left, target)
    assert begun(left, of(OTHER, 1)) == of(OTHER, 1)
    assert begun(CoordinatorState(), three) == three
