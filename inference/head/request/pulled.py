"""The results of a version's look-ups, in whatever order they were pulled: each is found by the look-up's number."""

from __future__ import annotations

from collections.abc import Sequence

from ringpull.inference.head.request.direct_ids import DirectPlan
from ringpull.ps.spec import Float32Array
from ringpull.router.lookup import LookupResult
from ringpull.router.merge import FlatResults


class Pulled:
    """The results of one batch."""

    def __init__(self, results: Sequence[LookupResult], plan: DirectPlan | None = None) -> None:
        """Take the results (L,), in the order of the plan; without one, of the version's look-ups."""
        self._results = results
        self.plan = plan

    def __getitem__(self, lookup: int) -> LookupResult:
        return self._results[lookup if self.plan is None else self.plan.places[lookup]]

    @property
    def flat(self) -> FlatResults | None:
        """The results end to end, if they are."""
        return self._results if isinstance(self._results, FlatResults) else None

    def rows(self, place: int) -> Float32Array:
        """Return the vectors at a place of the order in which they were pulled."""
        results = self._results
        return results.rows(place) if isinstance(results, FlatResults) else results[place].values

    def lacking(self) -> list[int]:
        """Return the look-ups, ascending, of which some keys have no row of their own."""
        results = self._results
        if isinstance(results, FlatResults):
            places = results.lacking()
        else:
            places = [place for place, each in enumerate(results) if each.lacks_rows]
        return places if self.plan is None else sorted(self.plan.order[place] for place in places)
