"""Pipes, sockets and devices in the place of a table's files: refused by name, and never waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.store.base import Base
from ringpull.ps.store.file_errors import opened, read_file, unreadable
from ringpull.ps.transfer.remote import RemoteFolder
from tests.in_the_way import KINDS, in_the_way
from tests.ps.tables import WrittenTable


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_and_nothing_else(tmp_path: Path, kind: str) -> None:
    with in_the_way(tmp_path / "file", kind):
        with pytest.raises(OSError, match=r"not a file|symbolic links") as raised:
            read_file(tmp_path / "file")
        assert isinstance(unreadable(tmp_path / "file", raised.value), CorruptData)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        opened(tmp_path)
    (tmp_path / "file").write_bytes(b"content")
    assert read_file(tmp_path / "file") == b"content"


@pytest.mark.parametrize("name", ["header", "index", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_names_what_is_no_file_of_it(table: WrittenTable, name: str, kind: str) -> None:
    (table.folder / name).unlink()
    with (
        in_the_way(table.folder / name, kind),
        pytest.raises(CorruptData, match=rf"{name}: .*(not a file|leads out|cannot be followed)"),
    ):
        Base.open(table.folder)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_a_folder_that_is_copied_from_names_what_is_no_file(tmp_path: Path, kind: str) -> None:
    with (
        in_the_way(tmp_path / "header", kind),
        pytest.raises(CorruptData, match=r"header: it is a pipe, a socket or a device, not a file"),
    ):
        RemoteFolder(str(tmp_path)).read("header", max_bytes=100)


def test_a_link_to_itself_cannot_be_copied_from(tmp_path: Path) -> None:
    with in_the_way(tmp_path / "header", "link to itself"), pytest.raises(Unavailable, match="header: cannot be read"):
        RemoteFolder(str(tmp_path)).read("header", max_bytes=100)
