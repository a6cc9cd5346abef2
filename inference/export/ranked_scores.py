"""Scores of ranked outputs, for checks: queries times the rows of their tables, as shards compute them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.asking import Outputs
from ringpull.inference.export.passes.queries import RankedOutput
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.model.manifest_parts import ProgramOutput, Ranks
from ringpull.ps.spec import Float32Array

MEASURED_ROWS: Final = 4_096
"""Rows of a table by which it is measured what their rounding costs: the scores of all, of as many requests, are too
many numbers to keep."""


@dataclass(frozen=True, slots=True, eq=False)
class RankedScores:
    """Ranked outputs of a model, with the plans of their tables."""

    ranked: tuple[RankedOutput, ...] = ()
    plans: Mapping[str, TablePlan] = field(default_factory=dict)

    def told(self, outputs: tuple[ProgramOutput, ...]) -> tuple[ProgramOutput, ...]:
        """Return outputs as the manifest has them: queries say which table's rows are ranked by them."""
        ranks = {each.name: self._ranks(each) for each in self.ranked}
        return tuple(replace(output, ranks=ranks.get(output.name)) for output in outputs)

    def _ranks(self, each: RankedOutput) -> Ranks:
        keys, rows = self.plans[each.table].keys, np.arange(len(each.weight))
        left_out = rows[~np.isin(rows, each.scored()) & (rows >= keys.first)]
        return Ranks(each.table, tuple(keys.prepared_ids(left_out).tolist()))

    def of_queries(self, outputs: Outputs, *, served: bool, rows: int | None = None) -> Outputs:
        """Return outputs with the scores (B, N) of those that are queries.

        Args:
            served: Whether rows are taken as tables hold them, rounded by their row type.
            rows: Rows to take at most, spread over the table; None: all.
        """
        return outputs | {
            each.name: outputs[each.name] @ self._rows(each, self._numbers(each, rows), served).T
            for each in self.ranked
        }

    def of_module(self, outputs: Outputs) -> Outputs:
        """Return the module's own outputs with the scores of those rows that have keys."""
        return outputs | {
            each.name: outputs[each.name][:, self._numbers(each, None) - each.begin] for each in self.ranked
        }

    def _numbers(self, each: RankedOutput, most: int | None) -> NDArray[np.int64]:
        numbers = each.scored()
        numbers = numbers[numbers >= self.plans[each.table].keys.first]
        if most is None or len(numbers) <= most:
            return numbers
        return numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]

    def _rows(self, each: RankedOutput, numbers: NDArray[np.int64], served: bool) -> Float32Array:
        plan = self.plans[each.table]
        if served:
            return plan.served_rows(numbers)
        rows: Float32Array = plan.weight.detach().cpu().numpy()[numbers].astype(np.float32)
        return rows
