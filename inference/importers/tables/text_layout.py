"""Layout of a text file of keys and vectors, found in its first lines: delimiter, header, columns and what is in them.

id,v0,v1          movieId,title,emb            858:0.1 0.2         3 2              king 0.1 0.2
12,0.1,0.2        1,Toy Story,"[0.1, 0.2]"     2:0.3 0.4           king 0.1 0.2     queen 0.3 0.4
                                                                   queen 0.3 0.4
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ringpull.inference.importers.tables.columns import Column, Kind
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import InvalidInput

DELIMITERS: Final = ("\t", ",", ";", "|", ":", " ")
SAMPLE_LINES: Final = 24
BRACKETS: Final = "[](){} \t"
"""Characters around a vector that is a text."""
SEPARATORS: Final = (",", ";", "|")
"""Characters between the numbers of a vector that is a text, beside blanks."""

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE)
_PADDED: Final = re.compile(r"-?0\d+")
"""Digits that are a name, not a number: 007."""
_INTEGER: Final = re.compile(r"-?(0|[1-9]\d*)")
_COUNTS: Final = re.compile(r"(\d{1,18}) (\d{1,9})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """How lines of a text are to be read."""

    delimiter: str
    quoted: bool
    """Whether fields may be in double quotes."""
    skip_lines: int
    """Lines before the first row: a header, or the counts of word2vec."""
    first_line: str
    """The first of these; empty if there is none."""
    columns: tuple[Column, ...]
    trailing: bool
    """Whether every line ends with a delimiter, as the first word2vec wrote them."""
    counts: tuple[int, int] | None
    """Rows and dim, where the first line says them."""
    sample: tuple[tuple[str, ...], ...]
    """Fields of the first rows."""

    @property
    def named(self) -> bool:
        """Whether the first line names the columns."""
        return self.skip_lines > 0 and self.counts is None

    def values(self, name: str) -> list[str]:
        """Return what the first rows have in a column."""
        place = [column.name for column in self.columns].index(name)
        return [row[place] for row in self.sample]


def find_layout(lines: Sequence[str], options: ReadOptions, where: str) -> TextLayout:
    """Return the layout of a text.

    Args:
        lines: Its first lines, whole, without their ends and without empty ones.
        options: What the caller says of it.
        where: The file, for messages.

    Raises:
        InvalidInput: It has no rows, or no columns can be seen.
    """
    if not lines:
        raise InvalidInput(f"{where}: has no rows")
    counts = _counts(lines, options)
    body = lines[1:] if counts else lines
    delimiter = options.delimiter or (" " if counts and "\t" not in body[0] else _delimiter(body, where))
    quoted = delimiter != " "
    trailing = all(line.endswith(delimiter) for line in body) and delimiter == " "
    rows = [_fields(line.removesuffix(delimiter) if trailing else line, delimiter, quoted) for line in body]
    named = not counts and (_is_header(rows, options) if options.header is None else options.header)
    names = rows[0] if named else [str(place) for place in range(len(rows[0]))]
    sample = [row for row in rows[1 if named else 0 :] if len(row) == len(names)]
    if not sample:
        raise InvalidInput(f"{where}: has no rows of {len(names)} columns below its first line")
    columns = []
    for place, name in enumerate(names):
        kind = _kind([row[place] for row in sample])
        columns.append(Column(name, kind, "texts, some of numbers" if kind is Kind.OTHER else kind.value))
    return TextLayout(
        delimiter=delimiter,
        quoted=quoted,
        skip_lines=1 if named or counts else 0,
        first_line=lines[0] if named or counts else "",
        columns=tuple(columns),
        trailing=trailing,
        counts=counts,
        sample=tuple(tuple(row) for row in sample),
    )


def numbers_in(text: str) -> list[str] | None:
    """Return the numbers of a vector that is a text; None: it is none."""
    inner = text.strip(BRACKETS)
    for separator in SEPARATORS:
        inner = inner.replace(separator, " ")
    parts = inner.split()
    return parts if parts and all(map(_NUMBER.fullmatch, parts)) else None


def is_integer(text: str) -> bool:
    """Return whether a key is the plain text of an integer, and of none other: 7, not 007 or +7."""
    return _INTEGER.fullmatch(text) is not None


def _counts(lines: Sequence[str], options: ReadOptions) -> tuple[int, int] | None:
    """Return rows and dim from word2vec's first line, if this is one: the next has one field more than dim."""
    found = _COUNTS.fullmatch(lines[0])
    if found is None or len(lines) < 2 or options.header or options.delimiter not in (None, " ", "\t"):
        return None
    rows, dim = int(found[1]), int(found[2])
    return (rows, dim) if dim > 1 and len(lines[1].split()) == dim + 1 else None


def _delimiter(lines: Sequence[str], where: str) -> str:
    """Return the delimiter that makes keys and vectors of the lines; else the first that makes columns."""
    body = lines[1:] or lines
    split = {}
    seen: dict[str, int] = {}
    for delimiter in DELIMITERS:
        rows = [_fields(line.removesuffix(" "), delimiter, delimiter != " ") for line in (lines[0], *body)]
        seen[delimiter] = len(rows[0])
        if len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            split[delimiter] = rows[1:]
    for delimiter, rows in split.items():
        if all(_is_row(row) for row in rows):
            return delimiter
    for delimiter in split:
        return delimiter
    if max(seen.values()) > 1:  # and some line has fewer: whoever reads it says which
        return max(seen, key=lambda delimiter: seen[delimiter])
    raise InvalidInput(f"{where}: no columns can be seen in its first lines; say what is between them, with delimiter")


def _is_row(fields: Sequence[str]) -> bool:
    """Whether fields may be a key and numbers or a vector."""
    return bool(fields[0].strip()) and all(numbers_in(field) is not None for field in fields[1:])


def _is_header(rows: Sequence[Sequence[str]], options: ReadOptions) -> bool:
    """Whether the first line names the columns: it holds no number, where the next one does."""
    asked = {options.id, options.value, *options.vector} - {None}
    if asked & set(rows[0]):
        return True
    if len(rows) < 2 or any(numbers_in(field) is not None for field in rows[0]):
        return False
    return any(numbers_in(field) is not None for field in rows[1])


def _kind(values: Sequence[str]) -> Kind:
    if all(map(is_integer, values)):
        return Kind.INTEGER
    if any(map(_PADDED.fullmatch, values)):
        return Kind.TEXT
    if all(_NUMBER.fullmatch(value.strip()) for value in values):
        return Kind.NUMBER
    vectors = [numbers_in(value) is not None for value in values]
    if all(vectors):
        return Kind.VECTOR
    return Kind.OTHER if any(vectors) else Kind.TEXT


def _fields(line: str, delimiter: str, quoted: bool) -> list[str]:
    if not quoted:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=False), [""])
    except csv.Error:  # a field beyond its limit
        return line.split(delimiter)
