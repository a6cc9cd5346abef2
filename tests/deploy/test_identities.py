"""What a placed version is: its identities are read where it is found, and told from what lies there later."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from ringpull.deploy.model_folders import choose_versions, find_version, loss_of, rows_below
from ringpull.deploy.view.folder_summary import read_version
from ringpull.ps.errors import CorruptData, NotFound, OtherContent, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.store.base import Base
from ringpull.router.control.changes import published
from ringpull.router.control.deployment_spec import PlacedVersion, initial_spec
from ringpull.router.control.operations import Publish
from tests.deploy.folders import flip_byte, write_version


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_version(tmp_path / "ranker", 1, {"user": 1, "item": 1})
    return tmp_path / "ranker"


def place(folder: Path) -> PlacedVersion:
    [placed] = choose_versions([folder])
    return placed


def place_version(folder: Path, number: int) -> PlacedVersion:
    """Place a version as a publish of its number does."""
    return find_version(Publish(model="ranker", version=number), initial_spec([0], [place(folder)]))


def export_anew(folder: Path, **how: float) -> None:
    """Delete version 1 and export another content under its number."""
    shutil.rmtree(folder / "1")
    write_version(folder, 1, {"user": 1, "item": 1}, **how)  # type: ignore[arg-type]


def test_a_version_of_what_is_not_served_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound, match="model 'other' is not served here; these are: ranker"):
        find_version(Publish(model="other"), initial_spec([0], [place(folder)]))


def test_a_version_is_placed_with_what_it_is(folder: Path) -> None:
    placed = place(folder)
    assert placed.identity == xxhash.xxh3_64_hexdigest((folder / "1" / "manifest.json").read_bytes())
    for name, table in placed.tables.items():
        assert table.identity == Base.open(folder / "1" / "tables" / name).identity != 0


def test_nothing_is_placed_without_knowing_what_it_is(folder: Path) -> None:
    header = folder / "1" / "tables" / "user" / "header"
    flip_byte(header)
    with pytest.raises(CorruptData, match=rf"{header}: the checksum does not match"):
        place(folder)
    header.unlink()
    with pytest.raises(CorruptData, match=rf"{header}: there is no such file; the manifest names its table"):
        place(folder)


@pytest.mark.parametrize("how", [{"rows": 90}, {"value": 0.25}], ids=["another manifest", "only other rows"])
@pytest.mark.parametrize("live", [True, False])
def test_a_number_that_is_open_with_another_content_is_not_published(
    folder: Path, how: dict[str, float], live: bool
) -> None:
    spec = initial_spec(range(2), [place(folder)])
    if not live:
        write_version(folder, 2, {"user": 1, "item": 1})
        spec = published(spec, place(folder), keep=1)
    export_anew(folder, **how)
    found = find_version(Publish(model="ranker", version=1), spec)
    with pytest.raises(OtherContent, match=r"ranker/1 in .* has other content now .*; export under a new number"):
        published(spec, found, keep=1)
    write_version(folder, 3, {"user": 1, "item": 1})
    found = find_version(Publish(model="ranker", version=3), spec)
    assert published(spec, found, keep=1).live == {"ranker": 3}


def test_a_number_that_was_let_go_may_have_another_content(folder: Path) -> None:
    write_version(folder, 2, {"user": 1, "item": 1})
    spec = initial_spec(range(2), [place(folder)])
    export_anew(folder, value=0.25)
    assert published(spec, find_version(Publish(model="ranker", version=1), spec), keep=1).live == {"ranker": 1}


# -- what is lost ------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_lost(folder: Path) -> None:
    assert loss_of(place(folder)) == ""


def test_a_version_whose_folder_is_removed_is_lost(folder: Path) -> None:
    placed = place(folder)
    write_version(folder, 2)
    shutil.rmtree(folder / "1")
    assert "1/manifest.json: there is no such file" in loss_of(placed)


def test_a_version_of_which_a_table_is_removed_is_lost(folder: Path) -> None:
    placed = place(folder)
    shutil.rmtree(folder / "1" / "tables" / "item")
    assert "tables/item/header: there is no such file" in loss_of(placed)


@pytest.mark.parametrize("how", [{"rows": 90}, {"value": 0.25}], ids=["another manifest", "only other rows"])
def test_a_version_with_another_content_is_lost(folder: Path, how: dict[str, float]) -> None:
    placed = place(folder)
    export_anew(folder, **how)
    assert "has other content now than when it was opened" in loss_of(placed)
    assert "export under a new number" in loss_of(placed)


def test_what_cannot_be_told_now_is_not_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is not mounted, or storage out of reach, is waited for."""
    placed = place(folder)
    folder.rename(folder.parent / "away")
    with pytest.raises(Unavailable, match="ranker: it is not there now, or has no complete version"):
        loss_of(placed)
    with pytest.raises(Unavailable):
        loss_of(replace(placed, folder="nowhere://x/ranker/1"))


