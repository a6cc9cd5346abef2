"""The manifest of a model version: which files it has, which look-ups feed the dense program, and what comes out.

A version is the folder `NAME/VERSION/`. Its `manifest.json` is renamed into place last, so a folder without one is
not a version yet. Everything else is named in it, with size and checksum, by a path below the folder.

    {"format": 1, "xxh3": "<16 hex digits: xxh3_64 of the body>", "manifest": {the fields of `Manifest`}}

A version of tables alone has no schema, no dense program, and nothing that they need: its format is 2, which builds
from before there were such versions refuse by its number, and its body has the fields of `TABLES_ALONE` only.

The checksummed body is its JSON with sorted keys and no spaces, so a flipped byte anywhere is seen. Loading trusts
nothing: a field of the wrong type, an index out of range, or a path (link or not) that leaves the folder is an error
that names it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import xxhash

from ringpull.inference.degrade.steps import Step, plain_steps, read_steps
from ringpull.inference.model.version_files import FileEntry, is_folder, resolve
from ringpull.inference.schema.fields import Fields
from ringpull.ps.errors import CorruptData, InvalidInput, OtherContent, RingpullError
from ringpull.ps.hashing import POSITION_BYTES
from ringpull.ps.identity import differ, number_of
from ringpull.ps.spec import Pooling, TableSpec, check_name
from ringpull.ps.store.file_errors import read_file, unreadable

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1
FORMAT_OF_TABLES_ALONE: Final = 2
TABLES_ALONE: Final = ("model", "version", "created", "tables", "samples")
"""Fields of the manifest of a version of tables alone."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest manifest; a larger file is refused before it is read."""


MAX_VERSION: Final = 2**63 - 1
MAX_INT64: Final = 2**63 - 1

T = TypeVar("T")

