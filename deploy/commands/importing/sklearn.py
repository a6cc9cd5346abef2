"""`ringpull import sklearn`: an estimator or pipeline that skops saved becomes what onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ringpull.deploy.commands.importing.estimators import run_import
from ringpull.deploy.commands.importing.options import Check, OutDir, Version
from ringpull.deploy.commands.options import AsJson


def sklearn(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.skops", help="The fitted estimator, as `skops.io.dump` writes it.")
    ],
    out_dir: OutDir,
    version: Version = None,
    check: Check = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="A type in the file that may be loaded, besides those of sklearn, numpy, scipy, LightGBM and XGBoost;"
            " repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import an estimator or a pipeline of sklearn: trees, linear models, networks, encoders and scalers before them.

    Columns of texts have the vocabulary that they were fitted with. Models of LightGBM and XGBoost may be among its
    steps. A `.pkl` or `.joblib` runs whatever it holds when it is loaded: save the estimator with skops, or call
    `ringpull.export_model(estimator, None, OUT_DIR, VERSION)` where it was fitted.
    """

    def read() -> Any:
        from ringpull.inference.importers.trees.files import read_estimator

        return read_estimator(file, "sklearn", trusted=trust or [])

    run_import("sklearn", read, out_dir, version, check, as_json=as_json)
