"""JSON as it comes from others: read whole, or, where it is long, in pieces between which other threads run.

`json` holds Python's lock for as long as it reads: 64 MB take a second, in which a head's event loop answers nobody,
in whatever thread that is. So of a long text so many values are read at a time as a piece of it holds, and then the
lock is given away. What is returned, and what is refused, is that of `json.loads`: of a name that is there twice the
last value, and NaN, Infinity and -Infinity are numbers. Only a number of 64 Ki characters is refused, too. One string
is read at once, however long it is: 60 MB take 0.1 to 0.2 s.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, Final

from ringpull.ps.errors import InvalidInput

WHOLE_CHARS: Final = 1 << 20
"""Longest text that is read whole: 10 ms at most. In pieces it takes some seven times as long."""
PIECE_CHARS: Final = 64 << 10
"""Characters of a longer one that are read at a time: 1 ms."""
PAUSE_S: Final = 1e-4
"""Time for which the lock is given away between two pieces: without it whoever waits for it wakes up too late."""
MAX_DEPTH: Final = 100
"""Lists and objects within each other, each longer than a piece."""
MARGIN: Final = 16
"""Characters that must follow a value within its piece, or it may go on: the 1 of 1e+5 is a number, too."""

MAX_NUMBER_CHARS: Final = 64 << 10
"""Characters of a number; one with as many is refused."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_COMMA: Final = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?[0-9][-+.eE0-9]*")
_ENDINGS: Final = (",", "],", "},")
"""What may lie between two values of the same list: a comma, which may follow a list or an object."""


def parse_json(text: str | bytes) -> Any:
    """Return what a text says in JSON. Bytes are UTF-8; the mark that some editors put before it is left out.

    Raises:
        InvalidInput: It is no JSON, not UTF-8, nested too deep, or has a number that is too long: an integer of
            thousands of digits, or any of `MAX_NUMBER_CHARS`.
    """
    plain = text.removeprefix("\ufeff") if isinstance(text, str) else _decoded(text)
    try:
        return json.loads(plain) if len(plain) <= WHOLE_CHARS else _Pieces(plain).read()
    except RecursionError as exc:
        raise InvalidInput("not JSON: it is nested too deep") from exc
    except JSONDecodeError as exc:
        raise InvalidInput(f"not JSON: {exc}") from exc
    except ValueError as exc:  # of `int`
        raise InvalidInput("not JSON: a number has thousands of digits") from exc


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput(
            f"not UTF-8: byte 0x{exc.object[exc.start]:02x} at {exc.start}; JSON is written in UTF-8"
        ) from exc


class _Pieces:
    """One long text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
        self._endings = list(_ENDINGS)
        """Endings in the order in which they are tried: that which fitted last is the first."""

    def read(self) -> Any:
        """Return what it says."""
        value, at = self._value(self._after_space(0), 0)
        at = self._after_space(at)
        if at < len(self._text):
            raise JSONDecodeError("Extra data", self._text, at)
        return value

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        """Return the value that begins at a place, and where it ends."""
        text = self._text
        piece = text[at : at + PIECE_CHARS]
        found = self._attempt(piece, 0)
        if found is not None and (found[1] + MARGIN <= len(piece) or at + found[1] == len(text)):
            return found[0], at + found[1]
        if depth == MAX_DEPTH:
            raise RecursionError
        if piece[:1] == "[":
            values: list[Any] = []
            return values, self._members(at + 1, values, depth + 1)
        if piece[:1] == "{":
            members: dict[str, Any] = {}
            return members, self._members(at + 1, members, depth + 1)
        number = _NUMBER.match(text, at, at + MAX_NUMBER_CHARS)
        if number is not None and number.end() == at + MAX_NUMBER_CHARS:
            raise ValueError("a number is too long")
        try:
            return self._scan(text, at)  # a long string, what ends the text, or nothing that is JSON
        except StopIteration:
            raise JSONDecodeError("Expecting value", text, at) from None

    def _members(self, at: int, found: list[Any] | dict[str, Any], depth: int) -> int:
        """Read the members of a list or an object, and return where it ends."""
        text, closing = self._text, "]" if isinstance(found, list) else "}"
        at = self._after_space(at)
        if text[at : at + 1] == closing:
            return at + 1
        while True:
            at = self._after_space(self._runs(at, found))
            if isinstance(found, list):
                value, at = self._value(at, depth)
                found.append(value)
            else:
                name, at = self._name(at)
                found[name], at = self._value(at, depth)
            at = self._after_space(at)
            mark = text[at : at + 1]
            if mark == closing:
                return at + 1
            if mark != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, at)
            at = self._after_space(at + 1)

    def _name(self, at: int) -> tuple[str, int]:
        """Return the name of a member, and where its value begins."""
        text = self._text
        if text[at : at + 1] != '"':
            raise JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        name, at = self._scan(text, at)
        at = self._after_space(at)
        if text[at : at + 1] != ":":
            raise JSONDecodeError("Expecting ':' delimiter", text, at)
        return name, self._after_space(at + 1)

    def _runs(self, at: int, found: list[Any] | dict[str, Any]) -> int:
        """Read members as long as a piece holds whole ones and the comma after them; return where the next begins."""
        while True:
            time.sleep(PAUSE_S)
            piece = self._text[at : at + PIECE_CHARS]
            end = self._run(piece, found) or self._singles(piece, found)
            if not end:
                return at
            at += end

    def _run(self, piece: str, found: list[Any] | dict[str, Any]) -> int:
        """Read members up to the last comma of a piece that may part two; return the end of that; 0: it parts none."""
        opening, closing = "[]" if isinstance(found, list) else "{}"
        for ending in self._endings:
            end = piece.rfind(ending) + len(ending) - 1
            # What is cut elsewhere than between two members of this very list has its brackets in no balance.
            run = self._attempt(f"{opening}{piece[:end]}{closing}", 0) if end > 0 else None
            if run is None or run[1] != end + 2 or not run[0]:
                continue
            if isinstance(found, list):
                found += run[0]
            else:
                found.update(run[0])
            self._endings.remove(ending)
            self._endings.insert(0, ending)
            return end + 1
        return 0

    def _singles(self, piece: str, found: list[Any] | dict[str, Any]) -> int:
        """Read members one by one, as in a list of texts with commas; return the end of the last comma, or 0."""
        at = 0
        while True:
            begin, name = at, ""
            if isinstance(found, dict):
                key = self._attempt(piece, at) if piece[at : at + 1] == '"' else None
                colon = None if key is None else _COLON.match(piece, key[1])
                if key is None or colon is None:
                    return at
                name, begin = key[0], colon.end()
            value = self._attempt(piece, begin)
            comma = None if value is None else _COMMA.match(piece, value[1])
            if value is None or comma is None:
                return at
            if isinstance(found, list):
                found.append(value[0])
            else:
                found[name] = value[0]
            at = comma.end()

    def _attempt(self, text: str, at: int) -> tuple[Any, int] | None:
        """Return the value that begins at a place, and where it ends; None: it has no end here, or is no JSON."""
        try:
            return self._scan(text, at)
        except (StopIteration, ValueError):
            return None

    def _after_space(self, at: int) -> int:
        while True:
            match = _SPACE.match(self._text, at, at + PIECE_CHARS)
            assert match is not None
            if match.end() < at + PIECE_CHARS:
                return match.end()
            at = match.end()
            time.sleep(PAUSE_S)
