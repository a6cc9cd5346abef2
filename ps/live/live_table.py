"""Live table: the pushed rows of one table of a lineage, and the directory of each of its versions that is open.

A row is written once, and a word flipped in each directory. Pushes alone have a directory of their own, `pushed`, from
which a version that is opened later gets those that go before its deltas; a version without deltas uses that itself.
Of a push and a delta that have one key the push wins if its stamp is larger than what the delta includes of this shard;
of one that does not say, than that of the last push when the version that brought it was first opened. That stays so
for this version, closed and opened again, and is another version's own, whatever rows it has. It counts for the publish
that opened it, until a version that has it is served: one that was given up has opened nothing.

All methods are called under one lock of the shard, but for look-ups, which read what `newer` returned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.live.record import SERVED, UNNAMED, DeltaKey, LiveName
from ringpull.ps.live.stamp import NO_STAMP
from ringpull.ps.spec import RowType, UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer.arena import STAMP_BYTES
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import LAST_POSITION, Directory, upserted
from ringpull.ps.store.newer.fold_kernels import flip
from ringpull.ps.store.newer.newer import Delta, Newer
from ringpull.ps.store.newer.segments import Segments
from ringpull.ps.store.newer.words import GONE
from ringpull.ps.store.raw_rows import RawRows

FIRST_ROWS: Final = 1024
"""Rows that a new directory has room for."""
_AT_ONCE: Final = 1 << 18
"""Rows of a delta that are put at a time."""


@dataclass(frozen=True, slots=True)
class OpenDelta:
    """Delta of a version, as a live table opens it."""

    changed: Base
    gone: Base | None
    includes: int | None
    """Stamp of the last push of this shard that its rows go before; None: of the last one when it was first opened."""
    version: int = 0
    """Version that brought it."""
    made: int = 0
    """Identity of that version; 0: not known."""

    @property
    def key(self) -> DeltaKey:
        """Key by which it is known when it was first opened."""
        return DeltaKey(self.changed.identity, self.version, 0 if self.gone is None else self.gone.identity)

    def has(self, positions: UInt64Array) -> NDArray[np.bool_]:
        """Return which positions it says something of."""
        found: NDArray[np.bool_] = self.changed.find(positions) >= 0
        return found if self.gone is None else found | (self.gone.find(positions) >= 0)


class FirstOpened(NamedTuple):
    """First opening of a delta that names no stamp."""

    stamp: int
    """Stamp of the last push then."""
    made: int
    """Identity of the version that brought it; 0: not known."""
    publish: int
    """Publish that opened it, while no version that has it was served; `SERVED`: one was."""

    def counts_for(self, publish: int) -> bool:
        """Return whether it counts where a publish opens the delta; 0: where it should be open already."""
        return self.publish in (SERVED, publish) or not publish


@dataclass(slots=True)
class _Open:
    """Version that is open."""

    directory: Directory | None
    """Its own; None: it has no deltas, and uses that of the pushes."""
    deltas: tuple[Delta, ...]
    segments: tuple[int, ...]
    """Segments of its deltas."""
    keys: frozenset[DeltaKey]
    """Keys of its deltas."""


class LiveTable:
    """Pushed rows of one table."""

    def __init__(self, name: LiveName, row_bytes: int, budget: Budget) -> None:
        self.name = name
        self.row_bytes = row_bytes
        self.row_type: RowType | None = None
        """Type of its rows, which a log does not say; None: no push has asked what is served since it was made."""
        self.segments = Segments(row_bytes, budget)
        self.pushed = Directory.with_room(FIRST_ROWS)
        self.last_stamp = NO_STAMP
        """Stamp of the last push."""
        self.folded = NO_STAMP
        """Stamp of the last push that its fold has."""
        self.has_waste = False
        """Whether rows were written that nothing shows, as their push failed: a fold gives their memory back."""
        self.fold: int | None = None
        """Segment of its fold."""
        self.fold_bases: dict[int, Base] = {}
        """Files that rows may lie in, by segment: the fold, and the one before it, from which words are flipped."""
        self.folded_rows = 0
        """Rows of it."""
        self.opened: dict[DeltaKey, FirstOpened] = {}
        """First opening of each delta that names no stamp. None is forgotten while the lineage is: a version that is
        closed may be published again from its folder, and keeps its time. Some 370 bytes each, 3 MB for a delta an hour
        over a year."""
        self.opened_before: dict[int, int] = {}
        """The same as an earlier build wrote it: the stamp, by the identity of the delta's rows alone."""
        self.unserved: frozenset[DeltaKey] = frozenset()
        """Those of open versions that no version has which was served. Replaced whole: it is read without the lock."""
        self._versions: dict[int, _Open] = {}
        self._replaced: set[int] = set()
        """Versions with a directory that no table may have yet."""
        self._changed = False
        """Whether versions were opened or closed since pushes that none shows were looked for."""

    def __repr__(self) -> str:
        return f"<LiveTable {self.name} rows={self.rows} versions={sorted(self._versions)}>"

    @property
    def rows(self) -> int:
        """Keys that were pushed or removed."""
        return self.pushed.rows

    @property
    def has_unfolded(self) -> bool:
        """Whether a fold would let memory go, or shorten the log."""
        return self.last_stamp > self.folded or self.has_waste

    @property
    def held_bytes(self) -> int:
        """Memory of all directories, and of the stamps of its fold."""
        return sum(each.nbytes for each in self.directories()) + STAMP_BYTES * self.folded_rows

    def growth_bytes(self, positions: UInt64Array) -> int:
        """Return what larger directories would take that have these positions, too; 0: there is room for them."""
        growth = 0
        for each in self.directories():
            if each.room < len(positions) and each.room < int((each.get(positions) == 0).sum()):
                growth += 2 * each.nbytes
        return growth

    @property
    def versions(self) -> Collection[int]:
        """Versions that are open."""
        return self._versions.keys()

    def open_version(
        self,
        version: int,
        deltas: Sequence[OpenDelta],
        base_includes: int = NO_STAMP,
        *,
        publish: int = 0,
        was_open: bool = False,
    ) -> list[DeltaKey]:
        """Give a version its directory; return the keys of deltas of which it is news when they were first opened.

        One that fails, as for want of memory, was none: what was open stays so, and no delta counts as opened, whose
        key nobody would have in the log.

        Args:
            deltas: Oldest first.
            base_includes: Stamp of the last push that the version's base has.
            publish: Publish that opens it, by a number that no other one has; 0: it should be open already.
            was_open: Whether it should be open already, and is not as the shard was away.
        """
        opened = self.opened.copy()
        mapped: list[int] = []
        try:
            news = [each.key for each in deltas if each.includes is None and self._note_opened(each, publish, was_open)]
            directory = self._directory_of(deltas, base_includes, mapped) if deltas or base_includes else None
        except BaseException:
            self.opened = opened
            for number in mapped:
                self.segments.drop(number)
            raise
        self.close_version(version)
        self._changed = True
        self._replaced.add(version)
        parts = () if directory is None else tuple((each.changed, each.gone) for each in deltas)
        self._versions[version] = _Open(directory, parts, tuple(mapped), frozenset(each.key for each in deltas))
        self._find_unserved()
        return news

    def _directory_of(self, deltas: Sequence[OpenDelta], base_includes: int, mapped: list[int]) -> Directory:
        """Return the directory of a version.

        Args:
            mapped: Where segments of its deltas are noted: also those made before it fails.
        """
        directory = Directory.with_room(
            FIRST_ROWS + self.rows + sum(each.changed.rows + (each.gone.rows if each.gone else 0) for each in deltas)
        )
        for each in deltas:
            mapped.append(self.segments.add_base(each.changed, NO_STAMP))
            directory = self._put_delta(directory, each, mapped[-1])
        positions, words, _ = self.pushed.walk_between(0, LAST_POSITION)
        stamps = self.segments.stamps(words)
        wins = stamps > np.uint64(base_includes)
        for each in deltas:
            includes = self.opened[each.key].stamp if each.includes is None else each.includes
            wins &= (stamps > np.uint64(includes)) | ~each.has(positions)
        directory, _ = upserted(directory, positions[wins], words[wins])
        return directory

    def _note_opened(self, delta: OpenDelta, publish: int, was_open: bool) -> bool:
        """Note when a delta was first opened; return whether that is news."""
        known = self.opened.get(delta.key)
        if known is not None and not known.counts_for(publish):
            known = None  # Its publish was given up.
        if known is not None and (known.made == delta.made or not delta.made):
            return False
        if known is not None and not known.made:  # so far as a part of another version's chain alone, perhaps served
            self.opened[delta.key] = known._replace(made=delta.made)
            return True
        stamp = self.last_stamp
        # Deltas of an earlier build that only had keys go have the same rows, none, so of those only what should be
        # open was opened before. Of others it is likelier that they were than that they are exported once more.
        if known is None and (delta.changed.rows or was_open):
            stamp = self.opened_before.get(delta.changed.identity, stamp)
        self.opened[delta.key] = FirstOpened(stamp, delta.made, publish or UNNAMED)
        return True

    def _put_delta(self, directory: Directory, delta: OpenDelta, number: int) -> Directory:
        """Put a delta over what is there; return the directory that has it.

        Keys that went have a word without a stamp, of no segment: folds let go of all segments of removals.
        """
        for begin in range(0, delta.gone.rows if delta.gone else 0, _AT_ONCE):
            assert delta.gone is not None
            positions = delta.gone.positions_slice(begin, min(delta.gone.rows, begin + _AT_ONCE))
            directory, _ = upserted(directory, positions, np.full(len(positions), GONE, np.uint64))
        for begin in range(0, delta.changed.rows, _AT_ONCE):
            end = min(delta.changed.rows, begin + _AT_ONCE)
            words = self.segments.words_between(number, begin, end)
            directory, _ = upserted(directory, delta.changed.positions_slice(begin, end), words)
        return directory

    def were_served(self, versions: Collection[int]) -> list[DeltaKey]:
        """Take in that versions were served; return the keys of their deltas of which that is news."""
        keys = [each.keys for version, each in self._versions.items() if version in versions]
        news = frozenset[DeltaKey]().union(*keys).intersection(self.unserved)
        self.opened |= {key: self.opened[key]._replace(publish=SERVED) for key in news}
        self.unserved -= news
        return list(news)

    def close_version(self, version: int) -> None:
        """Forget a version; tables that were made of it go on."""
        closed = self._versions.pop(version, None)
        self._replaced.discard(version)
        self._changed |= closed is not None
        for number in closed.segments if closed else ():
            self.segments.drop(number)
        self._find_unserved()

    def _find_unserved(self) -> None:
        keys = {key for each in self._versions.values() for key in each.keys}
        self.unserved = frozenset(key for key in keys & self.opened.keys() if self.opened[key].publish != SERVED)

    def newer(self, version: int) -> Newer:
        """Return what is newer than the base of an open version, as it is now and will be until the next growth."""
        opened = self._versions[version]
        return Newer(opened.directory or self.pushed, self.segments, opened.deltas)

    def is_served(self, version: int) -> None:
        """Take in that look-ups have the directory of a version."""
        self._replaced.discard(version)

    # -- pushes -------------------------------------------------------------------------------------------------------

    def write(self, rows: RawRows, stamp: int) -> UInt64Array:
        """Copy rows into memory; return their words, which nothing shows yet.

        Raises:
            LimitExceeded: There is no memory left for them.
        """
        return self.segments.append(rows, stamp)

    def write_gone(self, count: int, stamp: int) -> UInt64Array:
        """Return words (count,) that say that rows are gone.

        Raises:
            LimitExceeded: There is no memory left for them.
        """
        return self.segments.gone(stamp, count)

    def show(self, positions: UInt64Array, words: UInt64Array, stamp: int) -> tuple[int, list[int]]:
        """Have look-ups see rows that were written.

        Returns:
            How many positions had none before, and the versions whose table has to be made anew, as their directory is
            another one now, or as look-ups may have another one still.

        Raises:
            LimitExceeded: Positions lie too close together.
        """
        before, first = self.pushed, not self.pushed.rows
        self.pushed, new = upserted(self.pushed, positions, words)
        renewed = self._sharing() if first or self.pushed is not before else []
        if self._replaced:
            renewed = [*renewed, *self._replaced]
        for version, opened in self._versions.items():
            if opened.directory is not None:
                directory, _ = upserted(opened.directory, positions, words)
                if first or directory is not opened.directory:
                    opened.directory = directory
                    renewed.append(version)
        self.last_stamp = max(self.last_stamp, stamp)
        return new, renewed

    def add_fold(self, base: Base, stamps: UInt64Array) -> int:
        """Add the rows of a fold, which nothing names yet; return the number of its segment."""
        number = self.segments.add_base(base, stamps)
        self.fold_bases = {**self.fold_bases, number: base}
        self.folded_rows = base.rows
        return number

    def forget_fold(self, number: int, folded_rows: int) -> None:
        """Forget a fold that was added and is not used, as no word names it any more; the one before stays.

        Args:
            folded_rows: Rows of the one before.
        """
        self.segments.drop(number)
        self.fold_bases = {each: base for each, base in self.fold_bases.items() if each != number}
        self.folded_rows = folded_rows

    def named_folds(self) -> dict[int, Base]:
        """Return the files that words may name, by segment: the fold, and others while words are flipped to them.

        The number of the one before it may be another segment's by now.
        """
        numbers = list(self.fold_bases)
        since = numbers.index(self.fold) if self.fold in self.fold_bases else 0
        return {number: self.fold_bases[number] for number in numbers[since:]}

    def let_go_of_old_fold(self) -> None:
        """Keep no files but those that rows lie in: the fold before the last goes before the next is written.

        Its memory is what that is written into, then, and the disk never has three.
        """
        self.fold_bases = self.named_folds()

    def flip(self, positions: UInt64Array, old: UInt64Array, words: UInt64Array) -> None:
        """Have positions whose word is the old one name the same row elsewhere."""
        positions, old, words = map(np.ascontiguousarray, (positions, old, words))
        of_all = address(positions), address(old), address(words), len(words)
        for directory in self.directories():
            flip(directory.tags_at, directory.buckets_at, directory.shift, *of_all)

    def directories(self) -> list[Directory]:
        """Return all directories, as of now, in any thread."""
        versions = list(self._versions.values())
        return [self.pushed, *(each.directory for each in versions if each.directory is not None)]

    @property
    def may_drop(self) -> bool:
        """Whether there may be pushes that no open version shows: newer bases have them."""
        return self._changed and bool(self._versions) and self.rows > 0 and not self._sharing()

    def drop_unnamed(self) -> int:
        """Forget the pushes that no open version shows, if some version is open; return how many those were."""
        if not self._versions or self._sharing():
            return 0
        self._changed = False
        positions, words, _ = self.pushed.walk_between(0, LAST_POSITION)
        shown = np.zeros(len(positions), bool)
        for directory in self.directories()[1:]:
            shown |= directory.get(positions) == words
        if not shown.all():
            kept = Directory.with_room(FIRST_ROWS + int(shown.sum()))
            self.pushed, _ = upserted(kept, positions[shown], words[shown])
        return int((~shown).sum())

    def _sharing(self) -> list[int]:
        return [version for version, opened in self._versions.items() if opened.directory is None]
