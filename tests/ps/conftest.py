"""A table of several blocks, a copy of it to damage, and a scrub of that, for the tests that ask for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.ps.scrubbed import Scrubbed
from tests.ps.tables import WrittenTable, write_table


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """A table of several blocks: 5 MiB of rows."""
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=320, dim=4096)


@pytest.fixture
def table(written: WrittenTable, tmp_path: Path) -> WrittenTable:
    folder = shutil.copytree(written.folder, tmp_path / "users")
    return WrittenTable(folder, written.keys, written.rows, written.reference)


@pytest.fixture
def scrubbed(table: WrittenTable, tmp_path: Path) -> Scrubbed:
    return Scrubbed(table, tmp_path / "checked")
