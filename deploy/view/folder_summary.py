"""Summaries of the folders or URLs of an export, whose checksums are checked while they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ringpull.deploy.model_folders import place
from ringpull.inference.degrade.steps import plain_steps
from ringpull.inference.model.manifest import Manifest, TableKind
from ringpull.inference.model.mirror import local_files
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import OnUnavailable, TableSpec
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.transfer.remote import RemoteFolder, is_url
from ringpull.ps.transfer.stored_table import StoredTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    """Summary of a table on disk."""

    folder: str
    """Folder or URL."""
    spec: TableSpec
    rows: int
    bytes: int
    held: tuple[tuple[int, int], ...]
    """Slot ranges that it has, half open."""
    blocks: int
    verified: bool
    """Whether the rows were read and checked."""
    bad_blocks: tuple[BadBlock, ...]
    what: str = ""
    """Part of its table that it has, where not all of it: `changed` rows, keys that are `gone`."""

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "folder": str(self.folder),
            "spec": self.spec.to_dict(),
            "rows": self.rows,
            "bytes": self.bytes,
            "held": [list(slots) for slots in self.held],
            "blocks": self.blocks,
            "verified": self.verified,
            "bad_blocks": [
                {"block": bad.block, "first_row": bad.first_row, "rows": bad.rows, "slots": list(bad.slots)}
                for bad in self.bad_blocks
            ],
            **({"what": self.what} if self.what else {}),
        }


@dataclass(frozen=True, slots=True)
class IdSpan:
    """Ids that a feature takes, because the model fails at all others."""

    low: int
    high: int
    """First one beyond."""
    beyond: int | None
    """Id that stands for others; None: they are refused."""

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"low": self.low, "high": self.high, "beyond": "refused" if self.beyond is None else self.beyond}


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """Summary of a version on disk."""

    folder: str
    """Folder or URL."""
    manifest: Manifest
    tables: tuple[TableSummary, ...]
    ids: Mapping[str, IdSpan]
    """Ids that features take, of those that do not take any."""
    chain: tuple[str, ...] = ()
    """Versions that it follows, the first one first, as `NUMBER (IDENTITY)`."""

    @property
    def same(self) -> tuple[str, ...]:
        """Tables that are as in the version that it follows."""
        return tuple(each.spec.name for each in self.manifest.tables if each.kind is TableKind.SAME)

    def refuses(self, table: str) -> bool:
        """Return whether no prediction comes to an unknown key of a table, as ids beyond are refused."""
        spans = [self.ids.get(each.feature) for each in self.manifest.lookups if each.table == table]
        return bool(spans) and all(span is not None and span.beyond is None for span in spans)

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        manifest = self.manifest
        return {
            "folder": str(self.folder),
            "model": manifest.model,
            "version": manifest.version,
            "created": manifest.created,
            "dense_program_bytes": None if manifest.program is None else manifest.program.bytes,
            "runtime": None if manifest.program is None else manifest.runtime,
            "bfloat16": None if manifest.bfloat16 is None else asdict(manifest.bfloat16),
            "tables": [table.plain() for table in self.tables],
            "lookups": [
                {
                    "table": lookup.table,
                    "feature": lookup.feature,
                    "pooling": lookup.pooling.value,
                    "add": lookup.add,
                    "ids": self.ids[lookup.feature].plain() if lookup.feature in self.ids else "any",
                }
                for lookup in manifest.lookups
            ],
            "outputs": [
                {"name": output.name, "shape": list(output.shape), "classes": list(output.classes)}
                for output in manifest.outputs
            ],
            "degrade": plain_steps(manifest.degrade),
            **({"follows": list(self.chain), "same": list(self.same)} if self.chain else {}),
        }


def read_table(folder: str, *, verify: bool, within: Path | None = None) -> TableSummary:
    """Read one table's folder, and with `verify` all of its rows.

    Without `verify`, only the header and the tables of blocks are read from a URL.

    Args:
        within: Folder that none of its files may lead out of through a link; None: its own.

    Raises:
        CorruptData: Anything but a row is damaged. Damaged rows are listed in `bad_blocks`.
        NotFound, Unavailable: A URL cannot be read.
    """
    if is_url(folder):
        return _read_table_at(folder, verify=verify)
    base = Base.open(Path(folder), within=within)
    try:
        return TableSummary(
            folder=folder,
            spec=base.spec,
            rows=base.rows,
            bytes=base.bytes,
            held=base.held,
            blocks=base.block_count,
            verified=verify,
            bad_blocks=tuple(base.verify()) if verify else (),
        )
    finally:
        base.close()


def _read_table_at(url: str, *, verify: bool) -> TableSummary:
    table = StoredTable(RemoteFolder(url))
    header = table.header
    return TableSummary(
        folder=url,
        spec=header.spec,
        rows=header.rows,
        bytes=header.section_bytes + len(header.to_bytes()),
        held=header.held,
        blocks=len(table.first_rows) - 1,
        verified=verify,
        bad_blocks=tuple(table.verify()) if verify else (),
    )


def read_version(folder: str, *, verify: bool) -> VersionSummary:
    """Read one version's folder: check manifest, schema and dense program by their checksums, then read every table.

    Raises:
        CorruptData: As for `read_table`; or the manifest and a table do not match.
    """
    with local_files(folder) as files:
        manifest = Manifest.load(files)
        placed = place(manifest, files, url=folder if is_url(folder) else "")
        ids = _ids_taken(manifest, files)
    tables = []
    for entry in manifest.tables:
        within = None if is_url(folder) else Path(folder)
        for path in entry.folders:
            table = read_table(f"{placed.folder}/{path}", verify=verify, within=within)
            if path == entry.gone:
                tables.append(replace(table, what="gone"))
                continue
            whole = entry.kind is TableKind.FULL
            if _stored(table.spec) != _stored(entry.spec) or (whole and table.rows != entry.rows):
                raise CorruptData(
                    f"{table.folder}: it holds {table.rows} rows of {table.spec.name} with dim {table.spec.dim};"
                    f" the manifest says {entry.rows} of {entry.spec.name} with dim {entry.spec.dim}, or another spec"
                )
            tables.append(table if whole else replace(table, what="changed"))
    chain = tuple(map(str, placed.chain))
    return VersionSummary(folder=folder, manifest=manifest, tables=tuple(tables), ids=ids, chain=chain)


def _stored(spec: TableSpec) -> TableSpec:
    """Return a spec without what is a deployment's: of that the manifest's counts, which may be a later version's."""
    return replace(spec, replicas=1, on_unavailable=OnUnavailable.ERROR)


def _ids_taken(manifest: Manifest, files: Path) -> dict[str, IdSpan]:
    if manifest.schema is None or not manifest.limits:  # of tables alone, or of ids that may be any
        return {}
    schema = Schema.from_json(manifest.schema.read(files))
    beyond = {each.name: getattr(each, "beyond", None) for each in schema.features}
    return {each.feature: IdSpan(each.low, each.high, beyond.get(each.feature)) for each in manifest.limits}
