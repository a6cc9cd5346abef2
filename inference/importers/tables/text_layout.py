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

from ringpull.inference.importers.tables.columns import Column, Kind, is_called_as_keys
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import InvalidInput

DELIMITERS: Final = ("\t", ",", ";", "|", ":", " ")
SAMPLE_LINES: Final = 24
BRACKETS: Final = "[](){} \t"
"""Characters around a vector that is a text."""
SEPARATORS: Final = (",", ";", "|")
"""Characters between the numbers of a vector that is a text, beside blanks."""

# Digits are ASCII's, as of `ringpull.ps.text.number_text`: Arrow reads no others.
_NUMBER: Final = re.compile(
    r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE | re.ASCII
)
_PADDED: Final = re.compile(r"-?0\d+", re.ASCII)
"""Digits that are a name, not a number: 007."""
_INTEGER: Final = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_SHOWN: Final = re.compile(
    r"[\[\]()]|\.\.\.|\w+=(?:'[^']*'|[\w.<>]+)|\b(?:(?:np|numpy|torch)\.)?(?:array|tensor|Parameter|float\d*|bfloat16|double)\b"
)
"""What Python shows of arrays beside their numbers."""
_NO_NAME: Final = re.compile(r"[\W\d_]*|\\n|[<#]?n/?a>?|null|none|nil|missing", re.IGNORECASE)
"""Texts that stand for a number that is missing, and name no column."""
_PLAIN_KEY_NAME: Final = re.compile(r"(?:.*[^A-Za-z])?(?i:id|key)|.*[a-z](?:I[dD]|Key)")
"""Names of keys that no word ends as: user_id and userId, where `android` and `monkey` are words."""
_QUOTED_FIRST: Final = re.compile(r'"(?:[^"]|"")+"(?: |$)')
_COUNTS: Final = re.compile(r"(\d{1,18}) (\d{1,9})\s*", re.ASCII)


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
        return next(each.kind for each in self.columns if each.name == name) in (Kind.VECTOR, Kind.INTEGERS, Kind.OTHER)

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


def is_printed_vector(text: str) -> bool:
    """Return whether a text is a vector as Python shows arrays: shortened, or with the names of their types."""
    return "[" in text and numbers_in(_SHOWN.sub(" ", text)) is not None


def is_integer(text: str) -> bool:
    """Return whether a key is the plain text of an integer, and of none other: 7, not 007 or +7."""
    return _INTEGER.fullmatch(text) is not None


def _counts(lines: Sequence[str], options: ReadOptions) -> tuple[int, int] | None:
    """Return rows and dim from word2vec's first line, if this is one: the next has one field more than dim."""
    found = _COUNTS.fullmatch(lines[0])
    if found is None or len(lines) < 2 or options.header or options.delimiter not in (None, " ", "\t"):
        return None
    rows, dim = int(found[1]), int(found[2])
    if not dim or len(lines[1].split()) != dim + 1:
        return None
    # A row of a word and one number looks the same; but not where all others begin with words that are none.
    if dim == 1 and any(is_integer(line.split()[0]) for line in lines[1 : SAMPLE_LINES + 1] if line.split()):
        return None
    return rows, dim


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
    splits = [_Split(each, quoted=_may_quote(each, lines)) for each in delimiters]
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
    splits = {each: _Split(each, quoted=_may_quote(each, lines)) for each in delimiters}
    counts = {each: len(split.rows(lines[:1])[0]) for each, split in splits.items()}
    best = max(counts, key=lambda each: counts[each])
    if counts[best] < 2:
        raise InvalidInput(
            f"{where}: no columns can be seen in its first lines; say what is between them, with delimiter"
        )
    return splits[best]


def _may_quote(delimiter: str, lines: Sequence[str]) -> bool:
    """Return whether fields may be in quotes. Between blanks they are where every line begins so, as R writes texts:
    words of GloVe are quotes themselves."""
    return delimiter != " " or all(map(_QUOTED_FIRST.match, lines))


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
    if len(rows) < 2:
        return False
    if any(numbers_in(field) is not None for field in rows[0]):
        return _names_by_number(rows)
    return any(numbers_in(field) is not None for field in rows[1])


def _names_by_number(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line has names, some of which are numbers, as pandas calls columns of a matrix: id,0,1,2."""
    names = rows[0]
    numbers = [name for name in names if numbers_in(name) is not None]
    if len(numbers) == len(names) or not all(map(is_integer, numbers)) or len(set(numbers)) < len(numbers):
        return False
    words = [place for place, name in enumerate(names) if numbers_in(name) is None]
    unnamed = [place for place in words if _NO_NAME.fullmatch(names[place].strip())]
    if any(_is_number_at(row, place) for place in unnamed for row in rows[1:]):
        return False  # a number is missing there
    if len(numbers) > 1 and any(all(_is_number_at(row, place) for row in rows[1:]) for place in words):
        return True
    counted = [str(int(numbers[0]) + place) for place in range(len(numbers))]
    if numbers[0] not in ("0", "1") or numbers != counted:
        return False
    # One or two numbers may well be the row of a word, where a longer count is no row.
    called = is_called_as_keys if len(numbers) > 2 else _PLAIN_KEY_NAME.fullmatch
    return any(called(names[place]) for place in words)


def _is_number_at(row: Sequence[str], place: int) -> bool:
    return place < len(row) and _NUMBER.fullmatch(row[place].strip()) is not None


def _kind(values: Sequence[str]) -> Kind:
    if all(map(is_integer, values)):
        return Kind.INTEGER
    if any(map(_PADDED.fullmatch, values)):
        return Kind.TEXT
    if all(_NUMBER.fullmatch(value.strip()) for value in values):
        return Kind.NUMBER
    vectors = [numbers_in(value) for value in values]
    if all(vectors):
        # Lists of integers are histories, or decimals with a comma: a vector only where somebody says so.
        return Kind.INTEGERS if all(is_integer(number) for each in vectors for number in each or ()) else Kind.VECTOR
    return Kind.OTHER if any(vectors) else Kind.TEXT


def _fields(line: str, delimiter: str, quoted: bool) -> list[str]:
    if not quoted:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=False), [""])
    except csv.Error:  # a field beyond its limit
        return line.split(delimiter)
