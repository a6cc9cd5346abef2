"""The parts of a manifest, and how each is read: tables, look-ups, limits, and what the dense program takes and gives.

A field that older versions lack has a default, and is written only where it differs from it: so builds from before
there was one read every version that does without, and refuse the others by the name of the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from ringpull.inference.model.version_files import FileEntry
from ringpull.inference.schema.fields import Fields
from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.spec import Pooling, TableSpec

MAX_INT64: Final = 2**63 - 1


class TableKind(StrEnum):
    """What a version's folder holds of a table."""

    FULL = "full"
    """All of its rows."""
    DELTA = "delta"
    """The rows that are new or changed since the version that it follows, and the keys that went."""
    SAME = "same"
    """Nothing: the table is that of the version that it follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """One table of the version: its folder holds a base (`ringpull.ps.store`), which checks its own content."""

    spec: TableSpec
    path: str | None
    """Folder of its rows, relative to the version's; None: there is none, for kind `same`."""
    rows: int
    """Rows of the table, whatever of them lies here."""
    bytes: int
    """Bytes of all files that it is made of, whatever of them lies here."""
    kind: TableKind = TableKind.FULL
    gone: str | None = None
    """Folder of the keys that went, a table of empty rows of bytes; None: none went."""
    live: bool = False
    """Whether it takes pushes."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the version's that are of this table."""
        return tuple(path for path in (self.path, self.gone) if path is not None)

    @property
    def row_bytes(self) -> int:
        """Size of one stored row, without its key; of rows of bytes the mean, with where they start."""
        if not self.spec.is_bytes:
            return self.spec.row_bytes
        return max(1, math.ceil(self.bytes / max(1, self.rows)) - POSITION_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBy:
    """A sequence that says which places of another one's bags count: of categories, say, those where an item is."""

    feature: str
    """Sequence of the same length; both padded, the places of one are those of the other."""
    padding_id: int | None = None
    """Prepared id of that sequence at whose places nothing counts; at padded places stands its padding."""
    unpadded: bool = False
    """Whether nothing counts at its padded places, whatever id stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupSpec:
    """One embedding use of the model: ids of a feature, looked up in a table, perhaps pooled."""

    table: str
    feature: str
    """Feature of the schema whose prepared ids are looked up."""
    pooling: Pooling
    add: int = 0
    """Number added to every id before it becomes a key (FM-style offsets); 0 for tables keyed by raw ids."""
    padding_id: int | None = None
    """Prepared id (before `add`; with `key` what that makes of it) that is dropped from bags; the mean's divisor does
    not count it."""
    fill: tuple[float, ...] | None = None
    """Vector at padded places of an unpooled sequence; None means zeros."""
    weighted: bool = False
    """Whether the feature's weights multiply the rows (sum only)."""
    unpadded: bool = False
    """Whether a bag of a sequence holds its ids alone, no padding, whatever `padding_id` says; in the file only where
    true."""
    key: KeyExpression | None = None
    """Key that an id becomes, where it is no sum of id and `add`, which is then 0; in the file only where there is
    one."""
    kept_by: KeptBy | None = None
    """Sequence that drops places of the bags, besides what the feature's own ids drop; in the file only where there is
    one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdLimit:
    """The ids that a model's dense program has rows for: one beyond them would fail the whole batch that it is in."""

    feature: str
    low: int
    """First prepared id that it takes."""
    high: int
    """First one beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInput:
    """One positional input of the dense program.

    kind "lookup": the result of `lookups[lookup]`, float32: (B, D) for one id per row or a pooled bag, (B, L, D) for
    an unpooled sequence. kind "argument": an argument of the user's forward, assembled by the schema: (B, w) float32
    for dense features, (B,), (B, F) or (B, L) int64 for ids, (B,) int64 for lengths.
    """

    kind: Literal["lookup", "argument"]
    lookup: int | None = None
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rows that are ranked by an output, which is a query: their dot products with it are the model's scores."""

    table: str
    left_out: tuple[int, ...] = ()
    """Keys, as int64, of rows that the model does not score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutput:
    """One output of the dense program: float32, the first dimension is the row."""

    name: str
    shape: tuple[int, ...]
    """Shape of one row: () for (B,), (1,) for (B, 1)."""
    classes: tuple[str, ...] = ()
    """Names of the classes whose scores a row of shape (C,) holds; in the file only where there is any."""
    ranks: Ranks | None = None
    """Rows that are ranked by it; in the file only where it is a query."""


def names_of(cls: Any) -> tuple[str, ...]:
    return tuple(cls.__dataclass_fields__)


def set_defaults(entries: Any, defaults: dict[str, Any]) -> None:
    """Set fields that files lack where they are at their default."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            for name, value in defaults.items():
                entry.setdefault(name, value)


def read_file_entry(fields: Fields) -> FileEntry:
    return FileEntry(path=fields.text("path"), bytes=fields.integer("bytes", 0, MAX_INT64), xxh3=fields.text("xxh3"))


def read_table_entry(fields: Fields) -> TableEntry:
    try:
        spec = TableSpec.from_dict(fields.inner("spec", names_of(TableSpec)).values)
    except RingpullError as exc:
        raise fields.error("spec", str(exc)) from exc
    return TableEntry(
        spec=spec,
        path=None if fields.absent("path") and fields.values.get("kind") == TableKind.SAME else fields.text("path"),
        rows=fields.integer("rows", 0, MAX_INT64),
        bytes=fields.integer("bytes", 0, MAX_INT64),
    )


def read_lookup(fields: Fields) -> LookupSpec:
    fill = None if fields.absent("fill") else tuple(fields.numbers("fill"))
    spec = LookupSpec(
        table=fields.text("table"),
        feature=fields.text("feature"),
        pooling=fields.choice("pooling", Pooling),
        add=fields.integer("add", -MAX_INT64, MAX_INT64),
        padding_id=None if fields.absent("padding_id") else fields.integer("padding_id", -MAX_INT64 - 1, MAX_INT64),
        fill=fill,
        weighted=fields.boolean("weighted"),
        unpadded=fields.boolean("unpadded"),
        key=_read_key(fields),
        kept_by=None if fields.absent("kept_by") else _read_kept_by(fields.inner("kept_by", names_of(KeptBy))),
    )
    if spec.key is not None and spec.add:
        raise fields.error("add", "must be 0 where there is a key expression")
    if spec.weighted and spec.pooling is not Pooling.SUM:
        raise fields.error("weighted", f"only a sum may be weighted, not pooling {spec.pooling.value}")
    if spec.unpadded and spec.pooling is Pooling.NONE:
        raise fields.error("unpadded", "only bags can be without padding; pooling is none")
    if spec.kept_by is not None and spec.pooling is Pooling.NONE:
        raise fields.error("kept_by", "only bags leave places out; pooling is none")
    if spec.padding_id is not None and spec.pooling is Pooling.NONE:
        raise fields.error("padding_id", "only bags drop ids; pooling is none")
    if spec.fill is not None and spec.pooling is not Pooling.NONE:
        raise fields.error("fill", f"only unpooled sequences have padded places; pooling is {spec.pooling.value}")
    return spec


def _read_kept_by(fields: Fields) -> KeptBy:
    kept_by = KeptBy(
        feature=fields.text("feature"),
        padding_id=None if fields.absent("padding_id") else fields.integer("padding_id", -MAX_INT64 - 1, MAX_INT64),
        unpadded=fields.boolean("unpadded"),
    )
    if kept_by.padding_id is None and not kept_by.unpadded:
        raise fields.error("unpadded", "must be true where there is no padding_id: else every place is kept")
    return kept_by


def _read_key(fields: Fields) -> KeyExpression | None:
    if fields.absent("key"):
        return None
    try:
        key = KeyExpression.from_plain(fields.values["key"])
    except InvalidInput as exc:
        raise fields.error("key", str(exc)) from exc
    if len(key.features) > 1:
        raise fields.error("key", f"takes the ids of {len(key.features)} features; a look-up has one")
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Bfloat16Receipt:
    """The receipt of a dense program in bfloat16: its outputs beside those in float32, on one processor at export."""

    rows: int
    given: bool
    """Whether the rows were the exporter's; else they were made up."""
    largest_difference: float
    mean_difference: float
    """Mean absolute difference over all rows and outputs."""
    sample_difference: float
    """Largest difference of an output on the samples that heads check, of a query too; 0 without samples."""
    auc: float | None = None
    """AUC of the program in float32; None without labels."""
    auc_difference: float | None = None
    """Change of the AUC by bfloat16; None without labels."""


def read_receipt(fields: Fields) -> Bfloat16Receipt:
    return Bfloat16Receipt(
        rows=fields.integer("rows", 1, MAX_INT64),
        given=fields.boolean("given"),
        largest_difference=_difference(fields, "largest_difference"),
        mean_difference=_difference(fields, "mean_difference"),
        sample_difference=_difference(fields, "sample_difference"),
        auc=None if fields.absent("auc") else fields.number("auc"),
        auc_difference=None if fields.absent("auc_difference") else fields.number("auc_difference"),
    )


def _difference(fields: Fields, name: str) -> float:
    found = fields.number(name)
    if not 0 <= found < math.inf:
        raise fields.error(name, f"is {found}; it must be finite and not negative")
    return found


def read_limit(fields: Fields) -> IdLimit:
    low, high = (fields.integer(name, -MAX_INT64 - 1, MAX_INT64) for name in ("low", "high"))
    if low >= high:
        raise fields.error("high", f"is {high}; it must be above low, {low}")
    return IdLimit(feature=fields.text("feature"), low=low, high=high)


def read_input(fields: Fields) -> ProgramInput:
    kind = fields.text("kind")
    if kind == "lookup":
        if not fields.absent("argument"):
            raise fields.error("argument", "must be null for kind 'lookup'")
        return ProgramInput(kind="lookup", lookup=fields.integer("lookup", 0, MAX_INT64))
    if kind == "argument":
        if not fields.absent("lookup"):
            raise fields.error("lookup", "must be null for kind 'argument'")
        return ProgramInput(kind="argument", argument=fields.text("argument"))
    raise fields.error("kind", f"{kind!r} must be 'lookup' or 'argument'")


def read_output(fields: Fields) -> ProgramOutput:
    shape, classes = tuple(fields.integers("shape", 0, MAX_INT64)), tuple(fields.texts("classes"))
    if classes and shape != (len(classes),):
        raise fields.error("classes", f"names {len(classes)} classes; a row has the shape {shape}")
    ranks = None if fields.absent("ranks") else _read_ranks(fields.inner("ranks", names_of(Ranks)))
    return ProgramOutput(name=fields.text("name"), shape=shape, classes=classes, ranks=ranks)


def _read_ranks(fields: Fields) -> Ranks:
    return Ranks(fields.text("table"), tuple(fields.integers("left_out", -MAX_INT64 - 1, MAX_INT64)))
