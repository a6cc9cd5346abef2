"""A chain of versions on disk: the tables of a version that follows others, put together from all of their folders.

It is for what reads whole tables without a deployment: exports, which compare with what was there, and checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ringpull.inference.model.manifest import Manifest, TableKind
from ringpull.inference.model.model_dir import version_at
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, OtherContent
from ringpull.ps.store.base import Base
from ringpull.ps.store.compose import compose
from ringpull.ps.store.table import Table


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """A version's folder, and its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path, *, tables_only: bool = False) -> VersionOnDisk:
        """Read a version's manifest. Takes and raises what `Manifest.load` does."""
        return cls(folder, Manifest.load(folder, tables_only=tables_only))

    @property
    def name(self) -> str:
        """Name for messages, `MODEL/VERSION`."""
        return f"{self.manifest.model}/{self.manifest.version}"

    @property
    def lineage(self) -> str:
        """Lineage that it belongs to: its own identity, where it follows none."""
        return self.manifest.chain.lineage or self.manifest.identity

    def followed(self) -> VersionOnDisk:
        """Return the version that it follows, which lies beside it.

        Raises:
            InvalidInput: It follows none, or that is not there.
            OtherContent: Another one lies there under its number.
            CorruptData: That is of another model or lineage, or damaged.
        """
        follows = self.manifest.chain.follows
        if follows is None:
            raise InvalidInput(f"{self.name} in {self.folder} follows no version")
        before = f"{self.manifest.model}/{follows.version}"
        try:
            where = Path(version_at(str(self.folder.parent), follows.version))
            found = VersionOnDisk.load(where, tables_only=True)
        except NotFound as exc:
            raise InvalidInput(
                f"{self.name} in {self.folder} is a delta of {before} ({follows.identity}), which is not there: {exc}"
            ) from exc
        if found.manifest.identity != follows.identity:
            raise OtherContent(
                f"{self.name} in {self.folder} is a delta of {before} with the identity {follows.identity}, and"
                f" {before} in {found.folder} has {found.manifest.identity}: it is another one"
            )
        if (found.manifest.model, found.lineage) != (self.manifest.model, self.lineage):
            raise CorruptData(f"{self.folder}: {found.folder}, which it follows, is of another model or lineage")
        return found

    def chain_of(self, table: str) -> list[VersionOnDisk]:
        """Return the versions that hold some of a table, the one with the base first.

        Raises:
            RingpullError: Any that `followed` raises; CorruptData: one of them has no such table.
        """
        chain, version = [], self
        while True:
            entry = next((each for each in version.manifest.tables if each.spec.name == table), None)
            if entry is None:
                raise CorruptData(f"{version.folder}: has no table {table!r}, of which {self.name} is made")
            if entry.kind is not TableKind.SAME:
                chain.append(version)
            if entry.kind is TableKind.FULL:
                return chain[::-1]
            version = version.followed()

    def open_table(self, name: str, *, verify: bool = False) -> Table:
        """Open all that a table is made of.

        Args:
            verify: Read the rows that this version itself holds, and check them.

        Raises:
            RingpullError: Any that `chain_of` or `Base.open` raises; InvalidInput: rows are of different kinds.
        """
        base, *deltas = self.chain_of(name)
        return compose(
            base._rows(name, base is self and verify), [each._delta(name, each is self and verify) for each in deltas]
        )

    def _rows(self, name: str, verify: bool) -> Base:
        return Base.open(self.manifest.table_folder(self.folder, name), verify_rows=verify)

    def _delta(self, name: str, verify: bool) -> tuple[Base, Base | None]:
        gone = self.manifest.gone_folder(self.folder, name)
        return self._rows(name, verify), None if gone is None else Base.open(gone, verify_rows=verify)
