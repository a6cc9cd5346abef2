"""Checked rows: which blocks of which tables were held against their checksums, remembered beyond the process.

A table is known by its folder and its identity, and by size and times of each of its files: if anything differs,
nothing is remembered of it. The shards of a machine share one file. Each adds what it has read to what it finds there
and puts a whole new file in its place, so readers need no lock. Writers take one, for the moment that it takes; one
that is stopped while it has it holds up nobody for long, and costs a note at most. A file that is damaged, or cannot be
read, is forgotten.

    16 hexadecimal digits, xxh3_64 of what follows the line
    {"format": 1, "tables": {FOLDER: {"identity", "files": {NAME: [size, mtime_ns, ctime_ns]}, "checked", "damaged"}}}

`checked` and `damaged` are blocks, as ranges [begin, end). What was found damaged is looked at first when the table is
opened again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import Unavailable
from ringpull.ps.private_files import make_private_folder, open_private, write_private
from ringpull.ps.store.base import Base
from ringpull.ps.store.file_errors import is_there, read_file

FORMAT: Final = 1

MAX_TABLES: Final = 4096
"""Tables that are remembered; beyond that those that are gone are forgotten, and those noted longest ago. With fewer
than are served each note would write the file anew, round after round."""

LOCK_WAIT_S: Final = 0.005
LOCK_WAITS: Final = 200
"""Waits for another process to write its note; then it is taken for stopped, and its lock is not waited for."""

Blocks = NDArray[np.bool_]
Table = dict[str, Any]
Tables = dict[str, Table]

_DIGEST_CHARS: Final = 16
_LOG: Final = logging.getLogger(__name__)


class CheckedRows:
    """Memory of checks. All methods may be called from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        """Use a file, which need not be there; None: nothing is remembered beyond this process."""
        self._path = path
        self._lock = threading.Lock()
        self._tables: Tables = {}
        self._told = False
        self._unsaved: Tables = {}
        """Tables, of `_tables`, that could not be written."""
        self._seen: bytes | None = None
        """Stamp of the file that `_tables` are of, but for `_unsaved`; None: they are of none."""

    def __repr__(self) -> str:
        return f"<CheckedRows {self._path or 'of this process'} {len(self._tables)} tables>"

    def checked(self, base: Base) -> Blocks:
        """Return for each block whether its rows were checked, and are as they were then: bool (blocks,)."""
        return self._of(base, "checked")

    def damaged(self, base: Base) -> list[int]:
        """Return the blocks that were damaged when they were last looked at."""
        return np.flatnonzero(self._of(base, "damaged")).tolist()

    def note(self, base: Base, *, good: Collection[int] = (), bad: Collection[int] = ()) -> None:
        """Remember which blocks match their checksums, and which do not.

        What is good is of the files as they were opened: if they were written to since, it is not remembered.
        """
        now = _files_now(base)
        if now is None:
            return
        entry = {"identity": base.identity, "files": now}
        unchanged = now == _files(base)
        key = _key(base)
        with self._lock, _locked(self._path):
            self._load()
            known = self._tables.get(key, {})
            if {name: known.get(name) for name in entry} != entry:
                known = {}
            checked = _as_blocks(known.get("checked", ()), base.block_count)
            damaged = _as_blocks(known.get("damaged", ()), base.block_count)
            checked[list(good)], damaged[list(good)] = unchanged, False
            checked[list(bad)], damaged[list(bad)] = False, True
            made = {**entry, "checked": _as_ranges(checked), "damaged": _as_ranges(damaged)}
            self._tables.pop(key, None)  # in the order of their notes
            self._tables[key] = made
            if self._path is not None and (made != known or self._unsaved or self._seen is None):
                self._unsaved[key] = made
                self._save(self._path)

    def _of(self, base: Base, what: str) -> Blocks:
        with self._lock:
            self._load()
            known = self._tables.get(_key(base), {})
        if known.get("identity") != base.identity or known.get("files") != _files(base):
            return np.zeros(base.block_count, bool)
        return _as_blocks(known[what], base.block_count)

    def _load(self) -> None:
        if self._path is None:
            return
        seen, self._seen = self._seen, None
        with suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError
        ):
            if seen is not None and _stamp(self._path) == seen:
                self._seen = seen  # Whoever looks at a thousand tables notes as many, and most notes change nothing.
                return
            digest, _, body = read_file(self._path).partition(b"\n")
            if digest == _digest(body) and (found := json.loads(body))["format"] == FORMAT:
                tables: Tables = found["tables"]
                # First what may fail: a file that anybody may have written.
                own = {key: _both(tables.get(key, {}), each) for key, each in self._unsaved.items()}
                self._tables, self._seen = tables | own, digest

    def _save(self, path: Path) -> None:
        self._seen = None
        if (excess := len(self._tables) - MAX_TABLES) > 0:
            self._forget(excess + MAX_TABLES // 16)  # not one with each note: that looks at all folders
        body = json.dumps({"format": FORMAT, "tables": self._tables}).encode()
        beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            make_private_folder(path.parent)
            digest = _digest(body)
            write_private(beside, digest + b"\n" + body)
            beside.replace(path)
            self._seen, self._unsaved = digest, {}
        except OSError as exc:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            if not self._told:
                _LOG.warning("what was checked is not remembered beyond this process: %s", exc)
            self._told = True

    def _forget(self, excess: int) -> None:
        """Forget so many tables: those whose folder is gone, then those noted longest ago. None that has damage and is
        still there: it would be served after a restart."""
        gone = {folder for folder in self._tables if _is_gone(Path(folder))}
        damaged = {folder for folder, known in self._tables.items() if known.get("damaged")}
        # Sorting keeps the order of those that are equal, which is that of their notes.
        order = [folder for folder in self._tables if folder not in damaged - gone]
        for folder in sorted(order, key=lambda folder: (folder in damaged, folder not in gone))[:excess]:
            del self._tables[folder]
            self._unsaved.pop(folder, None)


def _both(there: Table, own: Table) -> Table:
    """Return what two processes know of a table, of which one could not be written: damage that either has found."""
    if there.get("files") != own["files"] or there.get("identity") != own["identity"]:
        return own
    count = max((end for each in (there, own) for _, end in (*each["checked"], *each["damaged"])), default=0)
    damaged = _as_blocks(there["damaged"], count) | _as_blocks(own["damaged"], count)
    checked = (_as_blocks(there["checked"], count) | _as_blocks(own["checked"], count)) & ~damaged
    return {**own, "checked": _as_ranges(checked), "damaged": _as_ranges(damaged)}


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Keep other writers of the file out, where that can be had."""
    with ExitStack() as stack:
        with suppress(OSError):
            if path is not None:
                make_private_folder(path.parent)
                lock = stack.enter_context(open_private(path.with_name(f".{path.name}.lock"), "ab"))
                for _ in range(LOCK_WAITS):
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    time.sleep(LOCK_WAIT_S)
        yield


def _stamp(path: Path) -> bytes:
    """Return what tells a file that was put in another one's place from that: the digest it begins with.

    Inodes come again at once, and times may be those of a tick of the clock.
    """
    with path.open("rb") as file:
        return file.read(_DIGEST_CHARS)


def _key(base: Base) -> str:
    return str(base.folder.resolve())


def _is_gone(folder: Path) -> bool:
    try:
        return not is_there(folder)
    except Unavailable:
        return False


def _files(base: Base) -> dict[str, list[int]]:
    return {name: [stamp.size, stamp.mtime_ns, stamp.ctime_ns] for name, stamp in sorted(base.stamps.items())}


def _files_now(base: Base) -> dict[str, list[int]] | None:
    """Return what `_files` would, were the table opened now; None if it is not there any more."""
    try:
        found = {name: (base.folder / name).stat() for name in sorted(base.stamps)}
    except OSError:
        return None
    return {name: [each.st_size, each.st_mtime_ns, each.st_ctime_ns] for name, each in found.items()}


def _digest(body: bytes) -> bytes:
    return f"{xxhash.xxh3_64_intdigest(body):0{_DIGEST_CHARS}x}".encode()


def _as_blocks(ranges: Iterable[Iterable[int]], count: int) -> Blocks:
    blocks = np.zeros(count, bool)
    for begin, end in ranges:
        blocks[begin:end] = True
    return blocks


def _as_ranges(blocks: Blocks) -> list[list[int]]:
    edges = np.flatnonzero(np.diff(blocks.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).tolist()
