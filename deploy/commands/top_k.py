"""`ringpull top-k`: rows of a table with the largest scores, from the command line, as any client would, over gRPC."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.keys import content_of, key_reader, lines_of
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.view.console import err, out, print_json
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import above
from ringpull.ps.text.number_text import float_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Listed = list[str] | None
Source = str | None


@with_credentials
def top_k(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    table: Annotated[str, typer.Argument(help="Name of its table whose rows are ranked.")],
    keys: Annotated[
        Listed,
        typer.Argument(metavar="KEYS", help="Keys whose rows are the queries. Before a `-5`: `--`."),
    ] = None,
    query_table: Annotated[str, typer.Option(metavar="TABLE", help="Table of KEYS; default: TABLE itself.")] = "",
    keep_self: Annotated[bool, typer.Option("--keep-self", help="Leave a key's own row in the answer.")] = False,
    vector: Annotated[
        Listed, typer.Option(metavar="NUMBERS", help="Query by its numbers, as 0.5,1,-2. Repeatable.")
    ] = None,
    vectors_from: Annotated[
        Source, typer.Option(metavar="FILE|-", help="Queries of a .npy file, or one a line: numbers.")
    ] = None,
    features: Annotated[
        Source,
        typer.Option(metavar="FILE|-", help="A request of `ringpull predict`: an output of the model is the query."),
    ] = None,
    output: Annotated[str, typer.Option(metavar="NAME", help="That output; default: the only one that can be.")] = "",
    k: Annotated[int, typer.Option(metavar="N", help="Rows wanted for each query.")] = 10,
    metric: Annotated[str, typer.Option(metavar="dot|cosine", help="Score of a row.")] = "dot",
    exclude: Annotated[Listed, typer.Option(metavar="KEY", help="Key that is not wanted. Repeatable.")] = None,
    exclude_from: Annotated[Source, typer.Option(metavar="FILE|-", help="More of these, one a line.")] = None,
    among: Annotated[Listed, typer.Option(metavar="KEY", help="The only key that is wanted. Repeatable.")] = None,
    among_from: Annotated[Source, typer.Option(metavar="FILE|-", help="More of these, one a line.")] = None,
    version: Annotated[int | None, typer.Option(help="Version to ask for; default: the live one.")] = None,
    label: Annotated[str | None, typer.Option(help="Label of the version to ask for, in place of a number.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Show the rows of a served table with the largest scores, exactly.

    `ringpull top-k ranker item 7` shows the items most like item 7, `ringpull top-k ranker item 42 --query-table user`
    those for user 42. A table keyed by texts has only their hashes: give its keys by `--among-from` to see texts.
    """
    from ringpull.deploy.view.top_k_view import plain_top_k, top_k_table
    from ringpull.inference.client.client import Client

    above(0).check("--timeout", timeout)
    vectors = _vectors(vector, vectors_from)
    ways = {"KEYS": keys, "--vector, --vectors-from": vectors, "--features": features}
    if len(given := [name for name, value in ways.items() if value is not None]) != 1:
        raise InvalidInput(f"give the queries in one way of: {'; '.join(ways)}; given: {', '.join(given) or 'none'}")
    query: dict[str, Any] = {"query": vectors} if features is None else _columns(features) | {"output": output}
    with Client(served.resolve_target(target), timeout_s=timeout, credentials=command_credentials.current()) as client:
        if keys is not None:
            read = key_reader(client, model, query_table or table, version, label)
            query = {"like": [read(key) for key in keys], "query_table": query_table, "keep_self": keep_self}
        for name, listed, source in (("exclude", exclude, exclude_from), ("among", among, among_from)):
            if listed is not None or source is not None:
                read = key_reader(client, model, table, version, label)
                texts = [*(listed or []), *([] if source is None else lines_of(f"--{name}-from", source))]
                query[name] = [read(key) for key in texts]
        answer = client.top_k(model, table, k=k, metric=metric, version=version, label=label, **query)
    if as_json:
        print_json(plain_top_k(answer))
        return
    out.print(f"{answer.model} version {answer.version}, table {table}", style="bold", highlight=False)
    out.print(top_k_table(answer, keys))
    told = {
        "keys of the queries are not in the table: its default vector stands for each": answer.missing,
        "queries could not be asked for: no live shard has them": answer.lost_queries,
        "of 65536 slots could not be looked at: no live shard has them": answer.lost,
    }
    for text, count in told.items():
        if count:
            err.print(f"{count} {text}", style="yellow", highlight=False)


def _vectors(written: Listed, source: Source) -> NDArray[np.generic] | list[list[float]] | None:
    import numpy as np

    if source is not None and Path(source).suffix == ".npy":
        if written:
            raise InvalidInput("--vector: give the queries here, or all of them with --vectors-from")
        try:
            loaded: NDArray[np.generic] = np.load(BytesIO(content_of("--vectors-from", source)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as exc:
            raise InvalidInput(f"--vectors-from {source}: is no .npy file of numbers: {exc}") from exc
        return loaded
    lines = [("--vector", line) for line in written or []]
    if source is not None:
        lines += [(f"--vectors-from {source}", line) for line in lines_of("--vectors-from", source) if line.strip()]
    return [_numbers(*line) for line in lines] if lines or source is not None else None


def _numbers(option: str, line: str) -> list[float]:
    try:
        return [float_of(number) for number in line.replace(",", " ").split()]
    except ValueError as exc:
        raise InvalidInput(f"{option}: {line!r:.80} is no list of numbers, as 0.5,1,-2") from exc


def _columns(source: str) -> dict[str, Any]:
    from ringpull.inference.wire.request_json import call_from_json

    call = call_from_json(content_of("--features", source))
    return {"features": call.features, "context": call.context}
