"""`ringpull import pmml`: a model of Spark MLlib, scikit-learn, R or others, as PMML, becomes what onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringpull.deploy.commands.export import row_types_of
from ringpull.deploy.commands.importing.options import Check, MaxDenseBytes, OutDir, RowTypes, Version
from ringpull.deploy.commands.importing.report import print_import
from ringpull.deploy.commands.options import AsJson
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.extras import needing


def pmml(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The document, of one model.")],
    out_dir: OutDir,
    version: Version = None,
    check: Check = None,
    row_type: RowTypes = None,
    max_dense_bytes: MaxDenseBytes = None,
    as_json: AsJson = False,
) -> None:
    """Import PMML: regressions, trees, forests, networks and centers, with what becomes of their fields.

    What is not known is named by line and element. The document is evaluated a row at a time, on rows at its own
    thresholds, with missing and unknown values among them; where that differs from what was made, nothing is written.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("import", "ringpull import pmml"):
        from ringpull.inference.export.table_options import TableOptions
        from ringpull.inference.importers.onnx.model import MAX_DENSE_BYTES
        from ringpull.inference.importers.pmml.model import import_pmml
    from ringpull.inference.model.manifest import versions

    number = max(versions(out_dir), default=0) + 1 if version is None else version
    with StopSignals():
        report = import_pmml(
            file,
            out_dir,
            number,
            tables={table: TableOptions(row_type=wanted) for table, wanted in row_types_of(row_type or []).items()},
            max_dense_bytes=MAX_DENSE_BYTES if max_dense_bytes is None else max_dense_bytes,
            check_file=check,
            quiet=as_json,
        )
    print_import(report, out_dir, as_json=as_json)
