"""Precision of the dense program: what it costs to run it in bfloat16, measured on the version that was written.

The same rows, through the written tables, go through the program as it is and as a head would run it in bfloat16: the
program's precision is all that differs. It is computed wherever torch computes bfloat16, with instructions for it or
without: sums are of float32 in either case, and what is measured is the rounding.

The samples that heads check are measured too, as the outputs that they are: half of them are made up, and may change
by more than rows of the exporter's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ringpull.inference.export.cost import CheckData, Scores, auc_of
from ringpull.inference.export.made_lists import part_of
from ringpull.inference.export.ranked_scores import MEASURED_ROWS, RankedScores
from ringpull.inference.export.written_version import WrittenVersion
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import Bfloat16Receipt, Manifest
from ringpull.inference.model.program_errors import last_words
from ringpull.inference.model.samples import Samples, differences
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.settings import at_least
from ringpull.ps.spec import Float32Array

DensePrecision = Literal["float32", "bfloat16"]
"""Precision that a dense program is exported for."""

PART_ROWS: Final = 512
"""Rows that the program is given at a time."""


def check_precision(
    precision: str, check_rows: int = 1, check_columns: object = None, max_diff: float | None = None
) -> None:
    """Check what an exporter asks for.

    Raises:
        InvalidInput: There is no such precision, there are no rows to measure bfloat16 on, or no difference is within
            the most that is allowed.
    """
    if precision not in ("float32", "bfloat16"):
        raise InvalidInput(f"dense_precision is {precision!r}; it must be float32 or bfloat16")
    if precision == "bfloat16" and check_rows < 1 and check_columns is None:
        raise InvalidInput(
            "dense_precision is bfloat16, which is measured on rows: give check_columns, or check_rows above 0"
        )
    if max_diff is not None:
        at_least(0).check("max_diff", max_diff)


class Measured:
    """A version that was written, in both precisions."""

    def __init__(self, version_dir: Path, manifest: Manifest, schema: Schema, ranked: RankedScores) -> None:
        """Load both.

        Args:
            schema: The serving one.

        Raises:
            ExportError: The program cannot be rewritten in bfloat16.
        """
        self._outputs = manifest.outputs
        self._ranked = ranked
        self._whole = WrittenVersion(version_dir, manifest, schema)
        self._short = self._whole.in_bfloat16()

    def receipt(
        self,
        data: CheckData,
        served: Callable[[Prepared], Prepared],
        samples: Samples | None,
        max_diff: float | None,
    ) -> Bfloat16Receipt:
        """Run both, and compare.

        Args:
            served: Makes of rows as the module was trained on them the same as serving prepares them.
            samples: What heads hold the version against.
            max_diff: The most that a score may change; None: any.

        Raises:
            ExportError: The program fails in bfloat16, or scores change by more than they may.
        """
        before, after = self._scores(data.prepared, served)
        changes = np.concatenate([differences(after.of(each), before.of(each)).reshape(-1) for each in before.names])
        auc, auc_after = (auc_of(each, data.labels) for each in (before, after))
        receipt = Bfloat16Receipt(
            rows=data.prepared.rows,
            given=data.given,
            largest_difference=float(changes.max(initial=0.0)),
            mean_difference=float(changes.mean()) if changes.size else 0.0,
            sample_difference=0.0 if samples is None else self._sample_difference(samples),
            auc=auc,
            auc_difference=None if auc is None or auc_after is None else auc_after - auc,
        )
        _refuse_above(receipt, max_diff)
        return receipt

    def _scores(self, rows: Prepared, served: Callable[[Prepared], Prepared]) -> tuple[Scores, Scores]:
        before, after = Scores(self._outputs), Scores(self._outputs)
        for begin in range(0, rows.rows, PART_ROWS):
            end = min(begin + PART_ROWS, rows.rows)
            inputs = self._whole.inputs(served(part_of(rows, begin, end)))
            for scores, found in (
                (before, self._whole.run(inputs, end - begin)),
                (after, self._run_short(inputs, end - begin)),
            ):
                scores.add(self._ranked.of_queries(found, served=True, rows=MEASURED_ROWS))
        return before, after

    def _sample_difference(self, samples: Samples) -> float:
        found = self._run_short(self._whole.inputs(samples.prepared), samples.prepared.rows)
        return max(float(differences(found[name], each).max(initial=0.0)) for name, each in samples.outputs.items())

    def _run_short(self, inputs: list[ProgramTensor], rows: int) -> dict[str, Float32Array]:
        try:
            return self._short.run(inputs, rows)
        except Exception as exc:  # of any root: an operator that has no bfloat16, say
            raise ExportError(f"dense_precision: the dense program fails in bfloat16: {last_words(exc)}") from exc


def _refuse_above(receipt: Bfloat16Receipt, max_diff: float | None) -> None:
    most = np.inf if max_diff is None else max_diff
    if not np.isfinite(max(receipt.largest_difference, receipt.sample_difference)):
        raise ExportError(
            "dense_precision: in bfloat16 a score is not finite that is so in float32, or the other way round; nothing"
            " was written. Export it in float32"
        )
    if receipt.largest_difference > most:
        auc = "" if receipt.auc is None else f"; AUC {receipt.auc:.5f} {receipt.auc_difference:+.1e}"
        raise ExportError(
            f"dense_precision: in bfloat16 scores differ by up to {receipt.largest_difference:.3g},"
            f" {receipt.mean_difference:.3g} on average, on {receipt.rows:,} rows{auc}; max_diff is {most:.3g}; nothing"
            " was written. Export it in float32, or with a larger max_diff"
        )
