"""`ringpull restart --rolling`: every process anew, one after the other, without a failed request if copies allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.signals import Interrupted, StopSignals
from ringpull.deploy.view.console import agreed, can_ask, err, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import MAX_WAIT_S, above, at_least

if TYPE_CHECKING:
    from ringpull.deploy.rolling import Effects
    from ringpull.router.control.events import Member
    from ringpull.router.control.operations import OperatorVerbs


@with_credentials
def restart(
    rolling: Annotated[
        bool, typer.Option("--rolling", help="One member after the other: the only way there is, and to be said.")
    ] = False,
    shards: Annotated[bool, typer.Option("--shards", help="Shards only. Default: shards, then heads.")] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Heads only.")] = False,
    drain_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Requests in flight get this long before a process ends.")
    ] = 10.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A member that is not healthy again by then is an error.")
    ] = 300.0,
    force: Annotated[
        bool, typer.Option("--force", help="Even where requests fail for it, or while other members are not healthy.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Restart shards and heads, one after the other; each is healthy again before the next one goes.

    With two copies of every table and two heads nothing fails for clients that retry, as ringpull's own do; anything
    else is said first, and asked about. Ctrl-C stops after the member that is on its way; a second one stops watching.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.rolling import Effects, chosen
    from ringpull.router.control.operations import GetChange, GetStatus, ListMembers

    if not rolling:
        raise InvalidInput("say --rolling: members are restarted one after the other")
    at_least(0, ceiling=MAX_WAIT_S).check("--drain-timeout", drain_timeout)
    above(0, ceiling=MAX_WAIT_S).check("--timeout", timeout)
    with StopSignals() as signals, connect(served.resolve_target(target)) as operations:
        now = operations.call(GetChange())
        if now.under_way:
            raise InvalidInput(f"{now.kind.value} {now.subject} is under way; wait until it is over")
        both = shards == heads
        members = chosen(operations.call(ListMembers()), shards=shards or both, heads=heads or both)
        effects = Effects.of(operations.call(GetStatus()).spec, members)
        if not force:
            effects.check()
        if not _agreed(effects, yes=yes or force, as_json=as_json):
            print_line("nothing was restarted")
            return
        _execute(operations, members, signals, drain_s=drain_timeout, within_s=timeout, force=force, as_json=as_json)


def _agreed(effects: Effects, *, yes: bool, as_json: bool) -> bool:
    """Say what will be felt, if anything is, and ask."""
    for line in effects.lines:
        err.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if yes or not effects.lines:
        return True
    if as_json or not can_ask():
        raise InvalidInput("nobody can be asked here whether that is wanted; say --yes")
    return agreed("Begin?")


def _execute(
    operations: OperatorVerbs,
    members: list[Member],
    signals: StopSignals,
    *,
    drain_s: float,
    within_s: float,
    force: bool,
    as_json: bool,
) -> None:
    from ringpull.deploy import rolling
    from ringpull.deploy.view.progress import Progress

    progress, done = Progress(err), []
    signals.hold()
    for member in members:
        if signals.wait(0.0):
            break
        with progress.step(f"restarted {member}"):
            done.append(rolling.restart(operations, member, drain_s=drain_s, within_s=within_s, force=force))
    left = len(members) - len(done)
    if as_json:
        print_json(rolling.summary(done, left))
    else:
        print_line(rolling.summary_line(done))
    if left:
        err.print(f"{left} of {len(members)} members were not restarted", highlight=False)
        raise Interrupted(signals.signum)
