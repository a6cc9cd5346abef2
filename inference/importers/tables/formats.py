"""Formats of tables: which reader opens a source, by its URL, its name, or its first bytes.

A reader is the function `open_table(where, options)` of the module of its format's name beside this one; it is imported
when it is needed, as each has packages of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from ringpull.extras import needing
from ringpull.inference.importers.tables.files import compression_of, find_files, folder_names, uncompressed_name
from ringpull.inference.importers.tables.source import ReadOptions, TableSource
from ringpull.ps.errors import InvalidInput

Reader = Callable[[str, ReadOptions], TableSource]

_HEAD_BYTES: Final = 4096
_ZIP: Final = b"PK\x03\x04"
_WORD2VEC_HEADER: Final = re.compile(rb"\d+ \d+\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format of tables."""

    module: str
    """Module of `ringpull.inference.importers.tables` with its reader."""
    suffixes: tuple[str, ...] = ()
    """Ends of the names of its files, before a .gz and its like."""
    schemes: tuple[str, ...] = ()
    """Beginnings of its URLs, before the colon."""
    holds: tuple[str, ...] = ()
    """Files whose presence in a folder, all of them, means that the folder is one."""
    magic: tuple[bytes, ...] = ()
    """First bytes of its files, which go before suffixes."""


FORMATS: Final = {
    "parquet": Format(module="parquet", suffixes=(".parquet", ".pq"), magic=(b"PAR1",)),
    "npy": Format(module="numpy_files", suffixes=(".npy", ".npz"), magic=(b"\x93NUMPY",)),
    "text": Format(module="text", suffixes=(".csv", ".tsv", ".txt", ".vec", ".glove")),
    "word2vec": Format(module="word2vec"),  # in binary; as text it is "text"
    "hps": Format(module="hps", holds=("key", "emb_vector")),
    "safetensors": Format(module="safetensors_file", suffixes=(".safetensors", ".safetensors.index.json")),
    "torch": Format(module="torch_file", suffixes=(".pt", ".pth", ".ckpt")),
    "dcp": Format(module="dcp", holds=(".metadata",)),
    "redis": Format(module="redis_store", schemes=("redis", "rediss", "unix")),
    "sqlite": Format(module="sqlite", suffixes=(".db", ".sqlite", ".sqlite3"), magic=(b"SQLite format 3\x00",)),
}


_OPTIONS_OF: Final = {
    "header": ("text",),
    "delimiter": ("text",),
    "ids": ("safetensors", "torch", "dcp"),
    "query": ("sqlite",),
    "table": ("sqlite",),
    "keys": ("redis",),
    "encoding": ("redis", "sqlite", "parquet"),
}
"""Options that some formats have only."""

_AS_PARQUET: Final = "write it as Parquet, with pyarrow.parquet.write_table"
_OTHERS: Final = {
    b"ARROW1": f"Arrow's own (Feather): {_AS_PARQUET}",
    b"\xff\xff\xff\xff": f"a stream of Arrow: {_AS_PARQUET}",
    b"ORC": f"ORC: {_AS_PARQUET}",
    b"Obj\x01": "Avro: write it as Parquet",
    b"\x89HDF": "HDF5: save each matrix with numpy.save",
    b"\x80": "a pickle, which may run code when it is read: save its arrays with numpy.savez",
    b"\xfd7zXZ": "compressed by xz: uncompress it",
}
"""First bytes of files that are known and not read: what they are, and what to do."""
_JSON: Final = re.compile(rb'\s*\[?\s*\{\s*"')
_LAKES: Final = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
"""What lies in a folder of Parquet files of which some may be out of date, and what keeps it."""


def open_source(where: str | Path, options: ReadOptions | None = None) -> TableSource:
    """Open a source of one table.

    Args:
        where: A file, a folder or a pattern of part files, on this machine or at a URL; or the URL of a store.
        options: What is known of it.

    Raises:
        InvalidInput: There is nothing there, or nothing that is known how to read, or its columns can't be told apart
            (the message lists them), or the options do not fit it.
        CorruptData: It is damaged, or not what it looks like.
        NotFound, Unavailable: A storage has no such thing, or does not answer.
        MissingExtra: The package that reads it is not installed.
    """
    chosen = (options or ReadOptions()).check_alone()
    place = str(where)
    name = chosen.format if chosen.format is not None else format_of(place)
    if name not in FORMATS:
        raise InvalidInput(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    for option, formats in _OPTIONS_OF.items():
        if getattr(chosen, option) is not None and name not in formats:
            raise InvalidInput(f"{place}: is read as {name}; {option} is for {', '.join(formats)}")
    with needing("import", f"a source of the format {name}"):
        module = import_module(f"ringpull.inference.importers.tables.{FORMATS[name].module}")
    return cast(Reader, module.open_table)(place, chosen)


def format_of(where: str) -> str:
    """Return the format of a source: by its URL, by what its folder holds, or by the first of its files.

    Raises:
        InvalidInput: It looks like none.
        Unavailable: The storage does not answer now.
    """
    scheme = where.partition("://")[0] if "://" in where else ""
    for name, each in FORMATS.items():
        if scheme in each.schemes:
            return name
    held = folder_names(where)
    for mark, lake in _LAKES.items():
        if mark in held:  # whose files hold rows that were deleted, too
            raise InvalidInput(
                f"{where}: is a table of {lake}, whose log says which of its files still count; write its rows as"
                f" Parquet, or name the files that count by a pattern, such as '{where}/part-*.parquet'"
            )
    for name, each in FORMATS.items():
        if each.holds and held.issuperset(each.holds):
            return name
    file = find_files(where)[0]
    head = file.head(_HEAD_BYTES)
    plain = uncompressed_name(file.name)
    for name, each in FORMATS.items():
        if any(head.startswith(magic) for magic in each.magic):
            return name
    counted = _WORD2VEC_HEADER.match(head) is not None and not _is_text(head)
    for name, each in FORMATS.items():
        if plain.endswith(each.suffixes or ("\x00",)):
            return "word2vec" if counted and name == "text" else name
    if head.startswith(_ZIP):  # so torch saves, and numpy, whose names end in .npz
        return "torch"
    if counted:
        return "word2vec"
    if _JSON.match(head):
        raise InvalidInput(f"{where}: {file.name} is JSON; write it as Parquet or CSV, with pandas.read_json")
    if _is_text(head) or compression_of(head) is not None:
        return "text"
    for magic, other in _OTHERS.items():
        if head.startswith(magic):
            raise InvalidInput(f"{where}: {file.name} is {other}")
    raise InvalidInput(
        f"{where}: {file.name} looks like no table that is known; say what it is with format, one of"
        f" {', '.join(FORMATS)}"
    )


def _is_text(head: bytes) -> bool:
    """Whether bytes are the beginning of a UTF-8 text, of which the last sign may be cut."""
    if b"\x00" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return exc.start >= len(head) - 3 and exc.reason == "unexpected end of data"
    return bool(head)
