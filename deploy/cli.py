"""`ringpull`: the command line. Puts the commands together, and turns errors into one line and an exit status.

A command's module is imported when the command is asked for, so `ringpull status` does not wait for what `serve` needs.

With `--traceback` before the command an error also says where in the code it was.

Exit status: 0 it worked; 1 it did not, and one line on standard error says why; 2 the command line is wrong; 130 or 143
interrupted before it was done; 141 nobody read its output to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from traceback import format_exception
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

import ringpull
from ringpull.deploy.signals import Interrupted
from ringpull.deploy.view.console import err, print_line
from ringpull.deploy.view.streams import OutputLost, checked_streams
from ringpull.ps.errors import RingpullError

COMMANDS: Final = {
    "serve": "A deployment",
    "status": "A deployment",
    "restart": "A deployment",
    "stop": "A deployment",
    "predict": "Predictions",
    "lookup": "Predictions",
    "top-k": "Predictions",
    "loadtest": "Predictions",
    "push": "Rows that change",
    "export": "Models, before they are served",
    "import": "Models, before they are served",
    "compose": "Models, before they are served",
    "delta": "Models, before they are served",
    "inspect": "Models, before they are served",
    "plan": "Models, before they are served",
    "load": "A change while it serves",
    "unload": "A change while it serves",
    "publish": "A change while it serves",
    "rollback": "A change while it serves",
    "label": "A change while it serves",
    "compact": "A change while it serves",
    "rebalance": "A change while it serves",
}
"""Command -> its group in the help. Each is the function and the module of its name in `ringpull.deploy.commands`
(`top-k`: `top_k`), but for those that have commands of their own (`COMMANDS_OF`)."""

COMMANDS_OF: Final[dict[str, dict[str, str]]] = {
    "import": {
        "onnx": "Models",
        "pmml": "Models",
        "savedmodel": "Models",
        "sklearn": "Models",
        "lightgbm": "Models",
        "xgboost": "Models",
        "table": "Tables",
    }
}
"""Command -> its own commands, each with its group in the help: the function and the module of its name in
`ringpull.deploy.commands.importing`."""


UNREAD: Final = 128 + signal.SIGPIPE


class LazyCommands(TyperGroup):
    """The commands of a table, each imported by the first who asks for it, besides those that are registered."""

    table = COMMANDS
    package = "ringpull.deploy.commands"

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.table and cmd_name not in self.commands:
            self.commands[cmd_name] = self.load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def load(self, name: str) -> Any:
        if name in COMMANDS_OF:
            return typer.main.get_command(_import_group)
        called = name.replace("-", "_")
        function = getattr(import_module(f"{self.package}.{called}"), called)
        alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        alone.command(name, rich_help_panel=self.table[name])(function)
        return typer.main.get_command(alone)


class ImportCommands(LazyCommands):
    """The commands of `ringpull import`, one for each kind of source."""

    table = COMMANDS_OF["import"]
    package = "ringpull.deploy.commands.importing"


_import_group = typer.Typer(
    name="import", cls=ImportCommands, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown"
)


@_import_group.callback()
def _import() -> None:
    """Turn models and tables of other makers into a version that is served as it is: `OUT_DIR/VERSION/`.

    Big tables are cut out and sharded, and what is left answers as it did where it came from: that is checked before
    anything is written. `ringpull import COMMAND --help` explains each kind of source.
    """


def _print_version(asked: bool) -> None:
    if asked:
        print_line(f"ringpull {ringpull.__version__}")
        raise typer.Exit


_tracebacks: Final[set[bool]] = set()


def _keep_tracebacks(asked: bool) -> None:
    _tracebacks.clear()
    _tracebacks.add(asked)


app = typer.Typer(
    name="ringpull",
    cls=LazyCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="`ringpull COMMAND --help` explains a command. Most take `--json`, for programs, and `--target HOST:PORT`.",
)


@app.callback()
def _ringpull(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback",
            callback=_keep_tracebacks,
            is_eager=True,
            help="Before the line that says what failed, print where in the code it did.",
        ),
    ] = False,
) -> None:
    """Serve recommender models whose embedding tables are sharded over a ring of Ray actors.

    Export a torch model, bring it up with `ringpull serve models/NAME --shards 4 --detach`, ask it with `ringpull
    predict`, look at it with `ringpull status`, end it with `ringpull stop`.
    """


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        with checked_streams():
            app()
    except OutputLost as exc:
        if exc.unread:
            sys.exit(UNREAD)
        _fail(str(exc))
    except RingpullError as exc:
        _trace(exc)
        _fail(str(exc))
    except OSError as exc:
        _trace(exc)
        _fail(_in_words(exc))
    except Interrupted as exc:
        err.print(str(exc), highlight=False, markup=False)
        sys.exit(128 + exc.signum)


def _trace(exc: Exception) -> None:
    if True in _tracebacks:
        err.print("".join(format_exception(exc)), end="", highlight=False, markup=False, soft_wrap=True)


def _fail(why: str) -> NoReturn:
    err.print(f"error: {why}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(1)


def _in_words(exc: OSError) -> str:
    """Say what the surroundings refused: a file in the way, a full disk, a folder that may not be written."""
    names = ", ".join(str(name) for name in (exc.filename, exc.filename2) if name is not None)
    why = exc.strerror or str(exc) or type(exc).__name__
    try:
        os.getcwd()
    except FileNotFoundError:
        why = f"{why}; the folder that this was started in is gone"
    return f"{names}: {why}" if names else why
