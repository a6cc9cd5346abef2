"""Text: CSV and its kin, word2vec's and GloVe's; as it is or compressed, one file or many part files.

Kernels of our own, or Arrow's reader, make rows of it, block by block; a line is at most a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from ringpull.inference.importers.tables import text_blocks
from ringpull.inference.importers.tables.arrow_columns import At, bytes_of, keys_of, numbers_of
from ringpull.inference.importers.tables.columns import (
    Chosen,
    Kind,
    choose,
    is_called_as_vectors,
    refuse_vectors_as_bytes,
)
from ringpull.inference.importers.tables.files import (
    SourceFile,
    find_files,
    fingerprint_of,
    uncompressed_name,
)
from ringpull.inference.importers.tables.parquet import arrow_errors
from ringpull.inference.importers.tables.source import PieceKeys, ReadOptions, TablePiece, skipped
from ringpull.inference.importers.tables.text_blocks import Block, blocks_of
from ringpull.inference.importers.tables.text_layout import (
    BRACKETS,
    SAMPLE_LINES,
    SEPARATORS,
    TextLayout,
    find_layout,
    is_integer,
    is_printed_vector,
    numbers_in,
)
from ringpull.inference.importers.tables.text_rows import RowParser, nearest_float32
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import MAX_DIM, Float32Array, KeyType, RowType

_FIRST_BYTES: Final = 1 << 16
_ROW: Final = re.compile(r"Row #(\d+)")
_LEADING_ZEROS: Final = "^-?0[0-9]"
_MAX_INT64: Final = (1 << 63) - 1
_MAX_SPACED: Final = 10_000
"""Most words with blanks in a file."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Text files of one table, in the order of their names, all laid out as the first."""

    where: str
    files: tuple[SourceFile, ...]
    layout: TextLayout
    chosen: Chosen
    dim: int
    key_type: KeyType

    @property
    def described(self) -> str:
        """What was taken for what."""
        files = f"{len(self.files)} files" if len(self.files) > 1 else "1 file"
        delimiter = {"\t": "tabs", " ": "blanks"}.get(self.layout.delimiter, repr(self.layout.delimiter))
        first = "word2vec's first line" if self.layout.counts else "a header" if self.layout.named else "no header"
        dim = f" of {self.dim} numbers" if self.dim else ""
        return (
            f"{self.where}: text, {files}, columns between {delimiter}, {first}; {self.chosen.described}{dim}; keys are"
            f" {'strings' if self.key_type is KeyType.STRING else 'integers'}"
        )

    @property
    def rows(self) -> int | None:
        """What word2vec's first line says; else it is not known."""
        return self.layout.counts[0] if self.layout.counts else None

    @property
    def row_type(self) -> RowType:
        """BYTES, or float32."""
        return RowType.BYTES if self.dim == 0 else RowType.FLOAT32

    @property
    def fingerprint(self) -> str:
        """Of the files and of how they are read."""
        return fingerprint_of(self.files, self.chosen, replace(self.layout, sample=()), self.key_type)

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        """Yield the rows of all files, one after the other."""
        return skipped(self._pieces(), start)

    def close(self) -> None:
        """Do nothing: a file is open only while it is read."""

    def _pieces(self) -> Iterator[TablePiece]:
        total_bytes = sum(file.size for file in self.files)
        done_bytes = rows = 0
        for file in self.files:
            for piece, read_bytes in self._of_file(file):
                rows += len(piece)
                yield replace_share(piece, (done_bytes + read_bytes) / max(1, total_bytes))
            done_bytes += file.size
        if self.layout.counts is not None and rows != self.layout.counts[0]:
            raise CorruptData(
                f"{self.where}: the first line says {self.layout.counts[0]:,} rows; it has {rows:,}, and is truncated"
            )

    def _of_file(self, file: SourceFile) -> Iterator[tuple[TablePiece, int]]:
        layout = self.layout
        self._check_first_line(file)
        line = 1 + layout.skip_lines
        spaced = _SpacedWords(file.path, self.dim)
        place = f"{file.name}: {'row' if layout.line_ends else 'line'}"
        parser = RowParser(layout, self.chosen, self.dim, self.key_type)
        with _text(file) as (text, raw), closing(parser.parsed(blocks_of(file, text, raw, layout))) as parsed:
            for block, rows in parsed:
                if rows is not None:
                    yield TablePiece(*rows, place, line), block.read_bytes
                    line += len(rows[1])
                    continue
                for piece in self._by_arrow(file, block, place, line, spaced):
                    yield piece, block.read_bytes
                line += spaced.rows_of_block
        if spaced.lines:
            yield spaced.piece(f"{file.name}: word with blanks, number"), file.size

    def _by_arrow(
        self, file: SourceFile, block: Block, place: str, line: int, spaced: _SpacedWords
    ) -> Iterator[TablePiece]:
        """Yield the rows of a block as Arrow reads them, lines of words with blanks left out."""
        spaced.begin_block()
        if not block.data.tobytes().strip():
            return
        with _text_errors(file, line):
            table = pa_csv.read_csv(pa.BufferReader(block.data), *self._options(spaced, len(block.data)))
        spaced.rows_of_block += table.num_rows
        [batch] = table.combine_chunks().to_batches() or [None]
        if batch is None:
            return
        done = 0
        for before, number in enumerate([*spaced.numbers, spaced.rows_of_block + 1]):
            count = number - 1 - before - done
            if count:
                yield self._piece(batch.slice(done, count), place, line + done + before)
            done += count

    def _check_first_line(self, file: SourceFile) -> None:
        if file == self.files[0] or not self.layout.skip_lines:
            return
        own = first_lines(file)[:1]
        if own != [self.layout.first_line]:
            raise InvalidInput(f"{file.path}: its first line is not that of {self.files[0].name}")

    def _options(self, spaced: _SpacedWords, size: int) -> tuple[Any, Any, Any]:
        """Return how Arrow is to read and parse the text, and to convert its columns."""
        layout, chosen = self.layout, self.chosen
        names = [column.name for column in layout.columns]
        types = {chosen.id: pa.string()}
        if chosen.value is not None:
            types[chosen.value] = pa.string()
        for name in chosen.vector:
            types[name] = pa.string() if layout.is_vector(name) else pa.float32()
        return (
            pa_csv.ReadOptions(
                block_size=max(size, 1 << 10),
                column_names=[*names, ""] if layout.trailing else names,
                use_threads=False,  # so that errors say the row
            ),
            pa_csv.ParseOptions(
                delimiter=layout.delimiter,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.line_ends,
                invalid_row_handler=spaced.take if self._has_words else None,
            ),
            pa_csv.ConvertOptions(
                column_types=types, include_columns=list(chosen.names), null_values=[], strings_can_be_null=False
            ),
        )

    @property
    def _has_words(self) -> bool:
        """Whether lines are a word and its numbers with blanks between, so that more blanks are the word's."""
        columns = [column.name for column in self.layout.columns]
        plain = self.layout.delimiter == " " and not self.layout.quoted
        return plain and self.key_type is KeyType.STRING and [*self.chosen.names] == columns

    def _piece(self, batch: pa.RecordBatch, place: str, line: int) -> TablePiece:
        chosen = self.chosen

        def at(row: int) -> str:
            return f"{place} {line + row}"

        keys = self._keys(batch.column(chosen.id), at)
        rows: Any
        if chosen.value is not None:
            rows = bytes_of(batch.column(chosen.value), chosen.value, at)
        elif len(chosen.vector) == 1 and pa.types.is_string(batch.column(chosen.vector[0]).type):
            rows = parse_vectors(batch.column(chosen.vector[0]), self.dim, chosen.vector[0], at)
        else:
            rows = numbers_of([batch.column(name) for name in chosen.vector], chosen.vector, at)
        return TablePiece(keys, rows, place, line)

    def _keys(self, texts: pa.StringArray, at: At) -> PieceKeys:
        if self.key_type is not KeyType.STRING:
            return parse_integers(texts, self.key_type, at)
        empty = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
        if empty.any():
            raise InvalidInput(f"{at(int(np.argmax(empty)))}: the key is empty")
        return keys_of(texts, self.chosen.id, at)


