"""Flat plan: which inputs of a dense program are direct look-ups of a layout, whose vectors stay where they were put.

Made once for each layout of requests; a batch brings where the vectors of each look-up begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.direct_ids import DirectPlan
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.schema.arguments import Argument

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FlatPlan:
    """The I inputs of a dense program, for requests of one layout."""

    direct: NDArray[np.bool_]
    """(I,): whether each is a direct look-up."""
    places: Int64Array
    """(I,): place of its look-up in the order of the pull; 0 where it is none."""
    dims: Int64Array
    """(I,): numbers per row of its look-up; 0 where it is none."""
    context: Int64Array
    """(I,): 1 where its feature was sent as context."""
    others: tuple[int, ...]
    """Inputs that are no direct look-ups."""

    @classmethod
    def of(cls, plan: DirectPlan, inputs: Sequence[int | Argument], lookups: Sequence[FeatureLookup]) -> FlatPlan:
        """Return the plan of these inputs, numbers of look-ups or arguments, given that of their look-ups."""
        count = len(inputs)
        direct = np.zeros(count, np.bool_)
        places, dims, context = (np.zeros(count, np.int64) for _ in range(3))
        for place, source in enumerate(inputs):
            if isinstance(source, Argument) or plan.places[source] >= plan.direct:
                continue
            direct[place], places[place], dims[place] = True, plan.places[source], lookups[source].dim
            context[place] = plan.context[plan.places[source]]
        return cls(direct, places, dims, context, tuple(np.flatnonzero(~direct).tolist()))
