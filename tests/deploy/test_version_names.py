"""Folders of versions: with zeros before their number they are that number, behind links they are where those lead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpull import export_tables
from ringpull.deploy.cli import app
from ringpull.deploy.commands.label import parse_labels
from ringpull.deploy.commands.publish import parse_version
from ringpull.deploy.model_folders import choose_versions, find_version, loss_of, newest_version
from ringpull.inference.model.manifest import Manifest, versions
from ringpull.inference.model.model_dir import complete_versions
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.operations import Publish
from tests.deploy.folders import write_version
from tests.inference.tiny import export_tiny

NO_NUMBERS = ("0", "000", "+7", "-7", "7.0", " 7", "7a", "v7", "\u0667", "\uff17", "\u00b2", "1e1", "0x7", ".7", "1_0")
"""Names of folders that are no version's: signs, spaces, digits of other scripts, other ways to write a number."""


TOO_LARGE = (str(2**63), "9" * 19, "1" + "0" * 19, "9" * 20, "0" + "9" * 30)
"""Names of folders that would be numbers, if versions had any so large."""


@pytest.fixture(params=["path", "url"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The folder of a model as `serve` is told it, and the path at which to write what is in it."""
    if request.param == "path":
        yield str(tmp_path / "ranker"), tmp_path / "ranker"
        return
    yield f"local://{tmp_path}/ranker", tmp_path / "ranker"


def padded(folder: Path, number: int, name: str) -> Path:
    return write_version(folder, number).rename(folder / name)


def spec_of(where: str) -> DeploymentSpec:
    return initial_spec([0], choose_versions([where]))


def test_zeros_before_a_number_are_nothing(model: tuple[str, Path]) -> None:
    where, folder = model
    padded(folder, 9, "009")
    padded(folder, 10, "0010")
    [chosen] = choose_versions([where])
    assert (chosen.version, chosen.folder) == (10, f"{where}/0010")
    assert chosen.tables["user"].folder == f"{where}/0010/tables/user"
    found = find_version(Publish(model="ranker", version=9), spec_of(where))
    assert (found.version, found.folder) == (9, f"{where}/009")
    assert list(complete_versions(where)) == [10, 9]
    assert versions(folder) == [9, 10]


def test_two_of_one_number_are_refused_with_both_names(model: tuple[str, Path]) -> None:
    where, folder = model
    padded(folder, 6, "6")
    spec = spec_of(where)
    padded(folder, 7, "007")
    padded(folder, 7, "7")
    match = r"has version 7 twice, as 007 and 7; remove one of them"
    with pytest.raises(InvalidInput, match=match):
        newest_version(where)
    for version in (0, 7):
        with pytest.raises(InvalidInput, match=match):
            find_version(Publish(model="ranker", version=version), spec)
    assert find_version(Publish(model="ranker", version=6), spec).version == 6
    (folder / "7" / "manifest.json").unlink()
    assert newest_version(where).folder == f"{where}/007", "only a complete one is a version"


def test_other_names_are_no_versions(model: tuple[str, Path]) -> None:
    where, folder = model
    for name in NO_NUMBERS:
        padded(folder, 7, name)
    assert (versions(folder), list(complete_versions(where))) == ([], [])
    with pytest.raises(InvalidInput, match="holds no complete version"):
        newest_version(where)
    padded(folder, 3, "3")
    assert newest_version(where).version == 3


def test_a_folder_of_another_number_is_told(model: tuple[str, Path]) -> None:
    where, folder = model
    padded(folder, 7, "008")
    with pytest.raises(CorruptData, match="version is 7, but its folder is called 008"):
        newest_version(where)


def test_commands_take_and_show_them(tmp_path: Path) -> None:
    assert parse_version("ranker/007") == ("ranker", 7)
    padded(tmp_path / "ranker", 7, "007")
    padded(tmp_path / "ranker", 8, "08")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "ranker"), "--json"])
    assert [each["version"] for each in json.loads(shown.stdout)["versions"]] == [7, 8]


@pytest.mark.parametrize("text", [f"ranker/{name}" for name in (*NO_NUMBERS, *TOO_LARGE) if name != ".7"])
def test_commands_refuse_what_is_no_number(text: str) -> None:
    with pytest.raises(InvalidInput, match="VERSION an integer from 1"):
        parse_version(text)


def test_every_number_that_a_version_may_have_is_written_and_read(model: tuple[str, Path]) -> None:
    where, folder = model
    padded(folder, 2**63 - 1, f"00{2**63 - 1}")
    [chosen] = choose_versions([where])
    assert (chosen.version, list(complete_versions(where)), versions(folder)) == (2**63 - 1, [2**63 - 1], [2**63 - 1])
    assert parse_version(f"ranker/{2**63 - 1}") == parse_version(f"ranker/{2**63 - 1:040}") == ("ranker", 2**63 - 1)
    assert parse_labels([f"a={2**63 - 1}"]) == {"a": 2**63 - 1}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_folder_called_by_more_than_a_version_may_have_is_none(model: tuple[str, Path], name: str) -> None:
    where, folder = model
    padded(folder, 3, name)
    with pytest.raises(InvalidInput, match="holds no complete version"):
        newest_version(where)
    with pytest.raises(CorruptData, match=f"version is 3, but its folder is called {name}"):
        Manifest.load(folder / name)
    write_version(folder, 2)
    assert choose_versions([where])[0].version == 2
    assert versions(folder) == list(complete_versions(where)) == [2]


@pytest.mark.parametrize("name", [*TOO_LARGE, "9" * 5000])
def test_commands_refuse_numbers_that_no_version_may_have(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"VERSION an integer from 1 to 2\^63 - 1"):
        parse_labels([f"stable={name}"])
    with pytest.raises(InvalidInput, match=r"VERSION an integer from 1 to 2\^63 - 1"):
        parse_version(f"ranker/{name}")
    for command in (["rollback", "ranker", name[:40]], ["load", "models/ranker", "--version", name[:40]]):
        ran = CliRunner().invoke(app, [*command, "--target", "127.0.0.1:1"])
        assert isinstance(ran.exception, InvalidInput), ran
        assert "from 1 to 2^63 - 1" in str(ran.exception)


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**19, np.uint64(2**63), True, 1.0, "7", None])
def test_no_version_is_written_that_cannot_be_read(tmp_path: Path, number: object) -> None:
    with pytest.raises(InvalidInput, match=r"version is .*; it must be a whole number from 1 to 2\^63 - 1"):
        export_tables({"t": ([1], [b"x"])}, tmp_path / "m", number, quiet=True)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, 2**63 - 1, np.int32(7), np.uint64(2**63 - 1)])
def test_what_is_written_is_read(tmp_path: Path, number: int) -> None:
    export_tables({"t": ([1], [b"x"])}, tmp_path / "m", number, quiet=True)
    assert versions(tmp_path / "m") == [int(number)]
    assert Manifest.load(tmp_path / "m" / str(number)).version == int(number)


@pytest.mark.medium
def test_an_export_does_not_go_beside_a_version_of_its_number(tmp_path: Path) -> None:
    export_tiny(tmp_path, 7).rename(tmp_path / "tiny" / "007")
    with pytest.raises(ExportError, match=r"tiny/007 exists; a version is never written over"):
        export_tiny(tmp_path, 7)


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["model", "parent", "version"])
def test_versions_are_found_behind_links_anew_and_opened_where_they_were_found(tmp_path: Path, linked: str) -> None:
    """A shard that restarts opens what is live again, though the link was flipped to a release without it."""
    first, second = tmp_path / "a" / "ranker", tmp_path / "b" / "ranker"
    write_version(first, 1)
    write_version(second, 1, rows=200)
    write_version(second, 2)
    link, target, where = {
        "model": (tmp_path / "ranker", "ranker", tmp_path / "ranker"),
        "parent": (tmp_path / "current", "", tmp_path / "current" / "ranker"),
        "version": (tmp_path / "ranker" / "1", "ranker/1", tmp_path / "ranker"),
    }[linked]
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "a" / target)
    chosen = newest_version(where)
    assert (chosen.folder, chosen.tables["user"].folder) == (str(first / "1"), str(first / "1" / "tables" / "user"))
    assert chosen.found_in == str(where)
    spec = initial_spec([0], [chosen])
    link.unlink()
    link.symlink_to(tmp_path / "b" / target)
    again = find_version(Publish(model="ranker", version=1), spec)
    assert (again.folder, again.tables["user"].rows) == (str(second / "1"), 200)
    assert loss_of(chosen) == "", "what is open is where it was"
    if linked != "version":
        assert find_version(Publish(model="ranker"), spec).folder == str(second / "2")


def test_a_version_behind_a_link_to_a_folder_of_another_number(tmp_path: Path) -> None:
    """What it is called in its model's folder counts, and not where its files are."""
    stored = write_version(tmp_path / "ranker", 5).rename(tmp_path / "20260101")
    (tmp_path / "ranker" / "5").symlink_to(stored)
    placed = newest_version(tmp_path / "ranker")
    assert (placed.version, placed.folder, placed.found_in) == (5, str(stored), str(tmp_path / "ranker"))
    assert Manifest.load(stored, check_name=False).version == 5
    with pytest.raises(CorruptData, match="its folder is called 20260101"):
        Manifest.load(stored)
    assert Manifest.load(tmp_path / "ranker" / "5").version == 5


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path / "ranker", 1)
    monkeypatch.chdir(tmp_path)
    assert newest_version("ranker").folder == str(tmp_path / "ranker" / "1")
    monkeypatch.chdir(tmp_path / "ranker")
    assert newest_version(".").folder == str(tmp_path / "ranker" / "1")