def open_table(where: str, options: ReadOptions) -> TextTable:
    """Open text files; see `open_source`."""
    files = tuple(file for file in find_files(where) if file.size)
    if not files:
        raise InvalidInput(f"{where}: its files are empty")
    path = files[0].path
    _check_alike(where, files)
    layout = find_layout(first_lines(files[0]), options, path)
    # Without names, keys are in the first column: so all write them who write no names.
    chosen = choose(layout.columns, options if layout.named or options.id else replace(options, id="0"), path)
    _check_keys(layout, chosen, options, path)
    _check_rows(layout, chosen, options, path)
    dim = 0 if chosen.value is not None else _dim(layout, chosen, path)
    return TextTable(where, files, layout, chosen, dim, _key_type(layout.values(chosen.id), options))


def _check_alike(where: str, files: Sequence[SourceFile]) -> None:
    """Refuse a folder of several things, such as data and a description of it.

    Raises:
        InvalidInput: It has files of several suffixes.
    """
    suffixes = {PurePosixPath(uncompressed_name(file.name)).suffix for file in files}
    if len(suffixes) > 1:
        names = ", ".join(file.name for file in files[:8])
        raise InvalidInput(
            f"{where}: its files are of several kinds: {names}{', ...' if len(files) > 8 else ''}; name the one that is"
            " the table, or a pattern that fits its parts, such as 'FOLDER/part-*'"
        )


