"""The self-check of an export: made-up rows through the module, and through the written tables and the dense program.

Ids are drawn where the module's look-ups allow them, with padding, unknown ids, empty bags and short sequences among
them. The look-ups, the pull and the dense program are those of `written_version`. The rows go through the dense program
all together and again in small parts: a module whose rows influence each other cannot be served in micro-batches. Where
row types round rows, what is expected comes of the captured model with the rows as tables hold them (`PlainModel`),
itself held against the module first; what the rounding costs is measured apart (`ringpull.inference.export.cost`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.export.asking import ask_module
from ringpull.inference.export.calls.call import Call
from ringpull.inference.export.cut import Cut
from ringpull.inference.export.operators import CASTS, JOINS, MOVES
from ringpull.inference.export.ranked_scores import RankedScores
from ringpull.inference.export.report import CheckReport
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.export.written_version import TOLERANCE, WrittenVersion, compare
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import (
    RELATIVE_TOLERANCE,
    Samples,
)
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Float32Array, Pooling

SHORT_UNITS: Final = 4
"""Units of the shortest type of floats that a program computes in, by which it may differ in the same way."""


class SelfCheck:
    """The self-check of one version, with all that it needs."""

    def __init__(
        self,
        version_dir: Path,
        manifest: Manifest,
        schema: Schema,
        cut: Cut,
        plans: Iterable[TablePlan],
        ranked: RankedScores,
    ) -> None:
        """Open what was written.

        Args:
            schema: The serving one.
            plans: Plans of the tables.
            ranked: Outputs that are queries: their scores are compared, each of each row.
        """
        self._ranked = ranked
        self._cut = cut
        self._plans = list(plans)
        self._relative = TOLERANCE
        self._manifest = manifest
        self._written = WrittenVersion(version_dir, manifest, schema)

    def run(
        self,
        call: Call,
        trained: Prepared,
        served: Prepared,
        arguments: Mapping[str, NDArray[Any]],
        *,
        given: bool = False,
    ) -> CheckReport:
        """Compare.

        Args:
            call: The user's module, and how it is called.
            trained: Made-up rows as the module takes them.
            served: The same rows as serving takes them.
            arguments: The schema's arguments that it takes, made of `trained`.
            given: Whether some of the rows are the exporter's own.

        Raises:
            ExportError: They differ, or the module fails on the made-up rows.
        """
        rows = "rows of check_columns and made-up ones" if given else "made-up rows"
        expected = self._ranked.of_module(ask_module(call, arguments, self._manifest.outputs, rows_described=rows))
        inputs = self._written.inputs(served)
        tolerance = self._tolerance(inputs, TOLERANCE)
        if any(plan.rounds for plan in self._plans):
            plain = self._cut.plain
            captured = self._ranked.of_queries(ask_module(plain, arguments, self._manifest.outputs), served=False)
            self._compare(captured, expected, tolerance, "the captured model's differs from the module's")
            rounded = ask_module(plain.serving(self._plans), arguments, self._manifest.outputs)
            expected = self._ranked.of_queries(rounded, served=True)
        whole = self._written.run(inputs, served.rows)
        scores = self._ranked.of_queries(whole, served=True)
        worst = self._compare(scores, expected, tolerance, "the exported model's differs from the module's")
        queries = {each.name: whole[each.name] for each in self._ranked.ranked}
        self._written.check_parts(served, expected | queries, tolerance, self._relative)
        largest = max(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) for values in expected.values())
        return CheckReport(rows=served.rows, largest_difference=worst, largest_output=largest)

    def samples(self, served: Prepared) -> Samples:
        """Return the first few rows with the outputs that the written version gives, and samples of its tables."""
        return self._written.samples(served, lambda inputs: self._tolerance(inputs, RELATIVE_TOLERANCE))

    def _tolerance(self, inputs: list[ProgramTensor], relative: float) -> float:
        """Return the largest difference allowed: a part of the largest intermediate, a few units of short types'."""
        device = next((each.device for each in self._cut.program.state_dict().values()), torch.device("cpu"))
        magnitudes = _Magnitudes(self._cut)
        with torch.no_grad():
            magnitudes.run(*(torch.from_numpy(np.array(each.values)).to(device) for each in inputs))
        self._relative = max(TOLERANCE, SHORT_UNITS * magnitudes.unit)
        return max(relative, self._relative) * magnitudes.largest

    def _compare(
        self, actual: Mapping[str, Float32Array], expected: Mapping[str, Float32Array], tolerance: float, problem: str
    ) -> float:
        return compare(actual, expected, tolerance, self._relative, problem)


class _Magnitudes(fx.Interpreter):
    """Runs the cut graph and notes the largest product or sum, and the unit of the shortest floats it computes in.

    Left out are sums of two, and what no looked-up vector reaches: the -1e9 of an attention mask is large, but rounds
    nothing. Nor does a cast, but of vectors that were pooled: torch pools short floats in ways of its own.
    """

    _COUNTED: Final = ("addmm", "baddbmm", "bmm", "linear", "matmul", "mm", "mul", "pow", "sum")

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut.program)
        self.largest = 1.0
        self.unit = 0.0
        """Distance of 1 to the next number of type float16 or bfloat16; 0 without these."""
        pooled = any(use.pooling is not Pooling.NONE for use in cut.uses)
        self._exact = frozenset() if pooled else CASTS | JOINS | MOVES
        self._reached: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name.startswith("lookup_") or any(each in self._reached for each in n.all_input_nodes):
            self._reached.add(n)
            if isinstance(value, Tensor) and value.is_floating_point():
                name = str(getattr(n.target, "__name__", "")).partition(".")[0]
                if name in self._COUNTED:
                    finite = value[value.isfinite()].abs()
                    self.largest = max(self.largest, float(finite.max()) if finite.numel() else 0.0)
                if value.dtype in (torch.float16, torch.bfloat16) and n.target not in self._exact:
                    self.unit = max(self.unit, torch.finfo(value.dtype).eps)
        return value
