"""Exporting a module that is called otherwise than by the schema's names, and comparing its scores with torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import Exported
from tests.reference import assert_close

Ask = Callable[[dict[str, Tensor]], Any]
"""Function that calls the module by hand, of the schema's arguments by name."""


def export_and_compare(
    module: nn.Module,
    schema: Schema,
    folder: Path,
    columns: Mapping[str, Column],
    ask: Ask,
    **options: Any,
) -> ExportReport:
    """Export, and assert that the version scores the columns as `ask` does."""
    modes = [part.training for part in module.modules()]
    report = export_model(module, schema, folder / "model", 1, quiet=True, **options)
    assert [part.training for part in module.modules()] == modes, "the module is left in the mode it was in"
    rows = len(next(iter(columns.values())))
    prepared = schema.prepare(columns, rows)
    arguments = {name: torch.from_numpy(np.array(each)) for name, each in schema.arguments(prepared).items()}
    with torch.no_grad():
        module.eval()
        expected = tree_leaves(ask(arguments))
    scores = Exported(report.path).score(columns, rows)
    for actual, leaf in zip(scores.values(), expected, strict=True):
        assert leaf.std() > 1e-3, "the scores hardly differ: nothing is compared"
        wanted = leaf.to(torch.float32).numpy()
        assert_close(actual, wanted.reshape(actual.shape), largest=10.0)
    return report


def table_names(report: ExportReport) -> list[str]:
    """Return the names of the tables, sorted."""
    return sorted(table.name for table in report.tables)
