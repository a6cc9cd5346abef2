"""`ringpull push`: rows of a file into a table that is served, or keys of a file out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.push_journal import PushJournal
from ringpull.deploy.pushed_file import open_file
from ringpull.deploy.state import state_folder
from ringpull.deploy.view.console import err, print_json, print_line, say
from ringpull.extras import needing
from ringpull.inference.push_answer import PushAnswer
from ringpull.ps.errors import CorruptData, Forbidden, InvalidInput, NotFound, UnmetCondition
from ringpull.ps.settings import above

if TYPE_CHECKING:
    from ringpull.deploy.pushed_file import FileOfKeys, FileOfRows
    from ringpull.inference.client.client import Client
    from ringpull.inference.client.pusher import Pusher
    from ringpull.inference.proto import ringpull_pb2 as pb
    from ringpull.inference.wire.keyed_rows import KeyedRows

MAX_WRITER: Final = 111
"""Characters of a name: a writer's has 128 at most, and each file's is of this name, a colon and 16 digits."""

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Table = Annotated[str, typer.Argument(help="Name of its table, one that takes pushes.")]
File = Annotated[
    str, typer.Argument(help="A file, a folder or a pattern of part files, on this machine or at a URL; or a store's.")
]
Id = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the keys. Default: the one that can be it.")]
Vector = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the vectors; repeated, or a pattern such as 'v*', columns of one number each. Default: the one,"
        " or those, that can be it.",
    ),
]
Value = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of bytes or texts, for a table of bytes.")]
Remove = Annotated[
    bool,
    typer.Option(
        "--remove",
        help="Take the keys of FILE out: a key a line, .npy, or a Parquet of keys. They have the default vector then.",
    ),
]
Writer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Push under this name, so that this file can be gone on with from any machine, and is pushed once for"
        " ever. Default: a name for this push alone, kept in the state folder until it is done.",
    ),
]
IdType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Type of the keys of a text: int64, uint64 or string.")
]
IdsFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Keys of a tensor's rows, in their order: a line each, or .npy.")
]
Query = Annotated[str | None, typer.Option(metavar="SELECT", help="Query of an SQLite file whose result is pushed.")]
RedisKeys = Annotated[str | None, typer.Option(metavar="PATTERN", help="Keys of Redis, such as 'item:*'.")]
FormatName = Annotated[
    str | None, typer.Option("--format", metavar="FORMAT", help="What FILE is. Default: what it looks like.")
]
Header = Annotated[
    bool | None, typer.Option(help="Whether the first line of a text names its columns. Default: by its looks.")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Character between the columns of a text; 'tab' is one. Default: what fits.")
]
Version = Annotated[int | None, typer.Option(help="Version whose lineage is meant; default: the live one.")]
Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="Time for each message; what is not answered is tried again until then."),
]


@with_credentials
def push(
    model: Model,
    table: Table,
    file: File,
    id: Id = None,
    vector: Vector = None,
    value: Value = None,
    remove: Remove = False,
    writer: Writer = None,
    id_type: IdType = None,
    ids: IdsFile = None,
    query: Query = None,
    keys: RedisKeys = None,
    format_: FormatName = None,
    header: Header = None,
    delimiter: Delimiter = None,
    version: Version = None,
    timeout: Timeout = 60.0,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Write the rows of a file into a table of a served model.

    `ringpull push ranker user vectors.parquet --id user_id --vector embedding` replaces the rows of keys that the table
    has, and adds others. When it returns, all are as durable as the deployment promises, and every prediction from then
    on sees them. Files are read as by `ringpull import table`. Of a key that comes twice the last row counts.

    A push that was interrupted goes on when it is called again: blocks that were acknowledged are not sent once more,
    and what was on its way is applied once. It begins anew where another file went into the table since, and where the
    deployment does not know of it any more: 10 minutes later, or served anew without its log.

    The table has to take pushes: `serve --live MODEL/TABLE`, or TableOptions(live=True) at its export. Where the
    deployment asks for tokens, the role `write` is needed.
    """
    with needing("import", "ringpull push"):
        from ringpull.inference.importers.tables.source import ReadOptions
    from ringpull.inference.client.client import Client

    above(0).check("--timeout", timeout)
    if writer is not None and not 0 < len(writer) <= MAX_WRITER:
        raise InvalidInput(f"--writer has {len(writer)} characters; a name has 1 to {MAX_WRITER}")
    if remove and (vector or value):
        raise InvalidInput("--remove takes keys out: give no --vector and no --value")
    texts = {"id": id, "value": value, "format": format_, "id_type": id_type, "ids": ids, "query": query, "keys": keys}
    character = "\t" if delimiter in ("tab", "\\t") else delimiter
    options = ReadOptions(vector=tuple(vector or ()), header=header, delimiter=character, **texts)
    address = served.resolve_target(target)
    with Client(address, timeout_s=timeout, credentials=command_credentials.current()) as client:
        told = _model(client, model, version)
        opened = open_file(file, options, remove=remove, table=_table(told, table))
        try:
            answer, blocks = _push(client, opened, model, table, told, writer, version, quiet=as_json)
        finally:
            opened.close()
    if as_json:
        fields = {"rows": answer.rows, "new_keys": answer.new_keys, "repeated": answer.repeated, "blocks": blocks}
        stamp = {"lineage": answer.lineage, "stamp": str(answer.stamp)}
        print_json({"model": model, "table": table, "read": opened.described, **fields, **stamp})
        return
    did = "keys taken out of" if remove else "rows written to"
    print_line(f"{answer.rows:,} {did} {model}/{table}" + (f"; stamp {answer.stamp}" if answer.rows else ""))
    if answer.repeated:
        told_so = f"{answer.repeated:,} rows had been pushed before, and were left alone"
        err.print(told_so, style="yellow", highlight=False)


