"""Vectors and ids that lie in single values of a store or a database: raw numbers, texts, JSON.

The first value says how they lie, where nobody does; all others must lie the same way. An error names the id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import MAX_BYTES_ROW, MAX_DIM, Float32Array, KeyType
from ringpull.ps.text.number_text import float_of

_RAW: Final = {name: np.dtype(name).newbyteorder("<") for name in ("float32", "float64", "float16")}
ENCODINGS: Final = (*_RAW, "text", "json")
"""Ways that a vector lies in one value: numbers of a type, little-endian; a text of numbers with commas, semicolons or
blanks between; a JSON list."""

_TEXT: Final = re.compile(rb"\s*[-+]?[0-9.][-+0-9.eE,;\s]*")
_BETWEEN: Final = re.compile(r"[,;\s]+")
INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,19}")
"""Text of an integer, and of none other: 007 is a name."""

_TINY: Final = 1e-12
_HUGE: Final = 1e12
"""Sizes between which vectors' numbers usually are."""
_SMALL: Final = 1e-3
"""The same of float16, where vectors are of some length."""
_MIN_SHARE: Final = 0.9
_FOREIGN: Final = {
    b"\x93NUMPY": "an array as numpy.save writes it; store array.tobytes()",
    b"\x80\x03": "a pickle, which is never read; store numpy.asarray(vector, 'float32').tobytes()",
    b"\x80\x04\x95": "a pickle, which is never read; store numpy.asarray(vector, 'float32').tobytes()",
    b"\x80\x05\x95": "a pickle, which is never read; store numpy.asarray(vector, 'float32').tobytes()",
}
"""First bytes of what is no numbers one after the other, though it may have as many bytes."""


