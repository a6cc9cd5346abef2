"""Scrub: looks for damage in what is served, round after round, and quarantines what it finds.

A round goes through the stored blocks of all served ranges: rows, positions, index (`ringpull.ps.store.block_check`).
It reads no faster than it is told to, and waits for pulls. The slots of a bad block are refused at once, so that
another copy answers, or the table's policy does. What is known to be bad is looked at first in every round, and every
few seconds during it: as soon as it is whole again its slots are answered for. What cannot be looked at stays as it is.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary, ref

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage, Place
from ringpull.ps.errors import CorruptData, RingpullError, Unavailable
from ringpull.ps.hashing import POSITION_BYTES, SLOTS
from ringpull.ps.open_versions import TableKey
from ringpull.ps.shard import Shard
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import (
    bad_keys,
    bad_rows,
    block_bytes,
    block_rows,
    blocks_with,
    is_whole,
    key_blocks,
)
from ringpull.ps.store.file_stamp import FileStamp
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.row_check import Busy, wait_for_pulls
from ringpull.ps.transfer.throttle import Throttle

MIN_ROUND_S: Final = 5.0
"""Time from the begin of one round to that of the next, at least: small tables would be read all the time."""

KNOWN_S: Final = 5.0
"""Time from one look at what is known to be bad to the next, at least."""

FEW: Final = 8
"""Share, as one in so many, of the known bad blocks that have to change before that is taken in at once."""

TAKE_IN_S: Final = 1.0
"""Time after which it is taken in, however little it is."""

MAX_STEPS: Final = 200
"""Waits for pulls before a block is read: some 100 ms. A shard that is always busy is looked through nevertheless."""

WHOLE: Final = -1
"""Number of the block that stands for a whole file."""

LookBeside = Callable[[Callable[[int], None]], None]
"""Function that looks once at other files, and calls what it is given before it reads so many bytes of them."""

_LOG: Final = logging.getLogger(__name__)


class _Gone(RingpullError):
    """Raised within a round when the table that it looks at is not served from this base any more."""


@dataclass(slots=True)
class _Look:
    """What was found at some blocks of a table, and not taken in yet."""

    places: list[Place] = field(default_factory=list)
    bad: list[BadBlock] = field(default_factory=list)
    changes: int = 0
    """Places that are bad and were not, or the other way round."""
    good: list[int] = field(default_factory=list)
    """Blocks whose rows are whole, of the whole look."""
    unknown: str = ""
    """Why some place could not be looked at: nothing is changed for it."""


class Scrubber:
    """Scrubs the tables of one shard. Rounds go one after another; the rest may be called from any thread."""

    def __init__(
        self,
        shard: Shard,
        damage: Damage,
        memory: CheckedRows,
        bytes_per_s: float | None = None,
        *,
        busy: Busy = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        look_beside: LookBeside = lambda pace: None,
    ) -> None:
        """Look at nothing yet.

        Args:
            damage: Told what is found.
            memory: Told what is whole.
            bytes_per_s: Limit on reading; None: no limit.
            busy: Asked before each block.
            look_beside: Looks once, in every round, at what is served from other files than tables.
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
        self._look_beside = look_beside
        self._keys: WeakKeyDictionary[Base, UInt64Array] = WeakKeyDictionary()
        """Checksums of the positions of the tables that are served."""
        self._no_better: WeakKeyDictionary[Base, dict[str, FileStamp]] = WeakKeyDictionary()
        """Files in the place of those of a damaged base, which were moved away: opened, and no better."""
        self._known_due_s = clock()
        self._taken_in_s = clock()
        self._job = Job()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Scrubber {self.rounds} rounds, {self.bytes} bytes {self.damage!r}>"

    def start(self) -> None:
        """Go round in the background until `stop`."""
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Have the background thread end as soon as it can. Idempotent."""
        self._job.cancel()

    def stop(self, within_s: float | None = None) -> None:
        """End the background thread, if there is one, and wait for it. Idempotent.

        Args:
            within_s: Longest wait: storage that hangs keeps it. None: no limit.
        """
        self.cancel()
        if self._thread is not None:
            self._thread.join(within_s)

    def round(self, job: Job) -> None:
        """Look once at everything that is served, and at what is known to be bad before that and during it.

        Raises:
            Cancelled: The job was cancelled.
        """
        self._look_at_known(job)
        for key in self._shard.tables():
            try:
                self._look_at(key, job)
            except _Gone:
                continue
        self._look_beside(lambda size: self._pace(size, job))
        self.damage.current(self._shard)
        self.rounds += 1

    def _pace(self, size: int, job: Job) -> None:
        """Wait before bytes are read that are of no table, and look at what is known to be bad, when that is due."""
        if self._clock() >= self._known_due_s:
            self._look_at_known(job)
        self._throttle.take(size, job)
        wait_for_pulls(self._busy, job, max_steps=MAX_STEPS)
        self.bytes += size

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

    # -- what is known to be bad ---------------------------------------------------------------------------------------

    def _look_at_known(self, job: Job) -> None:
        """Look at the known bad blocks of all tables: what was mended is answered for at once, not a round later."""
        began_s = self._clock()
        for key in self._shard.tables():
            try:
                self._look_at_known_of(key, job)
            except _Gone:
                continue
        now_s = self._clock()
        # As long as the last one took, too: where much is bad, half of what may be read is left for all else.
        self._known_due_s = now_s + max(KNOWN_S, now_s - began_s)

    def _look_at_known_of(self, key: TableKey, job: Job) -> None:
        base = self._shard.base(key)
        if base is None or not self.damage.known(base):
            return
        which = ref(base)
        del base
        which = self._reopened(key, which, job)
        base = self._base(key, which)
        known = self.damage.known(base)
        if not known:
            return
        if any(each.file == fmt.BLOCKS for each in known):
            self._look_at_checksums(key, base)
        keys = self._key_blocks(key, base, job) if any(each.file not in fmt.ROW_FILES for each in known) else None
        blocks = sorted({each.block for each in known if each.block != WHOLE})
        del base
        self._look_at_blocks(key, which, blocks, keys, job)

    def _reopened(self, key: TableKey, which: ref[Base], job: Job) -> ref[Base]:
        """Return the base to go on with: a new one, now served, if good files have been moved into the place of bad.

        To open one reads all of its keys, so what was no better is not opened again until its files change.
        """
        base = self._base(key, which)
        try:
            now = {name: FileStamp.of((base.folder / name).stat()) for name in base.stamps}
        except OSError:
            return which
        moved = any(now[name][:2] != stamp[:2] for name, stamp in base.stamps.items())
        if self.damage.copied or not moved or self._no_better.get(base) == now:
            return which
        size = base.bytes - base.rows_bytes
        del base
        self._throttle.take(size, job)
        base = self._base(key, which)
        try:
            again = Base.open(base.folder, within=base.within, identity=base.identity)
            same = (again.identity, again.spec, again.held) == (base.identity, base.spec, base.held)
            known = [each.block for each in self.damage.known(base) if each.file in fmt.ROW_FILES]
            better = same and not any(bad_rows(again, block) for block in known)
        except (Unavailable, OSError):
            return which
        except CorruptData:
            better = False
        if not better:
            self._no_better[base] = now
        elif self._shard.exchange(key, base, again):
            _LOG.info("files were moved into the place of damaged ones", extra={"table": "/".join(map(str, key))})
            return ref(again)
        return which

    # -- one table -----------------------------------------------------------------------------------------------------

    def _look_at(self, key: TableKey, job: Job) -> None:
        served = self._shard.served(key)
        if served is None:
            return
        base, slots = served
        which = ref(base)
        blocks = blocks_with(base, slots)
        self._look_at_checksums(key, base)
        keys = self._key_blocks(key, base, job)
        del base, served
        self._look_at_blocks(key, which, blocks, keys, job, known_too=True)

    def _look_at_blocks(
        self,
        key: TableKey,
        which: ref[Base],
        blocks: Sequence[int],
        keys: UInt64Array | None,
        job: Job,
        *,
        known_too: bool = False,
    ) -> None:
        """Look at some blocks of a table; with `known_too` at all that is known to be bad, too, when that is due."""
        look = _Look()
        try:
            for block in blocks:
                if known_too and self._clock() >= self._known_due_s:
                    self._look_at_known(job)
                self._throttle.take(_cost(self._base(key, which), block), job)
                wait_for_pulls(self._busy, job, max_steps=MAX_STEPS)
                base = self._base(key, which)
                self._look_at_block(base, block, keys, look)
                if look.changes and self._is_due(base, look):
                    self._take_in(key, base, look)
                del base
        finally:
            if (served := self._shard.base(key)) is not None and served is which():
                self._take_in(key, served, look)
                known = {each.block for each in self.damage.known(served) if each.file in fmt.ROW_FILES}
                self._memory.note(served, good=[each for each in look.good if each not in known])
        if look.unknown:
            _LOG.warning("some blocks cannot be looked at: %s", look.unknown, extra={"table": "/".join(map(str, key))})

    def _look_at_block(self, base: Base, block: int, keys: UInt64Array | None, look: _Look) -> None:
        """Look at one block: at its rows, and at its keys if they can be held against anything."""
        found: list[BadBlock | None] = []
        places: list[Place] = []
        try:
            found.append(bad_rows(base, block))
            places += [(file, block) for file in fmt.ROW_FILES if file in base.stamps]
            if found[0] is None:
                look.good.append(block)
        except Unavailable as exc:
            look.unknown = str(exc)
        try:
            if keys is not None:
                found.append(bad_keys(base, block, keys))
                places += [(fmt.POSITIONS, block), (fmt.INDEX, block)]
        except Unavailable as exc:
            look.unknown = str(exc)
        self.bytes += block_bytes(base, block)
        bad = {(each.file, each.block): each for each in found if each is not None}
        look.places += places
        look.bad += bad.values()
        look.changes += sum((place in bad) != self.damage.knows(base, place) for place in places)

    def _is_due(self, base: Base, look: _Look) -> bool:
        """Return whether what was found is to be taken in now: at once where little is bad.

        Each time costs as much as there is bad by then: on a disk that dies it is done less often, and once a second.
        """
        return look.changes * FEW >= self.damage.count(base) or self._clock() >= self._taken_in_s + TAKE_IN_S

    def _take_in(self, key: TableKey, base: Base, look: _Look) -> None:
        self.damage.note(self._shard, key, base, look.places, look.bad)
        look.places, look.bad, look.changes = [], [], 0
        self._taken_in_s = self._clock()

    def _look_at_checksums(self, key: TableKey, base: Base) -> None:
        """Look at the file of the checksums of rows. These are in memory, so rows are looked at all the same."""
        try:
            bad = [] if is_whole(base, fmt.BLOCKS) else [BadBlock(WHOLE, 0, 0, (0, 0), fmt.BLOCKS)]
        except Unavailable:
            return
        self.damage.note(self._shard, key, base, [(fmt.BLOCKS, WHOLE)], bad)

    def _key_blocks(self, key: TableKey, base: Base, job: Job) -> UInt64Array | None:
        """Return the checksums of a table's positions, by block; None if the keys cannot be looked at by blocks."""
        found = self._keys.get(base)
        if found is not None:
            return found
        which = ref(base)

        def pause(size: int) -> None:
            self._throttle.take(size, job)
            wait_for_pulls(self._busy, job, max_steps=MAX_STEPS)
            self._base(key, which)

        places = [(file, WHOLE) for file in (fmt.POSITIONS, fmt.POSITION_BLOCKS)]
        try:
            found = self._keys[base] = key_blocks(base, pause)
        except Cancelled:
            raise
        except Unavailable:
            return None
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


def _cost(base: Base, block: int) -> int:
    """Return the bytes that a look at a block reads: of rows, positions and index."""
    first, last = block_rows(base, block)
    return block_bytes(base, block) + (last - first) * POSITION_BYTES + base.sections.index.nbytes // base.block_count
