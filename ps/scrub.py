"""Scrub: looks for damage in what is served, round after round, and quarantines what it finds.

A round goes through the stored blocks of all served ranges: rows, positions, index (`ringpull.ps.store.block_check`).
It reads no faster than it is told to, and gives way to pulls. The slots of a bad block are refused at once, so that
another copy answers, or the table's policy does. What was bad is looked at first in every round: as soon as it is whole
again its slots are answered for.

What repairs it depends on where the files are. A shard's own copy is copied anew: its heartbeat asks for a `prepare`,
which streams the bad slots from other shards or from the version's folder, and puts a new base in place of the old one.
A version that is opened in place is never written to: the quarantine lasts until somebody puts good bytes there, into
the same file or, better, by moving a good file into its place, which is then opened instead.

While it waits it holds on to no table, so one that is retired is unmapped at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary, ref

import xxhash

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import CorruptData, RingpullError
from ringpull.ps.hashing import SLOTS
from ringpull.ps.open_versions import TableKey
from ringpull.ps.shard import Shard
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import bad_keys, bad_rows, block_bytes, blocks_with, key_blocks
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.row_check import Busy, give_way
from ringpull.ps.transfer.throttle import Throttle

MIN_ROUND_S: Final = 5.0
"""Time from the begin of one round to that of the next, at least: small tables would be read all the time."""

MAX_STEPS: Final = 200
"""Waits for pulls before a block is read: some 100 ms. A shard that is always busy is looked through nevertheless."""

WHOLE: Final = -1
"""Number of the block that stands for a whole file."""

_LOG: Final = logging.getLogger(__name__)


class _Gone(RingpullError):
    """Raised within a round when the table that it looks at is not served from this base any more."""


class Scrubber:
    """Scrubs the tables of one shard. Rounds go one after another; the rest may be called from any thread."""

    def __init__(
        self,
        shard: Shard,
        damage: Damage,
        memory: CheckedRows,
        *,
        bytes_per_s: float | None = None,
        busy: Busy = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at nothing yet.

        Args:
            damage: Told what is found.
            memory: Told what is whole.
            bytes_per_s: Limit on reading; None: no limit.
            busy: Asked before each block.
        """
        self.bytes = 0
        """Bytes of rows read since the shard was started."""
        self.rounds = 0
        """Rounds that have ended since."""
        self._shard = shard
        self.damage = damage
        """What it has found."""
        self._memory = memory
        self._throttle = Throttle()
        self._throttle.set(bytes_per_s)
        self._busy = busy
        self._clock = clock
        self._keys: WeakKeyDictionary[Base, UInt64Array] = WeakKeyDictionary()
        """Checksums of the positions of the tables that are served."""
        self._job = Job()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Scrubber {self.rounds} rounds, {self.bytes} bytes {self.damage!r}>"

    def start(self) -> None:
        """Go round in the background until `stop`."""
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the background thread, if there is one, and wait for it. Idempotent."""
        self._job.cancel()
        if self._thread is not None:
            self._thread.join()

    def round(self, job: Job) -> None:
        """Look once at everything that is served.

        Raises:
            Cancelled: The job was cancelled.
        """
        for key in self._shard.tables():
            try:
                self._look_at(key, job)
            except _Gone:
                continue
        self.damage.current(self._shard)
        self.rounds += 1

    def _run(self) -> None:
        try:
            while True:
                began_s = self._clock()
                try:
                    self.round(self._job)
                except Cancelled:
                    raise
                except Exception:  # A bug, or files that went away: the next round may fare better, and pulls go on.
                    _LOG.exception("a round of the scrub failed")
                self._job.pause(max(0.0, began_s + MIN_ROUND_S - self._clock()))
        except Cancelled:
            return

    # -- one table -----------------------------------------------------------------------------------------------------

    def _look_at(self, key: TableKey, job: Job) -> None:
        served = self._shard.served(key)
        if served is None:
            return
        base, slots = served
        if self.damage.known(base):
            base = self._reopened(key, base)
        which = ref(base)
        first = [each.block for each in self.damage.known(base) if each.block != WHOLE]
        blocks = list(dict.fromkeys([*first, *blocks_with(base, slots)]))
        if not self._look_at_checksums(key, base):
            return
        keys = self._key_blocks(key, base, job)
        del base, served
        good = []
        for block in blocks:
            self._throttle.take(block_bytes(self._base(key, which), block), job)
            give_way(self._busy, job, max_steps=MAX_STEPS)
            if self._look_at_block(key, self._base(key, which), block, keys):
                good.append(block)
        self._memory.note(self._base(key, which), good=good)

    def _look_at_block(self, key: TableKey, base: Base, block: int, keys: UInt64Array | None) -> bool:
        """Look at one block; return whether its rows are whole."""
        rows = bad_rows(base, block)
        found = [rows, None if keys is None else bad_keys(base, block, keys)]
        self.bytes += block_bytes(base, block)
        looked_at = [(file, block) for file in (fmt.ROWS, fmt.POSITIONS, fmt.INDEX)]
        self.damage.note(self._shard, key, base, looked_at, [bad for bad in found if bad is not None])
        return rows is None

    def _look_at_checksums(self, key: TableKey, base: Base) -> bool:
        """Look at the checksums that blocks are held against; without them nothing can be told of the rows."""
        whole = xxhash.xxh3_64_intdigest(base.sections.blocks.data) == base.checksums[fmt.BLOCKS]
        bad = [] if whole else [BadBlock(WHOLE, 0, 0, (0, 0), fmt.BLOCKS)]
        self.damage.note(self._shard, key, base, [(fmt.BLOCKS, WHOLE)], bad)
        return whole

    def _key_blocks(self, key: TableKey, base: Base, job: Job) -> UInt64Array | None:
        """Return the checksums of a table's positions, by block; None if the keys cannot be looked at by blocks."""
        found = self._keys.get(base)
        if found is not None:
            return found
        which = ref(base)

        def pause(size: int) -> None:
            give_way(self._busy, job, max_steps=MAX_STEPS)
            self._base(key, which)

        places = [(file, WHOLE) for file in (fmt.POSITIONS, fmt.POSITION_BLOCKS)]
        try:
            found = self._keys[base] = key_blocks(base, pause)
        except CorruptData:
            if fmt.POSITION_BLOCKS in base.stamps:  # Nobody needs it to answer pulls.
                bad = BadBlock(WHOLE, 0, 0, (0, 0), fmt.POSITION_BLOCKS)
            else:
                bad = BadBlock(WHOLE, 0, base.rows, (0, SLOTS), fmt.POSITIONS)
            self.damage.note(self._shard, key, base, places, [bad])
            return None
        self.damage.note(self._shard, key, base, places, [])
        return found

    def _base(self, key: TableKey, which: ref[Base]) -> Base:
        base = self._shard.base(key)
        if base is None or base is not which():
            raise _Gone
        return base

    def _reopened(self, key: TableKey, base: Base) -> Base:
        """Return the base to go on with: a new one, now served, if good files have been moved into the place of bad."""
        try:
            moved = any(not stamp.is_file_of((base.folder / name).stat()) for name, stamp in base.stamps.items())
            if self.damage.copied or not moved:
                return base
            again = Base.open(base.folder, identity=base.identity)
        except (CorruptData, OSError):
            return base
        same = (again.identity, again.spec, again.held) == (base.identity, base.spec, base.held)
        known = [each.block for each in self.damage.known(base) if each.file == fmt.ROWS]
        if not same or any(bad_rows(again, block) for block in known) or not self._shard.exchange(key, base, again):
            return base
        _LOG.info("files were moved into the place of damaged ones", extra={"table": "/".join(map(str, key))})
        return again
