"""What an operator may ask for, the spec it leads to, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.spec import ALL
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.changes import begin_of, published, rebalanced, rolled_back
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.model_changes import loaded, served, unloaded
from ringpull.router.control.operations import ChangeRequest, ModelSource, Publish, Rebalance, Rollback
from tests.router.coordinated import version

SPEC = initial_spec(range(4), [version(1), version(7, "other")])


def change(request: ChangeRequest, spec: DeploymentSpec | None = SPEC) -> DeploymentSpec:
    state = CoordinatorState(spec=spec)
    return begin_of(request, state, place=lambda asked, _: version(asked.version, asked.model)).target


def shards(spec: DeploymentSpec, request: Rebalance) -> tuple[int, ...]:
    return rebalanced(spec, request, nodes={}, free_nodes=())[0].shards


def test_publishing_makes_a_version_live_and_keeps_the_one_before() -> None:
    spec = change(Publish(model="m", version=2))
    assert spec.live == {"m": 2, "other": 7}
    assert [each.name for each in spec.versions] == ["m/1", "m/2", "other/7"]
    spec = change(Publish(model="m", version=3), spec)
    assert [each.name for each in spec.versions] == ["m/2", "m/3", "other/7"]
    assert [each.name for each in change(Publish(model="m", version=4, keep=0), spec).versions] == ["m/4", "other/7"]


def test_the_version_that_was_live_is_kept_before_newer_ones_that_were_not() -> None:
    spec = published(SPEC, version(2), keep=1)
    spec = rolled_back(spec, Rollback(model="m"))
    assert [each.name for each in published(spec, version(3), keep=1).versions] == ["m/1", "m/3", "other/7"]


@pytest.mark.parametrize("alone", [True, False])
def test_what_predicts_is_not_followed_by_what_has_tables_only(alone: bool) -> None:
    def of_kind(number: int, tables_alone: bool) -> PlacedVersion:
        return replace(version(number), tables_alone=tables_alone)

    spec = initial_spec(range(4), [of_kind(1, not alone), version(7, "other")])
    what = (
        "m/2 has tables only, and m/1, which is live, predicts"
        if alone
        else "m/2 predicts, and m/1, which is live, has"
    )
    for keep in (0, 1):
        with pytest.raises(InvalidInput, match=what):
            published(spec, of_kind(2, alone), keep=keep)
    with pytest.raises(InvalidInput, match=what):
        served(spec, [(ModelSource(name="m"), [of_kind(2, alone)])], keep=1)
    assert published(spec, of_kind(2, not alone), keep=1).live["m"] == 2
    assert loaded(unloaded(spec, "m"), of_kind(2, alone), {}).live["m"] == 2


def test_a_table_keeps_the_copies_that_an_operator_chose() -> None:
    spec = change(Rebalance(replicas={"m/one": 3, "m/two": ALL}))
    after = published(spec, version(2), keep=1)
    assert after.replicas["m", "one"] == 3
    assert after.replicas["m", "two"] == ALL
    wide = replace(version(3), tables={**version(3).tables, "new": PlacedTable("/m/3/new", 4)})
    assert published(after, wide, keep=1).replicas["m", "new"] == 4
    assert published(after, wide, keep=1).ring.ranks == 4


def test_a_rollback_goes_to_the_version_before_or_the_one_that_is_named() -> None:
    spec = published(published(SPEC, version(2), keep=2), version(3), keep=2)
    assert rolled_back(spec, Rollback(model="m")).live["m"] == 2
    assert rolled_back(spec, Rollback(model="m", version=1)).live["m"] == 1
    assert rolled_back(spec, Rollback(model="m")).versions == spec.versions


def test_shards_come_and_go() -> None:
    assert shards(SPEC, Rebalance(shards=6)) == (0, 1, 2, 3, 4, 5)
    assert shards(SPEC, Rebalance(shards=2)) == (0, 1)
    assert shards(replace(SPEC, ring=SPEC.ring.with_shards([1, 4])), Rebalance(shards=4)) == (0, 1, 2, 4)


def test_a_node_is_emptied_one_for_one_onto_the_others() -> None:
    nodes = {0: "a", 1: "b", 2: "a", 3: "c"}
    spec, moved = rebalanced(SPEC, Rebalance(drain_node="a"), nodes=nodes, free_nodes=["a", "b", "c"])
    assert spec.shards == (1, 3, 4, 5)
    assert moved == {4: "b", 5: "c"}
    kept = [each for each in spec.ring.ranges if set(each.owners) <= {1, 3}]
    before = SPEC.ring.owner_table(1)
    assert all((before[each.slots.begin : each.slots.end, 0] == each.owners[0]).all() for each in kept)


def test_new_shards_go_where_the_fewest_are() -> None:
    nodes = {0: "b", 1: "c", 2: "c", 3: "b"}
    free = ["a", "b", "c"]
    assert rebalanced(SPEC, Rebalance(shards=7), nodes=nodes, free_nodes=free)[1] == {4: "a", 5: "a", 6: "a"}
    assert rebalanced(SPEC, Rebalance(shards=6), nodes=nodes, free_nodes=["b", "c"])[1] == {4: "b", 5: "c"}
    assert rebalanced(SPEC, Rebalance(shards=2), nodes=nodes, free_nodes=free)[1] == {}
    assert rebalanced(SPEC, Rebalance(shards=5), nodes={}, free_nodes=[])[1] == {}


def test_copies_are_made_as_asked() -> None:
    spec = change(Rebalance(replicas={"m/one": 3}))
    assert spec.ring.ranks == 3
    assert spec.shards == SPEC.shards
    assert change(Rebalance(replicas={"m/one": 1, "other/two": 1, "m/two": 1}), spec).ring.ranks == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Rebalance(shards=0), "shards is 0; it must be from 1 to 1024"),
        (Rebalance(shards=-2), "shards is -2"),
        (Rebalance(replicas={"m/one": 5}), "replicas of m/one is 5; with 4 shards it must be from 1 to 4, or all"),
        (Rebalance(shards=2, replicas={"m/one": 3}), "with 2 shards it must be from 1 to 2"),
        (Rebalance(replicas={"m/one": 0}), "replicas of m/one is 0"),
        (Rebalance(replicas={"none": 2}), "replicas of none: there is no such table; there is m/all, m/one"),
        (Rebalance(replicas={"one": 2}), "it could be m/one and other/one; write MODEL/TABLE"),
        (Rebalance(drain_node="x"), "there is no node x"),
        (Rebalance(shards=4), "nothing to change"),
        (Rebalance(), "nothing to change"),
        (Rebalance(shards=5, bytes_per_s=0), "must be over 0"),
        (Rollback(model="m"), "m has nothing to roll back to: 1 is live, and no older version is open"),
        (Rollback(model="m", version=1), "m/1 is live already"),
        (Rollback(model="m", version=9), "m/9 is not open; these are: 1"),
        (Publish(model="m", version=1), "m/1 is live already"),
        (Publish(model="m", version=2, keep=-1), "keep is -1"),
    ],
)
def test_what_cannot_be_is_refused_and_says_what_would_be_right(request_: ChangeRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        change(request_)


@pytest.mark.parametrize("request_", [Rollback(model="x"), Publish(model="x", version=1)], ids=["rollback", "publish"])
def test_a_model_that_is_not_served_is_not_found(request_: ChangeRequest) -> None:
    with pytest.raises(NotFound, match="model 'x' is not served here; these are: m, other"):
        change(request_)


def test_a_node_without_shards_and_the_only_node_cannot_be_emptied() -> None:
    with pytest.raises(InvalidInput, match="no shard on node b"):
        rebalanced(SPEC, Rebalance(drain_node="b"), nodes=dict.fromkeys(range(4), "a"), free_nodes=["a", "b"])
    with pytest.raises(InvalidInput, match="there is no other node"):
        rebalanced(SPEC, Rebalance(drain_node="a"), nodes=dict.fromkeys(range(4), "a"), free_nodes=["a"])


def test_nothing_can_be_asked_before_the_deployment_is_up() -> None:
    with pytest.raises(InvalidInput, match="nothing serves yet"):
        change(Rebalance(shards=2), None)


def test_what_begins_says_what_it_is() -> None:
    def place(asked: Publish, spec: DeploymentSpec) -> PlacedVersion:
        return version(2, asked.model)

    state = CoordinatorState(spec=SPEC)
    begin = begin_of(Rebalance(shards=8, replicas={"m/one": 2}, bytes_per_s=1e6), state, place=place)
    assert (begin.kind, begin.subject, begin.bytes_per_s) == (Kind.REBALANCE, "shards 4 -> 8, m/one=2", 1e6)
    begin = begin_of(Publish(model="m"), state, place=place)
    assert (begin.kind, begin.subject) == (Kind.PUBLISH, "m/2")
