"""What an import did, as a command prints it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ringpull.deploy.view.console import print_json, print_line, print_written

if TYPE_CHECKING:
    from ringpull.inference.export.report import ExportReport
    from ringpull.inference.importers.onnx.guess import Guess


def print_guess(guess: Guess) -> None:
    """Print what a schema may be, and on standard error what of it was not seen."""
    print_line(guess.text)
    for note in guess.notes:
        typer.echo(note, err=True)


def print_import(report: ExportReport, out_dir: Path, *, as_json: bool) -> None:
    """Print where a version was written, behind the report that the import printed itself; or all of it as JSON."""
    folder = out_dir / str(report.manifest.version)
    if not as_json:
        print_written("imported", folder)
        return
    print_json(
        {
            "model": report.manifest.model,
            "version": report.manifest.version,
            "folder": str(folder),
            "tables": [asdict(each) for each in report.tables],
            "check": None if report.check is None else asdict(report.check),
        }
    )
