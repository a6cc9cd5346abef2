"""`ringpull loadtest`: requests at a given rate, whatever the answers do; or the highest rate that keeps a bound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ringpull.deploy import command_credentials, served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.folders import as_folder
from ringpull.deploy.view.console import err, out, print_json, warn
from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.ps.settings import above

if TYPE_CHECKING:
    from ringpull.loadtest.find_max import Found, Trial
    from ringpull.loadtest.report import Summary

FIRST_RATE: Final = 50.0
"""Rate that a search begins at if none is given."""
SEARCH_FOLDER: Final = Path("runs/find-max")

PER_FEATURE: Final = "VALUE,FEATURE=VALUE,..."


@with_credentials
def loadtest(
    model: Annotated[str | None, typer.Argument(help="Name of the model; default: the only one served.")] = None,
    target: Target = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, at Poisson times; with --find-max: where to begin.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long; with --find-max: of each trial.")] = 10.0,
    search: Annotated[
        bool, typer.Option("--find-max", help="Search for the highest rate whose p99 is within --p99-ms.")
    ] = False,
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="The bound of --find-max.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and requests.")] = 0,
    requests: Annotated[int, typer.Option(help="How many different requests are made; they are sent in turns.")] = 512,
    candidates: Annotated[int, typer.Option(help="Rows of a request.")] = 128,
    context: Annotated[
        str, typer.Option(metavar="PATTERN,...", help="Features carried once per request. Default: user*,context*.")
    ] = "",
    zipf: Annotated[str, typer.Option(metavar=PER_FEATURE, help="Exponent of the ids. Default: 1.05.")] = "",
    bag: Annotated[str, typer.Option(metavar=PER_FEATURE, help="Mean length of bags. Default: 10.")] = "",
    unknown: Annotated[str, typer.Option(metavar=PER_FEATURE, help="Share of ids in no table. Default: 0.01.")] = "",
    ids: Annotated[
        str, typer.Option(metavar="FEATURE=FIRST..LAST,...", help="Known ids, or a file of them. Default: row numbers.")
    ] = "",
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Recorded requests instead: .jsonl, .csv or .parquet.")
    ] = None,
    replay_columns: Annotated[
        str, typer.Option(metavar="FEATURE=COLUMN,...", help="Columns of the recording. Default: the features' names.")
    ] = "",
    connections: Annotated[int, typer.Option(help="Connections to the head.")] = 4,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of a request.")] = 10.0,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write report.md and plots there. --find-max: runs/find-max.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send requests at a rate and time them from when they were due, or find the highest rate that keeps a bound."""
    if not search and rate is None:
        raise InvalidInput("give a rate with --rate R, or search for the highest with --find-max")
    above(0).check("--rate", FIRST_RATE if rate is None else rate)
    above(0).check("--seconds", seconds)
    above(0).check("--p99-ms", p99_ms)
    above(0).check("--connections", connections)
    above(0).check("--timeout", timeout)
    pace = {
        "rate": rate or FIRST_RATE,
        "seconds": seconds,
        "seed": seed,
        "timeout_s": timeout,
        "connections": connections,
    }
    workload: dict[str, Any] = {
        "seed": seed,
        "requests": requests,
        "candidates": candidates,
        "context": context,
        "zipf": zipf,
        "bag": bag,
        "unknown": unknown,
        "ids": ids,
        "replay": replay,
        "replay_columns": replay_columns,
    }
    bound_ms = p99_ms if search else None
    if report is not None:
        as_folder("--report", report)  # written when all is measured
    _run(target, model, pace, workload, bound_ms=bound_ms, report=report, as_json=as_json)


