"""A spool gives back what it was given, wherever that waits."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.export.delta import spool
from ringpull.inference.export.delta.spool import Spool
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import flat, part_of
from tests.ps.newer_tables import stored_rows


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.INT8, RowType.BYTES])
@pytest.mark.parametrize("memory_bytes", [0, 900, 1 << 20])
def test_rows_wait_in_memory_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_type: RowType, memory_bytes: int
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", memory_bytes)
    rng = np.random.default_rng(1)
    spec = TableSpec(name="t", dim=0 if row_type is RowType.BYTES else 5, row_type=row_type)
    positions, rows = np.sort(rng.integers(0, 2**64, 100, np.uint64)), stored_rows(rng, spec, 100)
    collected = Spool(tmp_path / "waiting", spec)
    for begin, end in ((0, 1), (1, 1), (1, 40), (40, 90), (90, 100)):
        collected.add(positions[begin:end], part_of(rows, begin, end))
    assert collected.rows == 100
    assert (tmp_path / "waiting").exists() == (memory_bytes < 1 << 20)
    collected.write(tmp_path / "t")
    collected.close()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    base = Base.open(tmp_path / "t", verify_rows=True)
    assert base.sections.positions.tolist() == positions.tolist()
    assert flat(base.raw_rows(0, 100)).tobytes() == flat(rows).tobytes()


def test_a_file_that_cannot_grow_is_said_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is buffered of a file may first be refused when it is read again, or closed."""
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    spec = TableSpec(name="t", dim=250)
    collected = Spool(tmp_path / "waiting", spec)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ExportError, match=r"table t: cannot write .*waiting: .*File too large"):
            collected.add(np.arange(20, dtype=np.uint64), np.zeros((20, spec.row_bytes), np.uint8))
        collected.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
