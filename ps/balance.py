"""Balance of a ring as shards join and leave and ranks are added, as functions of owner tables.

The minimum moves: a join moves only what the newcomer gets, a leave only what the leaver had. Within that,
three aims pull at each other, in this order: the slots of every shard at every rank within `SLACK` of even; few runs (a
run is consecutive slots with one owner at one rank); and mixed co-owners, because slots that always belong to the same
two shards cannot be divided evenly when one of the two leaves.

Ranks are balanced one after the other: joins here, empty places in `ringpull.ps.rank_fill`. The bounds, over random
histories, are tests: tests/ps/test_ring.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import SLOTS
from ringpull.ps.rank_fill import SLACK, UNOWNED, OwnerTable, RankFill, Run, run_starts, split_runs

JOIN_PIECES: Final = 32
"""Pieces of each rank that a newcomer takes, about; one of every shard if those are more: enough to mix."""

RANK_PIECES: Final = 8
"""Pieces of a newly added rank 1 that a shard gets, about; of rank 2 twice as many, and so on."""

CoOwners = Counter[tuple[int, int]]
"""Slots by (rank, shard)."""


def even(shards: list[int], ranks: int) -> OwnerTable:
    """Return an owner table made from nothing: one equal run each at rank 0, in the order given, then mixed ranks."""
    first = np.array(shards, np.uint16)[np.arange(SLOTS) * len(shards) // SLOTS]
    return with_ranks(first[:, None], ranks)


def with_ranks(table: OwnerTable, ranks: int) -> OwnerTable:
    """Return the table with later ranks dropped or added; there must be as many shards as ranks."""
    out = table[:, :ranks].copy()
    for rank in range(table.shape[1], ranks):
        out = np.hstack([out, np.full((SLOTS, 1), UNOWNED, np.uint16)])
        RankFill(out, rank, np.unique(table).tolist()).fill_mixed(RANK_PIECES << (rank - 1))
    return out


def join(table: OwnerTable, newcomer: int, ranks: int) -> OwnerTable:
    """Return the table in which a newcomer has its even part of every rank; `ranks` may be one more than before."""
    out = table.copy()
    share = SLOTS / (np.count_nonzero(np.bincount(table.ravel())) + 1)
    for rank in range(table.shape[1]):
        _take(out, rank, newcomer, share)
    if ranks > table.shape[1]:
        # Every shard now owns every slot. Last comes the shard that the newcomer displaced, or the newcomer itself.
        taken = out == newcomer
        displaced = np.where(taken, table, 0).sum(axis=1, dtype=np.uint16)
        last = np.where(taken.any(axis=1), displaced, np.uint16(newcomer))
        out = np.hstack([out, last[:, None]])
    return out


def leave(table: OwnerTable, leaver: int, ranks: int) -> OwnerTable:
    """Return the table without one shard; `ranks` may be one less than before."""
    out = np.where(table == leaver, np.uint16(UNOWNED), table)
    shards = [shard for shard in np.unique(table).tolist() if shard != leaver]
    for rank in range(ranks):
        RankFill(out, rank, shards).fill_near()
    return out[:, :ranks]


# -- what a newcomer takes ---------------------------------------------------------------------------------------------


def _take(out: OwnerTable, rank: int, newcomer: int, share: float) -> None:
    """Give the newcomer its share of a rank, from the fullest shards, where it is not an owner at another rank."""
    column = np.where((out == newcomer).any(axis=1), np.uint16(UNOWNED), out[:, rank])
    begins = run_starts(column[:, None])
    ends = np.append(begins[1:], SLOTS)
    by_owner = np.argsort(column[begins], kind="stable")
    owners = column[begins][by_owner]
    counts = np.bincount(out[:, rank])
    donors = np.flatnonzero(counts)
    counts = counts[donors]
    level = _level(counts, share)
    slack = SLACK * share / 4
    pieces = max(1, round(JOIN_PIECES / len(donors)))
    co_owners: CoOwners = Counter()
    # What rounding to whole runs leaves over at one donor is taken from, or left to, the next.
    due = 0.0
    for count, donor in sorted(zip(counts.tolist(), donors.tolist(), strict=True), reverse=True):
        due += max(0.0, count - level)
        if due <= _least(slack):  # of many donors, most give nothing
            continue
        own = by_owner[slice(*np.searchsorted(owners, (donor, donor + 1)))]
        runs = list(zip(begins[own].tolist(), ends[own].tolist(), strict=True))
        parts = split_runs(runs, count / pieces)
        for begin, end in _pick(out, parts, due, pieces, slack, co_owners):
            out[begin:end, rank] = newcomer
            due -= end - begin


def _level(counts: NDArray[np.int64], amount: float) -> float:
    """Return the level to which the largest counts must fall to give up `amount` together."""
    falling = np.sort(counts)[::-1]
    levels = (np.cumsum(falling) - amount) / np.arange(1, len(falling) + 1)
    return float(levels.max())


def _pick(out: OwnerTable, runs: list[Run], amount: float, pieces: int, slack: float, co_owners: CoOwners) -> list[Run]:
    """Choose about `pieces` parts of runs, `amount` slots in all, give or take the slack.

    Whole runs of about the right length come first, since they cut nothing; else ends of longer ones. Of those that
    suit, the one whose owners occur least in what was picked before, as counted in `co_owners`.
    """
    picked: list[Run] = []
    while runs and amount > _least(slack):
        piece = amount / max(1, pieces - len(picked))
        suits = [run for run in runs if piece / 2 <= run[1] - run[0] <= min(1.5 * piece, amount + slack)]
        if not suits:
            length = max(1, round(piece))
            longest = max(end - begin for begin, end in runs)
            long = [run for run in runs if run[1] - run[0] >= min(longest, 2 * length)]
            suits = [(begin, min(end, begin + length)) for begin, end in long]
            suits += [(max(begin, end - length), end) for begin, end in long]
        chosen = 0
        if out.shape[1] > 1:  # with one rank their only owner is the donor
            # The owners in the middle of a run stand for all of it.
            amid = out[[(begin + end) // 2 for begin, end in suits]].tolist()
            met = [sum(co_owners.get(at, 0) for at in enumerate(owners)) for owners in amid]
            chosen = met.index(min(met))
            for at in enumerate(amid[chosen]):
                co_owners[at] += suits[chosen][1] - suits[chosen][0]
        begin, end = suits[chosen]
        runs = [rest for run in runs for rest in _without(run, begin, end)]
        picked.append((begin, end))
        amount -= end - begin
    return picked


def _least(slack: float) -> float:
    """Return the number of slots up to which nothing is taken."""
    return max(slack, 0.5)


def _without(run: Run, begin: int, end: int) -> list[Run]:
    """Return what is left of a run without the slots from `begin` to `end`."""
    if end <= run[0] or run[1] <= begin:
        return [run]
    return [rest for rest in ((run[0], begin), (end, run[1])) if rest[0] < rest[1]]
