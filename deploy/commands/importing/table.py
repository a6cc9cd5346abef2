"""`ringpull import table`: keys and vectors from files, databases and stores, as a version of tables alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import typer

from ringpull.deploy.commands.importing.options import OutDir, Version
from ringpull.deploy.commands.options import AsJson
from ringpull.deploy.folders import as_folder
from ringpull.deploy.view.console import print_json, print_written
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import ALL, NAME_PATTERN, VECTOR_TYPES, KeyType, OnUnavailable

if TYPE_CHECKING:
    from ringpull.inference.export.table_options import TableOptions
    from ringpull.inference.importers.tables.source import ReadOptions, TableSource
_STORES: Final = ("redis://", "rediss://", "unix://")
"""Beginnings of URLs whose last part names no table."""

_WRITTEN: Final = ("rows", "dim", "row_type")
"""Fields of a table that the report tells."""

_FIELDS: Final = {"id-type": "id_type", "table-name": "table"}
"""Fields of `ReadOptions` that are not called like their option."""

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TABLE=]SOURCE",
        help="Where each table is: a file, a folder or a pattern of part files, on this machine or at a URL; or the URL"
        " of a store. TABLE is its name in the version; by default that of the file.",
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name. Default: the name of OUT_DIR.")]
Id = Annotated[
    list[str] | None,
    typer.Option(metavar="[TABLE=]COLUMN", help="Column of the keys. Default: the one that can be it."),
]
Vector = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]COLUMN",
        help="Column of the vectors; repeated, or a pattern such as 'v*', columns of one number each. Default: the one,"
        " or those, that can be it.",
    ),
]
Value = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]COLUMN", help="Column of bytes or texts, such as JSON: a table of bytes, not of vectors."
    ),
]
IdType = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]TYPE",
        help="Type of the keys where the source does not say it, as texts don't: int64, uint64 or string. Default: as"
        " the first rows look.",
    ),
]
IdsFile = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]FILE",
        help="Keys of a tensor's rows, in their order: a line each, or .npy. Default: row numbers, or --id TENSOR.",
    ),
]
Query = Annotated[
    list[str] | None, typer.Option(metavar="[TABLE=]SELECT", help="Query of an SQLite file whose result is the table.")
]
TableName = Annotated[
    list[str] | None,
    typer.Option(metavar="[TABLE=]NAME", help="Table of an SQLite file. Default: the only one there is."),
]
RedisKeys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]PATTERN",
        help="Keys of Redis: a pattern whose * stands for the id, such as 'item:*', or the name of one hash of all"
        " rows.",
    ),
]
Encoding = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]ENCODING",
        help="How a vector lies in one value of Redis, SQLite or Parquet: float32, float64, float16, text or json."
        " Default: as the first looks.",
    ),
]
FormatName = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="[TABLE=]FORMAT", help="What a source is. Default: what it looks like."),
]
Header = Annotated[
    bool | None, typer.Option(help="Whether the first line of a text names its columns. Default: whether it looks so.")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Character between the columns of a text; 'tab' is one. Default: what fits.")
]
RowTypeName = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]TYPE",
        help="How rows are stored: float32, float16, bfloat16 or int8. Default: as the source's own numbers are.",
    ),
]
Default = Annotated[
    list[str] | None, typer.Option(metavar="[TABLE=]zeros|mean", help="Vector of unknown keys. Default: zeros.")
]
Copies = Annotated[
    list[str] | None, typer.Option(metavar="[TABLE=]N", help="Copies of a table over the shards, or all. Default: 1.")
]
Live = Annotated[
    list[str] | None, typer.Option(metavar="TABLE", help="Table whose rows may be pushed while it is served.")
]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TABLE=]error|default",
        help="Answer when no live shard has a key: fail, or use the vector of unknown keys. Default: error.",
    ),
]


def table(
    *,
    sources: Sources = None,
    out_dir: OutDir,
    version: Version = None,
    name: Name = None,
    id: Id = None,
    vector: Vector = None,
    value: Value = None,
    id_type: IdType = None,
    ids: IdsFile = None,
    query: Query = None,
    table_name: TableName = None,
    keys: RedisKeys = None,
    encoding: Encoding = None,
    format_: FormatName = None,
    header: Header = None,
    delimiter: Delimiter = None,
    row_type: RowTypeName = None,
    default: Default = None,
    replicas: Copies = None,
    on_unavailable: Policy = None,
    live: Live = None,
    as_json: AsJson = False,
) -> None:
    """Turn tables of keys and vectors, or keys and bytes, into a version that is served as it is.

    Parquet, NumPy, CSV and its kin, word2vec, safetensors, torch checkpoints, HPS, Redis and SQLite are known by what
    they look like. An import that was interrupted goes on where it was when it is called again. See `ringpull lookup`
    for how the rows are asked for then.
    """
    given = _given_sources(sources, out_dir)
    as_folder("OUT_DIR", out_dir)
    with needing("import", "ringpull import table"):
        from ringpull.inference.importers.tables.import_tables import import_tables
    from ringpull.inference.model.manifest import versions

    places = _places(given)
    tables = list(places)
    options = _table_options(tables, row_type, default, replicas, on_unavailable, live)
    texts = {
        "id": id,
        "value": value,
        "id-type": id_type,
        "ids": ids,
        "query": query,
        "table-name": table_name,
        "keys": keys,
        "encoding": encoding,
        "format": format_,
    }
    read_as = _read_options(tables, texts, vector, header, delimiter)
    with _opened(places, read_as) as opened:
        number = max(versions(out_dir), default=0) + 1 if version is None else version
        report = import_tables(opened, out_dir, number, name=name, options=options, quiet=as_json)
        described = {each: source.described for each, source in opened.items()}
    folder = out_dir / str(number)
    if not as_json:
        print_written("imported", folder)
        return
    written = [
        {"table": each.name, "read": described[each.name], **{field: getattr(each, field) for field in _WRITTEN}}
        for each in report.tables
    ]
    print_json({"model": report.manifest.model, "version": number, "folder": str(folder), "tables": written})


def _given_sources(sources: Sequence[str] | None, out_dir: Path) -> Sequence[str]:
    """Return the sources of a command line; one argument alone was taken for OUT_DIR, which is the last."""
    if sources:
        return sources
    raise typer.BadParameter(
        f"missing: {str(out_dir)!r} is all there is; give each SOURCE first, then OUT_DIR, the folder to write",
        param_hint="OUT_DIR",
    )


@contextmanager
def _opened(places: Mapping[str, str], read_as: Mapping[str, ReadOptions]) -> Iterator[dict[str, TableSource]]:
    """The sources of tables, which are closed at the end."""
    with needing("import", "ringpull import table"):
        from ringpull.inference.importers.tables.formats import open_source

    opened: dict[str, TableSource] = {}
    try:
        for each, where in places.items():
            opened[each] = open_source(where, read_as[each])
        yield opened
    finally:
        for source in opened.values():
            source.close()


def _table_options(
    tables: Sequence[str],
    row_type: Sequence[str] | None,
    default: Sequence[str] | None,
    replicas: Sequence[str] | None,
    on_unavailable: Sequence[str] | None,
    live: Sequence[str] | None,
) -> dict[str, TableOptions]:
    from ringpull.inference.export.table_options import TableOptions

    row_types = _one_of("row-type", row_type, tables, VECTOR_TYPES)
    defaults = _one_of("default", default, tables, ("zeros", "mean"))
    policies = _one_of("on-unavailable", on_unavailable, tables, tuple(OnUnavailable))
    copies = _one_each("replicas", replicas, tables)
    for each in live or ():
        if each not in tables:
            raise InvalidInput(f"--live {each}: there is no table {each}; there is {', '.join(tables)}")
    return {
        each: TableOptions(
            replicas=_replicas(copies.get(each, "1")),
            default=cast(Literal["zeros", "mean"] | None, defaults.get(each)),
            on_unavailable=cast(Literal["error", "default"], policies.get(each, "error")),
            row_type=row_types.get(each),
            live=each in (live or ()),
        )
        for each in tables
    }


def _read_options(
    tables: Sequence[str],
    texts: Mapping[str, Sequence[str] | None],
    vector: Sequence[str] | None,
    header: bool | None,
    delimiter: str | None,
) -> dict[str, ReadOptions]:
    """Return how each table is read, given what each option of one text a table says."""
    from ringpull.inference.importers.tables.source import ReadOptions

    given = {option: _one_each(option, values, tables) for option, values in texts.items()}
    _one_of("id-type", texts["id-type"], tables, tuple(KeyType))
    vectors = _by_table(vector, tables)
    return {
        each: ReadOptions(
            vector=tuple(vectors.get(each, ())),
            header=header,
            delimiter="\t" if delimiter in ("tab", "\\t") else delimiter,
            **{_FIELDS.get(option, option): values.get(each) for option, values in given.items()},
        )
        for each in tables
    }


def _places(sources: Sequence[str]) -> dict[str, str]:
    """Return where each table is, by its name."""
    places: dict[str, str] = {}
    for given in sources:
        name, equals, where = given.partition("=")
        # A path may have an equals sign, too, as those of Hive's partitions have.
        if not equals or NAME_PATTERN.fullmatch(name) is None or os.path.exists(given):
            where = given
            name = where.rstrip("/").rpartition("/")[2].partition(".")[0]
            if NAME_PATTERN.fullmatch(name) is None or where.startswith(_STORES):
                raise InvalidInput(f"SOURCE {given!r} gives the table no name; write TABLE={given}")
        if name in places:
            raise InvalidInput(f"there are two tables {name!r}: {places[name]} and {where}; write TABLE=SOURCE")
        places[name] = where
    return places


def _by_table(given: Sequence[str] | None, known: Sequence[str]) -> dict[str, list[str]]:
    """Return what was given for each table; what names none is for all, behind which comes what names one."""
    of_all: list[str] = []
    of_one: dict[str, list[str]] = {}
    for each in given or ():
        name, equals, rest = each.partition("=")
        if equals and name in known:
            of_one.setdefault(name, []).append(rest)
        else:
            of_all.append(each)
    return {name: of_one.get(name, of_all) for name in known if name in of_one or of_all}


def _one_each(option: str, given: Sequence[str] | None, known: Sequence[str]) -> dict[str, str]:
    """Return the one value that was given for each table."""
    values = {}
    for name, found in _by_table(given, known).items():
        if len(found) > 1:
            raise InvalidInput(f"--{option} is given twice for the table {name}: {', '.join(found)}")
        values[name] = found[0]
    return values


def _one_of(option: str, given: Sequence[str] | None, known: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    values = _one_each(option, given, known)
    for found in values.values():
        if found not in allowed:
            raise InvalidInput(
                f"--{option} {found!r}: it must be one of {', '.join(allowed)}, or TABLE= before it, TABLE one of"
                f" {', '.join(known)}"
            )
    return values


def _replicas(given: str) -> int | Literal["all"]:
    if given == ALL:
        return "all"
    if not given.isdecimal():
        raise InvalidInput(f"--replicas {given!r}: write a number, or all; or TABLE=NUMBER")
    return int(given)
