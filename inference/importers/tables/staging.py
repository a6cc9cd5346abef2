"""Staging folder of an import: a version on its way, which outlives the process that writes it.

It lies beside the version's place under a hidden name. In it are `version/`, which becomes the version; for each table
the temporary files of its writer; and a journal, renamed into place whenever there is more to remember: how many rows
of a table's source were read, and what the writer needs to go on behind them. One process at a time has it.

An import of other sources, or with other options, begins again: what a table is made of is part of its journal.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ringpull.ps.errors import CorruptData, ExportError, NotFound, Retryable, RingpullError
from ringpull.ps.store.checkpoint import Checkpoint

_JOURNAL = "journal.json"
_LOCK = "lock"


@dataclass(slots=True)
class Staging:
    """The staging folder of one version, held by this process."""

    folder: Path
    journal: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is remembered of each table, by its name."""

    @property
    def version(self) -> Path:
        """Folder that becomes the version."""
        return self.folder / "version"

    def scratch(self, table: str) -> Path:
        """Return the folder of a table's temporary files."""
        return self.folder / f"{table}.rows"

    def begin(self, table: str, made_of: str | None) -> tuple[int, Checkpoint | None]:
        """Make room for a table, or find out how far it came.

        Args:
            made_of: What it is made of, and how; None: it can't be gone on with.

        Returns:
            How many rows of its source were read, and the writer's state then; 0 and None: it begins.
        """
        known = self.journal.get(table)
        if known is not None and made_of is not None and known.get("made_of") == made_of:
            with suppress(CorruptData, KeyError, TypeError, ValueError):
                return int(known["read_rows"]), Checkpoint.from_dict(known["writer"])
        self.forget(table)
        self.scratch(table).mkdir()
        return 0, None

    def finished(self, table: str, made_of: str | None) -> dict[str, Any] | None:
        """Return what was remembered of a table that is whole; None: it is not, or it is made of something else."""
        known = self.journal.get(table)
        if known is None or made_of is None or known.get("made_of") != made_of or "entry" not in known:
            return None
        return dict(known["entry"])

    def remember(self, table: str, made_of: str | None, **state: Any) -> None:
        """Write down how far a table is; does nothing for one that can't be gone on with."""
        if made_of is None:
            return
        self.journal[table] = {"made_of": made_of, **state}
        fresh = self.folder / f"{_JOURNAL}.new"
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(self.journal, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.folder / _JOURNAL)

    def drop_scratch(self, table: str) -> None:
        """Remove the temporary files of a table that is whole."""
        shutil.rmtree(self.scratch(table), ignore_errors=True)

    def forget(self, table: str) -> None:
        """Remove all there is of a table."""
        self.journal.pop(table, None)
        self.drop_scratch(table)
        shutil.rmtree(self.version / "tables" / table, ignore_errors=True)

    def keep_only(self, tables: frozenset[str]) -> None:
        """Remove what earlier imports left of other tables, and half-written tables."""
        for table in [table for table in self.journal if table not in tables]:
            self.forget(table)
        folder = self.version / "tables"
        for each in folder.iterdir() if folder.is_dir() else ():
            if "entry" not in self.journal.get(each.name, {}):
                shutil.rmtree(each, ignore_errors=True)
        for each in self.version.iterdir():
            if each.name != "tables":
                each.unlink()

    def read(self) -> Self:
        """Read the journal; one that can't be read counts as none."""
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / _JOURNAL).read_text("utf-8"))
            if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()):
                self.journal = found
        return self


def staging_folder(target: Path) -> Path:
    """Return where a version is staged."""
    return target.with_name(f".{target.name}.import")


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """The staging folder of a version, which becomes `target` when the context ends without an error.

    After an error of what is imported nothing stays. After any other end, such as Ctrl-C, a kill, a full disk or a
    storage that does not answer, what was written down stays, and the next import of this version goes on with it.

    Raises:
        ExportError: It cannot be written, or another process has it.
    """
    folder = staging_folder(target)
    made = [parent for parent in folder.parents if not parent.exists()]
    keep = False
    with _translated(target), _held(folder):
        try:
            staging = Staging(folder).read()
            staging.version.mkdir(exist_ok=True)
            yield staging
            staging.version.rename(target)
        except BaseException as exc:
            keep = bool(Staging(folder).read().journal) and not _of_the_content(exc)
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # one that holds something stays, and so do those that it lies in
                    for parent in made:
                        parent.rmdir()


def _of_the_content(exc: BaseException) -> bool:
    """Whether the same import would fail in the same way again."""
    full_disk = isinstance(exc, ExportError) and isinstance(exc.__cause__, OSError)
    return isinstance(exc, RingpullError) and not isinstance(exc, Retryable | NotFound) and not full_disk


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(lock), (folder / _LOCK).stat())
        except (BlockingIOError, FileNotFoundError):
            same = False  # it has it, or had it until now, and has removed the folder
        if not same:
            raise ExportError(f"{folder}: another import writes this version now")
        yield
    finally:
        os.close(lock)


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if target.exists():
            raise ExportError(f"{target} exists: another export wrote it meanwhile") from exc
        raise ExportError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