class _SpacedWords:
    """Lines of words with blanks in them, as GloVe's largest file has some dozens: kept until the others are read."""

    def __init__(self, where: str, dim: int) -> None:
        self.lines: list[str] = []
        self.numbers: list[int] = []
        """Numbers of those in the block that is read, from 1."""
        self.rows_of_block = 0
        """Rows of that block, these included."""
        self._where = where
        self._dim = dim

    def begin_block(self) -> None:
        """Note that another block is read."""
        self.numbers, self.rows_of_block = [], 0

    def take(self, row: Any) -> Literal["skip", "error"]:
        """Keep a line of more columns than all others, as Arrow's reader asks; it refuses others."""
        if row.actual_columns <= row.expected_columns or len(self.lines) == _MAX_SPACED:
            return "error"
        self.lines.append(row.text)
        self.numbers.append(row.number)
        self.rows_of_block += 1
        return "skip"

    def piece(self, place: str) -> TablePiece:
        """Return all these lines.

        Raises:
            InvalidInput: One does not end with the numbers of a vector.
        """
        words: list[str] = []
        rows: list[str] = []
        for number, line in enumerate(self.lines, 1):
            word, *texts = line.removesuffix(" ").rsplit(" ", self._dim)
            numbers = [numbers_in(text) == [text] for text in (*word.split(" ")[-1:], *texts)]
            if len(texts) != self._dim or numbers != [False, *[True] * self._dim]:
                raise InvalidInput(
                    f"{self._where}: {place} {number}: {line[:80]!r} is no word and {self._dim} numbers, between blanks"
                )
            words.append(word)
            rows += texts
        return TablePiece(np.array(words, object), nearest_float32(rows).reshape(len(words), self._dim), place, 1)


def _check_keys(layout: TextLayout, chosen: Chosen, options: ReadOptions, path: str) -> None:
    """Refuse keys that nobody would ask for: 824.0, or the first of several columns of a text without names.

    Raises:
        InvalidInput: They are that.
    """
    column = next(each for each in layout.columns if each.name == chosen.id)
    if options.id_type is None and column.kind in (Kind.NUMBER, Kind.VECTOR, Kind.INTEGERS):
        raise InvalidInput(
            f"{path}: keys (column {chosen.id}) are numbers but no plain integers, such as"
            f" {layout.values(chosen.id)[0][:80]!r}; write them as integers, or take them as texts, with id_type string"
        )
    said = options.id is not None or options.vector or options.value is not None
    if not (said or layout.named or column.kind is Kind.INTEGER) and len(chosen.names) < len(layout.columns):
        found = ", ".join(f"{each.name} ({each.type})" for each in layout.columns[:40])
        raise InvalidInput(
            f"{path}: say which columns hold keys and rows, with id and vector or value; it has no header, and its"
            f" columns are {found}"
        )


