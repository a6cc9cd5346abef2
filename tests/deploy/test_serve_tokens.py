"""`serve` with tokens: what is wrong with them is said before anything is started, and they are no word of what is."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECRET = "s3cret-of-the-web-0123456789"
TEXT = f'[[token]]\nname = "web"\ntoken = "{SECRET}"\nroles = ["predict"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.toml"
    file.write_text(TEXT)
    file.chmod(0o600)
    return file


@pytest.mark.medium
def test_a_file_that_is_wrong_is_refused_before_anything_starts(serve: Callable[..., Any], file: Path) -> None:
    file.write_text(TEXT.replace("predict", "everything"))
    said = serve("--tokens", file)
    assert said.config is None
    assert said.err == (
        f"error: tokens file {file}: token web: roles has 'everything', which is no role;"
        " there are read, predict, write, operate\n"
    )
    file.write_text(TEXT)
    file.chmod(0o606)
    assert "can be written by others" in serve("--tokens", file).err
    assert "--tokens names no file" in serve("--tokens", "").err
    file.chmod(0o604)
    said = serve("--tokens", file)
    assert said.err.startswith(f"warning: tokens file {file} can be read by every user")
    assert said.config.head.tokens.file == str(file)


def test_on_another_cluster_the_file_is_where_the_heads_are(serve: Callable[..., Any]) -> None:
    assert serve("--tokens", "/not/here.toml", "--address", "auto").config.head.tokens.file == "/not/here.toml"


@pytest.mark.medium
def test_the_text_of_the_environment_goes_no_further(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPULL_TOKENS", TEXT)
    said = serve()
    assert "RINGPULL_TOKENS" not in os.environ, "what serve starts inherits its environment"
    assert [entry.name for entry in said.config.head.tokens.entries] == ["web"]
    assert SECRET.encode() not in pickle.dumps(said.config), "as actors are given it"
    assert SECRET not in repr(said.config)
    monkeypatch.setenv("RINGPULL_TOKENS", TEXT.replace("predict", "everything"))
    said.config = None
    said = serve()
    assert said.config is None
    assert said.err.startswith("error: RINGPULL_TOKENS: token web: roles has 'everything'")


def test_without_tokens_nothing_is_asked(serve: Callable[..., Any]) -> None:
    assert not serve().config.head.tokens.asked
