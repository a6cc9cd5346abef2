"""Remote folder: files at a path or at any URL that fsspec knows, read by byte ranges, listed, never written.

Access (keys, endpoints, proxies) is configured through fsspec: by the storage's own environment variables and files, or
by fsspec's configuration (`FSSPEC_S3_ENDPOINT_URL` and the like). Errors of the storage are translated here: `NotFound`
when a file does not exist, `Unavailable` when it cannot be read now or from this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import fsspec

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, RingpullError, Unavailable

FILE_SCHEME: Final = "file://"

PACKAGES: Final = {"s3": "'ringpull[s3]'", "s3a": "'ringpull[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
"""Package to install for a protocol, where we can say more than fsspec does."""


def is_url(folder: str) -> bool:
    """Return whether this is a URL of other storage than this machine's folders, which `file://` is not."""
    return "://" in folder and not folder.startswith(FILE_SCHEME)


def as_path(folder: str) -> str:
    """Return the path of a local folder, given with or without `file://`; any other URL without a trailing slash."""
    return folder.rstrip("/") if is_url(folder) else folder.removeprefix(FILE_SCHEME)


class RemoteFolder:
    """Folder of files. Methods may be called from any thread except one that runs an event loop."""

    def __init__(self, url: str) -> None:
        """Refer to a folder, without any access to it.

        Args:
            url: A URL, or the path of a folder on this machine.

        Raises:
            InvalidInput: fsspec does not know its protocol, or the package for it is not installed.
        """
        self.url = as_path(url)
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as exc:
            protocol = self.url.partition("://")[0]
            package = PACKAGES.get(protocol)
            missing = f"install it with `pip install {package}`" if package else str(exc)
            raise InvalidInput(f"{self.url}: {protocol}:// needs a package that is not installed: {missing}") from exc
        except ValueError as exc:
            raise InvalidInput(f"{self.url}: {exc}") from exc

    def __repr__(self) -> str:
        return f"<RemoteFolder {self.url}>"

    @property
    def local(self) -> bool:
        """Whether its files are on this machine, where small reads are cheap."""
        protocol = self._system.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises:
            CorruptData: It is a pipe, a socket or a device.
            NotFound: The file does not exist.
            Unavailable: The storage cannot be reached now.
        """
        with self._translated(name):
            found = self._system.info(self._path(name))
            if found.get("type") == "other":
                raise CorruptData(f"{self.where(name)}: it is a pipe, a socket or a device, not a file")
            return int(found["size"])

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file.

        Raises:
            CorruptData: It is larger than `max_bytes`, so it is not the file it should be.
            NotFound, Unavailable: As for `size`.
        """
        size = self.size(name)
        if size > max_bytes:
            raise CorruptData(f"{self.where(name)}: {size} bytes; such a file has at most {max_bytes}")
        with self._translated(name):
            return bytes(self._system.cat_file(self._path(name)))

    def read_ranges(self, *wanted: tuple[str, int, int]) -> list[bytes]:
        """Return the bytes [begin, end) of files, for every (name, begin, end); in parallel where the storage can.

        Raises:
            CorruptData: A file ends before its range does.
            NotFound, Unavailable: As for `size`.
        """
        asked = [each for each in wanted if each[1] < each[2]]  # a range of no bytes is an error to some storages
        if not asked:
            return [b""] * len(wanted)
        paths = [self._path(name) for name, _, _ in asked]
        begins, ends = [begin for _, begin, _ in asked], [end for _, _, end in asked]
        with self._translated(asked[0][0]):
            parts = self._system.cat_ranges(paths, begins, ends, on_error="raise")
        for part, (name, begin, end) in zip(parts, asked, strict=True):
            if len(part) != end - begin:
                raise CorruptData(
                    f"{self.where(name)}: {len(part)} bytes from {begin} on, {end - begin} were due; it is truncated"
                )
        found = iter(parts)
        return [bytes(next(found)) if begin < end else b"" for _, begin, end in wanted]

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name.

        Raises:
            Unavailable: The storage cannot be reached now.
        """
        try:
            with self._translated(name):
                self._system.info(self._path(name))
        except NotFound:
            return False
        return True

    def names(self) -> list[str]:
        """Return the sorted names of the files and folders directly in it; empty if the folder does not exist.

        Raises:
            Unavailable: The storage cannot be reached now.
        """
        try:
            with self._translated(""):
                self._system.invalidate_cache(self._root)
                found = self._system.ls(self._root, detail=False)
                # A later access by name must not be answered from this listing.
                self._system.invalidate_cache(self._root)
        except NotFound:
            return []
        return sorted({name for each in found if (name := str(each).rstrip("/").rpartition("/")[2])})

    def below(self, name: str) -> RemoteFolder:
        """Return a subfolder."""
        return RemoteFolder(f"{self.url}/{name}")

    def where(self, name: str) -> str:
        """Return the full name of a file, for messages."""
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except RingpullError:
            raise
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound(f"{self.where(name)}: there is no such file") from exc
        except Exception as exc:  # every file system behind fsspec has errors of its own
            raise Unavailable(f"{self.where(name)}: cannot be read from here: {_text(exc)}") from exc


def _text(error: Any) -> str:
    return str(error) or type(error).__name__
