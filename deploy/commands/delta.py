"""`ringpull delta`: what changed from one version to another, as a version that follows the first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ringpull.deploy.commands.options import AsJson, Includes
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.ps.live.stamp import stamps_in


def delta(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of the version to follow, MODEL/VERSION.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the version that is to be served.")],
    out_dir: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write: MODEL/VERSION beside OLD, with a higher number.")
    ],
    includes: Includes = None,
    as_json: AsJson = False,
) -> None:
    """Write what changed from one version to another: rows that are new or changed, keys that went, the program.

    Whoever exported or imported them. What is served is NEW, bit for bit; what is copied and opened is what changed.
    """
    from ringpull.inference.export.delta.versions import delta_of

    stamps = None if includes is None else stamps_in(includes)
    with StopSignals():
        report = delta_of(old, new, out_dir, includes=stamps, console=None if as_json else err)
    manifest = report.manifest
    follows = manifest.chain.follows
    if as_json:
        print_json(
            {
                "model": manifest.model,
                "version": manifest.version,
                "follows": None if follows is None else follows.version,
                "folder": str(report.path),
                "tables": [asdict(each) for each in report.tables],
            }
        )
        return
    for each in report.tables:
        print_line(each.sentence)
    print_line(
        f"written to {report.path}; publish it with: ringpull publish {report.manifest.model}/{report.manifest.version}"
    )
