"""`ringpull compact`: the next full version of a served model, with all deltas and pushed rows in it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput
from ringpull.ps.live.stamp import text_of_stamps
from ringpull.ps.settings import above, at_least

if TYPE_CHECKING:
    from ringpull.inference.export.compaction.compact import Compacted
    from ringpull.router.control.operations import ChangeStatus, OperatorVerbs


@with_credentials
def compact(
    model: Annotated[str, typer.Argument(help="Name of the model; its live version is compacted.")],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Model's folder to write VERSION/ in. Default: where the live version lies; needed where that is a"
            " URL.",
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(metavar="N", help="Number of the new version. Default: the next free one.")
    ] = None,
    max_mb_per_s: Annotated[
        float | None, typer.Option(metavar="MB", help="Most that is read from the shards. Default: any.")
    ] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Make it the live version once it is written.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Write the live version of a model, as it is now, as a full version.

    Each delta costs look-ups a little, and pushed rows take memory and disk of their shards. A compacted version has
    all of them in its tables, in the ordinary format; it follows the live version and stays in its lineage, so pushes
    go on, and those that come while it is written lie over it.

    Rows are read from the shards, beside predictions and pushes, which wait for nothing. So this machine must reach the
    shards and see the model's folder, and have room for its changed tables twice; where the deployment speaks TLS,
    --tls-cert and --tls-key must be of its --tls-ca, or its own. Nothing is seen of the version before it is whole;
    what an interrupted run left is removed by the next one.

    Publish it as any version, or with --publish. Once no older version of the lineage is open, shards forget the pushed
    rows that it has: going back further than that does not bring them back.
    """
    from ringpull.deploy.coordinator_client import connect

    if version is not None:
        at_least(1).check("--version", version)
    if max_mb_per_s is not None:
        above(0).check("--max-mb-per-s", max_mb_per_s)
    with StopSignals(), connect(served.resolve_target(target)) as operations:
        written = _write(operations, model, to, version, max_mb_per_s, quiet=as_json)
        if written is None:
            _say_nothing_to_do(model, as_json=as_json)
            return
        if not as_json:
            _show(written, to, published=publish)
        done = _publish(operations, written, to) if publish else None
    if as_json:
        print_json(_fields(written, done))
    elif done is not None:
        print_line(f"{done.subject} is live")


def _write(
    operations: OperatorVerbs,
    model: str,
    to: Path | None,
    version: int | None,
    max_mb_per_s: float | None,
    *,
    quiet: bool,
) -> Compacted | None:
    with needing("export", "ringpull compact"):
        from ringpull.deploy.compaction import CompactOptions, compacted

    if "/" in model:
        raise InvalidInput(f"{model!r:.200}: give the name of the model alone; its live version is compacted")
    options = CompactOptions(
        model=model,
        version=version or 0,
        folder=to,
        bytes_per_s=None if max_mb_per_s is None else max_mb_per_s * 1e6,
    )
    with _bar(operations, model, quiet=quiet) as progress:
        return compacted(operations, options, progress=progress)


def _publish(operations: OperatorVerbs, written: Compacted, to: Path | None) -> ChangeStatus:
    from ringpull.deploy.view.change_watch import follow
    from ringpull.router.control.operations import Publish

    folder = "" if to is None else str(written.path.parent)
    request = Publish(model=written.manifest.model, version=written.manifest.version, folder=folder)
    return follow(operations, operations.call(request), err)


@contextmanager
def _bar(operations: OperatorVerbs, model: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far it is, of about as many rows as the live version's tables were told to have."""
    if quiet:
        yield lambda table, rows, size: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from ringpull.deploy.compaction import live_version
    from ringpull.router.control.operations import GetStatus

    tables = live_version(operations.call(GetStatus()), model).tables
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def progress(table: str, rows: int, size: int) -> None:
            if table not in tasks:
                known = tables[table]
                tasks[table] = shown.add_task(table, total=(known.rows + known.newer_rows) * known.row_bytes or None)
            shown.advance(tasks[table], size)

        yield progress


def _say_nothing_to_do(model: str, *, as_json: bool) -> None:
    why = f"nothing to compact: the live version of {model} has no deltas, and no table of it takes pushes"
    if as_json:
        print_json({"model": model, "version": None, "reason": why})
    else:
        print_line(why)


def _show(written: Compacted, to: Path | None, *, published: bool) -> None:
    manifest = written.manifest
    for entry in manifest.tables:
        how = "written anew" if entry.spec.name in written.streamed else "as before"
        print_line(f"{entry.spec.name}: {entry.rows:,} rows, {how}")
    name = f"{manifest.model}/{manifest.version}"
    where = "" if to is None else f" --folder {shlex.quote(str(written.path.parent))}"
    last = "" if published else f"; publish it with: ringpull publish {name}{where}"
    print_line(f"{name} was written to {written.path}{last}")


def _fields(written: Compacted, done: ChangeStatus | None) -> dict[str, Any]:
    from ringpull.deploy.view.change_watch import change_fields

    manifest = written.manifest
    chain = manifest.chain
    return {
        "model": manifest.model,
        "version": manifest.version,
        "follows": None if chain.follows is None else chain.follows.version,
        "lineage": chain.lineage,
        "includes": None if chain.includes is None else text_of_stamps(chain.includes),
        "folder": str(written.path),
        "tables": [
            {
                "name": entry.spec.name,
                "rows": entry.rows,
                "bytes": entry.bytes,
                "written": entry.spec.name in written.streamed,
            }
            for entry in manifest.tables
        ],
        "published": None if done is None else change_fields(done),
    }
