"""A table, and shards over it that begin one after the other with the same folder of logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.live.settings import LiveSettings
from tests.ps.live.served import DIM, Served
from tests.ps.tables import WrittenTable, write_table


@pytest.fixture
def table(tmp_path: Path) -> WrittenTable:
    return write_table(tmp_path / "users", rows=200, dim=DIM)


@pytest.fixture
def served(table: WrittenTable, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Function that starts a shard over the table and the same folder of logs."""
    running: list[Served] = []

    def start(
        options: LiveSettings | None = None,
        folder: Path | None = tmp_path / "shard-0.live",
        memory: CheckedRows | None = None,
    ) -> Served:
        for each in running:
            each.live.close()
        running.append(Served(table, folder, options, memory))
        return running[-1]

    yield start
    for each in running:
        each.live.close()
