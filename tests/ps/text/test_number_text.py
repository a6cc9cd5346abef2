"""Numbers in texts: what people write, and not all that Python reads."""

from __future__ import annotations

import math

import pytest

from ringpull.ps.text.number_text import float_of, integer_of


def test_numbers_are_read_as_they_are_written() -> None:
    assert [integer_of(text) for text in ("7", " -12 ", "+3")] == [7, -12, 3]
    assert [float_of(text) for text in ("0.5", "-2", " 1e-3 ", ".5")] == [0.5, -2, 1e-3, 0.5]
    assert math.isinf(float_of("-inf"))
    assert math.isnan(float_of("nan"))


@pytest.mark.parametrize("text", ["1_000", "٣", "१२", "５", "", "x", "1,5"])  # noqa: RUF001
def test_what_python_reads_beside_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|ASCII|convert|invalid literal"):
        float_of(text)
    with pytest.raises(ValueError, match=r"no number|ASCII|convert|invalid literal"):
        integer_of(text)
