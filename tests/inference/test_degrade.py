"""Degrade steps as values: what they say, what they refuse, how a manifest holds them, and whether they fit a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull import CapCandidates, CutBags, Dense, IdSequence, Schema, Sparse, UseDefault, UseVersion, export_model
from ringpull.inference.degrade.levels import check_steps, levels
from ringpull.inference.degrade.steps import MAX_STEPS, Step, plain_steps, read_steps
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.fields import Fields
from ringpull.ps.errors import CorruptData, InvalidInput
from tests.inference.test_manifest import rewrite, write_version
from tests.inference.tiny import SCHEMA as TINY_SCHEMA
from tests.inference.tiny import Tiny

SCHEMA = Schema(
    [
        Sparse("user"),
        Sparse("genres", many=True),
        Sparse("tags", many=True, max_length=30),
        IdSequence("history", length=100),
        Dense("age"),
    ]
)
LOOKED_UP = ["user", "genres", "tags", "history", "history"]
STEPS: list[Step] = [CutBags(50), CutBags(20, "history"), UseDefault("user", "tags"), CapCandidates(64), UseVersion(3)]


def check(*steps: Any, version: int = 5) -> tuple[Step, ...]:
    return check_steps(steps, SCHEMA, LOOKED_UP, version)


# -- values ------------------------------------------------------------------------------------------------------------


def test_phrases_say_what_a_reply_lacks() -> None:
    assert [step.phrase for step in STEPS] == [
        "cut bags to 50",
        "cut history to 20",
        "default vectors for user, tags",
        "scored the first 64 candidates",
        "answered by version 3",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UseDefault(), "UseDefault: features is empty"),
        (lambda: UseDefault("a", "b", "a"), "UseDefault: features names one twice: a, b, a"),
        (lambda: UseDefault(["history"]), r"UseDefault: features has \['history'\]; it must be names"),
        (lambda: UseDefault("../x"), "feature name"),
        (lambda: CutBags("history"), "CutBags: most is 'history'; it must be a whole number from 1"),
        (lambda: CutBags(0), "CutBags: most is 0"),
        (lambda: CutBags(True), "CutBags: most is True"),
        (lambda: CapCandidates(2.0), "CapCandidates: most is 2.0"),
        (lambda: UseVersion(-1), "UseVersion: version is -1"),
    ],
)
def test_a_step_that_cannot_be_is_refused(make: Callable[[], Step], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


# -- whether they fit a model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [UseDefault("age")],
            r"degrade\[0\]: UseDefault: features has 'age'.* looked up in a table; those are: user, ",
        ),
        ([CutBags(9), CutBags(5, "user")], r"degrade\[1\]: CutBags: features has 'user'.*with a list per row"),
        ([CutBags(100, "history")], r"degrade\[0\]: CutBags: takes nothing"),
        ([CutBags(30, "tags")], "takes nothing"),
        ([CutBags(20), CutBags(20, "genres")], r"degrade\[1\]: CutBags: takes nothing"),
        ([UseDefault("user"), UseDefault("user")], r"degrade\[1\]: UseDefault: takes nothing"),
        ([CapCandidates(10), CapCandidates(10)], r"degrade\[1\]: CapCandidates: takes nothing"),
        ([UseVersion(2), UseVersion(3)], r"degrade\[1\]: UseVersion: takes nothing"),
        ([UseVersion(5)], r"degrade\[0\]: UseVersion: version is 5, the one that declares it"),
        (["history"], r"degrade is \('history',\); it must be a list of degrade steps"),
        ([CapCandidates(100 - n) for n in range(MAX_STEPS + 1)], "degrade has 33 steps; it may have 32"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps: list[Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check(*steps)


def test_one_step_alone_is_no_list_of_steps() -> None:
    with pytest.raises(InvalidInput, match="it must be a list of degrade steps"):
        check_steps(CapCandidates(3), SCHEMA, LOOKED_UP, 5)


def test_bags_cannot_be_cut_where_there_are_none() -> None:
    with pytest.raises(InvalidInput, match="no feature with a list per row"):
        check_steps([CutBags(3)], Schema([Sparse("user")]), ["user"], 1)


def test_levels_take_one_step_more_each_and_keep_the_tightest() -> None:
    found = levels(check(*STEPS), SCHEMA)
    assert len(found) == 6
    assert found[0] is None
    first, second, last = found[1], found[2], found[5]
    assert first is not None
    assert second is not None
    assert last is not None
    assert first.cuts == {"genres": CutBags(50), "history": CutBags(50)}  # tags are shorter already
    assert second.cuts == {"genres": CutBags(50), "history": CutBags(20, "history")}
    assert (first.cap, first.other, first.defaults) == (None, None, {})
    assert last.steps == tuple(STEPS)
    assert last.defaults == dict.fromkeys(["user", "tags"], UseDefault("user", "tags"))
    assert (last.cap, last.other) == (CapCandidates(64), UseVersion(3))
    assert [last.rows(rows) for rows in (1, 64, 65)] == [1, 64, 64]
    assert last.sent == {"user", "genres", "tags", "history", "age"}


def test_a_looser_step_for_some_features_never_loosens_others() -> None:
    found = levels(check(CutBags(10, "history"), CutBags(20)), SCHEMA)[2]
    assert found is not None
    assert {name: step.most for name, step in found.cuts.items()} == {"history": 10, "genres": 20, "tags": 20}


# -- the manifest ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "movies" / "3"
    replace(write_version(folder), degrade=tuple(STEPS)).save(folder)
    return folder


def test_a_manifest_holds_the_steps(folder: Path) -> None:
    assert Manifest.load(folder).degrade == tuple(STEPS)


def test_a_version_without_steps_is_as_it_was_before_there_were_any(tmp_path: Path) -> None:
    folder = tmp_path / "movies" / "3"
    write_version(folder)
    assert "degrade" not in json.loads((folder / "manifest.json").read_text())["manifest"]
    assert Manifest.load(folder).degrade == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(degrade=None), "manifest.degrade: must be a list, not null"),
        (lambda body: body["degrade"].append(3), r"manifest.degrade\[5\] must be an object that says its kind"),
        (lambda body: body["degrade"][0].pop("kind"), r"degrade\[0\] must be an object that says its kind"),
        (lambda body: body["degrade"][0].update(kind=["x"]), r"degrade\[0\] must be an object that says its kind"),
        (
            lambda body: body["degrade"][1].update(kind="sleep"),
            r"degrade\[1\].kind: 'sleep' is none that this build knows: use_default, cut_bags, cap_cand",
        ),
        (lambda body: body["degrade"][0].pop("most"), r"degrade\[0\] lacks the field 'most'"),
        (lambda body: body["degrade"][0].update(least=2), r"degrade\[0\] has an unknown field 'least'"),
        (lambda body: body["degrade"][0].update(most=0), r"degrade\[0\].most: must be a whole number from 1"),
        (lambda body: body["degrade"][2].update(features=[]), r"degrade\[2\].features: UseDefault: features is empty"),
        (lambda body: body["degrade"][2].update(features=["a", 1]), r"degrade\[2\].features\[1\]: must be a string"),
        (lambda body: body["degrade"][2].update(features="a"), r"degrade\[2\].features: must be a list"),
        (lambda body: body["degrade"][2].update(features=["/"]), r"degrade\[2\].features: feature name '/'"),
        (lambda body: body["degrade"][4].update(version="3"), r"degrade\[4\].version: must be a whole number"),
    ],
)
def test_steps_that_are_none_are_named(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CorruptData, match=message):
        Manifest.load(folder)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
some_step = st.fixed_dictionaries(
    {"kind": st.sampled_from([step.KIND for step in STEPS]) | anything},
    optional={
        "most": st.integers(-1, 9) | anything,
        "features": st.lists(st.sampled_from("abc/") | anything, max_size=3) | anything,
        "version": st.integers(-1, 9) | anything,
    },
)


@pytest.mark.medium
@settings(max_examples=200, deadline=None)
@given(steps=st.lists(some_step | anything, max_size=4) | anything)
def test_anything_for_steps_is_read_as_it_is_or_refused(steps: Any) -> None:
    document = Fields.of(Path("manifest.json"), "manifest", {"degrade": steps}, ["degrade"])
    try:
        found = read_steps(document, "degrade")
    except CorruptData as error:
        assert str(error).startswith("manifest.json: manifest.degrade")  # noqa: PT017
    else:
        assert plain_steps(found) == steps


# -- export and load ---------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_an_export_with_a_step_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"degrade\[0\]: UseDefault: features has 'price'.*; those are: item$"):
        export_model(Tiny().eval(), TINY_SCHEMA, tmp_path / "tiny", 1, degrade=[UseDefault("price")], quiet=True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.medium
def test_an_export_says_its_steps_and_a_head_loads_only_those_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (UseDefault("item"), CapCandidates(8))
    report = export_model(Tiny().eval(), TINY_SCHEMA, tmp_path / "tiny", 1, degrade=list(steps))
    assert "under load, before requests are refused: default vectors for item; scored" in capsys.readouterr().out
    assert LoadedVersion.load(report.path, device="cpu").manifest.degrade == steps
    replace(report.manifest, degrade=(UseDefault("price"),)).save(report.path)
    with pytest.raises(CorruptData, match=r"1/manifest\.json: degrade\[0\]: UseDefault: features has 'price'"):
        LoadedVersion.load(report.path, device="cpu")
