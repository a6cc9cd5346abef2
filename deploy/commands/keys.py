"""Keys as they are written on a command line, or one a line in a file, and read by the type of their table's keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.text.number_text import integer_of

if TYPE_CHECKING:
    from ringpull.inference.client.client import Client

KeyReader = Callable[[str], Any]
"""Function that reads one key."""


def content_of(option: str, source: str) -> bytes:
    """Return the bytes of a file, or, of `-`, of standard input.

    Raises:
        InvalidInput: They cannot be read; the message names the option.
    """
    try:
        if source != "-":
            return Path(source).read_bytes()
        if sys.stdin is None:
            raise ValueError("standard input is closed")
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{option} {source}: {exc}") from exc


def lines_of(option: str, source: str) -> list[str]:
    """Return the lines of a file, or of standard input, without their ends.

    Raises:
        InvalidInput: They cannot be read, or are not UTF-8; the message names the option.
    """
    content = content_of(option, source)
    try:
        text = content.decode("utf-8-sig").removesuffix("\n")
        return [line.removesuffix("\r") for line in text.split("\n")] if content else []
    except ValueError as exc:
        raise InvalidInput(f"{option} {source}: {exc}") from exc


def key_reader(client: Client, model: str, table: str, version: int | None, label: str | None) -> KeyReader:
    """Return the function that reads one key of a served table.

    Raises:
        NotFound: The model has no such table.
    """
    infos = {info.name: info for info in client.model(model, version, label=label).tables}
    if table not in infos:
        raise NotFound(f"model {model} has no table {table!r}; it has: {', '.join(sorted(infos)) or 'none'}")
    if infos[table].key_type == "string":
        return str

    def number(text: str) -> int:
        try:
            return integer_of(text)
        except ValueError as exc:
            raise InvalidInput(f"key {text!r:.80} is no integer; table {table} is keyed by integers") from exc

    return number
