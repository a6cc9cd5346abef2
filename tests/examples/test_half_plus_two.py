"""The command that writes TensorFlow Serving's first example says in a line what is wrong."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import examples.half_plus_two
from ringpull.ps.errors import ExportError


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["half_plus_two", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(examples.half_plus_two.__file__, run_name="__main__")
    return str(ended.value)


def test_a_folder_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch) == "usage: python -m examples.half_plus_two FOLDER"


def test_a_version_that_is_there_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half_plus_two" / "1").mkdir(parents=True)
    with pytest.raises(ExportError):
        examples.half_plus_two.export(tmp_path)
    said = refusal(monkeypatch, str(tmp_path))
    assert said.startswith("half_plus_two: ")
    assert "exists; a version is never written over" in said
    assert len(said.splitlines()) == 1
