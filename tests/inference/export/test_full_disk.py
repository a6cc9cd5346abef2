"""Exports onto a full disk: an error that says so, whichever file it is that does not fit, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull import export_tables
from ringpull.ps.errors import ExportError
from tests.inference.tiny import export_tiny
from tests.small_disk import resize, small_disk

ROOT = Path(__file__).parents[3]

LIMITED = """
import json, resource, sys
from pathlib import Path
from tests.inference.tiny import export_tiny

told = {}
for most in (100, 1_000, 4_000, 1_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    folder = Path(sys.argv[1], str(most))
    try:
        export_tiny(folder)
        told[most] = "written"
    except Exception as error:
        told[most] = f"{type(error).__name__}: {error}"
    left = [str(path) for path in folder.rglob("*")] if folder.exists() else []
    if told[most] != "written" and left:
        told[most] += f"; left: {left}"
sys.__stdout__.write(json.dumps(told))
"""


@pytest.mark.slow
def test_dense_program_that_does_not_fit_is_an_error_of_the_export_and_the_process_lives_on(tmp_path: Path) -> None:
    """The system lets no file grow beyond a limit: what torch's own writer answers with the end of the process."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for most in ("100", "1000", "4000"):
        assert told[most] == f"ExportError: {tmp_path / most / 'tiny' / '1'}: cannot be written: File too large"
    assert told["1000000"] == "written"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(
        tmp_path / "disk", 1 << 10, held=True
    ) as folder:  # an exported table may be mapped until it is collected
        yield folder


@pytest.mark.medium
def test_any_file_of_an_export_may_be_the_one_that_does_not_fit(disk: Path) -> None:
    # What files take of such a disk differs between kernels: by doubling it is found what is enough, in few exports.
    told = {kib: _full(disk, kib) for kib in (8 << doubled for doubled in range(8))}
    enough = min(kib for kib, error in told.items() if error is None)
    told |= {kib: _full(disk, kib) for kib in range(enough // 2, enough, enough // 8)}
    errors = [error for error in told.values() if error is not None]
    assert len(errors) > 3
    assert all("No space left on device" in each for each in errors)


def _full(disk: Path, kib: int) -> str | None:
    """Export onto a disk of some KiB; return the error, which leaves nothing behind, or None: it fits."""
    resize(disk, kib)
    try:
        export_tiny(disk)
    except ExportError as exc:
        assert os.listdir(disk) == []
        return str(exc)
    assert os.listdir(disk) == ["tiny"]
    shutil.rmtree(disk / "tiny")
    return None


@pytest.mark.medium
@pytest.mark.parametrize("kib", [8, 64, 400, 560])
def test_tables_alone_that_do_not_fit_are_an_error_that_names_the_table(disk: Path, kib: int) -> None:
    vectors = np.random.default_rng(0).random((2000, 32), np.float32)
    texts = [f"key {number}" for number in range(2000)]
    tables = {"vectors": (np.arange(2000), vectors), "texts": (texts, [b"x" * 50] * 2000)}
    resize(disk, kib)
    with pytest.raises(ExportError, match=r"table \w+: cannot write .*No space left on device"):
        export_tables(tables, disk / "tables", 1, quiet=True)
    assert os.listdir(disk) == []


def test_folders_that_a_failed_export_made_are_gone_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ExportError, match="has no rows"):
        export_tables({"t": ([], [])}, tmp_path / "models" / "a" / "b", 1, quiet=True)
    assert os.listdir(tmp_path / "models") == []
    export_tables({"t": ([1], [b"x"])}, tmp_path / "models" / "a", 1, quiet=True)
    with pytest.raises(ExportError, match="has no rows"):
        export_tables({"t": ([], [])}, tmp_path / "models" / "a", 2, quiet=True)
    assert os.listdir(tmp_path / "models" / "a") == ["1"]
