"""Full names of tables, `MODEL.TABLE`, for protocols that know models only.

Models and tables may have dots in their names. A served model whose name is the whole of it wins: it is no table then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ringpull.ps.errors import InvalidInput, NotFound


class TableName(NamedTuple):
    """A table of a served model."""

    model: str
    table: str


class Version(Protocol):
    """The part of a served version that is needed."""

    @property
    def key(self) -> tuple[str, int]: ...

    @property
    def tables(self) -> list[str]: ...


class Served(Protocol):
    """The part of a catalog that is needed."""

    def served(self) -> Iterable[Version]: ...


def tables_of(catalog: Served) -> dict[str, set[str]]:
    """Return the tables of every served model, over all of its versions."""
    tables: dict[str, set[str]] = {}
    for version in catalog.served():
        tables.setdefault(version.key[0], set()).update(version.tables)
    return tables


def readings(full_name: str, tables: dict[str, set[str]]) -> list[TableName]:
    """Return every way to read a full name as a table of a model, given the tables of models."""
    cuts = [place for place, letter in enumerate(full_name) if letter == "."]
    names = [TableName(full_name[:cut], full_name[cut + 1 :]) for cut in cuts]
    return [name for name in names if name.table in tables.get(name.model, ())]


def table_of(catalog: Served, full_name: str) -> TableName:
    """Return the table that a full name means.

    Raises:
        NotFound: It is a model's name, or there is no such table; the message says which tables there are.
        InvalidInput: It could be two tables; the message names both.
    """
    tables = tables_of(catalog)
    if full_name in tables:
        raise NotFound(f"{full_name} is a model, and no table")
    found = readings(full_name, tables)
    if not found:
        every = {f"{model}.{table}" for model, of_model in tables.items() for table in of_model}
        known = sorted(every - tables.keys())  # a model of that name is meant in its place
        raise NotFound(f"there is no model or table {full_name!r:.300} here; tables: {', '.join(known) or 'none'}")
    if len(found) > 1:
        both = " and ".join(f"table {table} of model {model}" for model, table in found)
        raise InvalidInput(f"{full_name} could be {both}; ask for it by Lookup, which takes both names")
    return found[0]
