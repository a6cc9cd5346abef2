"""`ringpull export`: run a function that makes a trained model, and export what it returns."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ringpull.deploy.commands.options import AsJson, Includes
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import print_json, print_written
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.ps.live.stamp import stamps_in
from ringpull.ps.settings import at_least
from ringpull.ps.spec import VECTOR_TYPES

if TYPE_CHECKING:
    from ringpull.inference.export.report import ExportReport
    from ringpull.inference.export.table_options import TableOptions

_NOT_THE_USERS: Final = (__name__, "importlib")
OF_DELTAS: Final = ("changed", "gone")
"""Arguments of `ringpull.export_delta`, which a full export leaves alone."""
NAMES: Final = (
    "module",
    "schema",
    "keys",
    "name",
    "method",
    "arguments",
    "once",
    "outputs",
    "ranked",
    "tables",
    "max_dense_bytes",
    "check_rows",
    "check_columns",
    "check_labels",
    "max_diff",
    "dense_precision",
    "degrade",
    "classes",
    *OF_DELTAS,
)
"""Names that a returned mapping may have: arguments of `ringpull.export_model` and `export_delta`, all but what the
command line says."""


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns (module, schema), (module, schema, keys), or a mapping of arguments of"
            " `ringpull.export_model`.",
        ),
    ],
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="The model's folder; the version is written into OUT_DIR/VERSION/."),
    ],
    version: Annotated[
        int | None, typer.Option(help="Number of the version. Default: one above the highest there.")
    ] = None,
    row_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE=TYPE",
            help="How a table's rows are stored: float32, float16, bfloat16 or int8; repeatable. Goes before what the"
            " function says.",
        ),
    ] = None,
    live: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Table whose rows may be pushed while it is served; repeatable."),
    ] = None,
    max_diff: Annotated[
        float | None, typer.Option(help="The most that short types may change a score; else nothing is written.")
    ] = None,
    dense_precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="What heads run the dense program in: float32, or bfloat16. Goes before what the function says.",
        ),
    ] = None,
    follows: Annotated[
        int | None,
        typer.Option(metavar="N", help="Write only what changed since version N, which serves the same: see `delta`."),
    ] = None,
    includes: Includes = None,
    as_json: AsJson = False,
) -> None:
    """Export a torch model: its embeddings become tables, the rest the dense program.

    MODULE is imported with the working directory on the path.
    """
    # All that can be checked is checked before the function, which may take hours to train.
    as_folder("OUT_DIR", out_dir)
    with needing("export", "ringpull export"):
        from ringpull.inference.export.precision import check_precision

    check_precision(dense_precision or "float32")
    row_types = row_types_of(row_type or [])
    if max_diff is not None:
        at_least(0).check("--max-diff", max_diff)
    stamps = _stamps(includes, follows)
    _check_versions(out_dir, version, follows)
    # Standard output is for the result, so output of the function goes to standard error.
    with redirect_stdout(sys.stderr):
        arguments = arguments_of(returned_by(source))
    options = _table_options(arguments.get("tables") or {}, row_types, live or ())
    given = {"tables": options, "max_diff": max_diff, "dense_precision": dense_precision}
    arguments |= {name: value for name, value in given.items() if value is not None}
    number = _next(out_dir) if version is None else version
    with StopSignals():  # a job that is ended by SIGTERM leaves no half version behind, either
        report = _export(out_dir, number, follows, stamps, arguments | {"quiet": as_json})
    _tell(report, number, out_dir / str(number), as_json=as_json)


def _next(out_dir: Path) -> int:
    from ringpull.inference.model.manifest import versions

    return max(versions(out_dir), default=0) + 1


def _stamps(includes: str | None, follows: int | None) -> dict[int, int] | None:
    """Return the stamps that --includes names."""
    if includes is None:
        return None
    if follows is None:
        raise InvalidInput("--includes is for deltas: it goes with --follows N")
    from ringpull.inference.model.manifest_chain import check_stamp

    stamps = stamps_in(includes)
    check_stamp(stamps)
    return stamps


def _check_versions(out_dir: Path, version: int | None, follows: int | None) -> None:
    """Check that there is no such version, and that there is one before, which can be followed."""
    from ringpull.inference.export.delta.following import Following
    from ringpull.inference.export.version_folder import free_folder

    if version is not None:
        free_folder(out_dir, version)
    if follows is not None:
        Following.of(out_dir, _next(out_dir) if version is None else version, follows)


def _export(
    out_dir: Path,
    number: int,
    follows: int | None,
    stamps: Mapping[int, int] | None,
    arguments: Mapping[str, Any],
) -> ExportReport:
    with needing("export", "ringpull export"):
        from ringpull.inference.export.delta.export import export_delta
        from ringpull.inference.export.model import export_model

    if follows is not None:
        return export_delta(folder=out_dir, version=number, follows=follows, includes=stamps, **arguments)
    own = {name: value for name, value in arguments.items() if name not in OF_DELTAS}
    return export_model(out_dir=out_dir, version=number, **own)


def _tell(report: ExportReport, number: int, folder: Path, *, as_json: bool) -> None:
    if not as_json:
        print_written("exported", folder)
        return
    print_json(
        {
            "model": report.manifest.model,
            "version": number,
            "follows": None if report.manifest.chain.follows is None else report.manifest.chain.follows.version,
            "folder": str(folder),
            "cost": None if report.cost is None else asdict(report.cost),
            "bfloat16": None if report.manifest.bfloat16 is None else asdict(report.manifest.bfloat16),
            **({"tables": [asdict(each) for each in report.deltas]} if report.deltas else {}),
        }
    )


def _table_options(
    given: Mapping[str, TableOptions], row_types: Mapping[str, Any], live: Sequence[str]
) -> dict[str, TableOptions]:
    """Return options of tables with what the command line says, which goes before."""
    from ringpull.inference.export.table_options import TableOptions

    options = dict(given)
    for table, wanted in row_types.items():
        options[table] = replace(options.get(table, TableOptions()), row_type=wanted)
    for table in live:
        options[table] = replace(options.get(table, TableOptions()), live=True)
    return options


def row_types_of(given: Sequence[str]) -> dict[str, Any]:
    """Return the row type asked for by table, from TABLE=TYPE each.

    Raises:
        InvalidInput: One is not of this form.
    """
    wanted = {}
    for each in given:
        table, equals, row_type = each.partition("=")
        if not equals or not table or row_type not in list(VECTOR_TYPES):
            raise InvalidInput(f"--row-type {each!r}: write TABLE=TYPE, TYPE one of {', '.join(VECTOR_TYPES)}")
        wanted[table] = row_type
    return wanted


def returned_by(source: str) -> Any:
    """Return what the function that `MODULE:FUNCTION` names returns.

    Raises:
        InvalidInput: There is none, or it failed; the message has its own traceback, from its first line on.
    """
    try:
        return load_function(source)()
    except (RingpullError, OSError):
        raise
    except Exception as exc:  # of code that is not ours, of any root
        frames = exc.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_NOT_THE_USERS):
            frames = frames.tb_next
        told = "".join(format_exception(exc.with_traceback(frames))).rstrip()
        raise InvalidInput(f"{source} fails by itself:\n\n{told}") from exc


def load_function(source: str) -> Callable[[], Any]:
    """Return the function that `MODULE:FUNCTION` names.

    Raises:
        InvalidInput: There is no such module or function; the message says which.
    """
    module_name, colon, function_name = source.partition(":")
    if not colon or not module_name or not function_name:
        raise InvalidInput(f"{source!r}: write MODULE:FUNCTION, such as examples.movielens.train:trained")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        raise InvalidInput(f"{source}: module {exc.name} cannot be found from {here}") from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InvalidInput(f"{source}: module {module_name} has no function {function_name}")
    return function  # type: ignore[no-any-return]


def arguments_of(returned: Any) -> dict[str, Any]:
    """Return the arguments of `export_model` given by a function's result.

    Raises:
        InvalidInput: The result has none of the three forms.
    """
    if isinstance(returned, Mapping):
        unknown = [str(name) for name in returned if name not in NAMES]
        missing = [name for name in NAMES[:2] if name not in returned]
        if unknown or missing:
            faults = [f"has {', '.join(unknown)}"] * bool(unknown) + [f"lacks {', '.join(missing)}"] * bool(missing)
            raise InvalidInput(
                f"the mapping that the function returned {' and '.join(faults)};"
                f" it needs module and schema, and may have {', '.join(NAMES[2:])}"
            )
        return dict(returned)
    if isinstance(returned, tuple) and len(returned) in (2, 3):
        return dict(zip(NAMES, returned, strict=False))
    raise InvalidInput(
        f"the function returned a {type(returned).__name__};"
        " it must return (module, schema), (module, schema, keys) or a mapping"
    )
