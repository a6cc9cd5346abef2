"""Ids of a table's rows in a file of their own, in the order of the rows: a line each, or a `.npy` of one dimension."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.tables.cells import INTEGER
from ringpull.inference.importers.tables.files import find_files, storage_errors
from ringpull.ps.errors import CorruptData, InvalidInput, NoText
from ringpull.ps.hashing import check_texts

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
"""Ends of lines: a text may hold others that Unicode knows."""
_HEAD_BYTES: Final = 4096


def first_line(where: str) -> str:
    """Return the first line of a text, or its beginning."""
    head = find_files(where)[0].head(_HEAD_BYTES)
    return _LINE_END.split(head.decode("utf-8-sig", "replace"), maxsplit=1)[0]


def read_ids_file(where: str, column: str | None = None) -> NDArray[Any]:
    """Return the ids of a file: int64, uint64, or objects of `str`; lines are integers where all are.

    Args:
        column: What the first line of a text says, before the ids; None: it is an id.

    Raises:
        InvalidInput: There is no such file, the first line says something else, or an id is empty or no text.
        CorruptData: It is no UTF-8, or no such array.
    """
    files = find_files(where)
    if len(files) != 1:
        raise InvalidInput(f"{where}: {len(files)} files; ids are in one")
    with files[0].open() as file, storage_errors(where):
        if where.endswith(".npy"):
            return _of_array(where, file)
        try:
            lines = _LINE_END.split(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as exc:
            raise CorruptData(f"{where}: no UTF-8 at byte {exc.start}") from exc
    if not lines[-1]:
        lines.pop()
    if "" in lines:
        raise InvalidInput(f"{where}: line {lines.index('') + 1} is empty; there must be one id a line, one line a row")
    if column is not None:
        if lines[:1] != [column]:
            raise InvalidInput(f"{where}: there is no column {column!r}; its only one is called {lines[:1]}")
        del lines[0]
    if all(map(INTEGER.fullmatch, lines)):
        for kind in (np.int64, np.uint64):
            try:
                return np.array(list(map(int, lines)), kind)
            except OverflowError:
                continue
    return np.array(lines, object)


def _of_array(where: str, file: Any) -> NDArray[Any]:
    try:
        ids = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as exc:
        raise CorruptData(f"{where}: no array of ids: {exc}") from exc
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise InvalidInput(f"{where}: holds {ids.dtype} {list(ids.shape)}; it must be integers or strings (rows,)")
    if ids.dtype.kind == "U":
        try:
            check_texts("ids", ids.tolist())
        except NoText as exc:
            raise InvalidInput(f"{where}: row {exc.place}: the id {exc.why}") from exc
        return ids.astype(object)
    return ids.astype(np.uint64 if ids.dtype == np.uint64 else np.int64)
