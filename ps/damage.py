"""Damage: the bad blocks of a shard's tables, what is quarantined for them, and what an operator should know of it.

What is known belongs to one base and ends with it. Rows that were bad are remembered beyond the process
(`ringpull.ps.checked_rows`) and read again before the table is served anew, so a restart answers none of them; any
other damage keeps a table from being opened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.hashing import SLOTS
from ringpull.ps.open_versions import TableKey
from ringpull.ps.ring import SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.slot_mask import SlotMask, mask_of
from ringpull.ps.spec import OnUnavailable
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import bad_rows

FIRST_RETRY_S: Final = 5.0
"""Time from an attempt at a repair to the next; doubled each time."""
LONGEST_RETRY_S: Final = 300.0

_LOG: Final = logging.getLogger(__name__)

Place = tuple[str, int]
"""File and block."""


@dataclass(slots=True)
class DamageCounts:
    """Counts of blocks since the shard was started."""

    damaged: int = 0
    """Blocks that were found damaged."""
    repaired: int = 0
    """Of these, those that were found whole again, or whose table was replaced by a whole one."""


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
        self._lock = threading.Lock()  # guards all below
        self._bad: WeakKeyDictionary[Base, dict[Place, BadBlock]] = WeakKeyDictionary()
        self._quarantined: dict[TableKey, int] = {}
        """Number of bad blocks of each damaged table, as of the last look."""
        self._retry_at_s, self._retry_s = -np.inf, FIRST_RETRY_S

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
            again = [bad_rows(base, block) for block in self._memory.damaged(base)]
            bad = {(each.file, each.block): each for each in again if each is not None}
            with self._lock:
                self.counts.damaged += len(bad)
                bad = self._bad.setdefault(base, bad)
        return tuple(bad.values())

    def unusable(self, base: Base) -> SlotMask:
        """Return the slots of a base whose rows must not be copied into another one."""
        bad = self.known(base)
        if any(each.file != fmt.ROWS for each in bad):
            return np.ones(SLOTS, np.uint8)
        return mask_of(SlotRange(*each.slots) for each in bad)

    def add(self, base: Base, bad: Collection[BadBlock]) -> None:
        """Take in bad blocks of a base, whether it is served or not."""
        known = {(each.file, each.block): each for each in self.known(base)}
        new = {(each.file, each.block): each for each in bad if (each.file, each.block) not in known}
        with self._lock:
            self._bad[base] = known | new
            self.counts.damaged += len(new)
        self._memory.note(base, bad=[each.block for each in bad if each.file == fmt.ROWS])

    def note(
        self, shard: Shard, key: TableKey, base: Base, looked_at: Iterable[Place], bad: Iterable[BadBlock]
    ) -> None:
        """Take in what a look at some places of a served table has found, and quarantine exactly what is bad now."""
        before = {(each.file, each.block): each for each in self.known(base)}
        after = {place: each for place, each in before.items() if place not in set(looked_at)}
        after |= {(each.file, each.block): each for each in bad}
        if after == before:
            return
        if not shard.quarantine(key, base, after.values()):
            return
        with self._lock:
            self._bad[base] = after
            self.counts.damaged += len(after.keys() - before.keys())
            self.counts.repaired += len(before.keys() - after.keys())
            if after:
                self._quarantined[key] = len(after)
            else:
                self._quarantined.pop(key, None)
        for place in after.keys() - before.keys():
            _LOG.warning("damage is quarantined", extra={"table": _named(key), **_fields(base, after[place])})
        for place in before.keys() - after.keys():
            _LOG.info("damage is repaired", extra={"table": _named(key), **_fields(base, before[place])})
        rows = [block for file, block in after if file == fmt.ROWS]
        self._memory.note(base, bad=rows, good=[block for file, block in before.keys() - after if file == fmt.ROWS])

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
            if not found:
                self._retry_at_s, self._retry_s = -np.inf, FIRST_RETRY_S
        return found

    # -- repair --------------------------------------------------------------------------------------------------------

    def wants_repair(self, shard: Shard) -> bool:
        """Return whether copies are damaged, and it is time to copy them anew."""
        return self.copied and bool(self.current(shard)) and self._clock() >= self._retry_at_s

    def repair_tried(self) -> None:
        """Note that damaged copies have been copied anew, or could not be; a while passes before the next attempt."""
        with self._lock:
            if self._quarantined:
                self._retry_at_s = self._clock() + self._retry_s
                self._retry_s = min(LONGEST_RETRY_S, 2 * self._retry_s)

    def warnings(self, shard: Shard) -> tuple[str, ...]:
        """Return a sentence for each damaged table: where the damage is, what answers now, and what repairs it."""
        return tuple(self._warning(shard, key, *found) for key, found in sorted(self.current(shard).items()))

    def _warning(self, shard: Shard, key: TableKey, base: Base, bad: Collection[BadBlock]) -> str:
        slots = [each.slots for each in bad]
        files = ", ".join(sorted({str(base.folder / each.file) for each in bad}))
        rows = sum(each.rows for each in bad)
        if shard.has_copies(key):
            answer = "other shards' copies answer for them"
        elif base.spec.on_unavailable is OnUnavailable.DEFAULT:
            answer = "their keys get the default vector"
        else:
            answer = "requests for their keys are UNAVAILABLE"
        if self.copied:
            repair = "they are copied anew from other shards or from the version's folder"
        else:
            repair = "move a good file into its place (a file that is served must not be written to)"
        return (
            f"table {_named(key)}: {len(bad)} damaged blocks with {rows} rows, slots {min(slots)[0]} to"
            f" {max(end for _, end in slots)}, in {files}; {answer}; {repair}"
        )


def _named(key: TableKey) -> str:
    return "/".join(map(str, key))


def _fields(base: Base, bad: BadBlock) -> dict[str, object]:
    return {
        "file": str(base.folder / bad.file),
        "block": bad.block,
        "first_row": bad.first_row,
        "rows": bad.rows,
        "slots": f"{bad.slots[0]} to {bad.slots[1]}",
    }
