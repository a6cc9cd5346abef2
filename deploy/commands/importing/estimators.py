"""What `ringpull import sklearn`, `lightgbm` and `xgboost` do with a model that was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringpull.deploy.commands.importing.report import print_import
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.extras import needing


def run_import(
    maker: str,
    read: Callable[[], Any],
    out_dir: Path,
    version: int | None,
    check: Path | None,
    *,
    as_json: bool,
) -> None:
    """Read a model, import it, and say so.

    Args:
        maker: Command of `ringpull import`, for messages.
        read: Reads the model; it imports what it needs for that.
        out_dir: The model's folder.
        version: Number of the version; None: the next one.
        check: File of rows.
        as_json: Whether to print JSON.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("import", f"ringpull import {maker}"):
        from ringpull.inference.importers.check_file import read_check_file
    with needing("trees", f"ringpull import {maker}"):
        from ringpull.inference.importers.trees.model import import_estimator

        model = read()
    from ringpull.inference.model.manifest import versions

    number = max(versions(out_dir), default=0) + 1 if version is None else version
    columns = None if check is None else read_check_file(check)
    with StopSignals():
        report = import_estimator(model, out_dir, number, check_columns=columns, quiet=as_json)
    print_import(report, out_dir, as_json=as_json)
