"""The process that has TensorFlow, played by scripts: what is said when it is missing, hangs, dies or is killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ringpull.extras import MissingExtra
from ringpull.inference.importers.savedmodel.model import import_savedmodel
from ringpull.inference.importers.savedmodel.process import Converter
from ringpull.ps.errors import ExportError, InvalidInput, RingpullError

pytestmark = pytest.mark.medium


def script(folder: Path, lines: str) -> Path:
    """Write what takes the place of an interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("exec 3>&1; exec cat >/dev/null", "took longer than 0.1 s"),
        ("read line; kill -9 $$", "want of memory"),
        ("read line; kill -6 $$", "ended by signal SIGABRT"),
        ("read line; echo last words >&2; exit 3", "with code 3(.|\n)*last words"),
        ("exit 0", "with code 0"),
    ],
)
def test_a_process_that_ends_badly_says_how(lines: str, message: str, tmp_path: Path) -> None:
    timeout_s = 0.1 if "cat" in lines else 60.0
    with (
        Converter(script(tmp_path, lines), timeout_s=timeout_s) as converter,
        pytest.raises(ExportError, match=message),
    ):
        converter.convert(tmp_path)
    assert not converter.folder.exists()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ('{"refused": "invalid", "message": "no such signature"}', "InvalidInput"),
        ('{"refused": "corrupt", "message": "no such signature"}', "CorruptData"),
        ('{"refused": "refused", "message": "no such signature"}', "ExportError"),
    ],
)
def test_what_is_refused_there_is_raised_here(answer: str, kind: str, tmp_path: Path) -> None:
    python = script(tmp_path, f"read line; exec 3>&1; echo '{answer}'; exec cat >/dev/null")
    with Converter(python, timeout_s=60) as converter, pytest.raises(RingpullError, match="no such sig") as raised:
        converter.convert(tmp_path)
    assert type(raised.value).__name__ == kind


def test_an_interpreter_without_tensorflow_is_named_with_its_cure(tmp_path: Path) -> None:
    python = script(tmp_path, f'exec {sys.executable} -S "$@"')  # without packages: as a bare environment
    (tmp_path / "model").mkdir()
    with pytest.raises(MissingExtra, match=r"needs \w+ in .*ringpull\[savedmodel\].*--python"):
        import_savedmodel(tmp_path / "model", tmp_path / "out", 1, python=python, quiet=True)
    assert not (tmp_path / "out").exists()


def test_an_interpreter_is_named_from_the_folder_of_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "read line; echo words >&2; exit 3")
    monkeypatch.chdir(tmp_path)
    with Converter("./python") as converter, pytest.raises(ExportError, match="with code 3"):
        converter.convert(tmp_path)


def test_an_interpreter_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be started"), Converter(tmp_path / "none"):
        pass


def test_a_folder_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such folder"):
        import_savedmodel(tmp_path / "none", tmp_path / "out", 1, python=tmp_path / "none")
