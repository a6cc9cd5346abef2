"""Filling the empty places of one rank of an owner table: those of a shard that leaves, or all of a new rank.

An owner of a slot at a later rank may move up into the empty place: every prefix of the owner list then gains one
shard, just as when another shard fills the place, so no more is copied. Its old place becomes empty, and is filled when
that rank is. An owner at an earlier rank may not be given the slot again.

Places are filled greedily, then levelled: while a shard is off by more than the slack, slots are passed along a chain
of shards, from the fuller end to the emptier one, each step a piece that the next shard may own.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import SLOTS

UNOWNED: Final = 65_535
"""Value of an empty place in an owner table."""

SLACK: Final = 0.02
"""Relative imbalance that is tolerated, to save runs. The promise is 5%; the rest is left for forced choices."""

OwnerTable = NDArray[np.uint16]
"""Owners of every slot, first owner first: uint16 (SLOTS, ranks)."""

Run = tuple[int, int]
"""Consecutive slots (begin, end), half open."""


def run_starts(table: OwnerTable) -> NDArray[np.int64]:
    """Return where runs of equal rows begin, ascending, first 0: int64."""
    changes = (table[1:] != table[:-1]).any(axis=1)
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def split_runs(runs: list[Run], longest: float) -> list[Run]:
    """Cut each run into equal parts no longer than `longest`."""
    if max((end - begin for begin, end in runs), default=0) <= longest:
        return runs
    parts: list[Run] = []
    for begin, end in runs:
        count = max(1, ceil((end - begin) / longest))
        parts += [(begin + (end - begin) * i // count, begin + (end - begin) * (i + 1) // count) for i in range(count)]
    return parts


class RankFill:
    """Fills the empty places of one rank of an owner table, in place. Earlier ranks must be full."""

    def __init__(self, out: OwnerTable, rank: int, shards: list[int]) -> None:
        self._out = out
        self._rank = rank
        self._shards = shards
        self._even = SLOTS / len(shards)
        counts = np.bincount(out[:, rank], minlength=UNOWNED + 1)
        self._ids = np.array(shards)
        self._counts = {shard: int(counts[shard]) for shard in shards}
        self._loads = counts[self._ids]
        """The same counts, in the order of the shards."""
        self._places = {shard: place for place, shard in enumerate(shards)}
        bounds = [*run_starts(out[:, : rank + 1]).tolist(), SLOTS]
        self._empty = [run for run in pairwise(bounds) if out[run[0], rank] == UNOWNED]
        self._given: list[tuple[int, int, int]] = []
        """Pieces (begin, end, shard) filled so far; all slots of a piece have the same earlier owners."""

    def fill_near(self) -> None:
        """Fill the places with owners of neighbouring slots where these have room, else with the least loaded shard."""
        slack = SLACK * self._even / 4
        for begin, end in self._empty:
            while begin < end:
                shard = self._neighbour(begin, end, slack)
                if shard is None:
                    shard = self._first(self._loads, self._earlier(begin))
                room = int(self._even - self._counts[shard])
                # If no allowed shard has room, the piece is not split: levelling passes parts on where needed.
                stop = begin + room if slack < room < end - begin - slack else end
                self._give(begin, stop, shard)
                begin = stop
        self._finish()

    def fill_mixed(self, pieces: int) -> None:
        """Fill the places, about this many pieces for each shard, so that it shares slots evenly with all others."""
        shared = np.zeros((len(self._shards), len(self._shards)), np.int64)
        for begin, end in split_runs(self._empty, self._even / pieces):
            earlier = self._earlier(begin)
            allowed = np.ones(len(self._shards), bool)
            allowed[[self._places[other] for other in earlier]] = False
            roomy = allowed & (self._loads + (end - begin) / 2 <= self._even)
            where = np.flatnonzero(roomy if roomy.any() else allowed)
            met = shared[[self._places[other] for other in earlier]].sum(axis=0)[where]
            where = where[met == met.min()]
            place = int(where[np.argmin(self._loads[where])])
            for other in earlier:
                shared[self._places[other], place] += end - begin
            self._give(begin, end, self._shards[place])
        self._finish()

    def _first(self, loads: NDArray[np.int64], earlier: list[int]) -> int:
        """Return the first of the least loaded shards that are not among those."""
        loads = loads.copy()
        loads[[self._places[shard] for shard in earlier]] = SLOTS + 1
        return self._shards[int(np.argmin(loads))]

    def _earlier(self, slot: int) -> list[int]:
        owners: list[int] = self._out[slot, : self._rank].tolist()
        return owners

    def _allowed(self, slot: int) -> list[int]:
        earlier = self._earlier(slot)
        return [shard for shard in self._shards if shard not in earlier]

    def _neighbour(self, begin: int, end: int, slack: float) -> int | None:
        """Return the owner of the slot before or after, if it may own these and has room for all of them."""
        column = self._out[:, self._rank]
        for slot in (begin - 1, end):
            shard = int(column[slot]) if 0 <= slot < SLOTS else UNOWNED
            fits = shard != UNOWNED and self._even - self._counts[shard] >= end - begin - slack
            if fits and shard not in self._earlier(begin):
                return shard
        return None

    def _give(self, begin: int, end: int, shard: int) -> None:
        self._out[begin:end, self._rank] = shard
        self._note(shard, end - begin)
        self._given.append((begin, end, shard))

    def _note(self, shard: int, more: int) -> None:
        self._counts[shard] += more
        self._loads[self._places[shard]] += more

    def _finish(self) -> None:
        """Level the rank, then empty the later places of owners that moved up."""
        self._level()
        for begin, end, shard in self._given:
            later = self._out[begin:end, self._rank + 1 :]
            later[later == shard] = UNOWNED

    # -- levelling -----------------------------------------------------------------------------------------------------

    def _level(self) -> None:
        """Pass slots on until every shard is within the slack, or no chain brings the others nearer to it."""
        slack = max(1.0, SLACK * self._even)
        stuck: set[int] = set()
        while True:
            off = {s: count - self._even for s, count in self._counts.items() if s not in stuck}
            worst = max(off, key=lambda s: abs(off[s]), default=None)
            if worst is None or abs(off[worst]) <= slack:
                return
            if not self._pass_on(worst, giving=off[worst] > 0):
                stuck.add(worst)

    def _pass_on(self, start: int, *, giving: bool) -> bool:
        """Even out one shard with the most opposite one that a chain reaches.

        Returns:
            Whether slots were passed on. That lowers the sum of squared distances from even, so levelling terminates.
        """
        steps: dict[int, tuple[int, int]] = {}
        queue = deque([start])
        while queue and len(steps) < len(self._shards) - 1:  # what is reached is reached by the first who reaches it
            here = queue.popleft()
            for index, (begin, end, owner) in enumerate(self._given):
                if begin == end:
                    continue
                if giving:
                    reached = self._allowed(begin) if owner == here else []
                else:
                    reached = [owner] if here not in self._earlier(begin) else []
                for other in reached:
                    if other != start and other not in steps:
                        steps[other] = (here, index)
                        queue.append(other)
        goal = (min if giving else max)([start, *steps], key=lambda s: self._counts[s])
        amount = abs(self._counts[start] - self._counts[goal]) // 2
        if amount == 0:
            return False
        chain = []
        here = goal
        while here != start:
            before, index = steps[here]
            chain.append((index, here if giving else before))
            here = before
        amount = min(amount, *(self._given[index][1] - self._given[index][0] for index, _ in chain))
        for index, receiver in chain:
            begin, end, giver = self._given[index]
            self._given[index] = (begin, end - amount, giver)
            self._note(giver, -amount)
            self._give(end - amount, end, receiver)
        return True
