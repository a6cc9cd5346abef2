"""Spares: memory is used again once nobody reads it, never beyond the budget, and goes when nobody asks for it."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import keys_of
from ringpull.ps.pull_messages import Op
from ringpull.ps.spec import RowType
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.segments import FIRST_BLOCK_BYTES, Segments
from ringpull.ps.store.newer.spares import KEEP_S, Spares
from ringpull.ps.store.pull import pull
from tests.ps.newer_tables import LiveTable, random_positions, small_base, stored_rows
from tests.ps.tables import pull_request

PAGE = 4096


def of_pages(count: int) -> mmap.mmap:
    return mmap.mmap(-1, count * PAGE)


def test_the_smallest_that_is_large_enough_and_no_far_larger_one_is_given_away() -> None:
    spares = Spares()
    for count in (100, 12, 11, 8):
        spares.put(of_pages(count))
    assert spares.take(20 * PAGE, 1 << 30) is None, "100 pages would be a waste"
    assert spares.take(11 * PAGE, 10 * PAGE) is None, "more than there may be"
    for wanted, given in ((10, 11), (10, 12), (8, 8)):
        found = spares.take(wanted * PAGE, 1 << 30)
        assert found is not None
        assert len(found) == given * PAGE
    assert spares.take(10 * PAGE, 1 << 30) is None
    assert spares.nbytes == 100 * PAGE


def test_the_oldest_go_first_and_all_of_them_after_a_while() -> None:
    now = 0.0
    spares = Spares(lambda: now)
    for count in (3, 4, 5):
        spares.put(of_pages(count))
        now += 1.0
    spares.shrink(9 * PAGE)
    assert spares.nbytes == 9 * PAGE
    assert spares.take(3 * PAGE, 1 << 30) is None
    now = 1.5 + KEEP_S
    spares.shrink(9 * PAGE)
    assert spares.nbytes == 5 * PAGE
    now = 3.0 + KEEP_S
    spares.shrink(9 * PAGE)
    assert spares.nbytes == 0


def dropped(segments: Segments) -> None:
    for number in segments.seal():
        segments.drop(number)
    gc.collect()


@pytest.mark.parametrize("then", [64, 0])
def test_rows_in_memory_that_others_had_come_back_as_given(then: int) -> None:
    budget = Budget(1 << 30)
    before = Segments(then, budget)
    full = np.full((20_000, 64), 255, np.uint8) if then else BytesRows.of([b"\xff" * 50] * 20_000)
    words = before.append(full, 2**64 - 1)
    used, reader = budget.used_bytes, before.generation
    dropped(before)
    assert budget.spares.nbytes == 0, "somebody may read it"
    assert len(words) == 20_000
    del reader
    gc.collect()
    assert (budget.used_bytes, budget.spares.nbytes) == (0, used)
    after, rng = Segments(then, budget), np.random.default_rng(1)
    if then:
        rows = rng.integers(0, 256, (10_000, 64), np.uint8)
        again = after.rows(after.append(rows, 7))
        assert isinstance(again, np.ndarray)
        assert np.array_equal(again, rows)
    else:
        texts = [bytes([i % 251]) * (i % 90) for i in range(12_000)]
        words = after.append(BytesRows.of(texts), 7)
        again = after.rows(words)
        assert isinstance(again, BytesRows)
        assert [again.data[a:b].tobytes() for a, b in zip(again.offsets[:-1], again.offsets[1:], strict=True)] == texts
        assert (after.stamps(words) == 7).all()
    assert 0 < budget.used_bytes <= used
    assert budget.used_bytes + budget.spares.nbytes == used, "nothing was mapped"


def test_spares_and_rows_together_stay_within_the_budget() -> None:
    budget = Budget(6 * FIRST_BLOCK_BYTES)
    first, other = Segments(256, budget), Segments(512, budget)
    first.append(np.zeros((9_000, 256), np.uint8), 1)
    dropped(first)
    assert budget.spares.nbytes > FIRST_BLOCK_BYTES
    other.append(np.zeros((9_000, 512), np.uint8), 1)
    assert budget.used_bytes + budget.spares.nbytes <= budget.limit_bytes
    budget.held_bytes = budget.left_bytes
    budget.shrink()
    assert budget.spares.nbytes == 0


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.BYTES])
def test_a_pull_of_a_table_from_before_reads_its_rows_whatever_was_dropped_and_written_since(
    tmp_path: Path, row_type: RowType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table alone is held, as by a pull under way: words in its directory point to blocks that were dropped."""
    given: list[mmap.mmap] = []

    def overwritten(spares: Spares, memory: mmap.mmap) -> None:
        np.frombuffer(memory, np.uint8).fill(0xA5)
        given.append(memory)
        put(spares, memory)

    put = Spares.put
    monkeypatch.setattr(Spares, "put", overwritten)
    budget, rng = Budget(8 << 20), np.random.default_rng(1)
    live = LiveTable.of(small_base(tmp_path / "table", row_type), budget=budget)
    positions = random_positions(rng, live.base, 200)
    live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
    request = pull_request([("table", Op.ROWS, keys_of(positions), [], None)])
    under_way = live.table
    wanted = pull([under_way], [None], request)
    dropped(live.segments)

    def others() -> None:
        """Take memory, and give it back."""
        for _ in range(4):
            segments = Segments(live.segments.row_bytes, budget)
            segments.append(stored_rows(rng, live.base.spec, len(positions)), 2)
            dropped(segments)

    others()
    found = pull([under_way], [None], request)
    assert np.array_equal(found.values, wanted.values)
    assert np.array_equal(found.data, wanted.data)
    before = len(given)
    assert before, "nothing was used again, so this proves nothing"
    del under_way
    gc.collect()
    assert len(given) == before + 1
