"""Files of a source: one, or the part files of a folder or of a pattern, on this machine or at a URL fsspec knows.

Names that begin with `_` or `.` are no part files: so Spark and its kin mark what else they write there.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import fsspec
from fsspec.core import url_to_fs

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, RingpullError, Unavailable
from ringpull.ps.transfer.remote import PACKAGES, as_path, is_url

_HIDDEN: Final = ("_", ".")
_PATTERN: Final = frozenset("*?[")
COMPRESSIONS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""First bytes of compressed files, and Arrow's names of what compressed them."""
_COMPRESSED_SUFFIXES: Final = (".gz", ".bz2", ".zst", ".zstd", ".lz4")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to be read."""

    name: str
    """Its name, for people: below the folder given, or the last part of its path."""
    path: str
    """Its whole path on this machine, or its URL."""
    size: int
    """Bytes."""
    stamp: str
    """What changes when its content does, as far as its storage tells: the time it was written."""

    @property
    def local(self) -> Path | None:
        """Its path on this machine; None: it is elsewhere."""
        return None if is_url(self.path) else Path(self.path)

    def open(self) -> BinaryIO:
        """Open it for reading, at any place of it.

        Raises:
            NotFound: It is gone.
            Unavailable: The storage does not answer now.
        """
        with storage_errors(self.path):
            if self.local is not None:
                return self.local.open("rb")
            return cast(BinaryIO, fsspec.open(self.path, "rb").open())

    def head(self, size: int) -> bytes:
        """Return its first bytes, at most `size`."""
        with self.open() as file, storage_errors(self.path):
            return file.read(size)

    def compression(self) -> str | None:
        """Return what compressed it, by its first bytes, as Arrow calls that; None: nothing did."""
        return compression_of(self.head(max(map(len, COMPRESSIONS))))


def is_pattern(where: str) -> bool:
    """Return whether this is a pattern of names, and not the path of something that is there."""
    return bool(_PATTERN & set(where)) and (is_url(where) or not os.path.lexists(as_path(where)))


def find_files(where: str) -> list[SourceFile]:
    """Return the files that a path, a pattern or a URL names, sorted by path; of a folder all below it.

    Raises:
        InvalidInput: There is none, or the protocol of a URL is not known.
        Unavailable: The storage does not answer now.
    """
    where = as_path(where)
    system, path = _system(where)
    with storage_errors(where):
        if is_pattern(where):
            found = system.glob(path, detail=True)
            folder = path[: min(path.find(sign) for sign in _PATTERN if sign in path)].rpartition("/")[0]
        elif system.isdir(path):
            found = system.find(path, detail=True)
            folder = path
        elif system.exists(path):
            found = {path: system.info(path)}
            folder = path.rpartition("/")[0]
        else:
            raise InvalidInput(f"{where}: there is no such file or folder")
    files = []
    for each, info in sorted(found.items()):
        name = each.removeprefix(folder).lstrip("/")
        if info["type"] == "other":
            raise InvalidInput(f"{where}: {name} is a pipe, a socket or a device, not a file")
        if info["type"] == "file" and (each == path or not _is_hidden(name)):
            files.append(_file(where, name, each, info))
    if not files:
        raise InvalidInput(f"{where}: there are no files in it whose names do not begin with '_' or '.'")
    return files


def folder_names(where: str) -> frozenset[str]:
    """Return the names directly in a folder, hidden ones too; none where this is no folder.

    Raises:
        InvalidInput: The protocol of a URL is not known.
        Unavailable: The storage does not answer now.
    """
    where = as_path(where)
    system, path = _system(where)
    with storage_errors(where):
        if is_pattern(where) or not system.isdir(path):
            return frozenset()
        return frozenset(str(each).rstrip("/").rpartition("/")[2] for each in system.ls(path, detail=False))


def compression_of(head: bytes) -> str | None:
    """Return what compressed a file that begins so, as Arrow calls it; None: nothing did."""
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


def uncompressed_name(name: str) -> str:
    """Return the name of a file as it is without what its compression adds, in small letters."""
    small = name.lower()
    ending = next((each for each in _COMPRESSED_SUFFIXES if small.endswith(each)), "")
    return small.removesuffix(ending)


def fingerprint_of(files: Sequence[SourceFile], *read_with: Any) -> str:
    """Return a checksum of what files these are, and of how they are read."""
    described = repr(([(file.path, file.size, file.stamp) for file in files], read_with))
    return hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()


def read_exactly(file: BinaryIO, size: int, where: str) -> bytes:
    """Return the next `size` bytes of a file.

    Raises:
        CorruptData: It ends before.
    """
    with storage_errors(where):
        data = file.read(size)
        while len(data) < size and (more := file.read(size - len(data))):
            data += more
    if len(data) != size:
        raise CorruptData(f"{where}: ends {size - len(data)} bytes too early; it is truncated")
    return data


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Translate the errors of a storage.

    Raises:
        NotFound: There is no such file.
        Unavailable: It cannot be read now, or not from here.
    """
    try:
        yield
    except (RingpullError, EOFError, io.UnsupportedOperation):
        raise
    except FileNotFoundError as exc:
        raise NotFound(f"{where}: there is no such file") from exc
    except OSError as exc:
        raise Unavailable(f"{where}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError:
        raise
    except Exception as exc:  # every file system behind fsspec has errors of its own
        raise Unavailable(f"{where}: cannot be read from here: {str(exc) or type(exc).__name__}") from exc


def _system(where: str) -> tuple[Any, str]:
    scheme, _, rest = where.partition("://")
    if "::" in rest and "::" not in scheme:  # zip://items.csv::s3://bucket/all.zip
        raise InvalidInput(f"{where}: a file within another is not read from there; take it out first")
    try:
        if not is_url(where):
            where = os.path.abspath(where)
        system, path = url_to_fs(where)
    except ImportError as exc:
        protocol = where.partition("://")[0]
        package = PACKAGES.get(protocol)
        missing = f"install it with `pip install {package}`" if package else str(exc)
        raise InvalidInput(f"{where}: {protocol}:// needs a package that is not installed: {missing}") from exc
    except ValueError as exc:
        raise InvalidInput(f"{where}: {exc}") from exc
    return system, str(path)


def _file(where: str, name: str, path: str, info: dict[str, Any]) -> SourceFile:
    if not is_url(where):
        stamp = str(os.stat(path).st_mtime_ns)
        return SourceFile(name, path, int(info["size"]), stamp)
    told = [str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created", "updated") if info.get(key)]
    scheme = where.partition("://")[0]
    return SourceFile(name, f"{scheme}://{path}", int(info["size"]), " ".join(told))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(_HIDDEN) for part in name.split("/"))
