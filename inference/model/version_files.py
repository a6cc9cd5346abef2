"""The files of a model version: each has a path that stays inside the version's folder, a size and a checksum."""

from __future__ import annotations

import builtins
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import xxhash

from ringpull.ps.errors import CorruptData
from ringpull.ps.store.file_errors import read_file, unreadable
from ringpull.ps.store.links import resolved
from ringpull.ps.text.url_parts import leads_elsewhere

_CHUNK_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the version."""

    path: str
    """Path relative to the version's folder, with `/`; it may not leave the folder."""
    bytes: int
    xxh3: str
    """Checksum of the content: xxh3_64, 16 hex digits."""

    @classmethod
    def of(cls, version_dir: Path, path: str) -> FileEntry:
        """Describe a file already written at `version_dir / path`."""
        file = version_dir / path
        return cls(path=path, bytes=file.stat().st_size, xxh3=_checksum(file))

    def read(self, version_dir: Path) -> builtins.bytes:
        """Return the content, verified.

        Raises:
            CorruptData: The file is missing, leaves the folder, or has another size or checksum.
            Unavailable: It cannot be read now.
        """
        file = resolve(version_dir, self.path)
        try:
            size = file.stat().st_size
            if size != self.bytes:
                raise CorruptData(f"{file}: {size} bytes; the manifest says {self.bytes}")
            content = read_file(file)
        except OSError as exc:
            raise unreadable(file, exc) from exc
        found = xxhash.xxh3_64_hexdigest(content)
        if found != self.xxh3:
            raise CorruptData(f"{file}: the checksum of its content is {found}; the manifest says {self.xxh3}")
        return content

    def verify(self, version_dir: Path) -> None:
        """Check the content without holding it: of files that are mapped, and may be larger than memory.

        Raises:
            CorruptData: The file is missing, leaves the folder, or has another size or checksum.
            Unavailable: It cannot be read now.
        """
        file = resolve(version_dir, self.path)
        try:
            size = file.stat().st_size
            if size != self.bytes:
                raise CorruptData(f"{file}: {size} bytes; the manifest says {self.bytes}")
            found = _checksum(file)
        except OSError as exc:
            raise unreadable(file, exc) from exc
        if found != self.xxh3:
            raise CorruptData(f"{file}: the checksum of its content is {found}; the manifest says {self.xxh3}")


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_folder(path: Path) -> bool:
    """Return whether there is a folder at a path.

    Raises:
        Unavailable: It cannot be told now.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as exc:
        error = unreadable(path, exc)
        if isinstance(error, CorruptData):
            return False
        raise error from exc


def resolve(version_dir: Path, path: str) -> Path:
    """Return `version_dir / path`, links followed, after checking that it stays inside.

    Raises:
        CorruptData: `path` is absolute, goes up, or leads out of the folder through a link.
    """
    parts = PurePosixPath(path).parts
    root = resolved(version_dir)
    if not parts or "\\" in path or "\0" in path or path.startswith("/") or ".." in parts:
        raise CorruptData(f"{root}: path {path!r} must be relative and stay inside the version's folder")
    if any(map(leads_elsewhere, parts)):  # where the version lies at a URL, whose server decodes it
        raise CorruptData(f"{root}: path {path!r} could leave the version's folder, where it lies at a URL")
    target = resolved(root.joinpath(*parts))
    if root not in target.parents:
        raise CorruptData(f"{root}: path {path!r} leads out of the version's folder, to {target}")
    return target
