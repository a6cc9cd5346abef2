"""`ringpull lookup`: rows of a table by their keys from the command line, as any client would, over gRPC."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.keys import key_reader, lines_of
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.view.console import err, out, print_json
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import above

SEPARATOR: Final = "|"
"""Separator of the keys of a bag."""


@with_credentials
def lookup(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    table: Annotated[str, typer.Argument(help="Name of its table; `ringpull status` lists them.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEYS", help="Keys: numbers, or texts where the table is keyed by texts. Before a `-5`: `--`."
        ),
    ] = None,
    keys_from: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="More keys, one a line, from a file or standard input.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="sum|mean|max|none", help="Pool bags: each KEY, or line, is a bag then, its keys as `a|b|c`."
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(help="Version to ask for; default: the live one.")] = None,
    label: Annotated[str | None, typer.Option(help="Label of the version to ask for, in place of a number.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Show rows of a served table by their keys.

    `ringpull lookup feed results user:7 user:9` shows two rows, bytes as text where they are UTF-8. A key that the
    table does not have is no error: it has the table's default vector, or no bytes, and `found` says so.

    Every table of every served model can be asked, a model's own embeddings, too. Vectors are shown by their first
    numbers; `--json` has all, and rows of bytes that are no text as `{"b64": ...}`.
    """
    from ringpull.deploy.view.rows_view import plain_rows, rows_table
    from ringpull.inference.client.client import Client

    above(0).check("--timeout", timeout)
    pooling = None if pooling == "none" else pooling
    asked = [*(keys or []), *([] if keys_from is None else lines_of("--keys-from", keys_from))]
    if not asked:
        raise InvalidInput("give the keys as arguments, or with --keys-from FILE|-, one a line")
    bags = [[each] for each in asked] if pooling is None else [_bag(each) for each in asked]
    with Client(served.resolve_target(target), timeout_s=timeout, credentials=command_credentials.current()) as client:
        read = key_reader(client, model, table, version, label)
        flat = [read(key) for bag in bags for key in bag]
        offsets = None
        if pooling is not None:
            offsets = [0]
            for bag in bags:
                offsets.append(offsets[-1] + len(bag))
        answer = client.lookup(model, table, flat, version=version, label=label, pooling=pooling, offsets=offsets)
    if as_json:
        print_json(plain_rows(answer))
        return
    out.print(f"{answer.model} version {answer.version}, table {table}", style="bold", highlight=False)
    out.print(rows_table(asked, answer))
    if answer.missing:
        err.print(f"{answer.missing} of {len(flat)} keys are not in the table", style="yellow", highlight=False)
    if answer.lost:
        err.print(f"{answer.lost} keys could not be asked for: no live shard has them", style="yellow", highlight=False)


def _bag(text: str) -> list[str]:
    return text.split(SEPARATOR) if text else []
