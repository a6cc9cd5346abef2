"""Telling which files a shard serves, for callers that may be on its machine and read them themselves."""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from pathlib import Path

from ringpull.ps.local.machine import machine_id
from ringpull.ps.open_versions import OpenVersion, ServedTable, ShardState
from ringpull.ps.store import format as fmt
from ringpull.ps.store.table import Table
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest, TableFiles


class FilesTold:
    """What a shard tells of its files, and when that has changed. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Not from 0 on: a caller compares it with what it was told at this address, maybe by a process before this one.
        self._change = secrets.randbits(48)
        self._state: weakref.ref[ShardState] | None = None
        """State that was told last; not kept, so that it keeps no file mapped."""

    def answer(self, state: ShardState, request: FilesRequest) -> FilesReply:
        """Return which files a version is served from in this state; none where it is not open."""
        with self._lock:
            if self._state is None or self._state() is not state:
                self._state, self._change = weakref.ref(state), self._change + 1
            change = self._change
        opened = state.versions.get((request.model, request.version))
        told = (0, ()) if opened is None else (opened.identity, _files_of(opened))
        return FilesReply(machine_id(), change, tuple(state.versions), *told)


def _files_of(opened: OpenVersion) -> tuple[TableFiles, ...]:
    return tuple(_files(name, served.table) for name, served in opened.tables.items() if _is_told(opened, name, served))


def _is_told(opened: OpenVersion, name: str, served: ServedTable) -> bool:
    # Where keys are damaged, what of them is found is this shard's to say, as long as it is not mended. What is newer
    # than the base, or may be in a moment, is asked of shards.
    return not (served.table.keys_damaged or served.chained or name in opened.live)


def _files(name: str, table: Table) -> TableFiles:
    base = table.base
    return TableFiles(
        name,
        _path(base.folder),
        b"" if base.within is None else _path(base.within),
        base.identity,
        base.stamps[fmt.HEADER],
        tuple((slots.begin, slots.end) for slots in table.unanswered()),
    )


def _path(folder: Path) -> bytes:
    return os.fsencode(os.path.abspath(folder))
