"""Cost of short row types: the module's scores with rows as tables will hold them, beside its own.

Both come from the module as it was captured, before anything is written: the rounding of rows is all that differs. The
rows are the exporter's (`check_columns`), whose ids are as frequent as in life, or made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ringpull.inference.export.asking import Outputs, ask_module
from ringpull.inference.export.made_lists import part_of
from ringpull.inference.export.plain_model import PlainModel
from ringpull.inference.export.ranked_scores import MEASURED_ROWS, RankedScores
from ringpull.inference.export.report import CostReport
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.model.samples import differences
from ringpull.inference.schema.columns import as_columns
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput

COST_ROWS: Final = 1024
"""Made-up rows to measure on."""

BATCH_ROWS: Final = 4096
"""Rows that the module is given at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class CheckData:
    """Rows to measure on, as the model was trained on them."""

    prepared: Prepared
    given: bool
    """Whether the rows are the exporter's; else they are made up."""
    labels: NDArray[np.bool_] | None = None

    @classmethod
    def read(cls, schema: Schema, columns: Mapping[str, Any] | None, labels: ArrayLike | None) -> CheckData | None:
        """Prepare what the exporter gave, if anything.

        Raises:
            InvalidInput: A column does not fit the schema, or the labels not the columns.
        """
        if columns is None:
            if labels is not None:
                raise InvalidInput("check_labels need the check_columns that they label")
            return None
        read = as_columns(columns)
        if not read:
            raise InvalidInput("check_columns is empty; give the columns of one row or more")
        rows = len(next(iter(read.values())))
        try:
            prepared = schema.prepare(read, rows)
        except InvalidInput as exc:
            raise InvalidInput(f"check_columns: {exc}") from exc
        if labels is None:
            return cls(prepared, given=True)
        values = np.asarray(labels)
        if values.shape != (rows,) or not np.isin(values, (0, 1)).all() or len(np.unique(values)) != 2:
            raise InvalidInput(
                f"check_labels must be 0 or 1 for each of the {rows} rows of check_columns, both present"
            )
        return cls(prepared, given=True, labels=values.astype(bool))


def measure_cost(
    plain: PlainModel,
    schema: Schema,
    outputs: tuple[ProgramOutput, ...],
    plans: Mapping[str, TablePlan],
    data: CheckData | None,
    ranked: RankedScores,
) -> CostReport | None:
    """Run the model with and without the rounding of its tables' rows, and compare; None if nothing is rounded.

    Raises:
        ExportError: The module fails on the rows.
        InvalidInput: There are labels, but the first output is not one score per row.
    """
    if data is None or not any(plan.rounds for plan in plans.values()):
        return None
    before, after = Scores(outputs), Scores(outputs)
    served = plain.serving(plans.values())
    described = "the rows of check_columns" if data.given else "made-up rows"
    for begin in range(0, data.prepared.rows, BATCH_ROWS):
        part = part_of(data.prepared, begin, min(begin + BATCH_ROWS, data.prepared.rows))
        made = schema.arguments(part, list(plain.names))
        for scores, model in ((before, plain), (after, served)):
            found = ask_module(model, made, outputs, doing="row types", rows_described=described)
            scores.add(ranked.of_queries(found, served=model is served, rows=MEASURED_ROWS))
    changes = np.concatenate([differences(after.of(each), before.of(each)).reshape(-1) for each in before.names])
    auc, auc_after = (auc_of(each, data.labels) for each in (before, after))
    return CostReport(
        rows=data.prepared.rows,
        given=data.given,
        largest_difference=float(changes.max(initial=0.0)),
        mean_difference=float(changes.mean()) if changes.size else 0.0,
        auc=auc,
        auc_difference=None if auc is None or auc_after is None else auc_after - auc,
    )


def refuse_above(cost: CostReport | None, max_diff: float | None) -> None:
    """Refuse an export whose scores differ by more than `max_diff`, if that is set.

    Raises:
        ExportError: They do; the message says by how much.
    """
    if cost is not None and max_diff is not None and not cost.largest_difference <= max_diff:
        raise ExportError(
            f"row types: scores differ by up to {cost.largest_difference:.3g} on {cost.rows} rows, more than max_diff"
            f" {max_diff:.3g}; nothing was written. Take a longer row_type for some table, or a larger max_diff"
        )


class Scores:
    """Outputs of all batches."""

    def __init__(self, outputs: tuple[ProgramOutput, ...]) -> None:
        self.names = [output.name for output in outputs]
        self._parts: list[Outputs] = []

    def add(self, outputs: Outputs) -> None:
        self._parts.append(outputs)

    def of(self, name: str) -> NDArray[np.float64]:
        return np.concatenate([part[name] for part in self._parts]).astype(np.float64)


def auc_of(scores: Scores, labels: NDArray[np.bool_] | None) -> float | None:
    """Return the AUC of the first output; None without labels.

    Raises:
        InvalidInput: It is not one score per row.
    """
    if labels is None:
        return None
    name = scores.names[0]
    return _auc(_one_score(name, scores.of(name)), labels)


def _one_score(name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if scores.size != len(scores):
        raise InvalidInput(f"check_labels need one score per row; output {name} has the shape {scores.shape}")
    return scores.reshape(-1)


def _auc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the chance that a row labelled 1 scores above one labelled 0; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int(labels.sum())
    above = float(ranks[labels].sum()) - ones * (ones + 1) / 2
    return above / (ones * (len(labels) - ones))
