"""`ringpull import savedmodel`: what its files of texts say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.deploy.commands.importing.savedmodel import texts_of
from ringpull.ps.errors import InvalidInput


def test_texts_are_lines_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes("\ufeffa\u2028b\r\nc\x0c\na\u2028b\n".encode())
    assert texts_of([f"genre={file}"]) == {"genre": ["a\u2028b", "c\x0c"]}


def test_files_of_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for file, why in (("none", "is empty"), ("latin", "can't decode"), ("absent", "cannot be read")):
        with pytest.raises(InvalidInput, match=f"--texts .*{file}: .*{why}"):
            texts_of([f"genre={tmp_path / file}"])
