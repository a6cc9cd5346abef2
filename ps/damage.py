"""Damage: the bad blocks of a shard's tables, what is quarantined for them, and what an operator should know of it.

What is known belongs to one base and ends with it. Rows that were bad are remembered beyond the process
(`ringpull.ps.checked_rows`) and read again before the table is served anew, so a restart answers none of them; any
other damage keeps a table from being opened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.open_versions import TableKey
from ringpull.ps.ring import SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.slot_mask import SlotMask, mask_of
from ringpull.ps.spec import OnUnavailable
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import as_bad, bad_rows

FIRST_RETRY_S: Final = 5.0
"""Time from an attempt at a repair to the next; doubled each time."""
LONGEST_RETRY_S: Final = 300.0

MAX_LOGGED: Final = 10
"""Blocks of one look that are logged one by one; of the others only the number is."""

_LOG: Final = logging.getLogger(__name__)

Place = tuple[str, int]
"""File and block."""


class Quarantining(Protocol):
    """Shard that refuses to answer from bad blocks, as `ringpull.ps.shard.Shard` does."""

    def quarantine(self, key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        """Refuse pulls of the slots of these blocks, if the table is served from this base; return whether it is."""
        ...


@dataclass(slots=True)
class DamageCounts:
    """Counts of blocks since the shard was started."""

    damaged: int = 0
    """Blocks that were found damaged."""
    repaired: int = 0
    """Those of them that were found whole again, or whose table was replaced by a whole one."""


class Damage:
    """Bad blocks of one shard. All methods may be called from any thread."""

    def __init__(
        self, memory: CheckedRows, *, copied: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Know of none yet.

        Args:
            memory: Where rows that are damaged are remembered.
            copied: Whether tables are the shard's own copies, which can be copied anew.
        """
        self.counts = DamageCounts()
        self.copied = copied
        self._memory = memory
        self._clock = clock
        # Held from reading what is known of a base until that is changed and quarantined: of two threads that find
        # damage, neither undoes what the other has found. Taken before _lock, and before the locks of a shard.
        self._changing = threading.Lock()
        self._lock = threading.Lock()  # guards all below
        self._bad: WeakKeyDictionary[Base, dict[Place, BadBlock]] = WeakKeyDictionary()
        self._quarantined: dict[TableKey, int] = {}
        """Number of bad blocks of each damaged table, as of the last look."""
        self._retries: dict[TableKey, tuple[float, float]] = {}
        """Next try of each damaged table that was to be copied anew, and the wait after that."""

    def __repr__(self) -> str:
        return f"<Damage {self.counts} {len(self._quarantined)} tables>"

    @property
    def blocks(self) -> int:
        """Bad blocks of the tables that are served, as of the last look."""
        with self._lock:
            return sum(self._quarantined.values())

    def known(self, base: Base) -> tuple[BadBlock, ...]:
        """Return the bad blocks of a base; when it is first asked for, those that are remembered are read again."""
        with self._lock:
            bad = self._bad.get(base)
        if bad is None:
            again = [_still_bad(base, block) for block in self._memory.damaged(base)]
            bad = {(each.file, each.block): each for each in again if each is not None}
            with self._lock:
                self.counts.damaged += len(bad)
                bad = self._bad.setdefault(base, bad)
        return tuple(bad.values())

    def knows(self, base: Base, place: Place) -> bool:
        """Return whether a place of a base is known to be bad, of what has been found by now."""
        with self._lock:
            return place in self._bad.get(base, ())

    def count(self, base: Base) -> int:
        """Return the number of bad blocks of a base that have been found by now."""
        with self._lock:
            return len(self._bad.get(base, ()))

    def unusable(self, base: Base) -> SlotMask:
        """Return the slots of a base whose rows must not be copied into another one."""
        bad = self.known(base)
        if any(each.file not in fmt.ROW_FILES for each in bad):
            return np.ones(SLOTS, np.uint8)
        return mask_of(SlotRange(*each.slots) for each in bad)

    def add(self, shard: Quarantining, key: TableKey, base: Base, bad: Collection[BadBlock]) -> None:
        """Take in bad blocks of a base, and quarantine them if it is served."""
        self.known(base)  # Which may have to read.
        with self._changing:
            known = self._known(base)
            found = {(each.file, each.block): each for each in bad}
            new = {place: each for place, each in found.items() if place not in known}
            with self._lock:
                self._bad[base] = {**known, **new}
                self.counts.damaged += len(new)
            shard.quarantine(key, base, (*known.values(), *new.values()))
            self._memory.note(base, bad=[each.block for each in bad if each.file in fmt.ROW_FILES])

    def note(
        self, shard: Quarantining, key: TableKey, base: Base, looked_at: Iterable[Place], bad: Iterable[BadBlock]
    ) -> None:
        """Take in what a look at some places of a served table has found, and quarantine exactly what is bad now."""
        self.known(base)  # Which may have to read.
        looked = set(looked_at)
        with self._changing:
            before = self._known(base)
            after = {place: each for place, each in before.items() if place not in looked}
            after |= {(each.file, each.block): each for each in bad}
            if after == before or not shard.quarantine(key, base, after.values()):
                return
            with self._lock:
                self._bad[base] = after
                self.counts.damaged += len(after.keys() - before.keys())
                self.counts.repaired += len(before.keys() - after.keys())
                if after:
                    self._quarantined[key] = len(after)
                else:
                    self._quarantined.pop(key, None)
            rows = {block for file, block in after if file in fmt.ROW_FILES}
            whole = {block for file, block in before.keys() - after.keys() if file in fmt.ROW_FILES} - rows
            self._memory.note(base, bad=rows, good=whole)
        new = [after[place] for place in sorted(after.keys() - before.keys())]
        mended = [before[place] for place in sorted(before.keys() - after.keys())]
        _log(logging.WARNING, "damage is quarantined", key, base, new)
        _log(logging.INFO, "damage is repaired", key, base, mended)

    def _known(self, base: Base) -> Mapping[Place, BadBlock]:
        with self._lock:
            return self._bad.get(base, {})

    def current(self, shard: Shard) -> dict[TableKey, tuple[Base, tuple[BadBlock, ...]]]:
        """Return the damaged tables that are served; of those replaced by whole ones, the blocks count as repaired."""
        found = {}
        for key in shard.tables():
            base = shard.base(key)
            if base is not None and (bad := self.known(base)):
                found[key] = base, bad
        with self._lock:
            for key in self._quarantined.keys() - found.keys():
                blocks = self._quarantined.pop(key)
                # Retired with its version, it is not repaired.
                self.counts.repaired += blocks if shard.base(key) is not None else 0
            self._quarantined |= {key: len(bad) for key, (_, bad) in found.items()}
            self._retries = {key: retry for key, retry in self._retries.items() if key in found}
        return found

    # -- repair --------------------------------------------------------------------------------------------------------

    def wants_repair(self, shard: Shard) -> bool:
        """Return whether copies are damaged, and it is time to copy one of them anew."""
        if not self.copied or not (damaged := self.current(shard)):
            return False
        now_s = self._clock()
        with self._lock:
            return any(now_s >= self._retries.get(key, (-np.inf, 0.0))[0] for key in damaged)

    def repair_tried(self) -> None:
        """Note that damaged copies have been copied anew, or could not be; a while passes before the next attempt.

        Each table has a wait of its own: one that cannot be repaired does not hold up one that was damaged since.
        """
        with self._lock:
            for key in self._quarantined:
                _, wait_s = self._retries.get(key, (0.0, FIRST_RETRY_S))
                self._retries[key] = self._clock() + wait_s, min(LONGEST_RETRY_S, 2 * wait_s)

    def warnings(self, shard: Shard) -> tuple[str, ...]:
        """Return a sentence for each damaged table: where the damage is, what answers now, and what repairs it."""
        return tuple(self._warning(shard, key, *found) for key, found in sorted(self.current(shard).items()))

    def _warning(self, shard: Shard, key: TableKey, base: Base, bad: Collection[BadBlock]) -> str:
        if self.copied:
            repair = "they are copied anew from other shards or from the version's folder"
        else:
            repair = "move a good file into its place (a file that is served must not be written to)"
        parts = []
        if refused := [each for each in bad if each.slots[0] < each.slots[1]]:
            slots = [each.slots for each in refused]
            rows = sum(each.rows for each in refused)
            if shard.has_copies(key):
                answer = "other shards' copies answer for them"
            elif base.spec.on_unavailable is OnUnavailable.DEFAULT:
                answer = "their keys get the default vector"
            else:
                answer = "requests for their keys are UNAVAILABLE"
            parts.append(
                f"{len(refused)} damaged blocks with {rows} rows, slots {min(slots)[0]} to"
                f" {max(end for _, end in slots)}, in {_files(base, refused)}; {answer}"
            )
        if checksums := [each for each in bad if each.slots[0] >= each.slots[1]]:
            parts.append(f"{_files(base, checksums)} damaged, checksums only: all keys are answered, until a restart")
        return f"table {_named(key)}: {'; '.join(parts)}; {repair}"


def _files(base: Base, bad: Iterable[BadBlock]) -> str:
    return ", ".join(sorted({str(base.folder / each.file) for each in bad}))


def _still_bad(base: Base, block: int) -> BadBlock | None:
    """Return a block that was bad if it is still; where that cannot be told, it is."""
    try:
        return bad_rows(base, block)
    except Unavailable:
        return as_bad(base, block)


def _named(key: TableKey) -> str:
    return "/".join(map(str, key))


def _log(level: int, text: str, key: TableKey, base: Base, bad: Collection[BadBlock]) -> None:
    for each in list(bad)[:MAX_LOGGED]:
        _LOG.log(level, text, extra={"table": _named(key), **_fields(base, each)})
    if len(bad) > MAX_LOGGED:
        _LOG.log(level, f"{text}: more of it", extra={"table": _named(key), "blocks": len(bad) - MAX_LOGGED})


def _fields(base: Base, bad: BadBlock) -> dict[str, object]:
    return {
        "file": str(base.folder / bad.file),
        "block": bad.block,
        "first_row": bad.first_row,
        "rows": bad.rows,
        "slots": f"{bad.slots[0]} to {bad.slots[1]}",
    }
