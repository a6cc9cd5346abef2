"""Folders of SavedModels that lead elsewhere: refused before a process is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringpull.inference.importers.savedmodel.folder import check_folder
from ringpull.inference.importers.savedmodel.model import import_savedmodel
from ringpull.ps.errors import CorruptData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like a SavedModel's."""
    made = tmp_path / "model"
    for name in ("saved_model.pb", "variables/variables.index", "assets/vocab.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("a")
    (tmp_path / "secret.txt").write_text("secret")
    return made


def test_links_within_a_folder_and_to_it_are_followed(folder: Path, tmp_path: Path) -> None:
    """Volumes of Kubernetes are such: their files are links to another folder of it."""
    (folder / "variables").rename(folder / "..data")
    (folder / "variables").symlink_to("..data")
    (tmp_path / "link").symlink_to(folder)
    check_folder(folder)
    check_folder(tmp_path / "link")


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "assets/vocab.txt"])
def test_a_link_out_of_a_folder_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CorruptData, match=r"is a link out of the folder, to .*secret\.txt; .*cp -rL"):
        import_savedmodel(folder, tmp_path / "out", 1, python=tmp_path / "none", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_behind_a_link_is_looked_over_too(folder: Path, tmp_path: Path) -> None:
    (folder / "assets").rename(folder / "others")
    (folder / "assets").symlink_to("others")
    (folder / "others" / "more.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CorruptData, match=r"more\.txt: is a link out of the folder"):
        check_folder(folder)


@pytest.mark.parametrize(("make", "message"), [("pipe", "no file but a pipe"), ("circle", "cannot be followed")])
def test_what_has_no_end_is_refused(make: str, message: str, folder: Path) -> None:
    data = folder / "variables" / "variables.data-00000-of-00001"
    if make == "pipe":
        os.mkfifo(data)
    else:
        data.symlink_to(data.name)
    with pytest.raises(CorruptData, match=message):
        check_folder(folder)
