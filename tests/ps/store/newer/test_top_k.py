"""Top-k over a base and newer rows, bit for bit that over one base of the rows that both make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.hashing import SLOTS, keys_of, positions_of
from ringpull.ps.spec import VECTOR_TYPES, RowType
from ringpull.ps.store.row_codec import encode
from ringpull.ps.store.table import Table
from ringpull.ps.store.top_k import request_cost, scan_table
from tests.ps.newer_tables import LiveTable, random_positions, small_base, stored_rows, write_rows
from tests.ps.store.test_top_k import EVERYTHING, found, go_on, top_k_request


@pytest.mark.medium
@pytest.mark.parametrize("row_type", VECTOR_TYPES)
@pytest.mark.parametrize("dim", [1, 16, 100])
def test_newer_rows_are_ranked_and_those_they_replace_are_not(tmp_path: Path, row_type: RowType, dim: int) -> None:
    rng = np.random.default_rng(dim)
    live = LiveTable.of(small_base(tmp_path / "table", row_type, dim=dim))
    for _ in range(3):
        positions = random_positions(rng, live.base, 120)
        live.push(positions, stored_rows(rng, live.base.spec, len(positions)))
        live.remove(random_positions(rng, live.base, 40))
    merged = Table(write_rows(tmp_path / "merged", live.base.spec, live.rows))
    vectors = rng.normal(size=(19, dim)).astype(np.float32)
    known = keys_of(np.array(sorted(live.touched | set(live.base.sections.positions.tolist())), np.uint64))
    some = [rng.choice(known, 90) for _ in vectors]
    halves = ((0, 30_000), (30_000, SLOTS))
    for queries in (1, 19):
        for cosine in (False, True):
            for among, exclude, ranges in (
                (None, [], EVERYTHING),
                (None, some, halves),
                (some, [], EVERYTHING),
                (some[::-1], some, EVERYTHING),
                (None, [], halves[:1]),
            ):
                request = top_k_request(
                    vectors[:queries],
                    12,
                    cosine=cosine,
                    exclude=exclude[:queries],
                    among=None if among is None else among[:queries],
                    ranges=ranges,
                )
                assert found(scan_table(live.table, None, request, go_on)) == found(
                    scan_table(merged, None, request, go_on)
                )
    assert request_cost(live.table, top_k_request(vectors)) > request_cost(Table(live.base), top_k_request(vectors))


def test_equal_scores_go_by_key_wherever_their_rows_are(tmp_path: Path) -> None:
    live = LiveTable.of(small_base(tmp_path / "table", dim=2))
    ones = encode(np.ones((100, 2), np.float32), live.base.spec)
    keys = np.arange(100, dtype=np.uint64)
    live.remove(live.base.sections.positions.copy())
    live.push(positions_of(keys), ones)
    half = LiveTable.of(
        write_rows(
            tmp_path / "half", live.base.spec, {int(each): ones[0].tobytes() for each in positions_of(keys[::2])}
        )
    )
    half.push(positions_of(keys[1::2]), ones[:50])
    request = top_k_request(np.ones((1, 2), np.float32), 60)
    for table in (live.table, half.table):
        assert found(scan_table(table, None, request, go_on)) == [[(key, 2.0) for key in range(60)]]