__all__ = [
    "FileEntry",
    "IdLimit",
    "LookupSpec",
    "Manifest",
    "ProgramInput",
    "ProgramOutput",
    "TableEntry",
    "version_number",
    "versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """One table of the version: its folder holds a base (`ringpull.ps.store`), which checks its own content."""

    spec: TableSpec
    path: str
    rows: int
    bytes: int

    @property
    def row_bytes(self) -> int:
        """Size of one stored row, without its key; of rows of bytes the mean, with where they start."""
        if not self.spec.is_bytes:
            return self.spec.row_bytes
        return max(1, math.ceil(self.bytes / max(1, self.rows)) - POSITION_BYTES)


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
    """Prepared id (before `add`) that is dropped from bags; the mean's divisor does not count it."""
    fill: tuple[float, ...] | None = None
    """Vector at padded places of an unpooled sequence; None means zeros."""
    weighted: bool = False
    """Whether the feature's weights multiply the rows (sum only)."""
    unpadded: bool = False
    """Whether a bag of a sequence holds its ids alone, no padding, whatever `padding_id` says; in the file only where
    true."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutput:
    """One output of the dense program: float32, the first dimension is the row."""

    name: str
    shape: tuple[int, ...]
    """Shape of one row: () for (B,), (1,) for (B, 1)."""
    classes: tuple[str, ...] = ()
    """Names of the classes whose scores a row of shape (C,) holds; in the file only where there is any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Manifest of one version: all that there is to know of it but the bytes of its files."""

    model: str
    version: int
    created: str
    """Time of the export: UTC, ISO 8601."""
    schema: FileEntry | None = None
    """Schema; None, as is the dense program: the version is of tables alone."""
    program: FileEntry | None = None
    tables: tuple[TableEntry, ...]
    lookups: tuple[LookupSpec, ...] = ()
    inputs: tuple[ProgramInput, ...] = ()
    outputs: tuple[ProgramOutput, ...] = ()
    samples: FileEntry | None = None
    """Rows with their outputs, for the self-check of a head (`ringpull.inference.model.samples`)."""
    degrade: tuple[Step, ...] = ()
    """Degrade steps, in their order; in the file only where there is any."""
    limits: tuple[IdLimit, ...] = ()
    """Limits of ids, one for a feature at most; in the file only where there is any."""
    identity: str = field(default="", compare=False)
    """Identity of the version: xxh3_64 of the bytes of its manifest, 16 hex digits. Known only of those that were read;
    not in the file."""

    @property
    def tables_alone(self) -> bool:
        """Whether the version is of tables alone: nothing can be predicted by it, only its rows can be asked for."""
        return self.program is None

    def table(self, name: str) -> TableEntry:
        """Return the entry of the table called `name`; `load` guarantees one for every look-up."""
        return next(entry for entry in self.tables if entry.spec.name == name)

    def table_folder(self, version_dir: Path, name: str) -> Path:
        """Return the folder of the table called `name`, inside `version_dir`.

        Raises:
            CorruptData: It leaves the version's folder.
        """
        return resolve(version_dir, self.table(name).path)

    def save(self, version_dir: Path) -> None:
        """Write `manifest.json` under a temporary name, make it durable, and rename it into place."""
        body = self._to_json()
        number = FORMAT_OF_TABLES_ALONE if self.tables_alone else FORMAT
        text = json.dumps({"format": number, "xxh3": _checksum(body), "manifest": body}, indent=2) + "\n"
        temporary = version_dir / f".{FILE_NAME}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(version_dir / FILE_NAME)

    @classmethod
    def load(cls, version_dir: Path, *, check_name: bool = True) -> Manifest:
        """Read and verify the manifest of a version, and its schema and dense program against their checksums.

        Tables check themselves when they are opened (`ringpull.ps.store.base`); here only that their folders lie
        inside.

        Args:
            check_name: Whether a folder that is called by a number must be called by that of the version. Where links
                lead to, it need not.

        Raises:
            InvalidInput: `version_dir` is not a folder.
            CorruptData: The version is half-written or damaged. The message names the file and the field.
            Unavailable: A file cannot be read now.
        """
        if not is_folder(version_dir):
            raise InvalidInput(f"{version_dir}: no such folder; a version is a folder NAME/VERSION with a {FILE_NAME}")
        file = version_dir / FILE_NAME
        manifest = read_manifest(file)
        folder = version_dir.absolute().name  # its own name, also where it is a link
        if check_name and folder.isdecimal() and version_number(folder) != manifest.version:
            raise CorruptData(f"{file}: version is {manifest.version}, but its folder is called {folder}")
        for entry in manifest.tables:
            if not is_folder(resolve(version_dir, entry.path)):
                raise CorruptData(f"{file}: the folder {entry.path} of table {entry.spec.name} is missing")
        for part in (manifest.schema, manifest.program):
            if part is not None:
                part.read(version_dir)
        return manifest

    def _to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["tables"] = [{**asdict(entry), "spec": entry.spec.to_dict()} for entry in self.tables]
        fields["degrade"] = plain_steps(self.degrade)
        del fields["identity"]
        for name in ("degrade", "limits"):
            if not fields[name]:
                del fields[name]  # So that older builds read it.
        for lookup in fields["lookups"]:
            if not lookup["unpadded"]:
                del lookup["unpadded"]
        for output in fields["outputs"]:
            if not output["classes"]:
                del output["classes"]
        if self.tables_alone:
            fields = {name: fields[name] for name in TABLES_ALONE}
        # To plain lists and strings: what will be read back, so that checksums agree.
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        return plain


def version_number(name: str) -> int:
    """Return the number of a version's folder by its name, zeros before it or not; 0 where it is no such name."""
    return int(name) if name.isascii() and name.isdecimal() else 0


def versions(model_dir: Path) -> list[int]:
    """Return the complete versions in a model's folder, ascending; half-written ones, without a manifest, are not."""
    if not model_dir.is_dir():
        return []
    return sorted({version_number(path.parent.name) for path in model_dir.glob(f"*/{FILE_NAME}")} - {0})


def _checksum(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return xxhash.xxh3_64_hexdigest(canonical.encode())


def read_manifest(file: Path) -> Manifest:
    """Read and check a manifest alone: nothing that it names is looked at.

    Raises:
        CorruptData: It is missing or damaged, or a link that leads out of its folder.
        Unavailable: It cannot be read now.
    """
    resolve(file.parent, file.name)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CorruptData(f"{file}: larger than {MAX_BYTES} bytes, so not a manifest")
        content = read_file(file)
    except FileNotFoundError as exc:
        raise CorruptData(f"{file}: missing; the version is half-written (its manifest is written last)") from exc
    except OSError as exc:
        raise unreadable(file, exc) from exc
    return parse_manifest(content, file)


def parse_manifest(content: bytes, file: Path) -> Manifest:
    """Check the content of a manifest: nothing that it names is looked at.

    Args:
        file: Where it was read, for messages.

    Raises:
        CorruptData: It is damaged.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise CorruptData(f"{file}: not valid JSON: {exc}") from exc
    top = Fields.of(file, "", document, ("format", "xxh3", "manifest"))
    number = top.integer("format", 0, MAX_INT64)
    if number not in (FORMAT, FORMAT_OF_TABLES_ALONE):
        raise CorruptData(
            f"{file}: format {number}; this build reads {FORMAT}, and {FORMAT_OF_TABLES_ALONE} of tables alone"
        )
    found, said = _checksum(document["manifest"]), top.text("xxh3")
    if found != said:
        raise CorruptData(f"{file}: its checksum is {found}, but xxh3 says {said}: it was damaged or edited")
    if number == FORMAT_OF_TABLES_ALONE:
        manifest = _tables_alone(top.inner("manifest", TABLES_ALONE))
    else:
        if isinstance(document["manifest"], dict):
            # Versions exported before there were such fields.
            document["manifest"].setdefault("samples", None)
            document["manifest"].setdefault("degrade", [])
            document["manifest"].setdefault("limits", [])
            _set_defaults(document["manifest"].get("outputs"), {"classes": []})
            _set_defaults(document["manifest"].get("lookups"), {"unpadded": False})
        manifest = _manifest(top.inner("manifest", tuple(name for name in _names(Manifest) if name != "identity")))
    return replace(manifest, identity=identity_of(content))


def check_identity(manifest: Manifest, identity: str, where: Path | str) -> None:
    """Check the identity of a version that was read at `where`.

    Args:
        identity: Identity that it must have; empty: any.

    Raises:
        OtherContent: It has another one.
    """
    if differ(number_of(manifest.identity), number_of(identity)):
        raise OtherContent.found(f"{manifest.model}/{manifest.version} in {where}", manifest.identity, identity)


def identity_of(manifest: bytes) -> str:
    """Return the identity of a version, given the bytes of its manifest."""
    return xxhash.xxh3_64_hexdigest(manifest)


def _set_defaults(entries: Any, defaults: dict[str, Any]) -> None:
    """Set fields that files lack where they are at their default."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            for name, value in defaults.items():
                entry.setdefault(name, value)


def _names(cls: Any) -> tuple[str, ...]:
    return tuple(cls.__dataclass_fields__)


def _items(fields: Fields, name: str, cls: type[T], read: Callable[[Fields], T]) -> tuple[T, ...]:
    return tuple(read(item) for item in fields.items(name, _names(cls)))


def _manifest(fields: Fields) -> Manifest:
    manifest = Manifest(
        model=fields.checked("model", lambda value: check_name("model", value)),
        version=fields.integer("version", 1, MAX_VERSION),
        created=fields.text("created"),
        schema=_file_entry(fields.inner("schema", _names(FileEntry))),
        program=_file_entry(fields.inner("program", _names(FileEntry))),
        tables=_items(fields, "tables", TableEntry, _table_entry),
        lookups=_items(fields, "lookups", LookupSpec, _lookup),
        inputs=_items(fields, "inputs", ProgramInput, _input),
        outputs=_items(fields, "outputs", ProgramOutput, _output),
        samples=None if fields.absent("samples") else _file_entry(fields.inner("samples", _names(FileEntry))),
        degrade=read_steps(fields, "degrade"),
        limits=_items(fields, "limits", IdLimit, _limit),
    )
    _check_references(fields, manifest)
    return manifest


def _tables_alone(fields: Fields) -> Manifest:
    manifest = Manifest(
        model=fields.checked("model", lambda value: check_name("model", value)),
        version=fields.integer("version", 1, MAX_VERSION),
        created=fields.text("created"),
        tables=_items(fields, "tables", TableEntry, _table_entry),
        samples=None if fields.absent("samples") else _file_entry(fields.inner("samples", _names(FileEntry))),
    )
    if not manifest.tables:
        raise fields.error("tables", "must be one or more")
    _check_table_names(fields, manifest)
    return manifest


def _file_entry(fields: Fields) -> FileEntry:
    return FileEntry(path=fields.text("path"), bytes=fields.integer("bytes", 0, MAX_INT64), xxh3=fields.text("xxh3"))


def _table_entry(fields: Fields) -> TableEntry:
    try:
        spec = TableSpec.from_dict(fields.inner("spec", _names(TableSpec)).values)
    except RingpullError as exc:
        raise fields.error("spec", str(exc)) from exc
    return TableEntry(
        spec=spec,
        path=fields.text("path"),
        rows=fields.integer("rows", 0, MAX_INT64),
        bytes=fields.integer("bytes", 0, MAX_INT64),
    )


def _lookup(fields: Fields) -> LookupSpec:
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
    )
    if spec.weighted and spec.pooling is not Pooling.SUM:
        raise fields.error("weighted", f"only a sum may be weighted, not pooling {spec.pooling.value}")
    if spec.unpadded and spec.pooling is Pooling.NONE:
        raise fields.error("unpadded", "only bags can be without padding; pooling is none")
    if spec.padding_id is not None and spec.pooling is Pooling.NONE:
        raise fields.error("padding_id", "only bags drop ids; pooling is none")
    if spec.fill is not None and spec.pooling is not Pooling.NONE:
        raise fields.error("fill", f"only unpooled sequences have padded places; pooling is {spec.pooling.value}")
    return spec


def _limit(fields: Fields) -> IdLimit:
    low, high = (fields.integer(name, -MAX_INT64 - 1, MAX_INT64) for name in ("low", "high"))
    if low >= high:
        raise fields.error("high", f"is {high}; it must be above low, {low}")
    return IdLimit(feature=fields.text("feature"), low=low, high=high)


def _input(fields: Fields) -> ProgramInput:
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


def _output(fields: Fields) -> ProgramOutput:
    shape, classes = tuple(fields.integers("shape", 0, MAX_INT64)), tuple(fields.texts("classes"))
    if classes and shape != (len(classes),):
        raise fields.error("classes", f"names {len(classes)} classes; a row has the shape {shape}")
    return ProgramOutput(name=fields.text("name"), shape=shape, classes=classes)


def _check_references(fields: Fields, manifest: Manifest) -> None:
    """Check what no field can say by itself: names are unique, and everything referred to is there."""
    dims = {entry.spec.name: entry.spec.dim for entry in manifest.tables}
    _check_table_names(fields, manifest)
    for i, lookup in enumerate(manifest.lookups):
        if lookup.table not in dims:
            raise fields.error(f"lookups[{i}].table", f"there is no table {lookup.table!r}")
        if manifest.table(lookup.table).spec.is_bytes:
            raise fields.error(f"lookups[{i}].table", f"rows of {lookup.table!r} are bytes, which no program takes")
        if lookup.fill is not None and len(lookup.fill) != dims[lookup.table]:
            raise fields.error(
                f"lookups[{i}].fill", f"has {len(lookup.fill)} numbers; dim of the table is {dims[lookup.table]}"
            )
    used = [entry.lookup for entry in manifest.inputs if entry.lookup is not None]
    if sorted(used) != list(range(len(manifest.lookups))):
        raise fields.error(
            "inputs", f"must use each of the {len(manifest.lookups)} lookups once; they use {sorted(used)}"
        )
    arguments = [entry.argument for entry in manifest.inputs if entry.argument is not None]
    if len(set(arguments)) != len(arguments):
        raise fields.error("inputs", f"an argument is there twice: {sorted(arguments)}")
    outputs = [entry.name for entry in manifest.outputs]
    if not outputs or len(set(outputs)) != len(outputs):
        raise fields.error("outputs", f"must be one or more, of different names; they are {outputs}")


def _check_table_names(fields: Fields, manifest: Manifest) -> None:
    names = [entry.spec.name for entry in manifest.tables]
    if len(set(names)) != len(names):
        raise fields.error("tables", f"two tables have one name: {sorted(names)}")
