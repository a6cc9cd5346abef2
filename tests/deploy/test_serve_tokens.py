"""`serve` with tokens: what is wrong with them is said before anything is started, and they are no word of what is."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringpull.deploy import cli
from ringpull.deploy.cluster import cluster
from tests.deploy.folders import write_version

SECRET = "s3cret-of-the-web-0123456789"
TEXT = f'[[token]]\nname = "web"\ntoken = "{SECRET}"\nroles = ["predict"]\n'


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Run `ringpull serve` up to where it would start anything; `config` is what that would be of."""
    write_version(tmp_path / "ranker", 1)
    monkeypatch.setenv("RINGPULL_STATE_DIR", str(tmp_path / "state"))

    def bring_up(config: Any, *others: Any) -> Any:
        said.config = config
        raise KeyboardInterrupt

    said = SimpleNamespace(config=None, err="")
    monkeypatch.setattr(cluster.Cluster, "bring_up", bring_up)

    def run(*options: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["ringpull", "serve", str(tmp_path / "ranker"), *map(str, options)])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            cli.main()
        said.err = capsys.readouterr().err
        return said

    return run


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
