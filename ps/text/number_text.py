"""Numbers as people and files write them: what Python reads beside that, `1_000` and other digits, is refused."""

from __future__ import annotations


def integer_of(text: str) -> int:
    """Return the integer that a text is; blanks around it do not count.

    Raises:
        ValueError: It is none.
    """
    return int(_plain(text))


def float_of(text: str) -> float:
    """Return the number that a text is, an infinity and NaN among them; blanks around it do not count.

    Raises:
        ValueError: It is none.
    """
    return float(_plain(text))


def _plain(text: str) -> str:
    if "_" in text:
        raise ValueError("'_' is in no number")
    if not text.isascii():
        raise ValueError("it has other signs than ASCII's")
    return text
