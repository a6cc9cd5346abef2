"""Full names of tables, `MODEL.TABLE`, by which rows are asked for. Models and tables may have dots in their names."""

from __future__ import annotations

from collections.abc import Iterable

from ringpull.ps.errors import InvalidInput
from ringpull.router.control.deployment_spec import PlacedVersion


def check_full_names(versions: Iterable[PlacedVersion], before: Iterable[PlacedVersion] = ()) -> None:
    """Check that no full name is that of two tables.

    A model whose own name is the full name of a table is no such case: the model is meant.

    Args:
        versions: Versions that are to be open.
        before: Versions that are open; what two of their tables share is as it was.

    Raises:
        InvalidInput: One is; the message names both tables.
    """
    known = readings(before)
    for name, tables in sorted(readings(versions).items()):
        if len(tables) > 1 and not tables <= known.get(name, set()):
            both = " and ".join(f"table {table} of model {model}" for model, table in sorted(tables))
            raise InvalidInput(f"{name} would be the full name of {both}; rename one of the models")


def readings(versions: Iterable[PlacedVersion]) -> dict[str, set[tuple[str, str]]]:
    """Return the tables of each full name, as (model, table)."""
    found: dict[str, set[tuple[str, str]]] = {}
    for version in versions:
        for table in version.tables:
            found.setdefault(f"{version.model}.{table}", set()).add((version.model, table))
    return found
