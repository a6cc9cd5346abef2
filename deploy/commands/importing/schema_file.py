"""Schema of an imported model, from a file: Python that makes it, or the JSON that a guess is printed as."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import Any, Final

from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput, RingpullError

NAMES: Final = ("schema", "keys", "arguments", "tables", "outputs")
"""Names that a Python file may define: each a value, or a function that returns it."""


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """A schema, and what else a Python file says of the model."""

    schema: Schema
    more: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the import by name: `keys`, `arguments`, `tables`, `outputs`."""


def read_schema_file(path: Path) -> SchemaFile:
    """Read a file of a schema. Python in it is run: it is code of whoever imports.

    Raises:
        InvalidInput: It cannot be read, fails, or has no schema.
    """
    if path.suffix == ".json":
        try:
            return SchemaFile(Schema.from_json(path.read_bytes()))
        except OSError as exc:
            raise InvalidInput(f"--schema {path}: cannot be read: {exc.strerror or exc}") from exc
        except InvalidInput as exc:
            raise InvalidInput(f"--schema {path}: {exc}") from exc
    if path.suffix != ".py":
        raise InvalidInput(f"--schema {path}: must be a .py file with a `schema`, or .json as a guess is printed")
    if not path.is_file():
        raise InvalidInput(f"--schema {path}: there is no such file")
    try:
        defined = runpy.run_path(str(path))
        found = {name: value() if callable(value) else value for name, value in defined.items() if name in NAMES}
    except RingpullError as exc:
        raise InvalidInput(f"--schema {path}: {exc}") from exc
    except Exception as exc:  # of code that is not ours, of any root
        told = "".join(format_exception(exc, limit=-3)).rstrip()
        raise InvalidInput(f"--schema {path} fails by itself:\n\n{told}") from exc
    schema = found.pop("schema", None)
    if not isinstance(schema, Schema):
        raise InvalidInput(f"--schema {path}: `schema` must be a ringpull.Schema, or a function that returns one")
    return SchemaFile(schema, found)
