"""Counts that heads keep of their calls, gathered over all heads and their earlier lives.

Every number only grows within one life of a head, so of two reports of a life the higher numbers are the newer ones:
reports may come in any order, over any way, and twice. What a number means is the heads' own business
(`ringpull.inference.head.metrics`).

A head that is asked for sums tells the coordinator first what it will say of itself, so no other head says less of it
afterwards: sums never go back because another head answers. Heads tell all that they know, of others and of lives that
have ended too, which a coordinator that was restarted has not heard of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

Numbers = tuple[int, ...]

Growing = Mapping[tuple[str, int], Numbers]
"""Numbers by model and version, or by model and step; those of a table are under `MODEL/TABLE` in place of a model."""

STEP_S: Final = 15
"""Length of a step in seconds. Step n begins n * STEP_S seconds after 1970 began."""
STEPS: Final = 60
"""Steps that are kept, the one under way included: 15 minutes."""

LET_GO_KEPT: Final = 32
"""Versions let go of whose numbers are kept, the last ones: one that is loaded again counts on. There come ever more
of them, so earlier ones are forgotten."""

MAX_LIVES: Final = 1024
"""Lives of heads whose counts are kept, the last ones: a head that ends again and again must not fill the memory."""

OVERALL: Final = ("", 0)
"""Key of what is no model's and no version's: all calls of a head."""


@dataclass(frozen=True, slots=True)
class HeadCounts:
    """Counts of one life of a head, as it reports them."""

    totals: Growing = field(default_factory=dict)
    """(model, version) -> numbers since it began, of all versions that are loaded and their tables, and `OVERALL`."""
    recent: Growing = field(default_factory=dict)
    """(model, step) -> numbers of a step; calls without a known model have an empty name."""


@dataclass(frozen=True, slots=True)
class GatheredCounts:
    """Counts of all heads, as far as the coordinator knows."""

    totals: Mapping[str, Growing] = field(default_factory=dict)
    """Incarnation -> what it has counted since it began."""
    recent: Growing = field(default_factory=dict)
    """(model, step) -> sums over all incarnations but the one that asks."""


class KnownTotals:
    """Totals of all lives of heads that were heard of."""

    def __init__(self) -> None:
        self._lives: dict[str, dict[tuple[str, int], Numbers]] = {}
        self._let_go: dict[tuple[str, int], None] = {}
        """Versions of these that nobody has loaded, in the order in which that was first seen."""

    def __repr__(self) -> str:
        return f"<KnownTotals of {len(self._lives)} lives>"

    def take(self, incarnation: str, totals: Growing) -> None:
        """Take in a report of one life."""
        _raise(self._lives.setdefault(incarnation, {}), totals)
        while len(self._lives) > MAX_LIVES:
            del self._lives[next(iter(self._lives))]

    def keep_only(self, versions: Collection[tuple[str, int]]) -> None:
        """Forget the numbers of all other versions but the last `LET_GO_KEPT` that were let go of; of tables all."""
        loaded = {*versions, OVERALL}
        for totals in self._lives.values():
            for key in [key for key in totals if "/" in key[0]]:
                if (key[0].partition("/")[0], key[1]) in loaded:
                    loaded.add(key)
                else:
                    del totals[key]
        known = {key: None for totals in self._lives.values() for key in totals if key not in loaded}
        let_go = list({key: None for key in self._let_go if key in known} | known)
        self._let_go = dict.fromkeys(let_go[-LET_GO_KEPT:])
        for totals in self._lives.values():
            for gone in let_go[:-LET_GO_KEPT]:
                totals.pop(gone, None)

    def by_life(self) -> dict[str, Growing]:
        """Return what is known of each life."""
        return {incarnation: dict(totals) for incarnation, totals in self._lives.items()}


class CountsOfHeads:
    """Counts of all heads at the coordinator. Kept in memory only; one thread uses it."""

    def __init__(self) -> None:
        self._totals = KnownTotals()
        self._recent: dict[str, dict[tuple[str, int], Numbers]] = {}

    def __repr__(self) -> str:
        return f"<CountsOfHeads {self._totals!r}>"

    def take(self, incarnation: str, counts: HeadCounts) -> None:
        """Take in what a head reports of itself."""
        self._totals.take(incarnation, counts.totals)
        _raise(self._recent.setdefault(incarnation, {}), counts.recent)
        newest = max((step for steps in self._recent.values() for _, step in steps), default=0)
        for life, steps in list(self._recent.items()):
            for old in [key for key in steps if key[1] <= newest - STEPS]:
                del steps[old]
            if not steps:
                del self._recent[life]

    def take_known(self, known: Mapping[str, Growing]) -> None:
        """Take in what a head has heard of all heads."""
        for incarnation, totals in known.items():
            self._totals.take(incarnation, totals)

    def keep_only(self, versions: Collection[tuple[str, int]]) -> None:
        """See `KnownTotals.keep_only`."""
        self._totals.keep_only(versions)

    def gathered(self, asker: str) -> GatheredCounts:
        """Return what is known of all heads.

        Args:
            asker: Incarnation of the head that asks, whose own steps it knows best.
        """
        others = (steps for life, steps in self._recent.items() if life != asker)
        return GatheredCounts(self._totals.by_life(), summed(others))


def summed(reports: Iterable[Growing]) -> dict[tuple[str, int], Numbers]:
    """Return the sums of several reports, number by number."""
    sums: dict[tuple[str, int], Numbers] = {}
    for report in reports:
        for key, numbers in report.items():
            sums[key] = tuple(map(sum, zip_longest(sums.get(key, ()), numbers, fillvalue=0)))
    return sums


def _raise(known: dict[tuple[str, int], Numbers], report: Growing) -> None:
    for key, numbers in report.items():
        known[key] = tuple(map(max, zip_longest(known.get(key, ()), numbers, fillvalue=0)))
