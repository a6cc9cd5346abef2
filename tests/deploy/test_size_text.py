"""Sizes as people write them."""

from __future__ import annotations

import pytest

from ringpull.deploy.view.size_text import parse_rate, parse_size
from ringpull.ps.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1.5GiB", 3 << 29),
        ("16gib", 16 << 30),
        ("500MB", 500_000_000),
        ("2T", 2 << 40),
        (" 7 KiB ", 7168),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--data-limit", text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "0", "0.1", "1e3", "12XB", "1 2", "nan"])
def test_what_is_no_size_names_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--data-limit .*such as 500MB or 16GiB"):
        parse_size("--data-limit", text)


@pytest.mark.parametrize("text", ["0", "0B", "0MiB", " 0.0 kb "])
def test_a_rate_of_nothing_in_whatever_unit(text: str) -> None:
    assert parse_rate("--scrub-rate", text) == 0
    with pytest.raises(InvalidInput, match="above 0"):
        parse_size("--data-limit", text)


@pytest.mark.parametrize("text", ["", "0XB", "-0", "0.1"])
def test_what_is_no_rate_names_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="--scrub-rate"):
        parse_rate("--scrub-rate", text)


def test_a_rate() -> None:
    assert parse_rate("--scrub-rate", "8MiB") == 8 << 20
