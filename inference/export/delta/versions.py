"""A delta of two versions that are there: whoever exported them, and whatever runs their programs.

Nothing is traced and nothing is loaded, so it needs neither torch nor onnxruntime: tables are compared, and the small
files of the newer version are copied. What is served is that version, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ringpull.inference.export.delta.checks import as_deployed, chain_after, check_room, check_schema, check_tables
from ringpull.inference.export.delta.differences import DeltaWriter, find_differences
from ringpull.inference.export.report import TableDelta
from ringpull.inference.export.table_progress import table_progress
from ringpull.inference.export.version_folder import new_version, written_beside
from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.manifest import Manifest, time_of_now
from ringpull.inference.model.manifest_chain import check_stamp
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import RANGE, version_number


@dataclass(frozen=True, slots=True)
class DeltaReport:
    """A delta that was written."""

    path: Path
    manifest: Manifest
    tables: tuple[TableDelta, ...]


def delta_of(
    old: Path, new: Path, out: Path, *, includes: Mapping[int, int] | None = None, console: Console | None = None
) -> DeltaReport:
    """Write what changed from one version to another as a version that follows the first.

    Args:
        old: Folder of the version that is followed; it may be a delta.
        new: Folder of the version that is to be served.
        out: Folder to write, MODEL/VERSION beside `old`.
        includes: See `ringpull.export_delta`.
        console: Where progress is shown, if anywhere.

    Raises:
        InvalidInput: A folder is no version's, or `out` is not beside `old` or no number above its.
        ExportError: Schema, tables or dims are not the same, or `out` exists or cannot be written.
        CorruptData, OtherContent: A version, or one that it is made of, is damaged or another one.
    """
    if includes is not None:
        check_stamp(includes)
    before, after = VersionOnDisk.load(old.absolute()), VersionOnDisk.load(new.absolute())
    target = _target(out.absolute(), before, after)
    check_room(before)
    schema = after.manifest.schema
    check_tables(before, [entry.spec for entry in after.manifest.tables])
    check_schema(before, None if schema is None else schema.read(after.folder))
    with written_beside(target) as hidden:
        entries, deltas = [], []
        for entry in after.manifest.tables:
            name = entry.spec.name
            there = before.manifest.table(name)
            spec = as_deployed(entry.spec, there.spec)
            with (
                DeltaWriter(hidden, replace(there, live=there.live or entry.live), spec) as delta,
                table_progress(console, f"{name}, compared", entry.rows * entry.row_bytes) as progress,
            ):
                find_differences(before.open_table(name), after.open_table(name), delta, progress)
                table, counts = delta.finish()
            entries.append(table)
            deltas.append(counts)
        for file in (schema, after.manifest.program, after.manifest.samples, *after.manifest.program_data):
            if file is not None:
                file.verify(after.folder)
                (hidden / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(after.folder / file.path, hidden / file.path)
        manifest = replace(
            after.manifest,
            version=int(target.name),
            created=time_of_now(),
            tables=tuple(entries),
            chain=chain_after(before, includes),
        )
        manifest.save(hidden)
    return DeltaReport(target, VersionOnDisk.load(target).manifest, tuple(deltas))


def _target(out: Path, before: VersionOnDisk, after: VersionOnDisk) -> Path:
    """Return the folder to write, which must be where the version that is followed will be looked for."""
    number = version_number(out.name)
    if not number:
        raise InvalidInput(f"OUT is {out}; its name must be the version's number, {RANGE}")
    if out.parent.resolve() != before.folder.parent.resolve():
        raise InvalidInput(f"OUT is {out}; it must lie beside {before.folder}, which it is a delta of")
    if number <= before.manifest.version:
        raise InvalidInput(f"OUT is version {number}; it must be above {before.manifest.version}, which it follows")
    if after.manifest.model != before.manifest.model:
        raise InvalidInput(f"{after.folder} is a version of {after.manifest.model}, not of {before.manifest.model}")
    return new_version(out.parent, before.manifest.model, number)
