"""What must hold after every step of a history, whatever was killed, stopped, cut off, lost or filled up.

1. *No slot without an owner.* As long as a head has its lease, every slot of every live version is answered by a
   shard that its map names, where the map says, or one of these has died and not been told yet what to serve. While
   nothing new goes wrong, no head lacks a slot, and no head is out of service, for longer than `UNOWNED_S`.
2. *No epoch twice.* Two maps of one epoch are equal.
3. *No two terms at once.* Who has obeyed a term, or was born in it, obeys no lower one, and takes no map of a lower
   one. No leader acts on a state that its successor has not read.
4. *A word is kept.* What was accepted ends as it was asked for, or with a reason; what was refused never happens.
5. *One version per answer.* A request in flight is answered from one content of one version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringpull.ps.fence import Order
from ringpull.router.control.change import PHASES, CoordinatorState
from ringpull.router.control.controls import LEASE_S
from ringpull.router.control.coordinator import version_names
from ringpull.router.shard_map import ShardMap
from tests.simulation.slots import EVERY_SLOT, Bits, owned

if TYPE_CHECKING:
    from tests.simulation.members import SimHead, SimShard
    from tests.simulation.world import World

RESTART_S: Final = 10.0
"""Longest time from the death of a process until its next life has been told all that it needs, in calm."""

UNOWNED_S: Final = LEASE_S + RESTART_S
"""Longest time that a head may lack a slot in calm."""


class Violation(AssertionError):
    """Raised when a history breaks what must hold; the message is its story."""


class Checks:
    """Everything that is remembered of a history in order to judge it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._maps: dict[int, ShardMap] = {}
        self._obeyed: dict[str, int] = {}
        """Incarnation -> highest term that it has obeyed."""
        self._map_terms: dict[str, int] = {}
        self._read: tuple[int, tuple[int, int]] = (0, (0, 0))
        """Newest term, and how far the state was that it began with."""
        self._acted: tuple[int, int] = (0, 0)
        """How far the furthest state was that anybody has acted on."""
        self._lacks_since_s: dict[int, float] = {}
        self.lost = False
        """Whether the newest state was damaged."""

    def violated(self, what: str) -> None:
        """Fail the history."""
        raise Violation(f"{what}\n{self.world.story()}")

    # -- terms ---------------------------------------------------------------------------------------------------------

    def obeyed(self, member: SimShard | SimHead, order: Order) -> None:
        """Take note that a member does what it was ordered."""
        highest = max(self._obeyed.get(member.incarnation, 0), member.born_in_term)
        if order.term < highest:
            self.violated(f"{member} obeys term {order.term} after term {highest}")
        self._obeyed[member.incarnation] = order.term

    def leads(self, term: int, state: CoordinatorState) -> None:
        """Take note that a leader begins, and from which state."""
        if term < self._read[0]:
            return  # It was stopped just before, and finds out before it does anything.
        if term == self._read[0]:
            self.violated(f"two lead for term {term}")
        if progress(state) < self._acted and not self.lost:
            self.violated(f"term {term} begins at {progress(state)}; an earlier one has acted on {self._acted}")
        self._read = (term, progress(state))
        self.world.newest_term = term

    def acts(self, term: int, state: CoordinatorState) -> None:
        """Take note that a leader gives a command out."""
        newest, read = self._read
        if term < newest and progress(state) > read:
            self.violated(f"term {term} acts on {progress(state)}; term {newest} has read only {read}")
        self._acted = max(self._acted, progress(state))

    def state_lost(self) -> None:
        """Take note that the newest state is damaged: what it alone told is lost, and told to be."""
        self.lost = True

    @property
    def highest_epoch(self) -> int:
        """Highest epoch that anybody ever had a map of."""
        return max(self._maps, default=0)

    # -- maps ----------------------------------------------------------------------------------------------------------

    def handed_out(self, shard_map: ShardMap) -> None:
        """Take note of a map that somebody gets."""
        known = self._maps.setdefault(shard_map.epoch, shard_map)
        if known is not shard_map and known != shard_map:
            self.violated(f"epoch {shard_map.epoch} is used twice, by terms {known.term} and {shard_map.term}")

    def map_taken(self, head: SimHead, shard_map: ShardMap) -> None:
        """Take note of a map that a head routes by from now on."""
        self.handed_out(shard_map)
        highest = self._map_terms.get(head.incarnation, 0)
        if shard_map.term < max(highest, self._obeyed.get(head.incarnation, 0)):
            self.violated(f"{head} takes a map of term {shard_map.term} after term {highest}")
        self._map_terms[head.incarnation] = shard_map.term

    # -- slots ---------------------------------------------------------------------------------------------------------

    def slots(self) -> None:
        """Hold what heads route by against what shards serve."""
        now_s = self.world.kernel.now_s
        for head in self.world.heads.values():
            if head.runs and head.serving and head.map is not None and now_s < head.led_until_s:
                used = [(head.map, head.live), *((pull.shard_map, pull.live) for pull in head.pulls)]
                for shard_map, live in {
                    (id(shard_map), id(live)): (shard_map, live) for shard_map, live in used
                }.values():
                    self._answered(head, shard_map, live)

    def _answered(self, head, shard_map, live) -> None:
        if live is head.live:
            shown = {*live.items(), *((model, each) for model, named in head.labels.items() for each in named.values())}
            if hidden := shown - head.loaded:
                self.violated(f"{head} shows {sorted(hidden)}, which it has not loaded")
        for model, number in live.items():
            for table in self.world.tables_of([(model, number)]):
                missing = self._missing(shard_map, table, excusing=True)
                if missing:
                    self.violated(
                        f"{head} routes by epoch {shard_map.epoch}, where nobody answers for {missing:b} of {table}"
                    )

    def _missing(self, shard_map: ShardMap, table: tuple[str, int, str], *, excusing: bool) -> Bits:
        """Return the slots of a table that no owner by this map answers for."""
        model, _, name = table
        missing = EVERY_SLOT
        for each in (shard_map, shard_map.previous):
            if each is None:
                continue
            replicas = each.replicas.get((model, name), 1)
            for address in each.shards:
                shard = self.world.shards.get(address.shard)
                if shard is not None and shard.address == address and (shard.epoch or not excusing):
                    if shard.runs or excusing:
                        missing &= ~shard.served.get(table, 0)
                elif excusing and not self.world.was_ended(address):
                    missing &= ~owned(each.ring, address.shard, replicas)
            if not missing:
                return 0
        return missing

    def in_time(self) -> None:
        """Hold how long heads have lacked slots against the number; called now and then."""
        now_s = self.world.kernel.now_s
        for number, head in self.world.heads.items():
            if self._lacks(head):
                since_s = self._lacks_since_s.setdefault(number, now_s)
                lacking_s = now_s - max(since_s, self.world.calm_since_s)
                if lacking_s > UNOWNED_S:
                    self.violated(f"{head} has lacked slots for {lacking_s:.1f} s in calm")
            else:
                self._lacks_since_s.pop(number, None)

    def at_rest(self) -> None:
        """Hold everybody against the spec that serves: exactly that, and nothing else."""
        seat = self.world.seat
        assert seat is not None
        assert seat.leader is not None
        state = seat.leader.saved
        assert state.spec is not None
        spec, names = state.spec, version_names(state.spec.versions)
        left = set(self.world.shards) - set(spec.shards)
        if (left and not self.lost) or not self.world.shards.keys() >= set(spec.shards):
            self.violated(f"there are shards {sorted(self.world.shards)}; there should be {spec.shards}")
        for number in spec.shards:
            shard = self.world.shards[number]
            wanted = {
                (model, version, table): owned(spec.ring, number, spec.replicas[model, table])
                for model, version, table in self.world.tables_of(names)
            }
            served, stored = shard.served, shard.stored
            if self.world.newest_term > 1 or self.world.was_rough:
                # What was prepared for a coordinator that is gone, or did not hear of it, nobody drops before long.
                served = {table: bits for table, bits in served.items() if table in wanted}
                stored = {table: bits & wanted[table] for table, bits in stored.items() if table in wanted}
            if served != wanted or stored != wanted or shard.bytes_per_s is not None:
                self.violated(f"{shard} serves or stores other things than the spec has for it, or is throttled")
        for head in self.world.heads.values():
            if not head.serving or head.loaded != names or not self._shows(head, state):
                self.violated(f"{head} shows other things than the spec has, or by another map")
            if self._lacks(head):
                self.violated(f"{head} lacks slots at rest")

    def _shows(self, head: SimHead, state: CoordinatorState) -> bool:
        """Return whether a head shows what the spec says, and routes by the newest map."""
        spec = state.spec
        assert spec is not None
        return head.live == dict(spec.live) and head.labels == spec.labels and head.map == state.map

    def _lacks(self, head: SimHead) -> bool:
        if not (head.runs and head.serving and head.map is not None):
            return True
        return any(
            self._missing(head.map, table, excusing=False)
            for model, number in head.live.items()
            for table in self.world.tables_of([(model, number)])
        )


def progress(state: CoordinatorState) -> tuple[int, int]:
    """Return how far a state is: the newest change, and its phase; every step of a change is further."""
    change = state.change
    return state.last_id, len(PHASES) if change is None else PHASES.index(change.phase)
