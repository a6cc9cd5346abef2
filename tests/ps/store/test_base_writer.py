"""`BaseWriter`: rows that come in order, among them a copy of some ranges of another base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import ExportError
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.spec import TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.format import SlotRanges
from tests.ps.tables import write_table

SPEC = TableSpec(name="t", dim=2)


def raw(count: int) -> np.ndarray:
    return np.arange(count * SPEC.row_bytes, dtype=np.uint8).reshape(count, SPEC.row_bytes)


def copy_ranges(base: Base, folder: Path, held: SlotRanges, *, step: int = 77) -> Base:
    intervals = [base.row_range(begin, end) for begin, end in held]
    with BaseWriter(folder, base.spec, sum(last - first for first, last in intervals), held=held) as writer:
        for first, last in intervals:
            for at in range(first, last, step):
                to = min(last, at + step)
                writer.append(base.positions_slice(at, to), base.raw_rows(at, to))
        writer.finish()
    return Base.open(folder, verify_rows=True)


@pytest.mark.parametrize("held", [((0, SLOTS),), ((0, 1000), (1000, 9000), (60000, SLOTS)), ((40000, 40001),), ()])
def test_a_copy_of_some_ranges_is_a_base(tmp_path: Path, held: SlotRanges) -> None:
    written = write_table(tmp_path / "whole", rows=4000, dim=64)
    whole = Base.open(written.folder)
    part = copy_ranges(whole, tmp_path / "part", held)
    assert part.held == held
    assert part.spec == whole.spec
    positions = positions_of(written.keys)
    slots = (positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)
    is_held = part.held_mask()[slots].astype(bool)
    numbers = part.find(positions)
    assert np.array_equal(numbers >= 0, is_held)
    assert np.array_equal(
        part.raw_rows(0, part.rows)[numbers[is_held]], whole.raw_rows(0, whole.rows)[whole.find(positions)[is_held]]
    )


def test_a_copy_has_the_identity_of_what_it_was_copied_from(tmp_path: Path) -> None:
    whole = Base.open(write_table(tmp_path / "t", rows=300).folder)
    other = Base.open(write_table(tmp_path / "other" / "t", rows=300, seed=2).folder)
    assert whole.identity != other.identity
    with BaseWriter(tmp_path / "copy", whole.spec, 0, held=(), copied_from=whole.identity) as writer:
        writer.finish()
    assert Base.open(tmp_path / "copy").identity == whole.identity


def test_a_whole_copy_is_the_same_bytes(tmp_path: Path) -> None:
    """The files depend on the rows alone, not on how they came."""
    whole = Base.open(write_table(tmp_path / "t", rows=3000, dim=300).folder)
    copy_ranges(whole, tmp_path / "copy", ((0, SLOTS),), step=11)
    for path in (tmp_path / "t").iterdir():
        assert path.read_bytes() == (tmp_path / "copy" / path.name).read_bytes()


@pytest.mark.parametrize("positions", [[5, 4], [5, 5], [1, 2]])
def test_positions_must_ascend(tmp_path: Path, positions: list[int]) -> None:
    with BaseWriter(tmp_path / "t", SPEC, 3) as writer:
        writer.append(np.array([3], np.uint64), raw(1))
        with pytest.raises(ExportError, match="do not ascend"):
            writer.append(np.array(positions, np.uint64), raw(2))
    assert list(tmp_path.iterdir()) == []


def test_rows_outside_the_held_ranges_are_refused(tmp_path: Path) -> None:
    with (
        BaseWriter(tmp_path / "t", SPEC, 1, held=((0, 10),)) as writer,
        pytest.raises(ExportError, match="row of slot 10 lies outside"),
    ):
        writer.append(np.array([10 << SLOT_SHIFT], np.uint64), raw(1))


def test_the_announced_rows_must_come(tmp_path: Path) -> None:
    with BaseWriter(tmp_path / "t", SPEC, 2) as writer:
        writer.append(np.array([3], np.uint64), raw(1))
        with pytest.raises(ExportError, match="1 rows came, 2 were announced"):
            writer.finish()


def test_raw_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    with BaseWriter(tmp_path / "t", SPEC, 1) as writer, pytest.raises(ExportError, match="raw rows have shape"):
        writer.append(np.array([3], np.uint64), np.zeros((1, 4), np.uint8))


def test_pieces_of_any_size_are_written_as_one(tmp_path: Path) -> None:
    """What fills a whole write goes out from where it lies, and the rest by way of a buffer."""
    spec, rng = TableSpec(name="t", dim=64), np.random.default_rng(3)
    sizes = [5, 8_192 - 5, 20_000, 1, 8_192, 3]  # 8,192 rows are a write
    count = sum(sizes)
    positions = np.sort(rng.choice(2**62, count, replace=False)).astype(np.uint64)
    rows = rng.integers(0, 256, (count, spec.row_bytes), np.uint8)
    with BaseWriter(tmp_path / "t", spec, count) as writer:
        for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
            writer.append(positions[end - size : end], rows[end - size : end])
        writer.finish()
    assert np.array_equal(Base.open(tmp_path / "t", verify_rows=True).raw_rows(0, count), rows)
