"""Which prepares check rows, and which are sent to a shard whose copies are damaged."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ringpull.ps.errors import CorruptData
from ringpull.router.control.change import Kind
from ringpull.router.control.changes import begin_of
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.events import Begin, Command, Failed, Prepare, ShardSeen
from ringpull.router.control.operations import Publish
from tests.router.coordinated import MiniDeployment, version

FIRST = initial_spec(range(2), [version(1)])


def next_spec(spec: DeploymentSpec) -> DeploymentSpec:
    """Return the spec in which version 2 is live and 1 is kept."""
    return replace(spec, versions=(version(1), version(2)), live={"m": 2})


class Watched(MiniDeployment):
    """A deployment that is up, and the prepares that were sent since."""

    def __init__(self) -> None:
        super().__init__(Random(1))
        self.prepares: list[Prepare] = []
        assert self.begin(Kind.BRING_UP, FIRST)
        self.settle()
        self.prepares = []

    def _execute(self, command: Command) -> None:
        if isinstance(command, Prepare):
            self.prepares.append(command)
        super()._execute(command)

    def checked(self) -> set[tuple[int, bool]]:
        """Return which versions the prepares brought, and whether they had their rows checked."""
        return {(each.version, each.check_rows) for prepare in self.prepares for each in prepare.placements}

    def seen(self, shard: int, *, damaged: bool) -> None:
        mini = self.shards[shard]
        self.tell(ShardSeen(shard, mini.incarnation, mini.address, "node", int(mini.settled), damaged))


@pytest.fixture
def deployment() -> Watched:
    return Watched()


def test_a_publish_has_the_rows_of_what_it_brings_checked(deployment: Watched) -> None:
    deployment.begin(Kind.PUBLISH, next_spec(FIRST))
    deployment.settle()
    assert deployment.checked() == {(1, False), (2, True)}


def test_a_publish_that_trusts_files_does_not(deployment: Watched) -> None:
    deployment.tell(Begin(Kind.PUBLISH, "x", next_spec(FIRST), trust_files=True))
    deployment.settle()
    assert deployment.checked() == {(1, False), (2, False)}


def test_bring_up_and_moves_do_not(deployment: Watched) -> None:
    deployment.begin(Kind.REBALANCE, replace(FIRST, ring=FIRST.ring.with_shards([0, 1, 2])))
    deployment.settle()
    assert deployment.checked() == {(1, False)}


def test_a_shard_that_dies_in_a_publish_checks_again(deployment: Watched) -> None:
    deployment.begin(Kind.PUBLISH, next_spec(FIRST))
    deployment.crash_coordinator()
    deployment.crash_shard()
    deployment.settle()
    assert (2, True) in deployment.checked()


@pytest.mark.parametrize("trust_files", [False, True])
def test_what_the_operator_trusts_travels_with_the_change(trust_files: bool) -> None:
    request = Publish(model="m", version=2, trust_files=trust_files)
    deployment = Watched()
    begin = begin_of(request, deployment.saved, place=lambda *_: version(2))
    assert begin.trust_files is trust_files


def test_damaged_rows_abort_the_publish_and_the_old_version_serves(deployment: Watched) -> None:
    deployment.begin(Kind.PUBLISH, next_spec(FIRST))
    [prepare, *_] = [each for each in deployment.commands if isinstance(each, Prepare)]
    deployment._take(prepare)
    deployment.tell(Failed(prepare, CorruptData("/m/2/one/rows: block 0")))
    deployment.settle()
    assert deployment.saved.spec == FIRST
    assert deployment.saved.outcome is not None
    assert "/m/2/one/rows" in deployment.saved.outcome.error


def test_a_shard_with_damaged_copies_is_prepared_again_once_nothing_else_is_to_be_done(deployment: Watched) -> None:
    deployment.seen(1, damaged=True)
    [prepare] = deployment.commands
    assert isinstance(prepare, Prepare)
    assert prepare.shard == 1
    assert {source.port for placed in prepare.placements for source in placed.tables["two"].sources} == {
        deployment.shards[0].address.port
    }
    deployment.settle()
    assert len(deployment.prepares) == 1
    deployment.begin(Kind.PUBLISH, next_spec(FIRST))
    deployment.prepares = []
    deployment.seen(1, damaged=True)
    deployment.settle()
    assert all(len(prepare.placements) == 2 for prepare in deployment.prepares), "the change goes first"
    deployment.check_rest()
