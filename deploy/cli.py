"""`ringpull`: the command line. Puts the commands together, and turns errors into one line and an exit status.

Exit status: 0 it worked; 1 it did not, and one line on standard error says why; 2 the command line is wrong; 130 or 143
interrupted before it was done.
"""

from __future__ import annotations

import sys

import typer

from ringpull.deploy.commands.export import export
from ringpull.deploy.commands.inspect import inspect
from ringpull.deploy.commands.loadtest import loadtest
from ringpull.deploy.commands.plan import plan
from ringpull.deploy.commands.predict import predict
from ringpull.deploy.commands.publish import publish
from ringpull.deploy.commands.rebalance import rebalance
from ringpull.deploy.commands.restart import restart
from ringpull.deploy.commands.rollback import rollback
from ringpull.deploy.commands.serve import serve
from ringpull.deploy.commands.status import status
from ringpull.deploy.commands.stop import stop
from ringpull.deploy.signals import Interrupted
from ringpull.deploy.view.console import err
from ringpull.ps.errors import RingpullError

app = typer.Typer(
    name="ringpull",
    help="Serve recommender models whose embedding tables are sharded over a ring of Ray actors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (serve, predict, status, inspect, export, plan, publish, rollback, rebalance, restart, loadtest, stop):
    app.command()(command)


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        app()
    except RingpullError as exc:
        err.print(f"error: {exc}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except Interrupted as exc:
        err.print(str(exc), highlight=False, markup=False)
        sys.exit(128 + exc.signum)
