"""Changed rows against dicts: applied to the older table they make the newer one, and no row is there in vain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.changed_rows import changed_rows
from tests.ps.newer_tables import row_at, small_base, stored_rows, write_rows


def rows_of(base: Base) -> dict[int, bytes]:
    stored = base.raw_rows(0, base.rows)
    return {position: row_at(stored, i) for i, position in enumerate(base.sections.positions.tolist())}


@pytest.mark.parametrize("piece_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.FLOAT16, RowType.INT8, RowType.BYTES])
def test_they_are_exactly_what_differs(tmp_path: Path, row_type: RowType, piece_bytes: int) -> None:
    rng = np.random.default_rng(1)
    old = small_base(tmp_path / "old", row_type, dim=3, rows=200)
    before = rows_of(old)
    after = dict(before)
    for position in rng.permutation(np.array(list(before), np.uint64))[:40].tolist():
        del after[position]
    positions = [
        *rng.permutation(np.array(list(after), np.uint64))[:30].tolist(),
        0,
        2**64 - 1,
        *rng.integers(1, 2**64, 50, np.uint64).tolist(),
    ]
    stored = stored_rows(rng, old.spec, len(positions))
    after.update((position, row_at(stored, i)) for i, position in enumerate(positions))
    cases = [
        after,
        before,
        {},
        dict(list(after.items())[:1]),
        {each: row for each, row in after.items() if each < 2**60},
    ]
    for number, due in enumerate(cases):
        new = write_rows(tmp_path / f"new{number}", old.spec, due)
        for one, other in ((old, new), (new, old)):
            rows, other_rows = rows_of(one), rows_of(other)
            last = -1
            found: dict[int, bytes] = {}
            gone: set[int] = set()
            for piece in changed_rows(one, other, piece_bytes):
                ascending = sorted([*piece.positions.tolist(), *piece.gone.tolist()])
                assert piece.positions.tolist() == sorted(piece.positions.tolist())
                assert not ascending or ascending[0] > last
                last = max([last, *ascending])
                found.update((each, row_at(piece.rows, i)) for i, each in enumerate(piece.positions.tolist()))
                gone.update(piece.gone.tolist())
            assert found == {each: row for each, row in other_rows.items() if rows.get(each) != row}
            assert gone == set(rows) - set(other_rows)


def test_tables_of_other_rows_are_refused(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one", TableSpec(name="t", dim=2), {})
    other = write_rows(tmp_path / "other", TableSpec(name="t", dim=3), {})
    with pytest.raises(InvalidInput, match="table t: dim is 3"):
        next(changed_rows(one, other))
