"""Compaction: a version as it is served now, deltas, pushed rows and all, written as a full version that follows it.

It is in the ordinary format and stands by itself: every table is whole. Tables that changed are streamed from the
shards; the others, schema and program are linked. What it surely has of the pushed rows is said by `includes`, asked of
all shards before the first row is read: once it is served, those need not lie over it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ringpull.inference.export.compaction.checks import with_samples
from ringpull.inference.export.compaction.linked import has_table, link_file, link_table
from ringpull.inference.export.compaction.scratch import scratch_in
from ringpull.inference.export.delta.spool import Spool
from ringpull.inference.export.version_folder import new_version
from ringpull.inference.model.manifest import (
    Chain,
    FileEntry,
    Follows,
    Manifest,
    TableEntry,
    TableKind,
    check_identity,
    time_of_now,
)
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store.raw_rows import RawRows, flat
from ringpull.router.control.chains import chain_length
from ringpull.router.control.deployment_spec import PlacedVersion

_SPOOL: Final = "rows"

Progress = Callable[[str, int, int], None]
"""Function that is told what came: of which table, rows and bytes."""


class Rows(Protocol):
    """Newest rows of the version; `ringpull.router.newest.NewestRows` reads them from the shards."""

    def stamps(self, table: str) -> Mapping[int, int]:
        """Return the stamp of each shard, all pushes up to which are in what is read from now on.

        Shards look at the files of this table's pushed rows first: one that was not asked for is read unlooked.
        """
        ...

    def blocks(self, spec: TableSpec) -> Iterator[tuple[UInt64Array, RawRows]]:
        """Yield all rows of a table in ring order."""
        ...


@dataclass(frozen=True, slots=True)
class Compacted:
    """A version that was written."""

    path: Path
    manifest: Manifest
    streamed: tuple[str, ...]
    """Tables that were streamed; the others are the same files as before."""


def has_changes(placed: PlacedVersion) -> bool:
    """Return whether a full version would have anything else than this one has: it has deltas, or takes pushes.

    Deltas of the program alone are some, too: without them its tables would be linked, and its chain is gone.
    """
    return chain_length(placed) > 0 or any(map(_changes(placed), placed.tables))


def compact(
    placed: PlacedVersion,
    files: Path,
    folder: Path,
    rows: Rows,
    *,
    number: Callable[[], int],
    still_live: Callable[[], None] = lambda: None,
    progress: Progress = lambda table, rows, bytes: None,
) -> Compacted:
    """Write the next full version of one that is served.

    Args:
        placed: The version, as it is served.
        files: Its folder, or a copy of the small files in it.
        folder: Model's folder to write in.
        number: Returns the number of the new version; asked for in the end, when all rows are there.
        still_live: Raises if another version is live by now.

    Raises:
        InvalidInput: `files` is no version's folder, or the model is being compacted already.
        OtherContent: It is another version's.
        CorruptData: A file is damaged.
        Unavailable: Shards have not answered for long.
        ExportError: It cannot be written, or there is such a version.
    """
    before = Manifest.load(files, check_name=False)
    check_identity(before, placed.identity, files)
    changes = _changes(placed)
    with scratch_in(folder) as scratch:
        version_dir = scratch.path
        live = [entry.spec.name for entry in before.tables if entry.live or entry.spec.name in placed.live_tables]
        includes = _includes(rows, live)
        entries, streamed = [], []
        for entry in before.tables:
            name = entry.spec.name
            where = placed.tables[name].folder
            if changes(name) or not has_table(where, placed.tables[name].identity):
                entries.append(_streamed(version_dir, entry, rows, progress))
                streamed.append(name)
            else:
                link_table(Path(where), version_dir / _path(name))
                entries.append(_full(entry, entry.rows, entry.bytes))
        for file in _small_files(before):
            link_file(file, files, version_dir)
        manifest = replace(
            before,
            created=time_of_now(),
            tables=tuple(entries),
            samples=None,
            chain=Chain(Follows(before.version, before.identity), placed.lineage, includes),
        )
        if before.samples is not None:
            samples = Samples.from_bytes(before.samples.read(files), str(files / before.samples.path))
            manifest = with_samples(version_dir, manifest, samples)
        still_live()
        version = number()
        target = new_version(folder, before.model, version)
        if version <= before.version:
            raise ExportError(f"version {version} cannot follow {placed.name}: it must have a higher number")
        replace(manifest, version=version).save(version_dir)
        scratch.become(target)
    return Compacted(target, Manifest.load(target), tuple(streamed))


def _includes(rows: Rows, live: list[str]) -> dict[int, int] | None:
    """Return what all live tables surely have of pushes: the smallest stamp of each shard; None: none is live.

    Each is asked for, as shards then hold the files of its pushed rows against their checksums. A shard that did not
    answer for all of them is left out: whatever it has is kept.
    """
    if not live:
        return None
    told = [rows.stamps(table) for table in live]
    return {shard: min(each[shard] for each in told) for shard in told[0] if all(shard in each for each in told)}


def _changes(placed: PlacedVersion) -> Callable[[str], bool]:
    """Return what tells whether a table has other rows than its base."""
    return lambda name: bool(placed.tables[name].parts) or name in placed.live_tables


def _streamed(version_dir: Path, entry: TableEntry, rows: Rows, progress: Progress) -> TableEntry:
    spec = entry.spec
    target = version_dir / _path(spec.name)
    target.parent.mkdir(exist_ok=True)
    with closing(Spool(version_dir / _SPOOL, spec)) as spool:
        for positions, block in rows.blocks(spec):
            spool.add(positions, block)
            progress(spec.name, len(positions), flat(block).nbytes)
        summary = spool.write(target)
    return _full(entry, summary.rows, summary.bytes)


def _full(entry: TableEntry, rows: int, size: int) -> TableEntry:
    return replace(entry, path=_path(entry.spec.name), rows=rows, bytes=size, kind=TableKind.FULL, gone=None)


def _path(table: str) -> str:
    return f"tables/{table}"


def _small_files(manifest: Manifest) -> list[FileEntry]:
    """Return all files of a version but its tables and samples."""
    return [each for each in (manifest.schema, manifest.program, *manifest.program_data) if each is not None]
