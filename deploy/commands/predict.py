"""`ringpull predict`: score rows from the command line, as any client would, over gRPC."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.view.console import err, out, print_json
from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import above

if TYPE_CHECKING:
    from ringpull.inference.client.client import Client
    from ringpull.inference.prediction import Prediction

SHOWN_VALUES = 8
"""Number of values shown of one output of one row; the JSON has all."""


@with_credentials
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    json_request: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="The request as JSON, from a file or standard input.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V,...", help="One candidate row; lists as `a|b|c`. Repeatable: one row each."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="K=V,...", help="Features that stand for every row (the user).")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Version to ask for; default: the live one.")] = None,
    label: Annotated[str | None, typer.Option(help="Label of the version to ask for, instead of --version.")] = None,
    outputs: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Output wanted; repeatable. Default: all.")
    ] = None,
    timings: Annotated[bool, typer.Option("--timings", help="Show the server's timings by stage.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of the call.")] = 10.0,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Score rows with a served model.

    Give rows with --features (and --context), or a whole request with --json-request.
    """
    from ringpull.inference.client.client import Client

    if (json_request is None) == (not features):
        raise InvalidInput(
            "give the rows with --features K=V,..., or a request with --json-request FILE|-; one of the two"
        )
    above(0).check("--timeout", timeout)
    with Client(served.resolve_target(target), timeout_s=timeout, credentials=command_credentials.current()) as client:
        if json_request is not None:
            if context is not None:
                raise InvalidInput("--context goes with --features; a JSON request holds its own")
            request = _from_json(json_request, model)
        else:
            request = _from_rows(client, model, version, label, features or [], context)
        if version is not None:
            request["version"] = version
        if label is not None:
            request["label"] = label
        if outputs:
            request["outputs"] = outputs
        request["with_timings"] = timings or request.get("with_timings", False)
        prediction = client.predict(model, **request)
    if as_json:
        print_json(_plain(prediction))
    else:
        _show(model, prediction)


def _from_json(source: str, model: str) -> dict[str, Any]:
    from ringpull.inference.wire.request_json import call_from_json

    try:
        content = _standard_input() if source == "-" else Path(source).read_bytes()
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"--json-request {source}: {exc}") from exc
    call = call_from_json(content)
    if call.model not in ("", model):
        raise InvalidInput(f"the request is for model {call.model}, the command line for {model}")
    return {
        "features": call.features,
        "context": call.context,
        "version": call.version,
        "label": call.label,
        "outputs": call.outputs,
        "with_timings": call.with_timings,
        "with_unknown": call.with_unknown,
        "request_id": call.request_id,
    }


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.buffer.read()


def _from_rows(
    client: Client, model: str, version: int | None, label: str | None, rows: list[str], context: str | None
) -> dict[str, Any]:
    from ringpull.deploy.view.row_text import columns_of_rows

    described = client.model(model, version, label=label)
    infos = described.features
    if described.tables and not infos:
        raise InvalidInput(
            f"model {model} has tables only, and predicts nothing; see ringpull lookup {model} TABLE KEYS"
        )
    return {
        "features": columns_of_rows(rows, infos),
        "context": {} if context is None else columns_of_rows([context], infos),
    }


def _plain(prediction: Prediction) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "model": prediction.model,
        "version": prediction.version,
        "outputs": {name: values.tolist() for name, values in prediction.outputs.items()},
        "filled": [asdict(filled) for filled in prediction.filled],
        "unknown": [
            {"feature": each.feature, "ids": each.ids} | ({} if each.rows is None else {"rows": each.rows.tolist()})
            for each in prediction.unknown
        ],
        "degraded": list(prediction.degraded),
    }
    if prediction.timings is not None:
        plain["timings"] = asdict(prediction.timings)
    return plain


def _show(model: str, prediction: Prediction) -> None:
    out.print(f"{prediction.model or model} version {prediction.version}", style="bold", highlight=False)
    table = FieldsTable("", (Column("row", "number"), *(Column(name, "wrapped") for name in prediction.outputs)))
    for row, values in enumerate(zip(*prediction.outputs.values(), strict=True)):
        table.add(str(row), *map(_cell, values))
    out.print(table)
    if prediction.degraded:
        err.print(f"degraded under load: {'; '.join(prediction.degraded)}", style="yellow", highlight=False)
    for filled in prediction.filled:
        err.print(
            f"{filled.feature}: {filled.values} values {filled.reason}, filled in", style="yellow", highlight=False
        )
    for each in prediction.unknown:
        rows = "" if each.rows is None else f", in rows {', '.join(map(str, each.rows.tolist()))}"
        ids = "1 id" if each.ids == 1 else f"{each.ids} ids"
        err.print(f"{each.feature}: {ids} without a row{rows}", style="yellow", highlight=False)
    if prediction.timings is not None:
        stages = (
            f"{name.removesuffix('_us')} {value} µs"
            for name, value in asdict(prediction.timings).items()
            if name.endswith("_us")
        )
        out.print(
            ", ".join(stages), f"in a batch of {prediction.timings.batch_rows} rows", style="dim", highlight=False
        )


def _cell(values: Any) -> str:
    flat = values.reshape(-1)
    shown = ", ".join(f"{value:.6g}" for value in flat[:SHOWN_VALUES])
    return shown if len(flat) <= SHOWN_VALUES else f"{shown}, ... ({len(flat)} values)"
