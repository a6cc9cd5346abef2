"""Models that come and go, and labels: the spec that each request leads to, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ringpull.ps.errors import InvalidInput, NotFound, OtherContent
from ringpull.ps.spec import ALL
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.changes import begin_of, published, rebalanced, rolled_back
from ringpull.router.control.coordinator_state import state_from_dict, state_to_dict
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Begin
from ringpull.router.control.missing_versions import without
from ringpull.router.control.operations import (
    LabelVersion,
    LoadModel,
    ModelSource,
    ModelsRequest,
    Publish,
    Rebalance,
    Rollback,
    ServeModels,
    UnloadModel,
)
from tests.router.coordinated import version

SPEC = initial_spec(range(4), [version(1), version(7, "other")])


def find(source: ModelSource) -> tuple[PlacedVersion, ...]:
    """Find versions in a folder /MODEL that has versions 1 to 9."""
    model = source.folder.strip("/") or source.name
    numbers = source.versions or (range(1, 10) if source.latest == 0 else range(10 - source.latest, 10))
    return tuple(version(number, model) for number in numbers)


def begin(request: ModelsRequest, spec: DeploymentSpec = SPEC, keep: int = 1) -> Begin:
    return begin_of(request, CoordinatorState(spec=spec), find=find, keep=keep)


def after(*requests: ModelsRequest, spec: DeploymentSpec = SPEC) -> DeploymentSpec:
    for request in requests:
        spec = begin(request, spec).target
    return spec


def names(spec: DeploymentSpec) -> list[str]:
    return [each.name for each in spec.versions]


def test_a_model_comes_beside_the_others_which_stay_as_they_are() -> None:
    begun = begin(LoadModel(folder="/new", trust_files=True))
    assert (begun.kind, begun.subject, begun.trust_files) == (Kind.LOAD, "new/9", True)
    assert begun.target.live == {**SPEC.live, "new": 9}
    assert [each for each in begun.target.versions if each.model != "new"] == list(SPEC.versions)
    assert SPEC.replicas.items() <= begun.target.replicas.items()
    assert begun.target.shards == SPEC.shards
    assert begin(LoadModel(folder="/new", version=3)).target.live["new"] == 3


def test_its_tables_get_the_copies_that_are_asked_for_and_else_those_they_were_exported_with() -> None:
    target = after(LoadModel(folder="/new", replicas={"one": 3, "new/two": ALL}))
    assert {table: count for (model, table), count in target.replicas.items() if model == "new"} == {
        "one": 3,
        "two": ALL,
        "all": ALL,
    }
    assert target.ring.ranks == 3
    with pytest.raises(InvalidInput, match="new/9 has no table other/one; it has all, one, two"):
        begin(LoadModel(folder="/new", replicas={"other/one": 3}))


def test_a_model_that_is_served_so_already_changes_nothing_and_with_another_version_is_to_be_published() -> None:
    spec = after(LoadModel(folder="/new"))
    assert after(LoadModel(folder="/new"), spec=spec) == spec
    assert after(LoadModel(folder="/new", replicas={"one": 1}), spec=spec) == spec
    with pytest.raises(InvalidInput, match=r"model new is served already, with version 9; .* publish it"):
        begin(LoadModel(folder="/new", version=8), spec)
    with pytest.raises(InvalidInput, match="with 1 copies of one; to have others, rebalance"):
        begin(LoadModel(folder="/new", replicas={"one": 2}), spec)


def test_other_content_under_a_live_number_is_refused() -> None:
    spec = initial_spec(range(2), [replace(version(9, "new"), identity="00000000000000aa"), version(1)])

    def other(source: ModelSource) -> tuple[PlacedVersion, ...]:
        return (replace(version(9, "new"), identity="00000000000000bb"),)

    for request in (LoadModel(folder="/new"), ServeModels(models=(ModelSource(name="new", folder="/new"),))):
        with pytest.raises(OtherContent):
            begin_of(request, CoordinatorState(spec=spec), find=other)


def test_a_model_goes_with_all_of_it_and_the_last_one_does_not() -> None:
    labelled = after(LoadModel(folder="/new"), LabelVersion(model="new", labels={"stable": 9}))
    begun = begin(UnloadModel(model="new"), labelled)
    assert (begun.kind, begun.subject) == (Kind.UNLOAD, "new")
    assert begun.target == SPEC
    with pytest.raises(NotFound, match="'none' is not served here; these are: m, other"):
        begin(UnloadModel(model="none"))
    left = after(UnloadModel(model="other"))
    with pytest.raises(InvalidInput, match="m is the last model that is served; stop the deployment instead"):
        begin(UnloadModel(model="m"), left)


def test_the_whole_list_is_served_in_one_change() -> None:
    sources = (
        ModelSource(name="m", versions=(1, 3)),
        ModelSource(name="new", folder="/new", latest=2),
        ModelSource(name="every", folder="/every", latest=0, labels={"canary": 2}),
    )
    begun = begin(ServeModels(models=sources))
    assert (begun.kind, begun.subject) == (Kind.SERVE, "every/9, m/3, new/9")
    assert begun.target.live == {"m": 3, "new": 9, "every": 9}
    every = [f"every/{number}" for number in range(1, 10)]
    assert names(begun.target) == [*every, "m/1", "m/3", "new/8", "new/9"]
    assert begun.target.labels == {"every": {"canary": 2}}
    assert begin(ServeModels(models=sources), begun.target).target == begun.target


def test_an_empty_list_is_refused_and_so_is_a_model_named_twice() -> None:
    with pytest.raises(InvalidInput, match="models is empty; stop the deployment instead"):
        begin(ServeModels(models=()))
    with pytest.raises(InvalidInput, match="models names m twice"):
        ServeModels(models=(ModelSource(name="m"), ModelSource(name="m")))


def test_where_versions_are_named_only_they_are_open_and_else_those_kept_for_rollback_too() -> None:
    spec = published(published(SPEC, version(2), keep=2), version(3), keep=2)
    assert names(spec)[:3] == ["m/1", "m/2", "m/3"]
    named = after(ServeModels(models=(ModelSource(name="m", versions=(4,)),)), spec=spec)
    assert names(named) == ["m/4"]
    latest = after(ServeModels(models=(ModelSource(name="m"),)), spec=spec)
    assert names(latest) == ["m/3", "m/9"]


def test_labels_name_open_versions_and_no_others() -> None:
    spec = published(SPEC, version(2), keep=1)
    begun = begin(LabelVersion(model="m", labels={"stable": 1, "canary": 2}), spec)
    assert (begun.kind, begun.subject) == (Kind.LABEL, "m stable=1, canary=2")
    assert begun.target == replace(spec, labels={"m": {"stable": 1, "canary": 2}})
    moved = after(LabelVersion(model="m", labels={"canary": 1}, remove=("stable",)), spec=begun.target)
    assert moved.labels == {"m": {"canary": 1}}
    assert after(LabelVersion(model="m", remove=("canary",)), spec=moved) == spec
    with pytest.raises(InvalidInput, match="label stable: m/3 is not open; these are: 1, 2"):
        begin(LabelVersion(model="m", labels={"stable": 3}), spec)
    with pytest.raises(InvalidInput, match="m has no label 'other'; its labels: canary, stable"):
        begin(LabelVersion(model="m", remove=("other",)), begun.target)
    with pytest.raises(NotFound, match="'none' is not served here"):
        begin(LabelVersion(model="none", labels={"stable": 1}), spec)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "model is empty"),
        ({"model": "m"}, "no label to set or to remove"),
        ({"model": "m", "labels": {"": 1}}, "label is ''"),
        ({"model": "m", "labels": {"a/b": 1}}, "letters, digits"),
        ({"model": "m", "labels": {"a" * 65: 1}}, "at most 64"),
        ({"model": "m", "labels": {"a": 0}}, "label a names version 0; it must be from 1 to"),
        ({"model": "m", "labels": {"a": 2**63}}, "label a names version 9223372036854775808; it must be from 1 to"),
        ({"model": "m", "labels": {"a": 1}, "remove": ("a",)}, "label 'a' is to be set and removed"),
    ],
    ids=["no model", "nothing", "empty", "slash", "long", "version 0", "version 2^63", "both"],
)
def test_labels_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LabelVersion(**fields)


def test_a_version_with_a_label_stays_open_however_many_come_and_without_it_goes_with_the_next() -> None:
    spec = after(LabelVersion(model="m", labels={"stable": 1}))
    for number in (2, 3, 4):
        spec = published(spec, version(number), keep=1)
    assert names(spec) == ["m/1", "m/3", "m/4", "other/7"]
    assert names(published(spec, version(5), keep=0)) == ["m/1", "m/5", "other/7"]
    back = rolled_back(spec, Rollback(model="m"))
    assert back.labels == spec.labels
    grown, _ = rebalanced(spec, Rebalance(shards=5), nodes={}, free_nodes=())
    assert grown.labels == spec.labels
    unlabelled = after(LabelVersion(model="m", remove=("stable",)), spec=spec)
    assert names(unlabelled) == names(spec)
    assert names(published(unlabelled, version(5), keep=1)) == ["m/4", "m/5", "other/7"]


def test_a_list_leaves_open_what_has_a_label_unless_it_takes_the_label() -> None:
    spec = after(LabelVersion(model="m", labels={"stable": 1}))
    kept = after(ServeModels(models=(ModelSource(name="m", versions=(4,)),)), spec=spec)
    assert (names(kept), kept.labels) == (["m/1", "m/4"], {"m": {"stable": 1}})
    taken = after(ServeModels(models=(ModelSource(name="m", versions=(4,), labels={"stable": 4}),)), spec=spec)
    assert (names(taken), taken.labels) == (["m/4"], {"m": {"stable": 4}})
    with pytest.raises(InvalidInput, match="label stable: m/5 is not open"):
        after(ServeModels(models=(ModelSource(name="m", versions=(4,), labels={"stable": 5}),)), spec=spec)


def test_a_version_with_a_label_whose_files_are_lost_is_not_let_go() -> None:
    spec = published(after(LabelVersion(model="m", labels={"stable": 1})), version(2), keep=1)
    state = CoordinatorState(spec=spec)
    assert without(state, ("m", 1)) is state
    bare = CoordinatorState(spec=after(LabelVersion(model="m", remove=("stable",)), spec=spec))
    assert names(without(bare, ("m", 1)).spec or spec) == ["m/2", "other/7"]


def test_two_readings_of_one_full_name_are_refused_with_both_named() -> None:
    a = PlacedVersion("a", 1, "/a/1", {"b.c": PlacedTable("/a/1/b.c", 1)})
    ab = PlacedVersion("a.b", 1, "/a.b/1", {"c": PlacedTable("/a.b/1/c", 1)})
    both = "a.b.c would be the full name of table b.c of model a and table c of model a.b"
    spec = initial_spec(range(2), [a, version(1)])
    state = CoordinatorState(spec=spec)
    for request in (
        LoadModel(folder="/a.b"),
        ServeModels(models=(ModelSource(name="a"), ModelSource(name="a.b", folder="/a.b"))),
    ):
        with pytest.raises(InvalidInput, match=both):
            begin_of(request, state, find=lambda source: (a,) if source.name == "a" else (ab,))
    wider = replace(a, version=2, tables={"d": PlacedTable("/a/2/d", 1)})
    beside = initial_spec(range(2), [wider, ab])
    with pytest.raises(InvalidInput, match=both):
        published(beside, replace(a, version=3), keep=1)
    # As it is already, by an earlier build: that is no reason to refuse what has nothing to do with it.
    clash = initial_spec(range(2), [a, ab])
    assert begin_of(LoadModel(folder="/new"), CoordinatorState(spec=clash), find=find).target.live["new"] == 9


def test_a_model_may_be_called_like_a_table_of_another() -> None:
    assert after(LoadModel(folder="/m.one")).live["m.one"] == 9


# -- models that stay with their versions ------------------------------------------------------------------------------


def publish(spec: DeploymentSpec, number: int, model: str = "m") -> DeploymentSpec:
    """Publish a version by its number; 0: version 9, as the newest."""
    request = Publish(model=model, version=number)
    return begin_of(request, CoordinatorState(spec=spec), place=lambda *_: version(number or 9, model)).target


def test_a_model_that_was_asked_for_by_number_is_pinned_until_the_newest_is_published() -> None:
    assert after(LoadModel(folder="/new", version=3)).pinned == (), "by whoever watches"
    spec = after(LoadModel(folder="/new", version=3, pinned=True))
    assert spec.pinned == ("new",)
    spec = after(ServeModels(models=(ModelSource(name="m", versions=(2,)), ModelSource(name="new"))), spec=spec)
    assert spec.pinned == ("m",), "a list says it anew for each"
    for request in (LabelVersion(model="m", labels={"stable": 2}), LoadModel(folder="/more")):
        assert after(request, spec=spec).pinned == ("m",)
    assert publish(spec, 3).pinned == ("m",), "under a number"
    assert publish(spec, 4, "new").pinned == ("m",)
    assert publish(spec, 0).pinned == ()
    assert after(UnloadModel(model="m"), spec=spec).pinned == ()


def test_what_is_pinned_is_saved_and_left_out_where_nothing_is() -> None:
    spec = after(LoadModel(folder="/new", version=3, pinned=True))
    plain = state_to_dict(CoordinatorState(spec=spec))
    assert state_from_dict(plain).spec == spec
    assert "pinned" in str(plain)
    assert "pinned" not in str(state_to_dict(CoordinatorState(spec=SPEC)))


def test_a_load_by_name_of_a_served_model_publishes_what_is_newer_and_nothing_else() -> None:
    by_name = LoadModel(folder="m", model="m")
    begun = begin(by_name)
    assert (begun.kind, begun.subject, begun.target.live["m"]) == (Kind.PUBLISH, "m/9", 9)
    assert begin(by_name, begun.target).target == begun.target, "live already"
    newer = replace(SPEC, live={**SPEC.live, "m": 12}, versions=(version(12), SPEC.versions[1]))
    assert begin(by_name, newer).target == newer, "what is older on disk replaces nothing"
    spec = after(ServeModels(models=(ModelSource(name="m", versions=(2,)), ModelSource(name="other"))))
    assert after(by_name, spec=spec).pinned == ()
