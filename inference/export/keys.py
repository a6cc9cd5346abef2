"""Keys, by which the rows of a table are found: their numbers, or the raw ids that the exporter gives.

Raw ids are a list with one id per row, or a `Vocabulary`, whose `ids[i]` is row i + 1: row 0 stands for unknown ids,
so it is not keyed but becomes the table's default vector. Prepared ids are what the head will look up: int64, the
bits of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.plain_values import as_array, says_array
from ringpull.inference.schema.transforms import Vocabulary, keys_of_values
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.spec import KeyType

Keys = Sequence[int] | Sequence[str] | NDArray[Any] | Vocabulary
"""Raw ids of a table's rows."""

CHUNK: Final = 1 << 20
"""Ids that are looked at at a time: of tables of billions, no second copy is made."""


@dataclass(frozen=True, slots=True, eq=False)
class RowKeys:
    """The keys of one table's rows."""

    table: str
    rows: int
    key_type: KeyType
    ids: NDArray[Any] | None
    """Raw ids of the keyed rows, integers or strings, as given where that was an array; None: keyed by row number."""
    vocabulary: Vocabulary | None = None
    unknown_is_row_0: bool = True
    """Whether unknown ids of a Vocabulary give what the model has for them, row 0; else a default is chosen."""

    @classmethod
    def read(cls, table: str, rows: int, given: Keys | None, *, unknown_is_row_0: bool = True) -> RowKeys:
        """Read what the exporter gave for a table of `rows` rows.

        Raises:
            ExportError: There is not one id per row, or they are neither all integers nor all strings.
        """
        if given is None:
            return cls(table, rows, KeyType.INT64, None)
        vocabulary = given if isinstance(given, Vocabulary) else None
        ids = read_ids(table, given.ids if isinstance(given, Vocabulary) else given)
        expected = rows - 1 if vocabulary else rows
        if len(ids) != expected:
            what = f"a Vocabulary of {len(ids)} ids (row 0 is for unknown ones)" if vocabulary else f"{len(ids)} ids"
            raise ExportError(f"keys of table {table}: {what} for {rows} rows; there must be {expected}")
        return cls(table, rows, key_type_of(ids), ids, vocabulary, unknown_is_row_0)

    @property
    def raw(self) -> bool:
        """Whether raw ids are looked up, not row numbers."""
        return self.ids is not None

    @property
    def first(self) -> int:
        """The first row that has a key."""
        return 0 if self.vocabulary is None else 1

    @property
    def first_equal(self) -> int:
        """The first row that serving gives as the model does: `first`, or 0 where the default vector is row 0."""
        return 0 if self.unknown_is_row_0 else self.first

    @property
    def described(self) -> str:
        """Description of the keys, for people."""
        if self.ids is None:
            return "row number"
        kind = "strings" if self.key_type is KeyType.STRING else "integers"
        return f"vocabulary of {kind}" if self.vocabulary is not None else f"raw ids, {kind}"

    def of(self, begin: int, end: int) -> NDArray[Any]:
        """Return the keys of rows [begin, end), from `first` on, as `TableWriter.add` takes them."""
        if self.ids is None:
            return np.arange(begin, end, dtype=np.int64)
        return self.ids[begin - self.first : end - self.first]

    def prepared_ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the prepared ids that find rows (n,), each of which has a key."""
        if self.ids is None:
            return rows
        return keys_of_values(self.ids[rows - self.first]).view(np.int64)

    def unkeyed_id(self) -> int:
        """Return a prepared id that finds no row of a table of raw ids. Beside the ids it takes a few MiB."""
        assert self.ids is not None
        if self.key_type is KeyType.STRING:
            free = next(text for text in map("\0unkeyed {}".format, count()) if not _holds(self.ids, text))
            return int(keys_of_values(np.array([free], object)).view(np.int64)[0])
        signed = self.ids.view(np.int64)
        return next(found for last in count(-1, -CHUNK) if (found := _free_below(signed, last)) is not None)


def _holds(ids: NDArray[Any], text: str) -> bool:
    return any(bool((chunk == text).any()) for chunk in _chunks(ids))


def _free_below(ids: NDArray[np.int64], last: int) -> int | None:
    """Return the largest number that is no id among `CHUNK` of them, `last` and those before it; None: all are ids."""
    taken = np.zeros(CHUNK, bool)
    for chunk in _chunks(ids):
        places = chunk[(chunk <= last) & (chunk > last - CHUNK)]
        taken[np.subtract(last, places, out=places)] = True
    return None if taken.all() else last - int(np.argmin(taken))


def _chunks(ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (ids[begin : begin + CHUNK] for begin in range(0, len(ids), CHUNK))


def key_type_of(ids: NDArray[Any]) -> KeyType:
    """Return the type of ids that were read."""
    if ids.dtype.kind in "UO":
        return KeyType.STRING
    return KeyType.UINT64 if ids.dtype == np.uint64 else KeyType.INT64


def read_ids(table: str, given: Any) -> NDArray[Any]:
    """Return raw ids as int64, uint64, or strings: objects, or numpy's own. An array of these is not copied.

    Raises:
        ExportError: They are neither all integers nor all strings, or not (rows,).
    """
    if says_array(type(given)):
        try:
            array = as_array(f"keys of table {table}", given)
        except InvalidInput as exc:
            raise ExportError(str(exc)) from exc
    elif isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ExportError(
            f"keys of table {table}: are {type(given).__name__}; they must be a list of integers or strings"
        )
    else:
        array = _array_of_list(table, given if isinstance(given, list | tuple) else list(given))
    if array.ndim != 1:
        raise ExportError(f"keys of table {table}: have the shape {array.shape}; they must be (rows,)")
    if array.dtype.kind == "U" or (array.dtype == object and all(isinstance(each, str) for each in array)):
        return array
    if array.dtype == object:
        array = _array_of_list(table, array)
    if array.dtype.kind in "iu":
        return array if array.dtype in (np.int64, np.uint64) else array.astype(np.int64)
    raise ExportError(f"keys of table {table}: are of type {array.dtype}; they must be integers or strings")


def _array_of_list(table: str, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    kinds = set(map(type, values))
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return np.array(values, object)
    if not all(issubclass(kind, int | np.integer) and not issubclass(kind, bool) for kind in kinds):
        raise ExportError(f"keys of table {table}: must be all integers or all strings")
    for kind in (np.int64, np.uint64):
        try:
            if kind is np.int64 or min(values) >= 0:  # numpy 1 would wrap what is negative
                return np.array(values, kind)
        except OverflowError:
            continue
    raise ExportError(f"keys of table {table}: must all be int64, or all uint64; some are of neither")
