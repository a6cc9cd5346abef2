"""Rows of bytes read like a list of bytes."""

from __future__ import annotations

import pytest

from ringpull.ps.bytes_rows import BytesRows

ROWS = [b"", b"ab", b"\0", b""]


def test_rows_are_those_that_were_given() -> None:
    rows = BytesRows.of(ROWS)
    assert (len(rows), list(rows), [rows[place] for place in range(4)]) == (4, ROWS, ROWS)
    assert [rows[place] for place in range(-4, 0)] == ROWS
    assert list(BytesRows.of([])) == []


@pytest.mark.parametrize("place", [4, -5, 10**20])
def test_others_than_are_there_raise(place: int) -> None:
    with pytest.raises(IndexError):
        BytesRows.of(ROWS)[place]