@pytest.mark.parametrize("left", ["lost+found", "2"])
def test_a_mount_point_with_something_in_it_is_no_model_folder(folder: Path, left: str) -> None:
    """Only a complete version tells that the versions which are missing have been removed."""
    placed = place(folder)
    folder.rename(folder.parent / "away")
    (folder / left).mkdir(parents=True)
    with pytest.raises(Unavailable, match="no complete version"):
        loss_of(placed)
    write_version(folder, 3)
    assert "1/manifest.json: there is no such file" in loss_of(placed)


def test_a_link_to_what_is_not_mounted_is_waited_for(folder: Path, tmp_path: Path) -> None:
    """A state of an earlier build names the link, a newer one what it leads to."""
    placed = place(folder)
    write_version(folder, 2)
    (folder / "1").rename(tmp_path / "stored")
    (folder / "1").symlink_to(tmp_path / "stored")
    moved = place_version(folder, 1)
    assert moved.folder == str(tmp_path / "stored")
    assert (loss_of(moved), loss_of(placed)) == ("", "")
    (tmp_path / "stored").rename(tmp_path / "away")
    for each in (moved, placed):
        with pytest.raises(Unavailable, match="not there now"):
            loss_of(each)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_manifest_that_is_half_written_is_no_other_content(folder: Path, share: float) -> None:
    placed = place(folder)
    manifest = folder / "1" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[: int(manifest.stat().st_size * share)])
    with pytest.raises(Unavailable, match="half written"):
        loss_of(placed)


def test_plans_count_the_rows_of_what_serves(folder: Path) -> None:
    """Not those of other files that lie there by now, and without keeping a deleted file on the disk."""
    [first, table] = sorted(place(folder).tables.values(), key=lambda each: each.folder)
    half = np.array([SLOTS // 2, SLOTS])
    counted, rows = rows_below(table, half).tolist()
    assert (counted, rows) == (Base.open(Path(table.folder)).row_range(0, SLOTS // 2)[1], 100)
    export_anew(folder, value=0.25, rows=90)
    assert rows_below(first, half).tolist() == [50, 100], "an even spread, where the files are others"
    assert f"{folder}" not in Path("/proc/self/maps").read_text()


# -- links -------------------------------------------------------------------------------------------------------------


def test_a_version_with_a_link_out_of_it_is_not_placed(folder: Path, tmp_path: Path) -> None:
    rows = folder / "1" / "tables" / "user" / "rows"
    rows.rename(tmp_path / "elsewhere")
    rows.symlink_to(tmp_path / "elsewhere")
    for read in (lambda: place(folder), lambda: read_version(str(folder / "1"), verify=True)):
        with pytest.raises(CorruptData, match=rf"user/rows: leads out of .*, to {tmp_path}/elsewhere"):
            read()


def test_a_manifest_that_is_a_link_out_of_the_version_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "1" / "manifest.json"
    manifest.rename(tmp_path / "manifest.json")
    manifest.symlink_to(tmp_path / "manifest.json")
    with pytest.raises(CorruptData, match="leads out of the version's folder"):
        place(folder)


def test_folders_that_are_links_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ranker").mkdir()
    (tmp_path / "models" / "ranker" / "1").symlink_to(folder / "1")
    for linked in (tmp_path / "current", tmp_path / "models" / "ranker"):
        assert place(linked).identity == place(folder).identity
        assert place(linked).tables["user"].identity == place(folder).tables["user"].identity
        assert place(linked).folder == str(folder / "1"), "whatever the links lead to later"
        assert place(linked).found_in == str(linked), "where newer versions are looked for"
    assert place(folder).found_in == ""
    assert loss_of(place(tmp_path / "models" / "ranker")) == ""
