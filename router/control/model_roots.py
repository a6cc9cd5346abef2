"""Roots of models: the folders and URLs below which versions may lie that are published to a deployment.

Whether a folder lies below a root is told by its name alone, before anything is read, and what is read afterwards is
the name that was compared: `..` and double slashes are gone from paths. Of a URL everything before its path must be
the root's: protocol, also a chained one (`simplecache::s3`), and host or bucket. Each part of its path must be what it
is for every server, so none may be `..` to any (`url_parts`).

A link below a root leads where the root's owner lets it: whoever writes there publishes whatever it likes.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ringpull.ps.errors import Forbidden, InvalidInput
from ringpull.ps.text.url_parts import leads_elsewhere
from ringpull.ps.transfer.remote import FILE_SCHEME, is_url

OPTION: Final = "--models-root"

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*")
_LOCAL: Final = ("file", "local")


@dataclass(frozen=True, slots=True)
class ModelRoots:
    """Roots of one deployment; made by `of`."""

    roots: tuple[str, ...]
    """Roots in their plain form."""

    @classmethod
    def of(cls, roots: Iterable[str]) -> ModelRoots:
        """Return the roots with these names.

        Raises:
            InvalidInput: One is neither an absolute path nor a URL, or could be two different ones.
        """
        return cls(tuple(dict.fromkeys(_plain(each, OPTION) for each in roots)))

    @classmethod
    def around(cls, folders: Iterable[str]) -> ModelRoots:
        """Return the parents of models' folders, as they are named and as links on the way to them lead now.

        A folder whose parent is everything, the root of a file system or of all buckets, is a root itself.
        """
        found: list[str] = []
        for folder in folders:
            try:
                plain = _plain(folder, "the model's folder")
            except InvalidInput:
                continue  # It is served, and nothing is published from beside it.
            parent = plain.rpartition("/")[0]
            if not parent or parent.endswith(":/"):
                parent = plain
            found += [parent] if is_url(parent) else [parent, os.path.realpath(parent)]
        return cls(tuple(dict.fromkeys(found)))

    def admit(self, folder: str) -> str:
        """Return the plain form of a folder's name, which is to be read instead of it.

        Raises:
            InvalidInput: It is neither an absolute path nor a URL, or could be two different ones.
            Forbidden: It lies below no root.
        """
        plain = _plain(folder, "folder")
        for root in self.roots:
            if plain == root or plain.startswith(f"{root.rstrip('/')}/"):
                return plain
        known = ", ".join(self.roots) or "there is none"
        raise Forbidden(
            f"{folder} lies outside of the folders that this deployment takes models from ({known});"
            f" `ringpull serve {OPTION} FOLDER|URL`, repeatable, allows others"
        )


def _plain(folder: str, what: str) -> str:
    """Return a folder's name as it is compared and read."""
    if not folder.isprintable():
        raise InvalidInput(f"{what} is {folder!r}; it must have no control characters")
    if is_url(folder):
        scheme, _, rest = folder.partition("://")
        if scheme.lower() not in _LOCAL:
            return _plain_url(folder, scheme, rest, what)
        folder = rest  # FILE:///srv, local:///srv
    path = folder.removeprefix(FILE_SCHEME)
    if not path.startswith("/") or "::" in path or "://" in path:
        raise InvalidInput(f"{what} is {folder!r}; give an absolute path, or a URL PROTOCOL://...")
    return "/" + os.path.normpath(path).lstrip("/")


def _plain_url(url: str, scheme: str, rest: str, what: str) -> str:
    host, _, path = rest.rstrip("/").partition("/")
    parts = path.split("/") if path else []
    if not _SCHEME.fullmatch(scheme) or "::" in rest or "://" in rest or "\\" in rest:
        raise InvalidInput(f"{what} is {url!r}; a URL is PROTOCOL://HOST/PATH, and nothing is chained behind it")
    for part in (host, *parts):
        if leads_elsewhere(part):
            raise InvalidInput(f"{what} is {url!r}; no part of it may be {part!r}, which leads elsewhere")
    return f"{scheme.lower()}://{'/'.join((host, *parts))}"
