"""Amounts of bytes as people read them."""

from __future__ import annotations

import pytest

from ringpull.ps.text.byte_size import size


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_sizes_as_people_read_them(count: int, told: str) -> None:
    assert size(count) == told
