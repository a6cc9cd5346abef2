"""Which versions of which folders are served, and in how many copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringpull.deploy.model_folders import (
    absolute,
    as_roots,
    choose_versions,
    find_versions,
    models_below,
    parse_replicas,
    version_below,
)
from ringpull.inference.export.tables_alone import export_tables
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound
from ringpull.router.control.changes import published
from ringpull.router.control.deployment_spec import PlacedVersion, initial_spec
from ringpull.router.control.operations import ModelSource
from tests.deploy.folders import flip_byte, write_version


def test_the_highest_complete_version_is_chosen(tmp_path: Path) -> None:
    """Numbers are compared as numbers, and a folder without a manifest does not count."""
    for number in (2, 10, 9):
        write_version(tmp_path / "ranker", number)
    (tmp_path / "ranker" / "11").mkdir()
    [chosen] = choose_versions([tmp_path / "ranker"])
    assert (chosen.model, chosen.version) == ("ranker", 10)
    assert chosen.folder == str(tmp_path / "ranker" / "10")
    assert chosen.tables["user"].folder == str(tmp_path / "ranker" / "10" / "tables" / "user")


def test_the_exporters_copies_hold_until_others_are_asked_for(tmp_path: Path) -> None:
    write_version(tmp_path / "ranker", 1, {"user": 2, "item": "all", "city": 1})
    [as_exported] = choose_versions([tmp_path / "ranker"])
    assert {name: table.replicas for name, table in as_exported.tables.items()} == {"user": 2, "item": "all", "city": 1}
    [asked] = choose_versions([tmp_path / "ranker"], ["user=all", "ranker/item=3"])
    assert {name: table.replicas for name, table in asked.tables.items()} == {"user": "all", "item": 3, "city": 1}


def test_a_version_of_tables_alone_is_known_as_one(tmp_path: Path) -> None:
    write_version(tmp_path / "ranker", 1)
    export_tables({"rows": ([1, 2], [b"a", b"b"])}, tmp_path / "feed", 1, quiet=True)
    ranker, feed = choose_versions([tmp_path / "ranker", tmp_path / "feed"])
    assert (ranker.tables_alone, feed.tables_alone) == (False, True)
    assert published(initial_spec(range(2), [feed]), replace(feed, version=2, identity=""), keep=1).live["feed"] == 2
    with pytest.raises(InvalidInput, match="feed/2 predicts, and feed/1, which is live, has tables only"):
        published(initial_spec(range(2), [feed]), replace(ranker, model="feed", version=2), keep=1)


def test_a_table_of_two_models_needs_the_models_name(tmp_path: Path) -> None:
    for model in ("a", "b"):
        write_version(tmp_path / model, 1)
    folders = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(InvalidInput, match="a/user and b/user; write MODEL/TABLE=R"):
        choose_versions(folders, ["user=2"])
    first, second = choose_versions(folders, ["b/user=2"])
    assert (first.tables["user"].replicas, second.tables["user"].replicas) == (1, 2)


def test_an_unknown_table_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    write_version(tmp_path / "ranker", 1, {"user": 1, "item": 1})
    with pytest.raises(InvalidInput, match="no table usr; there is ranker/item, ranker/user"):
        choose_versions([tmp_path / "ranker"], ["usr=2"])


@pytest.mark.parametrize("text", ["user", "user=", "=2", "user=0", "user=-1", "user=many", "user=1.5", "user=²"])
def test_replicas_of_the_wrong_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--replicas"):
        parse_replicas(text)


def test_a_version_instead_of_a_model_is_pointed_out(tmp_path: Path) -> None:
    folder = write_version(tmp_path / "ranker", 1)
    with pytest.raises(InvalidInput, match="one version of a model; give the model's folder"):
        choose_versions([folder])


def test_half_written_versions_are_named(tmp_path: Path) -> None:
    (tmp_path / "ranker" / "4").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"no complete version.*4 without manifest\.json"):
        choose_versions([tmp_path / "ranker"])


def test_a_version_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    for number in (1, 4):
        write_version(tmp_path / "ranker", number)
    (tmp_path / "ranker" / "6").mkdir()
    with pytest.raises(NotFound, match=r"ranker/3 is no complete version: .* has no such version; it has 1, 4, 6$"):
        version_below(str(tmp_path / "ranker"), 3)
    with pytest.raises(NotFound, match=r"ranker/6 is no complete version: there is no manifest\.json in it$"):
        version_below(str(tmp_path / "ranker"), 6)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        choose_versions([tmp_path / "nothing"])


def test_one_name_twice(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        write_version(tmp_path / parent / "ranker", 1)
    with pytest.raises(InvalidInput, match="two of the folders hold a model named ranker"):
        choose_versions([tmp_path / "x" / "ranker", tmp_path / "y" / "ranker"])


@pytest.mark.parametrize("file", ["manifest.json", "dense.pt2", "schema.json"])
def test_a_damaged_version_is_refused_before_anything_starts(tmp_path: Path, file: str) -> None:
    flip_byte(write_version(tmp_path / "ranker", 1) / file, 1)
    with pytest.raises(CorruptData, match=file):
        choose_versions([tmp_path / "ranker"])


@pytest.mark.parametrize("text", ["", " ", "file://"])
def test_empty_text_is_not_the_working_folder(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"empty text; write its path, or `.`"):
        absolute(text)
    with pytest.raises(InvalidInput, match=r"--models-root: .* empty text"):
        as_roots("--models-root", ["/models", text])


def test_a_folder_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert as_roots("--models-root", ["~/m", "x", "s3://bucket/~"]) == (
        f"{tmp_path}/m",
        f"{tmp_path}/x",
        "s3://bucket/~",
    )
    assert as_roots("--models-root", []) is None
    with pytest.raises(InvalidInput, match=r"--models-root: ~nobody-of-this-name/m: .*whole path"):
        as_roots("--models-root", ["~nobody-of-this-name/m"])
    write_version(tmp_path / "ranker", 1)
    [chosen] = choose_versions(["~/ranker"])
    assert chosen.folder == str(tmp_path / "ranker" / "1")


# -- what is asked for while a deployment runs -------------------------------------------------------------------------


def numbers(*found: PlacedVersion) -> list[int]:
    return [each.version for each in found]


def test_a_source_names_versions_or_how_many_of_the_highest(tmp_path: Path) -> None:
    folder = tmp_path / "ranker"
    for number in (2, 10, 9):
        write_version(folder, number)
    (folder / "11").mkdir()
    source = ModelSource(name="ranker", folder=str(folder))
    assert numbers(*find_versions(source)) == [10]
    assert numbers(*find_versions(replace(source, latest=2))) == [9, 10]
    assert numbers(*find_versions(replace(source, latest=0))) == [2, 9, 10]
    assert numbers(*find_versions(replace(source, latest=7))) == [2, 9, 10]
    assert numbers(*find_versions(replace(source, versions=(10, 2)))) == [2, 10]
    assert numbers(*find_versions(replace(source, name=""))) == [10]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"versions": (3,)}, "3 is no complete version"),
        ({"name": "other"}, "holds a version of model ranker, not of other"),
        ({"folder": "nowhere"}, "is not a folder"),
    ],
    ids=["version", "model", "folder"],
)
def test_what_a_source_asks_for_must_be_there(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_version(tmp_path / "ranker", 2)
    given = {"name": "ranker", "folder": "ranker", **fields}
    with pytest.raises(InvalidInput, match=message):
        find_versions(ModelSource(**{**given, "folder": str(tmp_path / given["folder"])}))


def test_every_folder_with_a_complete_version_is_a_model(tmp_path: Path) -> None:
    for model in ("b", "a", ".hidden"):
        write_version(tmp_path / model, 1)
    (tmp_path / "half" / "1").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("nothing")
    assert models_below([str(tmp_path)]) == [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(InvalidInput, match=r"--all-of .*half: there is no model in it"):
        models_below([str(tmp_path), str(tmp_path / "half")])


def test_two_tables_of_one_full_name_are_not_served(tmp_path: Path) -> None:
    write_version(tmp_path / "a", 1, {"b.c": 1})
    write_version(tmp_path / "a.b", 1, {"c": 1})
    with pytest.raises(InvalidInput, match=r"a\.b\.c would be the full name of table b\.c of model a and table c of"):
        choose_versions([tmp_path / "a", tmp_path / "a.b"])
