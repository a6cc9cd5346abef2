"""`ringpull plan`: how many shards, how many copies of each table, and how much memory, before anything is deployed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AllRows, AsJson, with_credentials
from ringpull.deploy.view.console import out, print_json
from ringpull.ps.errors import InvalidInput

if TYPE_CHECKING:
    from ringpull.router.control.deployment_spec import PlacedVersion
    from ringpull.router.control.planner import Plan
    from ringpull.router.control.traffic import TableLoad


@with_credentials
def plan(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_DIR...", help="Folders NAME/ with NAME/VERSION/ in them, or URLs, as for `serve`."
        ),
    ],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Most that one shard may take, such as 16GiB.")],
    shards: Annotated[int | None, typer.Option(help="Shards to plan for. Default: the fewest that fit.")] = None,
    at_least: Annotated[
        int, typer.Option(metavar="R", help="Copies that every table has at least: 2 survive a lost shard.")
    ] = 1,
    versions: Annotated[
        int,
        typer.Option(metavar="V", help="Versions of a model open side by side, as `serve --keep` has it, plus one."),
    ] = 1,
    one_machine: Annotated[
        bool,
        typer.Option(
            "--one-machine",
            help="All shards open the same files on one machine, and share their pages; heads read these themselves.",
        ),
    ] = False,
    traffic: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What requests look up, as JSON. Default: assumed.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Take the traffic from a deployment that serves the models.")
    ] = None,
    every: AllRows = False,
    as_json: AsJson = False,
) -> None:
    """Say how many shards and copies models need, and why, from their folders alone.

    Copies are chosen so that a request costs least (bytes, messages, waiting for hot keys) and every shard keeps within
    --memory. Nothing is started. Give traffic with --traffic or --target: what is assumed without is said.
    """
    from ringpull.deploy.model_folders import choose_versions
    from ringpull.deploy.planned_tables import ASSUMED_BAG, ASSUMED_ROWS, PROCESS_BYTES, planned_tables
    from ringpull.deploy.view.plan_view import plan_fields, plan_view
    from ringpull.deploy.view.size_text import parse_size
    from ringpull.router.control import planner

    _check(traffic, target, shards, at_least=at_least, versions=versions)
    limit = parse_size("--memory", memory)
    counted = _counted(traffic, target)
    chosen = choose_versions(models)
    tables = planned_tables(
        chosen,
        counted,
        min_copies=at_least,
        open_versions=versions,
        others=target is not None,
        one_machine=one_machine,
    )
    if shards is None:
        fewest = planner.fewest_shards(tables, limit, shared=one_machine, process_bytes=PROCESS_BYTES)
        shards = max(at_least, fewest)
    found = planner.plan(tables, planner.Layout(shards, limit, one_machine, PROCESS_BYTES, beside_heads=one_machine))
    assumed = (
        f"traffic is assumed: {ASSUMED_ROWS} rows a request, {ASSUMED_BAG} ids a bag; give --traffic or --target"
        if counted is None
        else ""
    )
    if as_json:
        print_json(plan_fields(found, assumed=assumed))
        return
    out.print(plan_view(found, assumed=assumed, every=every))
    command = _serve_command(models, chosen, found, keep=versions - 1, every=every)
    out.print(command, style="dim", highlight=False, soft_wrap=True)


def _check(traffic: Path | None, target: str | None, shards: int | None, *, at_least: int, versions: int) -> None:
    from ringpull.router.control.deployment_spec import MAX_SHARDS

    if traffic is not None and target is not None:
        raise InvalidInput("--traffic and --target both say what requests look up; give one")
    for option, value in (("at-least", at_least), ("versions", versions)):
        if value < 1:
            raise InvalidInput(f"--{option} is {value}; it must be 1 or more")
    if shards is not None and not at_least <= shards <= MAX_SHARDS:
        raise InvalidInput(f"--shards is {shards}; it must be from {at_least} (--at-least) to {MAX_SHARDS}")


def _serve_command(
    models: Sequence[str], chosen: Sequence[PlacedVersion], found: Plan, *, keep: int, every: bool
) -> str:
    """Return the command line that serves the models as planned; without `every`, of many --replicas only how many."""
    from ringpull.deploy.view.plan_view import replicas_options
    from ringpull.inference.short_form import SHOWN, and_more
    from ringpull.ps.transfer.remote import is_url

    exported = {
        f"{version.model}/{name}": table.replicas for version in chosen for name, table in version.tables.items()
    }
    command = ["ringpull serve", *map(shlex.quote, models), f"--shards {found.layout.shards}", f"--keep {keep}"]
    if any(is_url(version.folder) for version in chosen):
        command.append("--data-dir FOLDER")
    copies = replicas_options(found, exported)
    if len(copies) > SHOWN and not every:
        return " ".join([*command, "..."]) + and_more(len(copies), 0, "--replicas")
    return " ".join([*command, *copies])


def _counted(traffic: Path | None, target: str | None) -> dict[str, TableLoad] | None:
    from ringpull.router.control.traffic import traffic_from_json

    if traffic is not None:
        try:
            return traffic_from_json(traffic.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"--traffic {traffic}: {exc}") from exc
    return None if target is None else _served_traffic(served.resolve_target(target))


def _served_traffic(target: str) -> dict[str, TableLoad]:
    from ringpull.deploy.coordinator_client import connect
    from ringpull.router.control.operations import GetStatus
    from ringpull.router.control.traffic import load_of

    with connect(target) as operations:
        status = operations.call(GetStatus())
    if status.requests == 0:
        raise InvalidInput(f"--target {target}: it has answered no request yet, so there is nothing to plan by")
    return load_of(status.traffic, status.requests)
