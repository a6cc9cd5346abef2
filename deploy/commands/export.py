"""`ringpull export`: run a function that makes a trained model, and export what it returns."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deploy.commands.options import AsJson
from deploy.console import print_json, print_line
from ps.errors import InvalidInput

NAMES: Final = ("module", "schema", "keys", "name", "tables", "check_rows")
"""What a function may return by name: arguments of `inference.export_model`."""


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns (module, schema), (module, schema, keys), or a mapping of arguments of"
            " `inference.export_model`.",
        ),
    ],
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="The model's folder; the version is written into OUT_DIR/VERSION/."),
    ],
    version: Annotated[
        int | None, typer.Option(help="Number of the version. Default: one above the highest there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a torch model: its embeddings become tables, the rest the dense program.

    MODULE is imported with the working directory on the path.
    """
    from inference.export import export_model
    from inference.manifest import versions

    arguments = arguments_of(load_function(source)())
    number = max(versions(out_dir), default=0) + 1 if version is None else version
    export_model(out_dir=out_dir, version=number, quiet=as_json, **arguments)
    if as_json:
        print_json(
            {
                "model": arguments.get("name") or out_dir.resolve().name,
                "version": number,
                "folder": str(out_dir / str(number)),
            }
        )
    else:
        print_line(f"exported {out_dir / str(number)}; serve it with: ringpull serve {out_dir}")


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
    """Return the arguments of `export_model` that a function's result stands for.

    Raises:
        InvalidInput: It is none of the three forms.
    """
    if isinstance(returned, Mapping):
        unknown = [name for name in returned if name not in NAMES]
        if unknown or not {"module", "schema"} <= returned.keys():
            raise InvalidInput(
                f"the function returned a mapping with {', '.join(map(str, returned))};"
                f" it needs module and schema, and may have {', '.join(NAMES[2:])}"
            )
        return dict(returned)
    if isinstance(returned, tuple) and len(returned) in (2, 3):
        return dict(zip(NAMES, returned, strict=False))
    raise InvalidInput(
        f"the function returned a {type(returned).__name__};"
        " it must return (module, schema), (module, schema, keys) or a mapping"
    )
