"""Blocks of a base that are read one after the other: each file is opened once, and closed."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ringpull.ps.errors import Unavailable
from ringpull.ps.spec import RowType
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.block_check import Reader, bad_rows
from tests.ps.damaging import flip
from tests.ps.tables import write_table


@pytest.mark.parametrize(
    ("row_type", "files"), [(RowType.FLOAT32, [fmt.ROWS]), (RowType.BYTES, [fmt.ROWS, fmt.STARTS])]
)
def test_each_file_is_opened_once_for_all_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_type: RowType, files: list[str]
) -> None:
    base = Base.open(write_table(tmp_path / "users", rows=4_000, dim=512, row_type=row_type).folder)
    last = base.block_count - 1
    assert last > 3
    flip(base.folder / fmt.ROWS, int(base.block_bounds[last]))
    opened, real = Counter[str](), os.open

    def counted(path: Any, *args: Any, **given: Any) -> int:
        opened[Path(path).name] += 1
        return real(path, *args, **given)

    monkeypatch.setattr(os, "open", counted)
    before = len(os.listdir("/proc/self/fd"))
    with Reader(base) as reader:
        found = [bad_rows(base, block, reader) for block in range(base.block_count)]
        alone = bad_rows(base, last)
    assert [each is None for each in found] == [True] * last + [False]
    assert alone == found[last]
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    assert opened == {**dict.fromkeys(files, 1), fmt.ROWS: 2}  # once for the one that was looked at by itself


def test_a_file_of_which_it_could_not_be_told_whose_it_is_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is in its place, and the first call that would have told fails: the next block asks again."""
    base = Base.open(write_table(tmp_path / "users", rows=4_000, dim=512).folder)
    assert base.block_count > 1
    other = write_table(tmp_path / "other", rows=4_000, dim=512, seed=9).folder
    shutil.copy(other / fmt.ROWS, tmp_path / "rows")
    os.replace(tmp_path / "rows", base.folder / fmt.ROWS)
    before = len(os.listdir("/proc/self/fd"))

    def broken(_: int) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Reader(base) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", broken)
            with pytest.raises(Unavailable, match="cannot be read now"):
                bad_rows(base, 0, reader)
        assert bad_rows(base, 1, reader) is None, "of its map"
    assert len(os.listdir("/proc/self/fd")) == before
