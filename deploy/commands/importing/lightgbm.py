"""`ringpull import lightgbm`: a booster that LightGBM saved as text becomes what onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ringpull.deploy.commands.importing.estimators import run_import
from ringpull.deploy.commands.importing.options import Check, OutDir, Version
from ringpull.deploy.commands.options import AsJson


def lightgbm(
    file: Annotated[Path, typer.Argument(metavar="FILE.txt", help="The model, as `Booster.save_model` writes it.")],
    out_dir: OutDir,
    version: Version = None,
    check: Check = None,
    as_json: AsJson = False,
) -> None:
    """Import a model of LightGBM: its trees become a graph that onnxruntime runs, with LightGBM's own predictions.

    Features are called like its columns. Both are held against each other before anything is written, also on rows that
    lie on the thresholds of its trees, and on rows with NaN.
    """

    def read() -> Any:
        from ringpull.inference.importers.trees.files import read_estimator

        return read_estimator(file, "lightgbm")

    run_import("lightgbm", read, out_dir, version, check, as_json=as_json)
