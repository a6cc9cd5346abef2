"""Exports onto a full disk: an error that says so, whichever file it is that does not fit, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull import export_tables
from ringpull.ps.errors import ExportError
from tests.inference.tiny import export_tiny

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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, that tests make smaller."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def shrink(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", disk], check=True)


@pytest.mark.medium
def test_any_file_of_an_export_may_be_the_one_that_does_not_fit(small_disk: Path) -> None:
    told = []
    for kib in range(4, 76, 8):
        shrink(small_disk, kib)
        try:
            export_tiny(small_disk)
            told.append("written")
        except ExportError as exc:
            told.append(str(exc))
            assert os.listdir(small_disk) == []
        for path in sorted(small_disk.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    failed = told[: told.index("written")]
    assert set(told[len(failed) :]) == {"written"}
    assert len(failed) > 3
    assert all("No space left on device" in each for each in failed)


@pytest.mark.medium
@pytest.mark.parametrize("kib", [8, 64, 400, 560])
def test_tables_alone_that_do_not_fit_are_an_error_that_names_the_table(small_disk: Path, kib: int) -> None:
    vectors = np.random.default_rng(0).random((2000, 32), np.float32)
    texts = [f"key {number}" for number in range(2000)]
    tables = {"vectors": (np.arange(2000), vectors), "texts": (texts, [b"x" * 50] * 2000)}
    shrink(small_disk, kib)
    with pytest.raises(ExportError, match=r"table \w+: cannot write .*No space left on device"):
        export_tables(tables, small_disk / "tables", 1, quiet=True)
    assert os.listdir(small_disk) == []


def test_folders_that_a_failed_export_made_are_gone_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ExportError, match="has no rows"):
        export_tables({"t": ([], [])}, tmp_path / "models" / "a" / "b", 1, quiet=True)
    assert os.listdir(tmp_path / "models") == []
    export_tables({"t": ([1], [b"x"])}, tmp_path / "models" / "a", 1, quiet=True)
    with pytest.raises(ExportError, match="has no rows"):
        export_tables({"t": ([], [])}, tmp_path / "models" / "a", 2, quiet=True)
    assert os.listdir(tmp_path / "models" / "a") == ["1"]
