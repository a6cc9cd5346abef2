"""One model put to the test: exported as it is, served from three shards, compared with the library's own module."""

from __future__ import annotations

import inspect
import logging
import re
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ringpull import export_model
from ringpull.inference.client.client import Client
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column
from ringpull.ps.errors import InvalidInput, RingpullError
from tests.integration.local import local_cluster
from tests.zoo_libraries.model import ZooModel
from tests.zoo_libraries.oracle import COMPUTED, UnknownAsZeros, answers, looked_up_by_ids
from tests.zoo_libraries.outcome import Outcome
from tests.zoo_libraries.rows import make_columns, repeated, tensors, with_beyond
from tests.zoo_libraries.weights import make_useful
from tests.zoo_libraries.wrapper import wrap

TOLERANCE = 1e-5
"""Largest difference, of the largest output."""
MIN_SPREAD = 1e-3
"""Standard deviation that an output must have over random rows, of its largest, or a comparison would show nothing."""


class Wrong(Exception):
    """What was served is not what the library's module gives."""


def run_trial(library: str, model: ZooModel) -> Outcome:
    """Put one model to the test. Every failure is told in the outcome."""
    outcome = Outcome(model.name, library)
    begin = time.monotonic()
    try:
        module = _built(model)
        _look(model, module, outcome)
        _try(model, module, module, model.options, "untouched", outcome)
    except Exception as error:
        outcome.reason = _described(error)
        if not isinstance(error, RingpullError):
            logging.getLogger("zoo").info("%s", traceback.format_exc())
        _try_wrapped(model, outcome)
    outcome.seconds = time.monotonic() - begin
    return outcome


def _built(model: ZooModel) -> nn.Module:
    torch.manual_seed(3)
    module = model.build().eval()
    make_useful(module)
    if model.prepare is not None:
        model.prepare(module)
    return module


def _try_wrapped(model: ZooModel, outcome: Outcome) -> None:
    arguments = [
        name for name, argument in model.schema.argument_names().items() if not argument.part.endswith("stack")
    ]
    try:
        module = _built(model)
        _try(model, module, wrap(module, model.ask, arguments).eval(), {}, "wrapped", outcome)
    except Exception as error:
        outcome.reason += f"; wrapped: {_described(error)}"


def _described(error: Exception) -> str:
    text = str(error).strip() if isinstance(error, RingpullError | Wrong) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:1000]


def _look(model: ZooModel, module: nn.Module, outcome: Outcome) -> None:
    """See that the module answers, that its answers differ, and which weights it looks up by ids of the request."""
    rng = np.random.default_rng(0)
    rows = 256
    some, others = (tensors(model.schema, make_columns(model, rng, rows), rows) for _ in range(2))
    outputs = answers(model, module, some)
    by_row = [each for each in outputs if each.ndim]  # a loss that comes along says nothing of rows
    outcome.spread = min(float(np.nanstd(each, axis=0).max() / np.nanmax(np.abs(each))) for each in by_row)
    if not outcome.spread > MIN_SPREAD:
        raise Wrong(f"the module's answers differ by {outcome.spread:.1e} only: the zoo must give it other weights")
    outcome.not_tables = looked_up_by_ids(model, module, some, others)


def _try(
    model: ZooModel,
    module: nn.Module,
    exported: nn.Module,
    options: Mapping[str, Any],
    status: str,
    outcome: Outcome,
) -> None:
    for option in options:
        if option not in inspect.signature(export_model).parameters:
            raise Wrong(f"export_model takes no {option}")
    with tempfile.TemporaryDirectory(prefix="zoo") as folder:
        report = export_model(exported, model.schema, Path(folder) / "zoo", 1, quiet=True, **options)
        with local_cluster([report.path], shards=3) as cluster, cluster.client() as client:
            comparison = _Comparison(model, module, client, report, outcome)
            comparison.run()
    outcome.status = status
    outcome.tables = {table.name: "+".join(table.poolings) for table in report.tables}
    outcome.kept = {each.name: each.reason for each in report.kept}
    prefix = "" if status == "untouched" else "module."
    tables = {name.removeprefix(prefix) for name in outcome.tables}
    shapes = {f"{COMPUTED} ({table.rows}, {table.dim})" for table in report.tables}
    named = {name: re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in outcome.not_tables}
    outcome.not_tables = [name for name in outcome.not_tables if not {name, named[name]} & (tables | shapes)]


