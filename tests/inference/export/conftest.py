"""A program that an export's self-check has loaded is not loaded again by the test that scores it."""

from __future__ import annotations

import pytest

from ringpull.inference.export import written_version
from tests.inference.export import versions


@pytest.fixture(autouse=True)
def programs_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_version, "load_program", versions.load_once)
