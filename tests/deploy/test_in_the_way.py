"""What lies where a command expects its files: an error in one line that names it, and nothing that waits for ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ringpull.deploy import cli
from tests.deploy.folders import write_version
from tests.in_the_way import KINDS, in_the_way


@pytest.fixture
def ringpull(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line in this process; return its status and what it said on standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ringpull", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "name", ["manifest.json", "schema.json", "dense.pt2", "tables/user/header", "tables/user/rows"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_version_whose_file_is_none(ringpull, tmp_path: Path, name: str, kind: str) -> None:
    version = write_version(tmp_path / "ranker", 1)
    (version / name).unlink()
    with in_the_way(version / name, kind):
        status, said = ringpull("inspect", version)
    assert status == 1
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert name in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["status", "stop"])
def test_records_that_are_no_files_are_passed_over(ringpull, state: Path, kind: str, command: str) -> None:
    served = state / "served"
    served.mkdir()
    with in_the_way(served / "127.0.0.1_8500.json", kind), in_the_way(served / "left.lock", kind):
        status, said = ringpull(command)
    assert (status, said.partition(";")[0]) == (1, "error: nothing is served from here")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b'{"pid": ' + b"9" * 5000 + b"}", b"", b"null"])
def test_records_that_are_none_are_passed_over(ringpull, state: Path, content: bytes) -> None:
    (state / "served").mkdir()
    (state / "served" / "127.0.0.1_8500.json").write_bytes(content)
    (state / "served" / "left.lock").write_bytes(content)
    assert ringpull("status")[0] == 1
    assert ringpull("stop")[0] == 1


@pytest.mark.parametrize("what", ["state", "state/served"])
def test_a_file_in_the_place_of_the_state_folder_is_named(ringpull, tmp_path: Path, state: Path, what: str) -> None:
    write_version(tmp_path / "ranker", 1)
    place = state if what == "state" else state / "served"
    if what == "state":
        state.rmdir()
    place.write_text("in the way")
    status, said = ringpull("serve", tmp_path / "ranker")
    assert status == 1
    assert said.startswith(f"error: state folder {state / 'served'} cannot be written: ")
    assert "RINGPULL_STATE_DIR" in said


@pytest.mark.parametrize("option", ["--state-dir", "--data-dir", "--log-dir"])
def test_a_file_in_the_place_of_a_folder_is_named_with_its_option(ringpull, tmp_path: Path, option: str) -> None:
    """Before Ray is started, and before an actor finds out."""
    write_version(tmp_path / "ranker", 1)
    (tmp_path / "file").touch()
    status, said = ringpull("serve", tmp_path / "ranker", option, tmp_path / "file")
    assert (status, said) == (
        1,
        f"error: {option} '{tmp_path / 'file'}': {tmp_path / 'file'} is there, and is no folder\n",
    )


def test_export_looks_at_its_folder_before_anything_is_trained(ringpull, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, said = ringpull("export", "no_such_module:function", tmp_path / "file")
    assert status == 1
    assert said.startswith(f"error: OUT_DIR '{tmp_path / 'file'}': ")


def test_an_answer_of_names_that_are_no_text_is_printed(ringpull, tmp_path: Path, capsys, monkeypatch) -> None:
    """Bytes of a path that are no UTF-8."""
    folder = Path(f"{tmp_path}/mod\udcffel")
    status, said = ringpull("inspect", folder)
    assert (status, said) == (1, f"error: {tmp_path}/mod\\udcffel is not a folder\n")