def _check_rows(layout: TextLayout, chosen: Chosen, options: ReadOptions, path: str) -> None:
    """Refuse texts that are hardly rows of bytes, and lists of integers that nobody called a vector: they are
    histories, or decimals with a comma.

    Raises:
        InvalidInput: They are that.
    """
    kinds = {column.name: column.kind for column in layout.columns}
    printed = [] if options.value is not None or chosen.value is None else layout.values(chosen.value)
    if printed and all(map(is_printed_vector, printed)):
        raise InvalidInput(
            f"{path}: column {chosen.value} has vectors as Python shows arrays, such as {printed[0][:80]!r}, which may"
            " be shortened; write them whole, array.tolist(), or say value if they are rows of bytes"
        )
    refuse_vectors_as_bytes(chosen, layout.columns, options, path)
    name = chosen.vector[0] if chosen.vector and not options.vector else ""
    if kinds.get(name) is Kind.INTEGERS and not is_called_as_vectors(name):
        raise InvalidInput(
            f"{path}: column {name} has lists of integers, such as {layout.values(name)[0][:80]!r}; say what they are,"
            " with vector, or with value if they are rows of bytes, such as histories; write decimals with a point"
        )


def _dim(layout: TextLayout, chosen: Chosen, path: str) -> int:
    """Return how many numbers a vector has.

    Raises:
        InvalidInput: The first rows have something else there.
    """
    kinds = {column.name: column.kind for column in layout.columns}
    many = len(chosen.vector) > 1
    for name in chosen.vector:
        if kinds[name] is Kind.TEXT or (many and kinds[name] in (Kind.VECTOR, Kind.INTEGERS, Kind.OTHER)):
            raise InvalidInput(f"{path}: column {name} has {layout.values(name)[0][:80]!r}, which is no number")
    dim = len(chosen.vector)
    if layout.is_vector(chosen.vector[0]):
        found = (numbers_in(value) for value in layout.values(chosen.vector[0]))
        dim = next(len(numbers) for numbers in found if numbers)
    if dim > MAX_DIM:
        raise InvalidInput(f"{path}: vectors have {dim} numbers; they may have {MAX_DIM}")
    return dim


def first_lines(file: SourceFile) -> list[str]:
    """Return some of the first lines of a file that are not empty: some dozens at least, or a block of them.

    Raises:
        InvalidInput: The first is longer than a block, or they are no UTF-8.
        CorruptData: It is compressed, and damaged.
    """
    with arrow_errors(file.path), _text(file) as (text, _):
        head = b""
        for size in (_FIRST_BYTES, text_blocks.BLOCK_BYTES):
            head += text.read(size - len(head))
            whole = len(head) < size
            if head.count(b"\n") > SAMPLE_LINES or whole:
                break
    lines = re.split(rb"\r?\n|\r", head)
    if not whole:
        lines = lines[:-1]
    if not lines:
        raise InvalidInput(f"{file.path}: its first line is longer than {text_blocks.BLOCK_BYTES:,} bytes")
    try:
        decoded = [
            line.decode("utf-8-sig" if not place else "utf-8", "strict" if place < SAMPLE_LINES else "replace")
            for place, line in enumerate(lines)
        ]
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{file.path}: is no UTF-8 text: {exc.reason}; write it as UTF-8") from exc
    return [line for line in decoded if line.strip()]


def parse_integers(texts: pa.StringArray, key_type: KeyType, at: At) -> PieceKeys:
    """Return keys that are texts of integers as int64 or uint64; one beyond its type is taken bit for bit.

    Raises:
        InvalidInput: One is none.
    """
    own, other = (pa.uint64(), pa.int64()) if key_type is KeyType.UINT64 else (pa.int64(), pa.uint64())
    with suppress(pa.ArrowInvalid):
        if not pc.any(pc.match_substring_regex(texts, pattern=_LEADING_ZEROS)).as_py():
            return np.array(pc.cast(texts, own).to_numpy(zero_copy_only=False))
    keys = np.empty(len(texts), np.uint64)
    for row, text in enumerate(texts.to_pylist()):
        if not is_integer(text) or not -_MAX_INT64 - 1 <= int(text) <= 2 * _MAX_INT64 + 1:
            raise InvalidInput(
                f"{at(row)}: the key {text!r} is no integer of 64 bits, as those of the first lines are; if keys are"
                " strings, say so with id_type"
            )
        keys[row] = int(text) % (1 << 64)
    return keys if other == pa.int64() else keys.view(np.int64)