class Vectors:
    """A reader of the vectors of one table, each in one value."""

    def __init__(self, where: str, encoding: str | None, first: object, shown: str) -> None:
        """Look at the first value.

        Args:
            where: What they lie in, for messages.
            encoding: How they lie; None: as the first looks.
            first: The first value.
            shown: Where that lies.

        Raises:
            InvalidInput: There is no such encoding, or the value is no vector, or it looks like another one's.
        """
        if encoding is not None and encoding not in ENCODINGS:
            raise InvalidInput(f"{where}: encoding is {encoding!r}; it must be one of {', '.join(ENCODINGS)}")
        self._where = where
        self.encoding = encoding or _looks_like(first)
        if encoding is None and self.encoding == "float32" and isinstance(first, bytes):
            _refuse_other(first, f"{where}: {shown}")
        self.dim = 0
        self.dim = len(self._read(first, shown))
        if not 0 < self.dim <= MAX_DIM:
            raise InvalidInput(f"{where}: {shown} has {self.dim} numbers; a vector has 1 to {MAX_DIM}")

    def read(self, cells: Sequence[object], shown: Callable[[int], str]) -> Float32Array:
        """Return the vectors of some values, float32 (n, dim).

        Args:
            cells: The values.
            shown: Function that says where one of them lies.

        Raises:
            InvalidInput: One is no vector of `dim` numbers.
        """
        kind = _RAW.get(self.encoding)
        if kind is not None:
            size = self.dim * kind.itemsize
            if all(type(cell) is bytes and len(cell) == size for cell in cells):
                joined = np.frombuffer(b"".join(cells), kind).reshape(len(cells), self.dim)  # type: ignore[arg-type]
                return narrowed(joined, self._where, shown)
        rows = np.empty((len(cells), self.dim), np.float64)
        for number, cell in enumerate(cells):
            vector = self._read(cell, shown(number))
            if len(vector) != self.dim:
                raise InvalidInput(
                    f"{self._where}: {shown(number)} has {len(vector)} numbers; the first has {self.dim}"
                )
            rows[number] = vector
        return narrowed(rows, self._where, shown)

    def _read(self, cell: object, shown: str) -> Sequence[float] | NDArray[Any]:
        """Return the numbers of one value."""
        kind = _RAW.get(self.encoding)
        what = f"{self._where}: {shown}"
        if cell is None:
            raise InvalidInput(f"{what} is null; leave such rows out")
        if not isinstance(cell, bytes | str):
            raise InvalidInput(f"{what} is {type(cell).__name__}; it must be a vector, encoded as {self.encoding}")
        if kind is not None:
            if isinstance(cell, str) or len(cell) % kind.itemsize:
                held = "a text" if isinstance(cell, str) else f"{len(cell)} bytes"
                raise InvalidInput(f"{what} is {held}, no numbers of {self.encoding}; say how it lies with encoding")
            return np.frombuffer(cell, kind)
        try:
            text = cell if isinstance(cell, str) else cell.decode()
            values = json.loads(text) if self.encoding == "json" else _numbers(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidInput(
                f"{what} is {cell[:40]!r}, no {self.encoding}: {exc}; rows of bytes or texts are named with value"
            ) from exc
        if not isinstance(values, list) or not all(type(each) in (int, float) for each in values):
            raise InvalidInput(f"{what} is {cell[:40]!r}; it must be a list of numbers")
        return values


def refuse_lists_of_integers(cells: Sequence[object], where: str) -> None:
    """Refuse the first values of a source, of which nobody said how they lie, where all are lists of integers.

    Raises:
        InvalidInput: They are: histories or ready lists, or vectors that happen to look so.
    """
    texts = [cell if isinstance(cell, str) else str(_plain(cell)) for cell in cells]
    lists = [[each for each in _BETWEEN.split(text.strip(" []")) if each] for text in texts]
    if lists and all(len(each) > 1 and all(map(INTEGER.fullmatch, each)) for each in lists):
        raise InvalidInput(
            f"{where}: values are lists of integers, such as {texts[0][:60]!r}; say value if they are rows of bytes,"
            " such as histories, or how they lie with encoding, text or json, if they are vectors"
        )


def narrowed(rows: NDArray[Any], where: str, shown: Callable[[int], str]) -> Float32Array:
    """Return numbers (n, dim) as float32.

    Raises:
        InvalidInput: One is beyond that.
    """
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(rows, np.float32)
    if rows.dtype.itemsize > narrow.dtype.itemsize:
        beyond = (np.isinf(narrow) & np.isfinite(rows)).any(axis=1)
        if beyond.any():
            raise InvalidInput(f"{where}: {shown(int(np.argmax(beyond)))} holds a number beyond float32")
    return narrow


def _numbers(text: str) -> list[float]:
    return [float_of(each) for each in _BETWEEN.split(text.strip()) if each]


def looks_like_vector(value: object) -> bool:
    """Return whether a value could be a vector by itself: bytes, or a text of several numbers or of JSON."""
    if isinstance(value, bytes):
        return True
    if not isinstance(value, str):
        return False
    plain = value.encode("utf-8", "replace")
    return value.lstrip().startswith("[") or (_TEXT.fullmatch(plain) is not None and len(_BETWEEN.split(value)) > 1)


def _looks_like(first: object) -> str:
    """Return how a value lies. Bytes that are all signs of numbers in text are hardly ever numbers of 4 bytes each."""
    if isinstance(first, str):
        return "json" if first.lstrip().startswith("[") else "text"
    if isinstance(first, bytes):
        if first.strip()[:1] == b"[" and first.strip()[-1:] == b"]" and _TEXT.fullmatch(first.strip()[1:-1] or b"0"):
            return "json"
        if _TEXT.fullmatch(first):
            return "text"
    return "float32"


def _refuse_other(value: bytes, what: str) -> None:
    """Refuse bytes, of which nobody said how they lie, that are hardly numbers of float32.

    Raises:
        InvalidInput: They are that.
    """
    for beginning, found in _FOREIGN.items():
        if value.startswith(beginning):
            raise InvalidInput(f"{what} is {found}; or say how it lies with encoding")
    other = "float64" if _is_float64(value) else "float16" if _is_float16(value) else None
    if other is not None:
        raise InvalidInput(
            f"{what} looks like numbers of {other}, which read as float32 are others; say how it lies with encoding,"
            f" {other} or float32"
        )


def _is_float64(value: bytes) -> bool:
    """Return whether bytes are usual numbers as float64, and unusual ones, huge or tiny, as float32."""

    def usual(kind: str) -> bool:
        size = np.abs(np.frombuffer(value, _RAW[kind]))
        return bool(((size == 0) | ((size > _TINY) & (size < _HUGE))).all())

    return len(value) % _RAW["float64"].itemsize == 0 and usual("float64") and not usual("float32")


def _is_float16(value: bytes) -> bool:
    """Return whether bytes are usual numbers as float16, and small ones as float32, whose lower halves are no accident.

    A number of float16 below 1 is, as the upper half of a float32, below 2**-8.
    """
    if not value or len(value) % _RAW["float32"].itemsize:  # what is no float32 at all is refused as that
        return False
    with np.errstate(invalid="ignore"):  # bytes may be a signalling NaN
        lower = np.abs(np.frombuffer(value, _RAW["float16"])[::2].astype(np.float32))
        usual = (lower == 0) | ((lower > _SMALL) & (lower < 1 / _SMALL))
        whole = np.abs(np.frombuffer(value, _RAW["float32"]))
        return bool(lower.any() and usual.mean() > _MIN_SHARE and np.median(whole) < 2**-8)


def bytes_of(cells: Sequence[object], where: str, shown: Callable[[int], str]) -> BytesRows:
    """Return values as rows of bytes; a text is its UTF-8.

    Args:
        cells: The values.
        where: What they lie in, for messages.
        shown: Function that says where one of them lies.

    Raises:
        InvalidInput: One is neither bytes nor text, or too long.
    """
    encoded = []
    for number, cell in enumerate(cells):
        try:
            content = cell.encode() if isinstance(cell, str) else cell
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"{where}: {shown(number)} is no text: {exc.reason}") from exc
        if not isinstance(content, bytes) or len(content) > MAX_BYTES_ROW:
            held = f"{len(content)} bytes" if isinstance(content, bytes) else f"{cell!r:.60}"
            raise InvalidInput(
                f"{where}: {shown(number)} is {held}; it must be bytes or text, of at most {MAX_BYTES_ROW} bytes"
            )
        encoded.append(content)
    return BytesRows.of(encoded)


