"""Following a version: what a new one writes of its tables where another one is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ringpull.inference.export.delta.checks import as_deployed, chain_after, check_room, check_schema, check_tables
from ringpull.inference.export.delta.differences import DeltaWriter
from ringpull.inference.export.delta.tracked import add_tracked
from ringpull.inference.export.delta.weight_rows import add_changed
from ringpull.inference.export.report import TableDelta
from ringpull.inference.export.table_progress import table_progress
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.export.version_folder import version_before
from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.manifest import Chain, TableEntry
from ringpull.inference.model.manifest_chain import check_stamp
from ringpull.ps.errors import ExportError, InvalidInput

Ids = Sequence[int] | Sequence[str] | NDArray[Any]
"""Ids as a table is keyed by: raw ids, or row numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """The version that another one follows, and what is known of the differences."""

    before: VersionOnDisk
    changed: Mapping[str, Ids]
    """Ids whose rows may be new or changed, of tables that were tracked: no other rows of these are looked at."""
    gone: Mapping[str, Ids]
    """Ids that went, of tables that were tracked."""
    includes: Mapping[int, int] | None

    @classmethod
    def of(
        cls,
        folder: Path,
        version: int,
        follows: int,
        *,
        changed: Mapping[str, Ids] | None = None,
        gone: Mapping[str, Ids] | None = None,
        includes: Mapping[int, int] | None = None,
    ) -> Following:
        """Read the version that is to be followed.

        Raises:
            InvalidInput: It is not there, or not before this one, or its chain is too long for one more; or `gone`
                names a table that `changed` does not.
            CorruptData: It is damaged.
        """
        if includes is not None:
            check_stamp(includes)
        for table in (gone or {}).keys() - (changed or {}).keys():
            raise InvalidInput(
                f"gone names table {table}, and changed does not: give its changed ids too, or neither; then both are"
                " found by comparing all rows"
            )
        before = VersionOnDisk.load(version_before(folder, version, follows))
        check_room(before)
        return cls(before, changed or {}, gone or {}, includes)

    @property
    def chain(self) -> Chain:
        """What the manifest of the new version says."""
        return chain_after(self.before, self.includes)

    def model(self, name: str | None) -> str:
        """Return the name of the model: that of the version before, which is the only one that may be given.

        Raises:
            InvalidInput: Another one is given; such a version could never be published.
        """
        own = self.before.manifest.model
        if name is not None and name != own:
            raise InvalidInput(f"name is {name!r}; {self.before.name}, which is followed, is of another model")
        return own

    def check(self, plans: Iterable[TablePlan], schema: str) -> None:
        """Check that the new version goes with the one before, given its schema as JSON.

        Raises:
            ExportError: Its schema or its tables are others.
        """
        specs = [plan.spec for plan in plans]
        check_tables(self.before, specs)
        check_schema(self.before, schema.encode())
        names = sorted(spec.name for spec in specs)
        for table in self.changed.keys() - set(names):
            raise ExportError(f"changed names {table!r}, which is no table of this model: {', '.join(names)}")

    def settled(self, plan: TablePlan) -> TablePlan:
        """Return a plan whose default vector is known before its rows are read: a mean stays that of the version
        before."""
        if not isinstance(plan.default, str) or plan.default != "mean":
            return plan
        return replace(plan, default=self.before.manifest.table(plan.keys.table).spec.default_vector())

    def write(
        self, version_dir: Path, plans: Iterable[TablePlan], console: Console | None
    ) -> tuple[tuple[TableEntry, ...], tuple[TableDelta, ...]]:
        """Write what is new of each table.

        Raises:
            InvalidInput: An id is no table's, or both changed and gone.
            ExportError: The disk is full.
            CorruptData: The version before is damaged.
        """
        found = [self._write(version_dir, plan, console) for plan in plans]
        return tuple(entry for entry, _ in found), tuple(delta for _, delta in found)

    def _write(self, version_dir: Path, plan: TablePlan, console: Console | None) -> tuple[TableEntry, TableDelta]:
        name = plan.keys.table
        entry = self.before.manifest.table(name)
        entry = replace(entry, live=entry.live or plan.options.live)
        before = self.before.open_table(name)
        spec = as_deployed(replace(plan.spec, default=default_of(plan)), entry.spec)
        with DeltaWriter(version_dir, entry, spec) as delta:
            if name in self.changed:
                add_tracked(before, plan, self.changed[name], self.gone.get(name, ()), delta)
                return delta.finish()
            with table_progress(console, f"{name}, compared", plan.keys.rows * spec.row_bytes) as progress:
                add_changed(before, plan, delta, progress)
            return delta.finish()


def default_of(plan: TablePlan) -> tuple[float, ...] | None:
    """Return the default vector of a table as its spec has it."""
    if isinstance(plan.default, str):
        return None
    return tuple(np.asarray(plan.default, np.float32).tolist())
