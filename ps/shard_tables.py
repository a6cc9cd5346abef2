"""What a shard serves: versions that are opened, exchanged and retired, and the slots that are answered for.

Everything a verb reads hangs on one frozen state, swapped whole by what is here; verbs never wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import UNKNOWN, differ, identity_in, number_of
from ringpull.ps.open_parts import OpenPart, by_table, exported, grown_by_slot, owned_size, refusing, twin
from ringpull.ps.open_versions import (
    Counts,
    KnownDamage,
    OpenVersion,
    ServedTable,
    ShardState,
    TableKey,
    is_content_of,
    mixes,
    not_open,
    open_base,
)
from ringpull.ps.parts import table_of as table_of_part
from ringpull.ps.placement import NONE_LIVE, ServedRanges, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, runs, shared
from ringpull.ps.spec import ALL
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.table import Table


class CurrentTables(Protocol):
    """Knows what was pushed to tables since they were exported; `ringpull.ps.live.live_shard.LiveShard` does."""

    def opened(self, model: str, version: int, opened: OpenVersion, table: str, served: ServedTable) -> Table:
        """Return a table as it is now, of a version that is opened, or of which a part was replaced."""
        ...

    def again(self, model: str, version: int, opened: OpenVersion, table: str, served: ServedTable) -> Table:
        """Return a table as it is now, of a version that was opened before."""
        ...

    def keep(self, versions: Mapping[tuple[str, int], OpenVersion]) -> None:
        """Forget all versions but these."""
        ...

    def serves(self, model: str, version: int, opened: OpenVersion, table: str) -> None:
        """Take in that look-ups have the table that was returned last."""
        ...

    def settle(self) -> None:
        """Have what must be known of opened versions after a restart on disk. Not called under a lock."""
        ...

    def stamp(self, model: str, lineage: int, table: str) -> int:
        """Return the stamp of the last push: it and all before it are seen, and as durable as pushes are."""
        ...

    def fold_files(self, model: str, lineage: int, table: str) -> Sequence[Base]:
        """Return the files that pushed rows of a table may lie in."""
        ...


class ShardTables:
    """Open versions of one shard, and its slots. All methods may be called from any thread."""

    def __init__(self, shard: int, known_damage: KnownDamage = lambda base: ()) -> None:
        self._shard = shard
        self._known_damage = known_damage
        self._current: CurrentTables | None = None
        self._state = ShardState()
        self._composing = threading.Lock()  # orders what makes tables of parts, which may take long; taken first
        self._control = threading.Lock()  # orders open, retire and assign; taken before _counting, never inside it

    @property
    def shard(self) -> int:
        """Id of the shard."""
        return self._shard

    @property
    def state(self) -> ShardState:
        """What is served, as of now."""
        return self._state

    @property
    def epoch(self) -> int:
        """Epoch of the last assignment; 0 before the first."""
        return self._state.epoch

    def open(
        self,
        model: str,
        version: int,
        folders: Mapping[str, Path],
        *,
        identity: str = "",
        tables: Mapping[str, int] | None = None,
        within: Path | None = None,
        placed: VersionPlacement | None = None,
        prefault: bool = False,
        verify: bool = False,
        check: Callable[[Mapping[str, Base]], None] = lambda bases: None,
    ) -> None:
        """Open the tables of one model version, all or none, and serve them from now on.

        Opening a version that is open already, with the same content, does nothing: a coordinator may repeat itself.
        One that is open with another content than is asked for is replaced by that, or stays where that is not found.

        Args:
            folders: Folder of each table, by its name; of a version with deltas of each part.
            identity: Identity of the version; empty: not known.
            tables: Identity that each table must have; one that is not named may have any.
            within: Folder that no file may lead out of; None: that of each table.
            placed: Says more of it: its lineage, and which parts lie in the folders of other versions. Those that are
                open here already need no file.
            prefault: Bring every page into memory before returning.
            verify: Read all rows and hold them against their checksums.
            check: Called with the tables, opened and not served yet, or served already; may refuse them.

        Raises:
            CorruptData: A table is damaged, or is not the table it should be.
            OtherContent: A table has another identity than it should have.
            InvalidInput: The version is open from other folders, and it is not known what it should be.
        """
        wanted = tables or {}
        if self._holds(model, version, folders, identity, wanted):
            check(self.bases(model, version))
            return
        # Not under the lock: it may take long, and other versions are assigned, quarantined and retired meanwhile.
        bases = {}
        for name, folder in folders.items():
            part = None if placed is None else placed.tables[name]
            shared = None if part is None or not part.origin else self.base_of(model, part.identity)
            root = Path(part.within) if part is not None and part.within else within
            like = self._whole_bases()
            bases[name] = shared or open_base(name, folder, wanted.get(name, UNKNOWN), root, verify=verify, like=like)
        check(bases)
        if prefault:
            for base in bases.values():
                base.prefault()
        parts = self._parts(bases)
        with self._composing:
            if not self._holds(model, version, folders, identity, wanted):
                self._install(model, version, parts, None, number_of(identity), placed)
        self._settle()

    def install(
        self,
        model: str,
        version: int,
        bases: Mapping[str, Base],
        *,
        identity: str = "",
        placed: VersionPlacement | None = None,
    ) -> None:
        """Serve these bases from now on: a version's tables, or others in place of those of the same names.

        Verbs in progress end with what they began with. Counts stay, unless the version was open with another content:
        then nothing of that stays.

        Args:
            bases: By the names of tables, or of their parts.
            identity: Identity of the version; empty: that of the open one.
            placed: Says its lineage, and more; None: as that of the open one.
        """
        parts = self._parts(bases)
        with self._composing:
            before = self._state.versions.get((model, version))
            told = number_of(identity)
            if before is None or differ(before.identity, told) or mixes(before, bases):
                self._install(model, version, parts, None, told, placed)
            else:
                self._install(model, version, parts, before, told or before.identity, placed)
        self._settle()

    def bring(self, placed: VersionPlacement) -> None:
        """Take in which publish brings a version: it may be open from one that was given up, which counts no more."""
        name = (placed.model, placed.version)
        with self._composing:
            opened = self._state.versions.get(name)
            if opened is None or name in self._state.assigned or placed.publish in (0, opened.publish):
                return
            opened = replace(opened, publish=placed.publish)
            now = {table: self._now(*name, opened, table, each) for table, each in opened.tables.items()}
            self._put(*name, now, opened, same_rows=True)
        self._settle()

    def refuse(self, model: str, version: int, reason: str) -> None:
        """Note that a version cannot be opened as it should be, for those who ask for it, until it is.

        If it is open, with another content then, it is closed.
        """
        with self._control:
            state, name = self._state, (model, version)
            versions = {each: opened for each, opened in state.versions.items() if each != name}
            self._state = replace(state, versions=versions, refusals={**state.refusals, name: reason})

    @property
    def refusals(self) -> Mapping[tuple[str, int], str]:
        """Versions that should be served and could not be opened, each with the reason."""
        state = self._state
        return {name: reason for name, reason in state.refusals.items() if name in state.assigned}

    def quarantine(self, key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        """Refuse pulls of the slots of these blocks of a table, and of no others, from now on.

        Returns:
            Whether the table is still served from this base; if not, nothing was done.
        """
        return self._replace_part(key, base, OpenPart(base, tuple(bad)))

    def exchange(self, key: TableKey, before: Base, base: Base) -> bool:
        """Serve a part from another base with the same rows; return whether it was served from `before` until now."""
        return self._replace_part(key, before, OpenPart(base, tuple(self._known_damage(base))))

    def tables(self) -> list[TableKey]:
        """Return the tables that are served, in the order in which they were opened; those with deltas by their parts.

        So does every method that is given such a key.
        """
        return [(*version, name) for version, opened in self._state.versions.items() for name in opened.bases]

    def served_tables(self) -> list[tuple[TableKey, ServedTable]]:
        """Return the open tables, whole ones, by model, version and name."""
        state = self._state
        return [((*key, name), each) for key, opened in state.versions.items() for name, each in opened.tables.items()]

    def bases(self, model: str, version: int) -> dict[str, Base]:
        """Return the bases that a version's tables are served from, of each part; none if it is not open."""
        opened = self._state.versions.get((model, version))
        return {} if opened is None else opened.bases

    def base(self, key: TableKey) -> Base | None:
        """Return the base that a table is served from; None if it is not served."""
        opened = self._state.versions.get(key[:2])
        part = None if opened is None else opened.part(key[2])
        return None if part is None else part.base

    def base_of(self, model: str, identity: int) -> Base | None:
        """Return a base of the maps that a model's table of this identity is served from; None: it is not, or it is
        known to be damaged."""
        for (name, _), opened in self._state.versions.items() if identity else ():
            for base in opened.bases.values() if name == model else ():
                if base.identity == identity and base.held == fmt.FULL and not self._known_damage(base):
                    return twin(base)
        return None

    def served(self, key: TableKey) -> tuple[Base, list[SlotRange]] | None:
        """Return the base of a table and the slots of it that are served; None if it is not served any more."""
        base, served = self.base(key), self._served_table((*key[:2], table_of_part(key[2])))
        if served is None or base is None:
            return None
        return base, [SlotRange(0, SLOTS)] if served.mask is None else runs(served.mask)

    def has_copies(self, key: TableKey) -> bool:
        """Return whether other shards have the ranges of a table that this one serves."""
        model, _, name = key[0], key[1], table_of_part(key[2])
        for each in self._state.served_ranges or ():
            wanted = each.replicas.get((model, name), 1)
            # A ring of few shards has fewer copies than are wanted.
            if (len(each.ring.shards) if wanted == ALL else min(wanted, each.ring.ranks)) > 1:
                return True
        return False

    def is_open(self, model: str, version: int) -> bool:
        """Return whether a version is served here."""
        return (model, version) in self._state.versions

    def holds(self, placement: VersionPlacement) -> bool:
        """Return whether a version is served here with the content that a placement asks for."""
        served = self._state.versions.get((placement.model, placement.version))
        wanted = {name: table.identity for name, table in placement.tables.items()}
        return served is not None and is_content_of(served, placement.identity, wanted)

    def owned(self, model: str, table: str) -> SlotMask | None:
        """Return the slots of a table that are answered for, or None before the first assignment."""
        state = self._state
        return None if state.served_ranges is None else self._owned(state, model, table_of_part(table))

    def retire(self, model: str, version: int) -> None:
        """Serve a version no longer; its files are unmapped when the last verb that reads them is done.

        Raises:
            NotFound: The version is not open here.
        """
        with self._control:
            versions = dict(self._state.versions)
            if versions.pop((model, version), None) is None:
                raise not_open(self._state, self._shard, model, version)
            self._state = replace(self._state, versions=versions)

    def assign(
        self,
        epoch: int,
        served_ranges: Sequence[ServedRanges],
        versions: Collection[tuple[str, int]],
        live: Mapping[str, int] = NONE_LIVE,
    ) -> bool:
        """Serve the slots owned by any of `served_ranges`, of these versions; other open versions are retired.

        Args:
            epoch: Epoch of the newest shard map that was made of them. One below the current is outdated, and ignored.
            served_ranges: Ranges of two specs while a move is under way, else of one.
            versions: (model, version), perhaps with the identity of each: one that is open with another content is
                retired too. One that is not open yet is checked by `served_ranges` once it is.
            live: Lineage that is live, by model: see `ShardState.live`.

        Returns:
            Whether it was news.
        """
        with self._control:
            if epoch < self._state.epoch:
                return False
            named = frozenset(versions)
            refusals = {name: reason for name, reason in self._state.refusals.items() if name in named}
            state = replace(
                self._state,
                epoch=epoch,
                served_ranges=tuple(served_ranges),
                assigned=named,
                refusals=refusals,
                live=dict(live),
            )
            served = {
                (model, version): replace(
                    opened,
                    tables={name: self._assigned(state, model, name, each) for name, each in opened.tables.items()},
                )
                for (model, version), opened in state.versions.items()
                if (model, version) in named and not differ(opened.identity, identity_in(versions, (model, version)))
            }
            self._state = replace(state, versions=served)
            return True

    def take_current(self, current: CurrentTables) -> None:
        """Serve tables with what was pushed to them, from the next that is opened on."""
        self._current = current

    def renew(self, model: str, version: int, table: str) -> None:
        """Make a table anew, because what is newer than its base lies elsewhere now; nothing where it is not open."""
        with self._composing:
            opened, served = self._state.versions.get((model, version)), self._served_table((model, version, table))
            if opened is not None and served is not None and self._current is not None:
                now = self._current.again(model, version, opened, table, served)
                self._put(model, version, {table: replace(served, table=now)}, opened, same_rows=True)

    def forget_closed(self) -> None:
        """Have what was kept for versions forgotten that are not open any more."""
        with self._composing:
            if self._current is not None:
                self._current.keep(self._state.versions)

    def prefault(self) -> None:
        """Bring every page of every open table into memory."""
        for opened in self._state.versions.values():
            for base in opened.bases.values():
                base.prefault()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _holds(
        self, model: str, version: int, folders: Mapping[str, Path], identity: str, tables: Mapping[str, int]
    ) -> bool:
        """Return whether a version is open with this content.

        Raises:
            InvalidInput: It is open from other folders, and it is not known what it should be.
        """
        served = self._state.versions.get((model, version))
        if served is None or not is_content_of(served, identity, tables):
            return False
        now = {name: base.folder for name, base in served.bases.items()}
        if not identity and not any(tables.values()) and now != dict(folders):
            raise InvalidInput(f"model {model}: version {version} is open already, from other folders")
        return True

    def _whole_bases(self) -> list[Base]:
        """Return the bases that are served and have no known damage: a table of the same files takes no memory more.

        Each table has a base of its own all the same, so that what is found and refused of one is not the other's.
        """
        bases = [base for opened in self._state.versions.values() for base in opened.bases.values()]
        return [base for base in bases if not self._known_damage(base)]

    def _replace_part(self, key: TableKey, before: Base, part: OpenPart) -> bool:
        model, version, name = key
        with self._composing:
            opened = self._state.versions.get((model, version))
            was = None if opened is None else opened.part(name)
            if opened is None or was is None or was.base is not before:
                return False
            table = table_of_part(name)
            served = opened.tables[table]
            parts = {**served.parts, name: part}
            made = refusing(served.exported, parts.values()) if part.base is before else exported(parts)
            replaced = replace(served, exported=made, table=made, parts=parts)
            now = self._now(model, version, opened, table, replaced)
            return self._put(model, version, {table: now}, opened, same_rows=True)

    def _served_table(self, key: TableKey) -> ServedTable | None:
        opened = self._state.versions.get(key[:2])
        return None if opened is None else opened.tables.get(key[2])

    def _parts(self, bases: Mapping[str, Base]) -> dict[str, OpenPart]:
        return {name: OpenPart(base, tuple(self._known_damage(base))) for name, base in bases.items()}

    def _install(
        self,
        model: str,
        version: int,
        parts: Mapping[str, OpenPart],
        before: OpenVersion | None,
        identity: int,
        placed: VersionPlacement | None,
    ) -> None:
        """Serve these parts, and those of `before` that have other names."""
        tables = {}
        for table, changed in by_table(parts).items():
            served = None if before is None else before.tables.get(table)
            every = {**({} if served is None else served.parts), **changed}
            made = exported(every)
            counts = Counts() if served is None else served.counts
            grown = grown_by_slot(made) if len(every) > 1 else None
            tables[table] = ServedTable(made, made, every, None, 0, 0, counts, grown)
        opened = OpenVersion(identity, {}) if before is None else replace(before, identity=identity)
        if placed is not None:
            opened = replace(
                opened, lineage=placed.lineage, live=placed.live, includes=placed.includes, publish=placed.publish
            )
        now = {table: self._now(model, version, opened, table, each) for table, each in tables.items()}
        self._put(model, version, now, opened)

    def _now(self, model: str, version: int, opened: OpenVersion, table: str, served: ServedTable) -> ServedTable:
        """Return a table with what was pushed to it."""
        if self._current is None:
            return served
        return replace(served, table=self._current.opened(model, version, opened, table, served))

    def _put(
        self,
        model: str,
        version: int,
        tables: Mapping[str, ServedTable],
        opened: OpenVersion,
        *,
        same_rows: bool = False,
    ) -> bool:
        """Serve tables of a version in place of those of their names; return whether it is still to be served.

        Args:
            same_rows: The parts have the rows of those before. Then nothing is counted anew: counting reads positions
                through their map, which may be what is damaged.
        """
        with self._control:
            state, name = self._state, (model, version)
            if opened.tables and name not in state.versions:
                return False  # retired meanwhile
            there = state.versions[name].tables if opened.tables else {}
            made = {}
            for table, each in tables.items():
                if same_rows and table in there:
                    made[table] = replace(there[table], table=each.table, exported=each.exported, parts=each.parts)
                else:
                    made[table] = self._assigned(state, model, table, each)
            versions = {**state.versions, name: replace(opened, tables={**there, **made})}
            refusals = {each: reason for each, reason in state.refusals.items() if each != name}
            self._state = replace(state, versions=versions, refusals=refusals)
        if self._current is not None:
            for table in tables:
                self._current.serves(model, version, opened, table)  # only now: until then pushes wait for it
        return True

    def _settle(self) -> None:
        if self._current is not None:
            self._current.settle()

    def _assigned(self, state: ShardState, model: str, name: str, served: ServedTable) -> ServedTable:
        """Return a table with the slots that are served of it."""
        mask = self._owned(state, model, name)
        rows, size = owned_size(served.parts, mask, served.grown)
        return replace(served, mask=None if mask.all() else shared(mask), owned_rows=rows, owned_bytes=size)

    def _owned(self, state: ShardState, model: str, table: str) -> SlotMask:
        mask = np.zeros(SLOTS, np.uint8)
        for served_ranges in state.served_ranges or ():
            mask |= served_ranges.ring.owned_mask(self._shard, served_ranges.replicas.get((model, table), 1))
        return mask
