"""The coordinator's machine: every change carried through, given up, or survived, whoever crashes whenever."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ringpull.ps.errors import Busy, CorruptData, InvalidInput, NotChecked, Unavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.coordinator import Coordinator
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.events import (
    Abort,
    Begin,
    Failed,
    HeadSeen,
    Load,
    Member,
    Pause,
    Prepare,
    Resume,
    RetryDue,
    ShardLost,
    ShardSeen,
    StartShard,
    Throttle,
    member_of,
)
from tests.router.coordinated import MiniDeployment, version

SEEDS = range(40)


def up(random: Random, shards: int = 2, heads: int = 1) -> MiniDeployment:
    """A deployment that serves version 1."""
    deployment = MiniDeployment(random, heads)
    assert deployment.begin(Kind.BRING_UP, initial_spec(range(shards), [version(1)]))
    deployment.settle()
    deployment.check_rest()
    return deployment


def moved(spec: DeploymentSpec, shards: list[int]) -> DeploymentSpec:
    return replace(spec, ring=spec.ring.with_shards(shards))


def published(spec: DeploymentSpec, number: int, keep: int = 1) -> DeploymentSpec:
    kept = sorted([*spec.versions, version(number)], key=lambda each: each.version)[-1 - keep :]
    return replace(spec, versions=tuple(kept), live={"m": number})


def spec_of(deployment: MiniDeployment) -> DeploymentSpec:
    assert deployment.saved.spec is not None
    return deployment.saved.spec


def run_to(deployment: MiniDeployment, phase: Phase) -> None:
    """Go on until the change is in that phase."""
    while deployment.saved.change is not None and deployment.saved.change.phase is not phase:
        assert deployment.commands or deployment.answers
        deployment.execute_one()
        deployment.answer_one()
        deployment.check()


def answer_all(deployment: MiniDeployment) -> None:
    """Carry out all that is not held, and tell of it."""
    for _ in range(100):
        deployment.execute_one()
        deployment.answer_one()


@pytest.mark.medium
@pytest.mark.parametrize("seed", SEEDS[:10])
def test_a_deployment_lives_through_moves_and_versions(seed: int) -> None:
    deployment = up(Random(seed), heads=2)
    for shards in ([0, 1, 2, 3], [0, 1, 3], [0, 1, 3, 4, 5], [4], [0, 4]):
        assert deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), shards))
        deployment.settle()
        deployment.check_rest()
        assert spec_of(deployment).shards == tuple(shards)
    assert deployment.begin(Kind.PUBLISH, published(spec_of(deployment), 2))
    deployment.settle()
    deployment.check_rest()
    assert deployment.begin(Kind.ROLLBACK, replace(spec_of(deployment), live={"m": 1}))
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).live == {"m": 1}
    assert deployment.saved.outcome is not None
    assert deployment.saved.outcome.error == ""


@pytest.mark.medium
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_crashes_whenever_it_ends_well_and_nobody_is_sent_astray(seed: int) -> None:
    random = Random(seed)
    deployment = up(random, shards=random.choice([1, 2, 3]), heads=random.choice([1, 2]))
    deployment.unlucky = 0.1
    for round_ in range(4):
        spec = spec_of(deployment)
        target = random.choice(
            [
                moved(spec, sorted(random.sample(range(6), random.randint(1, 5)))),
                published(spec, 10 + round_),
                replace(spec, live={"m": random.choice(spec.versions).version}),
                replace(spec, ring=spec.ring.with_ranks(random.choice([1, 2, 3]))),
            ]
        )
        deployment.begin(Kind.REBALANCE, target)
        for _ in range(120):
            deployment.something_happens()
            deployment.check()
        deployment.settle()
        deployment.check_rest()
        deployment.unlucky = 0.1


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CATCHING_UP])
@pytest.mark.parametrize("who", ["crash_shard", "crash_head", "crash_coordinator"])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_in_each_phase_is_survived(phase: Phase, who: str, seed: int) -> None:
    deployment = up(Random(seed))
    deployment.begin(Kind.REBALANCE, moved(published(spec_of(deployment), 2), [1, 2, 3]))
    run_to(deployment, phase)
    getattr(deployment, who)()
    deployment.check()
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).shards == (1, 2, 3)
    assert spec_of(deployment).live == {"m": 2}


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.DUAL_OWNERSHIP, Phase.LOADING])
def test_a_change_that_is_given_up_leaves_nothing_behind(phase: Phase) -> None:
    deployment = up(Random(1))
    before = spec_of(deployment)
    deployment.begin(Kind.REBALANCE, moved(published(before, 2), [0, 1, 2]))
    run_to(deployment, phase)
    deployment.tell(Abort("no more"))
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment) == before
    assert deployment.saved.outcome is not None
    assert deployment.saved.outcome.error == "no more"


@pytest.mark.parametrize("phase", [Phase.ROUTING, Phase.DRAINING, Phase.CLEANUP])
def test_past_routing_a_change_only_goes_forward(phase: Phase) -> None:
    deployment = up(Random(2))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 2]))
    run_to(deployment, phase)
    for verb in (Abort("no"), Pause()):
        with pytest.raises(InvalidInput, match=f"is {phase.value}: too late"):
            deployment.tell(verb)
    deployment.settle()
    deployment.check_rest()


def test_what_cannot_be_carried_out_gives_the_change_up_and_says_why() -> None:
    deployment = up(Random(3))
    deployment.begin(Kind.PUBLISH, published(spec_of(deployment), 2))
    prepare = next(command for command in deployment.commands if isinstance(command, Prepare))
    deployment.commands.remove(prepare)
    deployment.tell(Failed(prepare, CorruptData("header: checksum")))
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).live == {"m": 1}
    assert deployment.saved.outcome is not None
    assert deployment.saved.outcome.error == f"shard {prepare.shard}: header: checksum"


def test_a_version_whose_rows_stay_away_is_given_up_and_holds_up_nothing() -> None:
    deployment = up(Random(3))
    deployment.tell(Begin(Kind.PUBLISH, "m/2", published(spec_of(deployment), 2)))
    reason = "self-check of m/2: no live shard has 3 keys of table one"
    while deployment.saved.change is not None:
        loads = [each for each in deployment.commands if isinstance(each, Load)]
        if not loads:
            deployment.execute_one()
            deployment.answer_one()
            continue
        deployment.commands.remove(loads[0])
        deployment.tell(Failed(loads[0], NotChecked(reason)))
        deployment.tell(RetryDue(Member("head", loads[0].head)))
    assert deployment.saved.outcome is not None
    assert deployment.saved.outcome.error == f"head 0: {reason}"
    deployment.settle()
    assert spec_of(deployment).live == {"m": 1}


def test_a_second_change_is_refused_while_one_is_under_way() -> None:
    deployment = up(Random(4))
    target = moved(spec_of(deployment), [0, 1, 2])
    deployment.tell(Begin(Kind.REBALANCE, "shards 2 -> 3", target))
    with pytest.raises(Busy, match=r"rebalance shards 2 -> 3 is under way \(preparing\)"):
        deployment.tell(Begin(Kind.PUBLISH, "m/2", published(spec_of(deployment), 2)))
    deployment.settle()
    assert spec_of(deployment).shards == (0, 1, 2)


def test_nothing_can_be_published_before_a_bring_up() -> None:
    with pytest.raises(InvalidInput, match="nothing serves yet"):
        Coordinator().handle(Begin(Kind.PUBLISH, "m/1", initial_spec([0], [version(1)])))


def test_a_paused_change_waits_and_holds_the_streams() -> None:
    deployment = up(Random(5))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    deployment.tell(Pause())
    assert {command.bytes_per_s for command in deployment.commands if isinstance(command, Throttle)} == {0.0}
    answer_all(deployment)
    assert deployment.saved.change is not None
    assert deployment.saved.change.phase is Phase.PREPARING
    deployment.tell(Resume())
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).shards == (0, 1, 2)


def test_a_shard_that_was_out_of_reach_while_a_change_was_resumed_streams_again() -> None:
    deployment = up(Random(7))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    deployment.tell(Pause())
    answer_all(deployment)
    deployment.tell(ShardLost(0))
    deployment.tell(Resume())
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).shards == (0, 1, 2)


def test_a_pause_holds_up_no_repair() -> None:
    """Of 608 of the simulation: a shard that died while a change was paused stored nothing until it was resumed."""
    deployment = up(Random(15))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    deployment.tell(Pause())
    answer_all(deployment)
    deployment.tell(ShardLost(0))
    deployment._replace_shard(0)
    deployment.heartbeat()
    answer_all(deployment)
    assert deployment.shards[0].settled, "it serves the present spec"
    assert deployment.shards[0].bytes_per_s == 0.0, "and streams nothing of the next one"
    assert deployment.saved.change is not None
    assert deployment.saved.change.phase is Phase.PREPARING
    deployment.tell(Resume())
    deployment.settle()
    deployment.check_rest()
    assert spec_of(deployment).shards == (0, 1, 2)


def test_a_next_coordinator_lifts_the_limit_of_a_change_that_has_ended() -> None:
    """The one before it died before it could."""
    deployment = up(Random(8))
    limited = Begin(Kind.REBALANCE, "shards 2 -> 3", moved(spec_of(deployment), [0, 1, 2]), bytes_per_s=100.0)
    deployment.tell(limited)
    answer_all(deployment)
    assert deployment.saved.change is None
    deployment.shards[0].bytes_per_s = 100.0
    deployment.crash_coordinator()
    deployment.settle()
    deployment.check_rest()


def test_a_limit_that_cannot_be_told_is_told_again_after_a_rest() -> None:
    deployment = up(Random(9))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    deployment.tell(Pause())
    throttle = next(command for command in deployment.commands if isinstance(command, Throttle))
    deployment.commands.remove(throttle)
    told = len(deployment.commands)
    deployment.tell(Failed(throttle, Unavailable("out of reach")))
    deployment.heartbeat()
    assert not [command for command in deployment.commands[told:] if member_of(command) == member_of(throttle)]
    deployment.tell(RetryDue(member_of(throttle)))
    assert throttle in deployment.commands


def test_two_limits_are_never_under_way_to_one_shard() -> None:
    """They could reach it in either order."""
    deployment = up(Random(10))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    for event in (Pause(), Resume(), Pause(), Resume()):
        deployment.tell(event)
    told = [command for command in deployment.commands if isinstance(command, Throttle)]
    assert [(each.shard, each.bytes_per_s) for each in told] == [(0, 0.0), (1, 0.0)]
    deployment.settle()
    deployment.check_rest()


@pytest.mark.parametrize("how", ["the coordinator died", "it was lost before"])
def test_a_shard_that_leaves_is_stopped_whether_or_not_it_is_seen(how: str) -> None:
    deployment = up(Random(11), shards=3)
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1]))
    if how == "the coordinator died":
        run_to(deployment, Phase.CLEANUP)
        deployment.commands, deployment.answers = [], []
        deployment.coordinator = Coordinator(deployment.saved)
        deployment.tell(HeadSeen(0, deployment.heads[0].incarnation))
    else:
        run_to(deployment, Phase.DRAINING)
        deployment.tell(ShardLost(2))
        start = next(command for command in deployment.commands if command == StartShard(2, None))
        deployment.commands.remove(start)
        deployment.answers.append(Failed(start, Unavailable("it cannot be reached")))
        answer_all(deployment)
    deployment.settle()
    deployment.check_rest()


def test_shards_of_a_change_that_was_given_up_are_stopped_by_the_next_coordinator() -> None:
    deployment = up(Random(12))
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 2]))
    while 2 not in deployment.shards:
        deployment.execute_one()
    deployment.tell(Abort("no more"))
    deployment.commands, deployment.answers = [], []
    deployment.coordinator = Coordinator(deployment.saved)
    deployment.settle()
    deployment.check_rest()


def test_a_shard_that_leaves_may_come_back_at_once() -> None:
    deployment = up(Random(13), shards=3)
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 1, 3]))
    deployment.tell(Abort("no more"))
    assert deployment.saved.leaving == {3}
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [0, 3]))
    assert not deployment.saved.leaving
    deployment.settle()
    deployment.check_rest()


def test_a_change_ends_though_a_shard_of_the_next_spec_is_out_of_reach() -> None:
    """Its machine may be gone: nobody could move away from it while this change holds."""
    deployment = up(Random(14))
    deployment.begin(Kind.PUBLISH, published(spec_of(deployment), 2))
    run_to(deployment, Phase.CLEANUP)
    deployment.tell(ShardLost(1))
    for _ in range(100):
        deployment.execute_one()
        if deployment.answers and not isinstance(deployment.answers[0], ShardSeen):
            deployment.answer_one()
        deployment.answers = [each for each in deployment.answers if not isinstance(each, ShardSeen)]
    assert deployment.saved.change is None
    deployment.settle()
    deployment.check_rest()


def test_a_stopped_head_holds_a_move_no_longer_than_its_lease() -> None:
    deployment = up(Random(6), heads=2)
    deployment.begin(Kind.REBALANCE, moved(spec_of(deployment), [1, 2]))
    deployment.stop_head()
    for _ in range(300):
        deployment.execute_one()
        deployment.answer_one()
        deployment.check()
    assert deployment.saved.change is not None
    assert deployment.saved.change.phase is Phase.ROUTING
    deployment.expire_heads()
    for _ in range(300):
        deployment.execute_one()
        deployment.answer_one()
        deployment.check()
    assert deployment.saved.change is None
    deployment.settle()
    deployment.check_rest()
