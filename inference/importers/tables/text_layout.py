"""Layout of a text file of keys and vectors, found in its first lines: delimiter, header, columns and what is in them.

id,v0,v1          movieId,title,emb            858:0.1 0.2         3 2              king 0.1 0.2
12,0.1,0.2        1,Toy Story,"[0.1, 0.2]"     2:0.3 0.4           king 0.1 0.2     queen 0.3 0.4
                                                                   queen 0.3 0.4
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    line_ends: bool
    """Whether fields in quotes may have line ends in them, as numpy writes long vectors."""
    sample: tuple[tuple[str, ...], ...]
    """Fields of the first rows."""

    @property
    def named(self) -> bool:
        """Whether the first line names the columns."""
        return self.skip_lines > 0 and self.counts is None

    def is_vector(self, name: str) -> bool:
        """Return whether the texts of a column are whole vectors, should they be numbers at all."""
        return next(each.kind for each in self.columns if each.name == name) in (Kind.VECTOR, Kind.OTHER)

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
    body = (lines[1:] if counts else lines)[:SAMPLE_LINES]
    if counts:
        split = _Split("\t" if "\t" in body[0] else " ", quoted=False)
    else:
        given = (options.delimiter,) if options.delimiter is not None else DELIMITERS
        split = _found_split(body, given) or _found_folded(lines, given) or _likely(body, given, where)
    delimiter, quoted = split.delimiter, split.quoted
    trailing = all(line.endswith(delimiter) for line in body) and delimiter == " "
    rows = split.rows(lines if split.line_ends else body)
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
        line_ends=split.line_ends,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """How lines become fields."""

    delimiter: str = field(kw_only=False)
    quoted: bool
    line_ends: bool = False

    def rows(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the fields of each of the first rows that are whole."""
        if not self.line_ends:
            return [_fields(_unended(line, self.delimiter), self.delimiter, self.quoted) for line in lines]
        rows = []
        begun: list[str] = []
        for line in lines:
            begun.append(line)
            if sum(part.count('"') for part in begun) % 2 == 0:
                rows.append(_fields("\n".join(begun), self.delimiter, quoted=True))
                begun = []
            if len(rows) == SAMPLE_LINES:
                break
        return rows


def _found_split(lines: Sequence[str], delimiters: Sequence[str]) -> _Split | None:
    """Return the split that makes keys and vectors of the lines; else the first that makes as many columns of each.

    Quotes count but where they are in the way: a word may be one.
    """
    splits = [_Split(each, quoted=each != " ") for each in delimiters]
    splits += [_Split("\t", quoted=False)] if "\t" in delimiters else []
    return _even(splits, lines)


def _found_folded(lines: Sequence[str], delimiters: Sequence[str]) -> _Split | None:
    """Return the same where line ends in quotes are none; None: no lines have that."""
    if not any(line.count('"') % 2 for line in lines):
        return None
    return _even([_Split(each, quoted=True, line_ends=True) for each in delimiters if each != " "], lines)


def _even(splits: Sequence[_Split], lines: Sequence[str]) -> _Split | None:
    even = {}
    for split in splits:
        rows = split.rows(lines)
        if rows and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            even[split] = rows[1:] or rows
    fitting = (split for split, rows in even.items() if all(_is_row(row) for row in rows))
    return next(fitting, next(iter(even), None))


def _likely(lines: Sequence[str], delimiters: Sequence[str], where: str) -> _Split:
    """Return the split of most columns, where some line has fewer: whoever reads it says which."""
    counts = {each: len(_Split(each, quoted=each != " ").rows(lines[:1])[0]) for each in delimiters}
    best = max(counts, key=lambda each: counts[each])
    if counts[best] < 2:
        raise InvalidInput(
            f"{where}: no columns can be seen in its first lines; say what is between them, with delimiter"
        )
    return _Split(best, quoted=best != " ")


def _unended(line: str, delimiter: str) -> str:
    """Return a line without the blank at its end, which word2vec's first version wrote."""
    return line.removesuffix(" ") if delimiter == " " else line


def _is_row(fields: Sequence[str]) -> bool:
    """Whether fields may be a key and numbers or a vector."""
    return bool(fields[0].strip()) and all(numbers_in(field) is not None for field in fields[1:])


def _is_header(rows: Sequence[Sequence[str]], options: ReadOptions) -> bool:
    """Whether the first line names the columns: it holds no number, where the next one does."""
    if len(rows) > 1 and not rows[0][0] and rows[1][0]:  # so pandas names the numbers of rows that it writes along
        return True
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
