"""The coordinator's state on disk and behind fsspec's URLs: whole, replaced, and errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from ringpull.ps.errors import CorruptData, InvalidInput, StartupError
from ringpull.router.control.state_file import FILE_NAME, StateFile


@pytest.fixture(params=["folder", "file:", "memory:"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    below = f"{tmp_path}/state/of/mine"
    return {"folder": below, "file:": f"file://{below}", "memory:": f"memory:/{below}"}[request.param]


def files(folder: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(folder)
    return [path.rpartition("/")[2] for path in system.ls(root, detail=False)]


def test_it_returns_what_was_saved_last(folder: str) -> None:
    """Another one of the same folder reads it; only the one file is there."""
    assert StateFile(folder).load() is None
    for epoch in (1, 2):
        StateFile(folder).save({"epoch": epoch})
        assert StateFile(folder).load() == {"epoch": epoch}
    assert files(folder) == [FILE_NAME]


def test_a_crash_while_it_is_written_leaves_the_old_state(folder: str) -> None:
    state = StateFile(folder)
    state.save({"epoch": 1})
    with pytest.raises(TypeError):
        state.save({"epoch": object()})
    system, root = fsspec.core.url_to_fs(folder)
    system.pipe_file(f"{root}/{FILE_NAME}.tmp", b'{"epoch": 2')
    assert StateFile(folder).load() == {"epoch": 1}
    state.save({"epoch": 3})
    assert (StateFile(folder).load(), files(folder)) == ({"epoch": 3}, [FILE_NAME])


@pytest.mark.parametrize(("content", "reason"), [(b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[]", "a list")])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(CorruptData, match=f"{FILE_NAME}.*{reason}"):
        StateFile(str(tmp_path)).load()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match=r"--state-dir '.*/file/below' cannot be made"):
        StateFile(f"{tmp_path}/file/below")


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--state-dir 'gopher://x' cannot be used"):
        StateFile("gopher://x")


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateFile(str(tmp_path))
    state.save({"epoch": 1})

    def full(descriptor: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StartupError, match=f"cannot be saved to .*{FILE_NAME}: .*No space left"):
        state.save({"epoch": 2})
    assert state.load() == {"epoch": 1}
