"""`ringpull inspect`: content and integrity of an export on disk. Needs no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringpull.deploy.commands.options import AllRows, AsJson
from ringpull.deploy.view.console import out, print_json
from ringpull.extras import needing
from ringpull.ps.errors import CorruptData, InvalidInput

if TYPE_CHECKING:
    from ringpull.deploy.view.folder_summary import TableSummary, VersionSummary


def inspect(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A model's folder, one of its versions, or one table; or its URL.")
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Read all rows and check their checksums too.")] = False,
    every: AllRows = False,
    as_json: AsJson = False,
) -> None:
    """Show an exported model, version or table: spec, rows, bytes, slot ranges, checksums.

    Headers, indexes, positions, schemas and dense programs are always checked; of tables at a URL, indexes and
    positions only with --verify. Exit status 1 when anything is damaged.
    """
    with needing("export", "ringpull inspect"):
        from ringpull.deploy.view.folder_summary import read_table, read_version
    from ringpull.inference.model.manifest import FILE_NAME
    from ringpull.inference.model.model_dir import complete_versions, version_at
    from ringpull.ps.store.format import HEADER
    from ringpull.ps.transfer.remote import RemoteFolder, as_path, is_url

    folder = as_path(folder)
    files = RemoteFolder(folder)
    if not is_url(folder) and not Path(folder).is_dir():
        raise InvalidInput(f"{folder} is not a folder")
    tables: list[TableSummary]
    if files.exists(HEADER):
        tables = [read_table(folder, verify=verify)]
        plain: Any = tables[0].plain()
        shown = _show_tables(tables, every=every)
    elif files.exists(FILE_NAME):
        summary = read_version(folder, verify=verify)
        tables, plain = list(summary.tables), summary.plain()
        shown = _show_version(summary, every=every)
    elif numbers := sorted(complete_versions(folder)):
        summaries = [read_version(version_at(folder, number), verify=verify) for number in numbers]
        tables = [table for summary in summaries for table in summary.tables]
        plain = {"versions": [summary.plain() for summary in summaries]}
        shown = [part for summary in summaries for part in _show_version(summary, every=every)]
    else:
        raise InvalidInput(f"{folder} is neither a model's folder with complete versions, nor a version, nor a table")
    if as_json:
        print_json(plain)
    else:
        out.print(*shown, sep="\n")
    if damaged := [table for table in tables if table.bad_blocks]:
        names = ", ".join(f"{table.folder} ({len(table.bad_blocks)} blocks)" for table in damaged)
        raise CorruptData(f"rows are damaged in {names}")


def _show_version(summary: VersionSummary, *, every: bool) -> list[Any]:
    from ringpull.deploy.view.inspect_view import degrade_table, lookups_table, version_headline

    steps = [degrade_table(summary)] if summary.manifest.degrade else []
    lookups = [] if summary.manifest.tables_alone else [lookups_table(summary, every=every)]
    return [version_headline(summary), *_show_tables(list(summary.tables), summary, every=every), *lookups, *steps]


def _show_tables(tables: list[TableSummary], summary: VersionSummary | None = None, *, every: bool) -> list[Any]:
    from ringpull.deploy.view.inspect_view import bad_blocks_table, files_table

    damaged = [table for table in tables if table.bad_blocks]
    return [files_table(tables, summary, every=every), *([bad_blocks_table(damaged)] if damaged else [])]
