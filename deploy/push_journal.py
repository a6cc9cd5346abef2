"""Journals of pushes of files: what a second `ringpull push` needs to go on where a first one was killed.

A file of JSON below the state folder, one for each file, table and way to read it, there while it is not pushed whole.
It holds the id of the nameless writer, under which shards know what they have, and how many blocks are acknowledged. A
push of anything else into the same table ends it: what was acknowledged before may lie under other rows since.

One that is older than the push is right, too: what it does not know of is sent again, and known by its number. So a
push goes on where its journal cannot be written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ringpull.deploy.state import STATE_VARIABLE
from ringpull.inference.client.push_progress import new_nameless
from ringpull.ps.errors import Unavailable

FOLDER: Final = "pushes"
EVERY_S: Final = 0.5
"""Interval at which it is written: what was acknowledged since is sent again, and known by its number."""


class PushJournal:
    """Journal of one push of a file."""

    def __init__(self, folder: Path, into: Sequence[str], made_of: Sequence[Any] | None) -> None:
        """Read the journal of an earlier push of the same, or begin one.

        Args:
            folder: State folder.
            into: Deployment, model and table that the rows go into.
            made_of: What else decides on the rows; None: they may be others the next time, so that nothing is written.
        """
        self._folder = folder / FOLDER / _digest(into)
        self._path = None if made_of is None else self._folder / f"{_digest(made_of)}.json"
        self._written_s = 0.0
        self.writer = new_nameless()
        """Id of the writer."""
        self.blocks = 0
        """Blocks that are acknowledged."""
        if self._path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                known = json.loads(self._path.read_text("utf-8"))
                self.writer, self.blocks = int(known["writer"]), int(known["blocks"])

    def begin(self) -> None:
        """Write down who pushes, before anything is sent, and end the journals of other pushes into the table.

        Raises:
            Unavailable: The state folder cannot be written.
        """
        try:
            for each in self._folder.glob("*.json"):
                if each != self._path:
                    each.unlink(missing_ok=True)
            self._write()
        except OSError as exc:
            raise Unavailable(
                f"{self._folder} cannot be written, where it is noted how far this push is:"
                f" {exc.strerror or exc}; {STATE_VARIABLE} names another state folder, and with --writer NAME none is"
                " needed"
            ) from exc

    def begin_anew(self) -> None:
        """Forget what was acknowledged: it is not there any more."""
        self.writer, self.blocks = new_nameless(), 0
        self.keep()

    def acknowledged(self, blocks: int) -> None:
        """Note how many blocks are acknowledged."""
        if blocks > self.blocks:
            self.blocks = blocks
            if time.monotonic() - self._written_s >= EVERY_S:
                self.keep()

    def keep(self) -> None:
        """Write down how far it is, if the disk takes that."""
        with suppress(OSError):
            self._write()

    def end(self) -> None:
        """Remove the journal: all is acknowledged, and the same push is another one from now on.

        Its folder stays: another push into this table may be about to write in it.
        """
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is None:
            return
        self._written_s = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"writer": self.writer, "blocks": self.blocks}), "utf-8")
        fresh.rename(self._path)


def _digest(of: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]
