"""The folder of the coordinator's state, of each kind."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from ringpull.router.control.state_files import PatientFiles, UrlFiles, open_files
from ringpull.router.control.state_store import (
    StateStore,
)


@pytest.fixture(params=["folder", "file:", "memory:"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> PatientFiles:
    below = f"{tmp_path}/state/of/mine"
    if request.param == "memory:":
        found = PatientFiles(UrlFiles(fsspec.filesystem("memory"), below))
    else:
        found = open_files({"folder": below, "file:": f"file://{below}"}[request.param])
    found.make_folder()
    return found


@pytest.fixture
def store(files: PatientFiles) -> StateStore:
    return StateStore(files)
