"""`ringpull rebalance`: other shards, other copies, another machine, while predictions go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AllRows, AsJson, Target, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import agreed, can_ask, err, out, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import above, at_least

if TYPE_CHECKING:
    from ringpull.deploy.view.move_view import PlannedMove
    from ringpull.router.control.operations import Control, OperatorVerbs, Rebalance


@with_credentials
def rebalance(
    shards: Annotated[
        int | None, typer.Option(help="Grow or shrink to so many shards. Default: as many as now.")
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=R", help="Copies of a table, a number or `all`; repeatable. Default: as now."),
    ] = None,
    drain_node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Move the shards of a Ray node to other nodes.")
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Choose the copies by the look-ups so far, as `ringpull plan` does.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Most that one shard may take. Default: any; with --auto, what one takes now."
        ),
    ] = None,
    at_least: Annotated[
        int | None,
        typer.Option(metavar="R", help="With --auto: copies of every table at least. Default: as many as now."),
    ] = None,
    max_mb_per_s: Annotated[
        float | None, typer.Option(metavar="MB", help="Most that a shard streams. Default: any.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the change under way, or how the last ended.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Hold the change under way.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a change that is held.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give the change under way up.")] = False,
    every: AllRows = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Change shards, copies or machines of a deployment, without a failed request.

    The plan comes first: what gets new owners, what crosses the wire, what each shard takes before and after. Ctrl-C
    leaves a change that has begun to itself: --status finds it again, --pause holds it, --abort gives it up.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.router.control.operations import Control

    controls = {Control.PAUSE: pause, Control.RESUME: resume, Control.ABORT: abort}
    verbs = [control for control, given in controls.items() if given]
    changes = bool(shards is not None or replicas or drain_node or auto)
    if changes + status + len(verbs) != 1:
        raise InvalidInput(
            "say what to change with --shards, --replicas, --drain-node or --auto; or give one of --status, --pause,"
            " --resume and --abort"
        )
    if not changes:
        options = {"--memory": memory, "--at-least": at_least, "--max-mb-per-s": max_mb_per_s}
        _refuse_beside_control(options | {"--dry-run": dry_run or None, "--yes": yes or None})
    address = served.resolve_target(target)
    with StopSignals(), connect(address) as operations:
        if status:
            _show_status(operations, as_json)
        elif verbs:
            _control(operations, verbs[0], as_json)
        else:
            request = _request(shards, replicas or [], drain_node, max_mb_per_s)
            move, request = _plan(operations, address, request, auto=auto, memory=memory, at_least=at_least)
            if dry_run:
                _show_plan(move, as_json, every=every)
            else:
                _execute(operations, move, request, yes=yes, as_json=as_json, every=every)


def _refuse_beside_control(options: Mapping[str, object]) -> None:
    """Refuse options that only a change that begins can have, where one under way is controlled."""
    if given := [option for option, value in options.items() if value is not None]:
        raise InvalidInput(
            f"{' and '.join(given)} can only be said of a change that begins; --status, --pause, --resume and --abort"
            " are about the one under way"
        )


def _request(shards: int | None, replicas: list[str], drain_node: str | None, max_mb_per_s: float | None) -> Rebalance:
    from ringpull.deploy.model_folders import parse_replicas
    from ringpull.router.control.operations import Rebalance

    if shards is not None:
        at_least(1).check("--shards", shards)
    if max_mb_per_s is not None:
        above(0).check("--max-mb-per-s", max_mb_per_s)
    return Rebalance(
        shards=shards,
        replicas=dict(map(parse_replicas, replicas)),
        drain_node=drain_node or "",
        bytes_per_s=None if max_mb_per_s is None else max_mb_per_s * 1e6,
    )


def _plan(
    operations: OperatorVerbs, address: str, request: Rebalance, *, auto: bool, memory: str | None, at_least: int | None
) -> tuple[PlannedMove, Rebalance]:
    from ringpull.deploy.coordinator_client import table_dims
    from ringpull.deploy.planned_move import automatic, planned_move
    from ringpull.deploy.view.size_text import parse_size
    from ringpull.router.control.operations import GetStatus, PlanRebalance

    if at_least is not None and (not auto or at_least < 1):
        raise InvalidInput("--at-least is a number of copies from 1, and goes with --auto")
    if auto and request.replicas:
        raise InvalidInput("--auto and --replicas both say how many copies there are; give one")
    limit = None if memory is None else parse_size("--memory", memory)
    status = operations.call(GetStatus())
    dims = table_dims(address)
    reasons: tuple[str, ...] = ()
    if auto:
        request, reasons = automatic(status, request, dims, memory=limit, min_copies=at_least)
    moves = operations.call(PlanRebalance(request))
    return replace(planned_move(status, request, moves, dims, memory=limit), reasons=reasons), request


def _show_plan(move: PlannedMove, as_json: bool, *, every: bool) -> None:
    from ringpull.deploy.view.move_view import move_fields, move_view

    if as_json:
        print_json(move_fields(move))
    else:
        out.print(move_view(move, every=every))


def _execute(
    operations: OperatorVerbs, move: PlannedMove, request: Rebalance, *, yes: bool, as_json: bool, every: bool
) -> None:
    from ringpull.deploy.view.change_watch import change_fields, change_line, follow
    from ringpull.deploy.view.move_view import move_fields, move_view
    from ringpull.router.control.operations import GetChange

    if not yes and (as_json or not can_ask()):
        raise InvalidInput("nobody can be asked here; look at the plan with --dry-run, then say --yes")
    now = operations.call(GetChange())
    if now.under_way:
        raise InvalidInput(f"{now.kind.value} {now.subject} is under way; --status shows it, --abort gives it up")
    if not as_json:
        out.print(move_view(move, every=every))
    if not yes and not agreed("Begin?"):
        print_line("nothing was changed")
        return
    done = follow(operations, operations.call(request), err)
    if as_json:
        print_json({"plan": move_fields(move), **change_fields(done)})
    else:
        print_line(change_line(done))


def _show_status(operations: OperatorVerbs, as_json: bool) -> None:
    from ringpull.deploy.view.change_watch import change_fields, change_line, follow
    from ringpull.router.control.operations import GetChange

    now = operations.call(GetChange())
    if as_json:
        print_json(change_fields(now))
        return
    print_line(change_line(now))
    if now.under_way and err.is_terminal:
        print_line(change_line(follow(operations, now, err)))


def _control(operations: OperatorVerbs, control: Control, as_json: bool) -> None:
    from ringpull.deploy.view.change_watch import change_fields, change_line
    from ringpull.router.control.operations import ControlChange

    now = operations.call(ControlChange(control))
    if as_json:
        print_json(change_fields(now))
    else:
        print_line(change_line(now))