class Ids:
    """A reader of the ids of one table, each in one value."""

    def __init__(self, where: str, id_type: str | None, first: Sequence[object]) -> None:
        """Look at the first ids.

        Args:
            where: What they lie in, for messages.
            id_type: Their type, a value of `KeyType`; None: integers, unless the first ones hold other texts.
            first: The first ids, at least one.
        """
        self._where = where
        texts = [each for each in map(_plain, first) if isinstance(each, str)]
        if id_type is not None:
            self.key_type = KeyType(id_type)
        elif texts and not all(map(INTEGER.fullmatch, texts)):
            self.key_type = KeyType.STRING
        else:
            large = max((_integer(each) or 0 for each in first), default=0) >= 2**63
            self.key_type = KeyType.UINT64 if large else KeyType.INT64
        self._as_text = self.key_type is KeyType.STRING

    def read(self, ids: Sequence[object], shown: Callable[[int], str]) -> NDArray[Any]:
        """Return ids as keys: int64, uint64, or objects of `str`.

        Raises:
            InvalidInput: One is none of this table's type.
        """
        if self._as_text:
            texts = [_plain(each) for each in ids]
            for number, each in enumerate(texts):
                if not isinstance(each, str):
                    raise self._refused(ids[number], shown(number), "a text")
            return np.array(texts, object)
        numbers = [_integer(each) for each in ids]
        low, high = (0, 2**64) if self.key_type is KeyType.UINT64 else (-(2**63), 2**63)
        for number, value in enumerate(numbers):
            if value is None or not low <= value < high:
                raise self._refused(ids[number], shown(number), f"an {self.key_type.value}")
        return np.array(numbers, self.key_type.value)

    def _refused(self, value: object, shown: str, kind: str) -> InvalidInput:
        if value is None:
            return InvalidInput(f"{self._where}: {shown} is null; leave such rows out")
        cure = "; if ids are texts, say so: id_type string" if isinstance(value, bytes | str) else ""
        return InvalidInput(f"{self._where}: {shown} is {value!r:.60}; ids are taken for {kind} each{cure}")


def _plain(value: object) -> object:
    """Return bytes as the text that they are, and anything else as it is."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _integer(value: object) -> int | None:
    """Return the integer that an id is; None: it is none."""
    if type(value) is int:
        return value
    text = _plain(value)
    return int(text) if isinstance(text, str) and INTEGER.fullmatch(text) else None
