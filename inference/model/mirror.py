"""Local copies of the small files of versions that lie at URLs: all that a head, or a planner, reads of a version.

    FOLDER/<hash of the model's URL>/VERSION/    manifest, schema, dense program, samples; of every table its header

A copy looks like a version in a folder, and is loaded like one, though its tables hold no rows: shards have those. It
appears whole or not at all, every file checked against the manifest. The manifest is read anew every time, so
that what was exchanged under the same number is noticed; when the URL is out of reach, a copy that is here serves.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import xxhash

from ringpull.inference.model.manifest import FILE_NAME, MAX_BYTES, Manifest, identity_of, read_manifest
from ringpull.inference.model.model_dir import parent_of
from ringpull.inference.model.version_files import FileEntry, resolve
from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, OtherContent, StartupError, Unavailable
from ringpull.ps.private_files import make_private_folder, opener, write_private
from ringpull.ps.store.file_errors import read_file
from ringpull.ps.store.format import HEADER, MAX_HEADER_BYTES
from ringpull.ps.transfer.remote import RemoteFolder, is_url

_LOG: Final = logging.getLogger(__name__)

_PART_BYTES: Final = 64 << 20
"""Bytes of large weights of a dense program that are copied at a time."""


class Mirror:
    """Copies of versions below one folder, which no other mirror has."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder, made when it is first needed; None: a temporary one, which `close` removes."""
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        return f"<Mirror {self._folder}>"

    def close(self) -> None:
        """Remove the temporary folder, if there is one."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._folder = None

    def local(self, version: str, identity: str = "") -> Path:
        """Return a folder of this machine with the small files of a version: its own, or a copy.

        Args:
            version: The folder `NAME/VERSION/`, or its URL.
            identity: Identity that a version at a URL must have: a copy that has it is used without asking there, and
                never exchanged for another one. Empty: any.

        Raises:
            InvalidInput: There is no such version, or the URL is of a kind that cannot be read here.
            OtherContent: The version at the URL has another identity.
            CorruptData: It is half-written or damaged; the message names the file.
            Unavailable: The URL cannot be read now, and there is no copy.
            StartupError: The copy cannot be written.
        """
        if not is_url(version):
            return Path(version)
        remote, copy = RemoteFolder(version), self._place(version)
        if identity and _identity_of(copy) == identity:
            return copy
        try:
            manifest = _manifest_of(remote)
        except Unavailable as exc:
            if identity or not _is_whole(copy):
                raise
            _LOG.warning("%s is loaded from a copy in %s: %s", remote.url, copy, exc)
            return copy
        if identity and identity_of(manifest) != identity:
            raise OtherContent.found(remote.url, identity_of(manifest), identity)
        if not (_is_whole(copy) and read_file(copy / FILE_NAME) == manifest):
            try:
                _make(copy, remote, manifest)
            except OSError as exc:
                raise StartupError(f"{copy}: cannot be written: {exc}") from exc
        return copy

    def keep(self, versions: Collection[str]) -> None:
        """Remove the copies of all but these versions."""
        if self._folder is None:
            return
        kept = {self._place(version) for version in versions if is_url(version)}
        for folder in self._folder.glob("*/*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _place(self, version: str) -> Path:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ringpull-")
            self._folder = Path(self._temporary.name)
        model = parent_of(version)
        return self._folder / xxhash.xxh3_64_hexdigest(model.encode()) / version.rstrip("/")[len(model) + 1 :]


@contextmanager
def local_files(version: str) -> Iterator[Path]:
    """A folder with the small files of a version, as `Mirror.local` has it, for as long as the context lasts."""
    mirror = Mirror()
    try:
        yield mirror.local(version)
    finally:
        mirror.close()


@contextmanager
def local_tables(version: str) -> Iterator[Path]:
    """A folder with the manifest of a version at a URL and the headers of its tables, for as long as the context lasts.

    That is all that a version needs which follows it: programs of a long chain are large together.

    Raises:
        InvalidInput, CorruptData, Unavailable, StartupError: As `Mirror.local` does.
    """
    remote = RemoteFolder(version)
    with tempfile.TemporaryDirectory(prefix="ringpull-") as made:
        folder = Path(made) / version.rstrip("/").rpartition("/")[2]
        try:
            make_private_folder(folder)
            _write_tables(folder, remote, _manifest_of(remote))
        except OSError as exc:
            raise StartupError(f"{folder}: cannot be written: {exc}") from exc
        yield folder


def _manifest_of(remote: RemoteFolder) -> bytes:
    """Return the bytes of the manifest of a version that has one."""
    try:
        return remote.read(FILE_NAME, max_bytes=MAX_BYTES)
    except NotFound as exc:
        raise InvalidInput(f"{remote.url} is no complete version: there is no {FILE_NAME} in it") from exc


def _write_tables(folder: Path, remote: RemoteFolder, manifest_bytes: bytes) -> Manifest:
    """Write the manifest, and of every table its header."""
    write_private(folder / FILE_NAME, manifest_bytes)
    manifest = read_manifest(folder / FILE_NAME)
    for table in manifest.tables:
        for path in table.folders:
            header = f"{path}/{HEADER}"
            write_private(_target(folder, header), _read(remote, header, MAX_HEADER_BYTES))
    return manifest


def _make(copy: Path, remote: RemoteFolder, manifest_bytes: bytes) -> None:
    make_private_folder(copy.parent)
    hidden = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
    try:
        manifest = _write_tables(hidden, remote, manifest_bytes)
        for entry in (manifest.schema, manifest.program, manifest.samples):
            if entry is not None:
                write_private(_target(hidden, entry.path), _checked(remote, entry))
        for entry in manifest.program_data:
            _copy_in_parts(hidden, remote, entry)
        shutil.rmtree(copy, ignore_errors=True)
        hidden.rename(copy)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _checked(remote: RemoteFolder, entry: FileEntry) -> bytes:
    content = _read(remote, entry.path, entry.bytes)
    found = xxhash.xxh3_64_hexdigest(content)
    if found != entry.xxh3:
        raise CorruptData(
            f"{remote.where(entry.path)}: the checksum of its content is {found}; the manifest says {entry.xxh3}"
        )
    return content


def _copy_in_parts(folder: Path, remote: RemoteFolder, entry: FileEntry) -> None:
    """Copy a file that may be larger than memory."""
    digest = xxhash.xxh3_64()
    with open(_target(folder, entry.path), "wb", opener=opener) as file:
        for begin in range(0, entry.bytes, _PART_BYTES):
            try:
                [part] = remote.read_ranges((entry.path, begin, min(begin + _PART_BYTES, entry.bytes)))
            except NotFound as exc:
                raise CorruptData(f"{remote.where(entry.path)}: missing; the manifest names it") from exc
            digest.update(part)
            file.write(part)
    if digest.hexdigest() != entry.xxh3:
        raise CorruptData(
            f"{remote.where(entry.path)}: the checksum of its content is {digest.hexdigest()}; the manifest says"
            f" {entry.xxh3}"
        )


def _read(remote: RemoteFolder, path: str, max_bytes: int) -> bytes:
    try:
        return remote.read(path, max_bytes=max_bytes)
    except NotFound as exc:
        raise CorruptData(f"{remote.where(path)}: missing; the manifest names it") from exc


def _target(folder: Path, path: str) -> Path:
    """Return where a file named in the manifest goes, which is inside the folder; what it lies in is made."""
    target = resolve(folder, path)
    make_private_folder(target.parent)
    return target


def _is_whole(copy: Path) -> bool:
    return bool(_identity_of(copy))


def _identity_of(copy: Path) -> str:
    """Return the identity of a copy that is whole; empty for any other."""
    try:
        return Manifest.load(copy).identity
    except (InvalidInput, CorruptData):
        return ""
