"""Versions exported once for all tests of this folder. Tests that damage a version copy it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.ranker import Ranker, export_ranker


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Path]:
    """The ranker and the folder of its version 1."""
    return export_ranker(tmp_path_factory.mktemp("models"))