def parse_vectors(texts: pa.StringArray, dim: int, column: str, at: At) -> Float32Array:
    """Return vectors that are texts, each of `dim` numbers between blanks or separators, float32 (n, dim).

    Raises:
        InvalidInput: One has another length, or something that is no number.
    """
    inner = pc.utf8_trim(texts, characters=BRACKETS)
    rows = _evenly_separated(inner, dim)
    if rows is None:  # numpy sets numbers below each other, with blanks, and in several lines
        rows = _evenly_separated(pc.replace_substring_regex(inner, r"\s+", " "), dim)
    if rows is not None:
        return rows
    numbers: list[str] = []
    for row, text in enumerate(texts.to_pylist()):
        found = numbers_in(text)
        if found is None:
            raise InvalidInput(f"{at(row)}: the vector (column {column}) is {text[:80]!r}, which is not of numbers")
        if len(found) != dim:
            raise InvalidInput(
                f"{at(row)}: the vector (column {column}) has {len(found)} numbers; the first one has {dim}"
            )
        numbers += found
    return nearest_float32(numbers).reshape(len(texts), dim)


def _evenly_separated(texts: pa.StringArray, dim: int) -> Float32Array | None:
    """Return vectors whose numbers have one separator between them, each a line of a text by itself; None: they have
    not, or they are none."""
    first = texts[0].as_py()
    separator = next((each for each in SEPARATORS if each in first), " ")
    lines = pc.binary_join_element_wise(texts, "", "\n")
    names = [str(place) for place in range(dim)]
    _, _, data = lines.buffers()
    offsets = np.frombuffer(lines.buffers()[1], np.int32, len(lines) + 1, 4 * lines.offset)
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))),
            pa_csv.ReadOptions(column_names=names, use_threads=False),
            pa_csv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float32()), null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(texts):
        return None
    rows = np.empty((len(texts), dim), np.float32)
    for place, numbers in enumerate(table.columns):
        rows[:, place] = numbers.to_numpy()
    return rows


def replace_share(piece: TablePiece, share: float) -> TablePiece:
    """Return the piece with how much of its source was read."""
    return TablePiece(piece.keys, piece.rows, piece.place, piece.first, min(1.0, share))


def _key_type(values: list[str], options: ReadOptions) -> KeyType:
    if options.id_type is not None:
        return KeyType(options.id_type)
    if not all(map(is_integer, values)):
        return KeyType.STRING
    return KeyType.UINT64 if any(int(value) > _MAX_INT64 for value in values) else KeyType.INT64


@contextmanager
def _text(file: SourceFile) -> Iterator[tuple[Any, Any]]:
    """A file opened as text, and as it lies there: the latter knows how much of it was read."""
    compression = file.compression()
    with ExitStack() as opened:
        with arrow_errors(file.path):
            raw = pa.OSFile(str(file.local)) if file.local is not None else pa.PythonFile(file.open(), mode="r")
            opened.enter_context(raw)
            text = opened.enter_context(pa.CompressedInputStream(raw, compression)) if compression else raw
        yield text, raw


@contextmanager
def _text_errors(file: SourceFile, line: int) -> Iterator[None]:
    """Translate Arrow's errors of parsing lines, the first of which has this number."""
    with arrow_errors(file.path):
        try:
            yield
        except pa.ArrowInvalid as exc:
            why = str(exc).splitlines()[0]
            if len(why) > 300:
                why = f"{why[:300]}..."
            why = _ROW.sub(lambda found: f"line {int(found[1]) + line - 1}", why)
            raise InvalidInput(f"{file.path}: {why}") from exc
