"""The manifest of a model version: which files it has, which look-ups feed the dense program, and what comes out.

A version is the folder `NAME/VERSION/`. Its `manifest.json` is renamed into place last, so a folder without one is not a
version yet. Everything else is named in it, with size and checksum, by a path below the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ps.spec import Pooling, TableSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the version."""

    path: str
    """Relative to the version's folder, with `/`; it may not leave the folder."""
    bytes: int
    xxh3: str
    """xxh3_64 of the content, 16 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """One table of the version: its folder holds a base (`ps.store`), which checks its own content."""

    spec: TableSpec
    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupSpec:
    """One embedding use of the model: ids of a feature, looked up in a table, perhaps pooled."""

    table: str
    feature: str
    """The schema's feature whose prepared ids are looked up."""
    pooling: Pooling
    add: int = 0
    """Added to every id before it becomes a key (FM-style offsets); 0 for tables keyed by raw ids."""
    padding_id: int | None = None
    """Prepared ids (before `add`) equal to this are dropped from bags; the mean's divisor does not count them."""
    fill: tuple[float, ...] | None = None
    """Unpooled sequences: the vector at padded places; None means zeros."""
    weighted: bool = False
    """The feature's weights multiply the rows (sum only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInput:
    """One positional input of the dense program.

    kind "lookup": the result of `lookups[lookup]`, float32: (B, D) for one id per row or a pooled bag, (B, L, D) for an
    unpooled sequence. kind "argument": an argument of the user's forward, assembled by the schema: (B, w) float32 for dense
    features, (B,), (B, F) or (B, L) int64 for ids, (B,) int64 for lengths.
    """

    kind: Literal["lookup", "argument"]
    lookup: int | None = None
    argument: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutput:
    """One output of the dense program: float32, the first dimension is the row."""

    name: str
    shape: tuple[int, ...]
    """Of one row: () for (B,), (1,) for (B, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about one version but the bytes of its files."""

    model: str
    version: int
    created: str
    """UTC, ISO 8601."""
    schema: FileEntry
    program: FileEntry
    tables: tuple[TableEntry, ...]
    lookups: tuple[LookupSpec, ...]
    inputs: tuple[ProgramInput, ...]
    outputs: tuple[ProgramOutput, ...]