def _run(
    target: str | None,
    model: str | None,
    pace: dict[str, Any],
    workload: dict[str, Any],
    *,
    bound_ms: float | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure at one rate, or search for the highest rate that keeps `bound_ms`.

    Args:
        pace: Arguments of `OpenLoopPlan`.
        workload: Arguments of `parse_options`.
    """
    with needing("loadtest", "ringpull loadtest"):
        from ringpull.loadtest.messages import prepare_messages
        from ringpull.loadtest.open_loop import OpenLoopPlan
        from ringpull.loadtest.open_loop_report import measure_rate, search_rate
        from ringpull.loadtest.options import parse_options
    from ringpull.inference.client.client import Client

    plan = OpenLoopPlan(**pace)
    options = parse_options(**workload)
    address, credentials = served.resolve_target(target), command_credentials.current()
    with Client(address, timeout_s=plan.timeout_s, credentials=credentials) as client:
        messages = prepare_messages(client, model, options, with_timings=bound_ms is None)
        messages.rehearse(client)
        if bound_ms is not None:
            found = search_rate(
                client.target,
                messages,
                plan,
                p99_ms=bound_ms,
                on_trial=lambda trial: _tell_trial(trial, bound_ms),
                credentials=credentials,
            )
            _tell_search(found, report or SEARCH_FOLDER, as_json)
            if not found.rate:
                raise RingpullError(f"no rate keeps a p99 of {bound_ms:g} ms")
        else:
            _, summary = measure_rate(client, messages, plan, settings={**asdict(plan), **workload})
            _tell(summary, report, as_json)
            if summary.failures >= summary.requests:
                raise RingpullError(f"of {summary.requests:,} requests none was answered")


def _tell(summary: Summary, folder: Path | None, as_json: bool) -> None:
    from ringpull.loadtest.report import write_report

    for warning in summary.warnings:
        warn(warning)
    path = None if folder is None else str(write_report(folder, summary))
    if as_json:
        fields: dict[str, Any] = {
            **summary.line,
            "report": path,
            "server_requests": summary.server_requests,
            "percentiles_ms": dict(summary.percentiles_ms),
            "stages_us": summary.stages_us,
            "errors": dict(summary.errors),
            "warnings": list(summary.warnings),
        }
        print_json(fields)
        return
    out.print(
        f"{summary.requests:,} requests, {summary.failures:,} failed, {summary.rps:,.1f}/s",
        style="bold",
        highlight=False,
    )
    table = FieldsTable("", (Column("percent"), Column("ms", "number")))
    for percent, value in summary.percentiles_ms.items():
        table.add(percent, f"{value:,.2f}")
    out.print(table)
    for why, count in summary.errors.items():
        err.print(f"{count:,} failed: {why}", style="red", highlight=False, markup=False)
    if path is not None:
        out.print(f"report: {path}", highlight=False, soft_wrap=True)


def _tell_search(found: Found, folder: Path, as_json: bool) -> None:
    from ringpull.loadtest.open_loop_report import write_search

    plot = str(write_search(folder, found))
    if found.limited_by_generator:
        warn("above this rate the generator, or this machine, was too busy: the server may do more")
    if as_json:
        print_json(_search_fields(found, plot))
        return
    what = f"{found.rate:,.1f} requests/s keep" if found.rate else "no rate keeps"
    out.print(f"{what} a p99 of {found.bound_ms:g} ms", style="bold", highlight=False)
    out.print(f"plot: {plot}", highlight=False, soft_wrap=True)


def _search_fields(found: Found, plot: str) -> dict[str, Any]:
    return {
        "rate": round(found.rate, 2),
        "p99_ms": found.bound_ms,
        "trials": len(found.trials),
        "limited_by_generator": found.limited_by_generator,
        "plot": plot,
    }


def _tell_trial(trial: Trial, bound_ms: float) -> None:
    verdict = "holds" if trial.holds(bound_ms) else "too slow" if trial.p99_ms > bound_ms else "fails"
    err.print(
        f"{trial.rate:10,.1f}/s   p50 {trial.p50_ms:8.2f} ms   p99 {trial.p99_ms:8.2f} ms   {verdict}"
        + (", generator busy" if trial.generator_bound else ""),
        highlight=False,
    )
