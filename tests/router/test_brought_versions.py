"""Versions that a change brings, by the number that shards are told of it: theirs alone, whoever dies meanwhile."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ringpull.router.control.brought_versions import brought_versions
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.events import Abort, Command, Prepare, ShardLost
from tests.router.coordinated import MiniDeployment, version


class Noting(MiniDeployment):
    """Deployment that notes what its shards are told of each version: (shard, version, publish)."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.told: list[tuple[int, int, int]] = []
        assert self.begin(Kind.BRING_UP, initial_spec(range(2), [version(1)]))
        self.settle()

    def _execute(self, command: Command) -> None:
        if isinstance(command, Prepare):
            self.told += [(command.shard, each.version, each.publish) for each in command.placements]
        super()._execute(command)

    @property
    def spec(self) -> DeploymentSpec:
        assert self.saved.spec is not None
        return self.saved.spec

    def publish(self, number: int) -> None:
        target = replace(self.spec, versions=(*self.spec.versions, version(number)), live={"m": number})
        assert self.begin(Kind.PUBLISH, target)

    def run_to(self, phase: Phase) -> None:
        while self.saved.change is not None and self.saved.change.phase is not phase:
            self.execute_one()
            self.answer_one()

    def publishes_of(self, number: int) -> list[int]:
        """Return what shards were told of a version since the last call."""
        told, self.told = self.told, []
        return [publish for _, each, publish in told if each == number]


def test_a_shard_that_was_killed_amid_a_publish_is_told_of_the_same() -> None:
    deployment = Noting(Random(3))
    [bring_up] = set(deployment.publishes_of(1))
    assert bring_up
    deployment.publish(2)
    deployment.run_to(Phase.LOADING)
    assert {publish for _, each, publish in deployment.told if each == 1} <= {0}, "it serves already"
    [publish] = set(deployment.publishes_of(2))
    assert publish not in (0, 1, bring_up)
    deployment.tell(ShardLost(0))
    deployment._replace_shard(0)
    deployment.heartbeat()
    deployment.settle()
    told = set(deployment.told)
    assert {each for each in told if each[1] == 2} == {(0, 2, publish)}
    assert {each for each in told if each[1] == 1} == {(0, 1, 0)}


def test_one_that_begins_anew_is_another_publish() -> None:
    deployment = Noting(Random(4))
    deployment.publish(2)
    deployment.run_to(Phase.LOADING)
    [given_up] = set(deployment.publishes_of(2))
    deployment.tell(Abort("an operator aborted it"))
    deployment.settle()
    deployment.publish(2)
    deployment.settle()
    [publish] = set(deployment.publishes_of(2))
    assert publish not in (0, given_up)
    deployment.tell(ShardLost(1))
    deployment._replace_shard(1)
    deployment.heartbeat()
    deployment.settle()
    assert set(deployment.publishes_of(2)) == {0}, "it is served since"


def test_another_deployment_has_other_numbers() -> None:
    deployment = Noting(Random(5))
    deployment.publish(2)
    mine, others = (brought_versions(deployment.saved, each) for each in ("mine", "others"))
    assert mine.keys() == others.keys() == {("m", 2)}
    assert mine != others
    other_content = replace(version(1), identity=f"{5:016x}")
    deployment.settle()
    assert brought_versions(deployment.saved, "mine") == {}
    assert deployment.begin(Kind.PUBLISH, replace(deployment.spec, versions=(other_content, version(2))))
    assert brought_versions(deployment.saved, "mine").keys() == {("m", 1)}
