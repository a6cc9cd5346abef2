"""A model's folder, `NAME/` with `NAME/VERSION/` in it, at a path or a URL: which complete versions it has.

A version is complete when its manifest is there: whoever uploads one puts that there last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import xxhash

from ringpull.inference.model.manifest import FILE_NAME, MAX_BYTES
from ringpull.ps.transfer.remote import RemoteFolder, is_url


def complete_versions(folder: str) -> Iterator[int]:
    """Yield the complete versions, the highest first; each is looked for when it is asked for.

    Raises:
        InvalidInput: The URL is of a kind that cannot be read here.
        Unavailable: The folder cannot be listed now.
    """
    files = RemoteFolder(folder)
    for number in numbered(files):
        if has_version(files, number):
            yield number


def numbered(files: RemoteFolder) -> list[int]:
    """Return the versions that a model's folder has a folder for, complete or not, the highest first."""
    names = [name for name in files.names() if name.isascii() and name.isdecimal() and name == str(int(name))]
    return sorted((int(name) for name in names if int(name) > 0), reverse=True)


def has_version(files: RemoteFolder, number: int) -> bool:
    """Return whether a model's folder has this version, complete."""
    return files.exists(f"{number}/{FILE_NAME}")


def manifest_mark(folder: str, number: int) -> int:
    """Return what tells a version's manifest from a later one under the same number.

    Raises:
        NotFound: It is not there.
        Unavailable: It cannot be read now.
    """
    return xxhash.xxh3_64_intdigest(RemoteFolder(folder).read(f"{number}/{FILE_NAME}", max_bytes=MAX_BYTES))


def parent_of(version: str) -> str:
    """Return the model's folder of a version's path or URL."""
    return version.rstrip("/").rpartition("/")[0] if is_url(version) else str(Path(version).parent)