def _push(
    client: Client,
    opened: FileOfRows | FileOfKeys,
    model: str,
    table: str,
    told: pb.Model | None,
    writer: str | None,
    version: int | None,
    *,
    quiet: bool,
) -> tuple[PushAnswer, int]:
    """Push all blocks; return what became of them, and how many there are."""
    from ringpull.inference.client.lanes import CUT  # loaded by whoever pushes

    lineage = "" if told is None else told.lineage
    mark = opened.fingerprint
    if writer is not None and mark is None:
        raise InvalidInput(f"--writer: {opened.described} may give other rows the next time, and can't be gone on with")
    made_of = None if mark is None or writer is not None else (mark, lineage, _way(opened), CUT)
    journal = PushJournal(state_folder(), (client.target, model, table), made_of)
    # Each file under a name of its own: numbers of blocks of another file say nothing of this one's.
    own = hashlib.sha256(f"{mark} {_way(opened)}".encode()).hexdigest()[:16]
    journal.begin()
    try:
        blocks = opened.blocks()
        first = next(blocks, None)
        if journal.blocks and first is not None:
            _check_goes_on(client, model, table, journal, first, version, quiet=quiet)
        name = journal.writer if writer is None else f"{writer}:{own}"
        pusher = client.pusher(model, writer=name, number=journal.blocks, version=version)
        with _bar(opened, quiet=quiet) as advance:
            done = _push_blocks(pusher, table, chain([] if first is None else [first], blocks), journal, advance)
    except BaseException as exc:
        journal.keep()
        if made_of is not None and journal.blocks and not quiet:
            # After these waiting helps nobody, and what was acknowledged may be lost.
            when = " once that is mended" if isinstance(exc, CorruptData | UnmetCondition) else ""
            text = f"{journal.blocks} blocks are acknowledged; the same command goes on from there{when}"
            err.print(f"{text}, or begins anew in a new lineage" if when else text, highlight=False)
        raise
    journal.end()
    return done


def _push_blocks(
    pusher: Pusher, table: str, blocks: Iterable[KeyedRows], journal: PushJournal, advance: Callable[[int], None]
) -> tuple[PushAnswer, int]:
    """Push the blocks that are not acknowledged; return what became of them, and how many there are in all."""
    skipped, block = journal.blocks, 0
    try:
        with pusher:
            for block, keyed in enumerate(blocks, 1):
                if block > skipped:
                    pusher.hand_on(table, keyed, block)
                    journal.acknowledged(pusher.acknowledged)
                advance(len(keyed))
            return pusher.flush(), block
    finally:
        journal.acknowledged(pusher.acknowledged)


def _check_goes_on(
    client: Client, model: str, table: str, journal: PushJournal, first: KeyedRows, version: int | None, *, quiet: bool
) -> None:
    """Push the first block once more, under its number, and begin anew where the deployment does not know it.

    It may have been served anew since without the pushed rows, which were in memory, or without its data folder.
    """
    with client.pusher(model, writer=journal.writer, number=0, version=version) as pusher:
        pusher.hand_on(table, first, 1)
        answer = pusher.flush()
    told = f"goes on behind the first {journal.blocks} blocks, which were acknowledged before"
    if answer.rows or not answer.repeated:
        journal.begin_anew()
        told = "begins anew: what was acknowledged before is not known there any more"
    if not quiet:
        err.print(told, highlight=False)


def _way(opened: FileOfRows | FileOfKeys) -> str:
    return f"{opened.described} {getattr(opened, 'remove', True)}"


def _model(client: Client, model: str, version: int | None) -> pb.Model | None:
    """Return what a model takes; None: this caller may write, and not look."""
    try:
        return client.model(model, version)
    except Forbidden:
        return None


def _table(told: pb.Model | None, table: str) -> pb.TableInfo | None:
    """Return the table, which has to be one that takes pushes; None: it is not told."""
    if told is None:
        return None
    infos = {info.name: info for info in told.tables}
    if table not in infos:
        raise NotFound(f"model {told.name} has no table {table!r}; it has: {', '.join(sorted(infos)) or 'none'}")
    if not infos[table].live:
        live = ", ".join(sorted(name for name, info in infos.items() if info.live)) or "none"
        raise UnmetCondition(
            f"table {table} of {told.name}/{told.version} takes no pushes (those that do: {live}); serve it with"
            f" --live {told.name}/{table}, or export it with TableOptions(live=True)"
        )
    return infos[table]


@contextmanager
def _bar(opened: FileOfRows | FileOfKeys, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far the push is; the function given is called with the rows of each block."""
    if quiet:
        yield lambda rows: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    say(opened.described)
    columns = (TextColumn("pushed"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("pushed", total=opened.rows)
        yield lambda rows: progress.advance(task, rows)
