"""A model's folder, `NAME/` with `NAME/VERSION/` in it, at a path or a URL: which complete versions it has.

A version is complete when its manifest is there: whoever uploads one puts that there last. Its folder is called by its
number, perhaps with zeros before it (`007` is version 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

from ringpull.inference.model.manifest import FILE_NAME, MAX_BYTES
from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.text.version_number import version_number
from ringpull.ps.transfer.remote import RemoteFolder, is_url

SHOWN: Final = 5
"""Versions that are named, the highest, where one that is asked for is not there."""


def complete_versions(folder: str) -> Iterator[int]:
    """Yield the complete versions, the highest first; each is looked for when it is asked for.

    Raises:
        InvalidInput: The URL is of a kind that cannot be read here.
        Unavailable: The folder cannot be listed now.
    """
    files = RemoteFolder(folder)
    names = _numbered(files)
    for number in sorted(names, reverse=True):
        if any(files.exists(f"{name}/{FILE_NAME}") for name in names[number]):
            yield number


def numbered(files: RemoteFolder) -> list[str]:
    """Return the folders of versions that a model's folder has, complete or not, by ascending number."""
    names = _numbered(files)
    return [name for number in sorted(names) for name in names[number]]


def version_at(folder: str, number: int) -> str:
    """Return the folder or URL of a version, which is complete.

    Args:
        folder: The model's folder, or its URL.

    Raises:
        NotFound: It is not there, or not complete.
        InvalidInput: Two complete versions have this number.
        Unavailable: The folder cannot be read now.
    """
    files = RemoteFolder(folder)
    known = _numbered(files)
    names = [name for name in known.get(number, ()) if files.exists(f"{name}/{FILE_NAME}")]
    if not names:
        if number in known:
            raise NotFound(f"{files.where(str(number))} is no complete version: there is no {FILE_NAME} in it")
        there = f"; it has {', '.join(map(str, sorted(known)[-SHOWN:]))}" if known else ""
        raise NotFound(f"{files.where(str(number))} is no complete version: {files.url} has no such version{there}")
    return _only(files, number, names)


def newest_complete(folder: str) -> tuple[int, str]:
    """Return the highest complete version of a model's folder, and its own folder or URL; 0 and nothing if none is.

    Raises:
        InvalidInput: Two complete versions have this number, or the URL is of a kind that cannot be read here.
        Unavailable: The folder cannot be listed now.
    """
    files = RemoteFolder(folder)
    names = _numbered(files)
    for number in sorted(names, reverse=True):
        if whole := [name for name in names[number] if files.exists(f"{name}/{FILE_NAME}")]:
            return number, _only(files, number, whole)
    return 0, ""


def manifest_mark(version: str) -> int:
    """Return what tells the manifest of a version, given its folder or URL, from a later one under the same number.

    Raises:
        CorruptData: It is too large for a manifest.
        NotFound: It is not there.
        Unavailable: It cannot be read now.
    """
    return xxhash.xxh3_64_intdigest(RemoteFolder(version).read(FILE_NAME, max_bytes=MAX_BYTES))


def parent_of(version: str) -> str:
    """Return the model's folder of a version's path or URL."""
    return version.rstrip("/").rpartition("/")[0] if is_url(version) else str(Path(version).parent)


def _only(files: RemoteFolder, number: int, names: list[str]) -> str:
    if len(names) > 1:
        raise InvalidInput(f"{files.url} has version {number} twice, as {' and '.join(names)}; remove one of them")
    return files.where(names[0])


def _numbered(files: RemoteFolder) -> dict[int, list[str]]:
    """Return the folders of versions by their numbers, complete or not."""
    found: dict[int, list[str]] = {}
    for name in files.names():
        if number := version_number(name):
            found.setdefault(number, []).append(name)
    return found
