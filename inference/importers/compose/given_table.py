"""A table of a version that is there, taken into a new one as it is: by hard link, or by copy across file systems.

A table's files are never written, so both versions may share them, and its identity stays.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringpull.inference.model.manifest import FILE_NAME, Manifest, TableEntry, TableKind
from ringpull.inference.model.model_dir import newest_complete
from ringpull.ps.errors import InvalidInput
from ringpull.ps.store.links import check_links
from ringpull.ps.transfer.remote import as_path, is_url

_NOT_LINKED: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.ENOTSUP)
"""Errors of a hard link that a copy has not: another device, or a file system without them."""


@dataclass(frozen=True, slots=True)
class GivenTable:
    """A table of vectors in a version's folder."""

    version_dir: Path
    entry: TableEntry

    @classmethod
    def find(cls, what: str, folder: str | Path, table: str | None) -> GivenTable:
        """Find a table in a version's folder, or in the newest version of a model's folder.

        Args:
            what: What the table is for, "user" or "item", for messages.
            folder: The folder.
            table: The table's name; None: the only one there is.

        Raises:
            InvalidInput: There is no such version or table, or several, or its rows are bytes.
            CorruptData: The version is damaged.
            Unavailable: It cannot be read now.
        """
        where = as_path(str(folder))
        if is_url(where):
            raise InvalidInput(f"{what}: {where} must be a folder of this machine: copy the version here")
        version_dir = Path(where)
        if not (version_dir / FILE_NAME).is_file():
            number, newest = newest_complete(where) if version_dir.is_dir() else (0, "")
            if not number:
                raise InvalidInput(f"{what}: {where} is neither a version's folder nor that of a model with versions")
            version_dir = Path(newest)
        manifest = Manifest.load(version_dir)
        vectors = {each.spec.name: each for each in manifest.tables if not each.spec.is_bytes}
        listed = ", ".join(f"{name} (dim {each.spec.dim})" for name, each in vectors.items()) or "none of vectors"
        if table is None and len(vectors) != 1:
            raise InvalidInput(f"{what}: {version_dir} has several tables, or none; say which, {what}_table: {listed}")
        name = next(iter(vectors)) if table is None else table
        if name not in vectors:
            raise InvalidInput(f"{what}: {version_dir} has no table {name!r} of vectors; it has {listed}")
        if vectors[name].kind is not TableKind.FULL:
            raise InvalidInput(
                f"{what}: {version_dir} has no more than what changed of table {name}; give a full version"
            )
        return cls(version_dir, vectors[name])

    @property
    def folder(self) -> Path:
        """Folder of the table's files."""
        assert self.entry.path is not None
        return self.version_dir / self.entry.path

    def same_as(self, other: GivenTable) -> bool:
        """Return whether this is the other one."""
        return self.folder.resolve() == other.folder.resolve()

    def put_into(self, version_dir: Path) -> TableEntry:
        """Put the table's files into a version's folder, and return its entry there.

        Raises:
            CorruptData: A file is a link that leads out of its own version.
            OSError: They cannot be written.
        """
        check_links(self.folder, self.version_dir)
        path = f"tables/{self.entry.spec.name}"
        target = version_dir / path
        target.mkdir(parents=True)
        for file in sorted(self.folder.iterdir()):
            if file.is_file():
                _link_or_copy(file.resolve(), target / file.name)
        entry = self.entry
        return TableEntry(spec=entry.spec, path=path, rows=entry.rows, bytes=entry.bytes, live=entry.live)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno not in _NOT_LINKED:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