class _Comparison:
    """Requests to one served model, beside the same rows through the library's module."""

    def __init__(
        self, model: ZooModel, module: nn.Module, client: Client, report: ExportReport, outcome: Outcome
    ) -> None:
        self._model = model
        self._module = module
        self._client = client
        self._report = report
        self._outcome = outcome
        self._outputs = [output.name for output in report.manifest.outputs]

    def run(self) -> None:
        rng = np.random.default_rng(5)
        for rows in (1, 3, 64):
            self._compare(f"{rows} random rows", make_columns(self._model, rng, rows), {}, rows)
        self._compare("empty histories", make_columns(self._model, rng, 5, empty=True), {}, 5)
        for rows in (1, 17):
            columns = make_columns(self._model, rng, rows)
            context = dict(make_columns(self._model, rng, 1).items())
            names = list(columns)
            once = set(rng.choice(names, rng.integers(0, len(names)), replace=False))
            candidates = {name: column for name, column in columns.items() if name not in once}
            context = {name: column for name, column in context.items() if name in once}
            self._compare(f"{rows} candidates with a context of {len(once)}", candidates, context, rows)
        self._beyond(rng)

    def _compare(self, what: str, candidates: Mapping[str, Column], context: Mapping[str, Column], rows: int) -> None:
        arguments = tensors(self._model.schema, {**candidates, **repeated(context, rows)}, rows)
        try:
            expected = answers(self._model, self._module, arguments)
        except Exception as error:  # the library's own; a request for such rows cannot be right
            self._outcome.library_fails.append(f"{what}: {type(error).__name__}: {error}"[:200])
            return
        prediction = self._client.predict("zoo", dict(candidates), dict(context))
        self._agree(what, prediction.outputs, expected)

    def _agree(self, what: str, outputs: Mapping[str, NDArray], expected: list[NDArray[np.float32]]) -> None:
        for name, values in zip(self._outputs, expected, strict=True):
            actual = outputs[name]
            if actual.shape == (1, *values.shape):  # libraries squeeze a single row away
                values = values[None]
            if actual.shape != values.shape:
                raise Wrong(f"{what}: output {name} has the shape {actual.shape}, the module's {values.shape}")
            finite = np.isfinite(values)
            if not np.array_equal(actual[~finite], values[~finite], equal_nan=True):
                raise Wrong(f"{what}: output {name} is not infinite or NaN where the module's is")
            difference = float(np.abs(actual[finite] - values[finite]).max(initial=0.0))
            self._outcome.max_abs_diff = max(self._outcome.max_abs_diff, difference)
            if difference > TOLERANCE * float(np.abs(values[finite]).max(initial=0.0)):
                raise Wrong(f"{what}: output {name} differs from the module's by up to {difference:.2e}")

    def _beyond(self, rng: np.random.Generator) -> None:
        """Ask with ids beyond every table, a feature at a time: zeros where it is a table's, refused where not."""
        rows = 6
        tables = {table.name.removeprefix("module.") for table in self._report.tables}
        for name, column in make_columns(self._model, rng, rows).items():
            beyond = with_beyond(column, rng)
            if beyond is None:
                continue
            columns = {**make_columns(self._model, rng, rows), name: beyond}
            arguments = tensors(self._model.schema, columns, rows)
            try:
                with UnknownAsZeros(self._module) as zeros:
                    expected = answers(self._model, self._module, arguments)
            except (IndexError, RuntimeError) as error:  # indexed otherwise than by an embedding
                zeros, expected = None, [np.zeros(0)]
                self._outcome.beyond[name] = f"the module itself fails: {type(error).__name__}"
            try:
                outputs = self._client.predict("zoo", columns).outputs
            except RingpullError as error:
                self._refused_beyond(name, error, zeros is not None and zeros.asked <= tables)
                continue
            if zeros is not None:
                self._agree(f"ids of {name} beyond every table", outputs, expected)
                self._outcome.beyond[name] = "zeros"

    def _refused_beyond(self, feature: str, error: RingpullError, all_tables: bool) -> None:
        """Note that ids beyond every table were refused: right only where an embedding stayed dense, and by name."""
        if not isinstance(error, InvalidInput) or feature not in str(error):
            self._outcome.faults.append(f"ids of {feature} beyond every table: {type(error).__name__}: {error}"[:300])
        elif all_tables:
            self._outcome.faults.append(
                f"ids of {feature} beyond every table are refused, though all are tables: {error}"
            )
        self._outcome.beyond[feature] = "refused"
