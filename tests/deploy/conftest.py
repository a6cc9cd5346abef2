"""Every test of this folder gets a state folder of its own; `serve` runs the command up to where it starts anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringpull.deploy import cli
from tests.deploy.folders import write_version
from tests.deploy.running import Ran, Run


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("RINGPULL_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def ringpull(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ringpull", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return Ran(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Run `ringpull serve` up to where it would start anything; `config` is what that would be of."""
    write_version(tmp_path / "ranker", 1)
    monkeypatch.setenv("COLUMNS", "300")

    def bring_up(config: Any, *others: Any) -> Any:
        said.config = config
        raise KeyboardInterrupt

    said = SimpleNamespace(config=None, err="")
    from ringpull.deploy.cluster import cluster  # which takes long to import

    monkeypatch.setattr(cluster.Cluster, "bring_up", bring_up)

    def run(*options: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["ringpull", "serve", str(tmp_path / "ranker"), *map(str, options)])
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            cli.main()
        said.err = capsys.readouterr().err
        return said

    return run
