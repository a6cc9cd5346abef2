"""The manifest of a model version: which files it has, which look-ups feed the dense program, and what comes out.

A version is the folder `NAME/VERSION/`. Its `manifest.json` is renamed into place last, so a folder without one is
not a version yet. Everything else is named in it, with size and checksum, by a path below the folder.

    {"format": 1, "xxh3": "<16 hex digits: xxh3_64 of the body>", "manifest": {the fields of `Manifest`}}

A version of tables alone has no schema, no dense program, and nothing that they need: its format is 2, which builds
from before there were such versions refuse by its number, and its body has the fields of `TABLES_ALONE` only. A version
whose dense program another runtime than torch runs has the format 3, and two fields more: `runtime`, and
`program_data`, files of weights that lie beside the program. A version that follows another one, or has a table that
takes pushes, has the format 4 (`ringpull.inference.model.manifest_chain`).

The checksummed body is its JSON with sorted keys and no spaces, so a flipped byte anywhere is seen. Loading trusts
nothing: a field of the wrong type, an index out of range, or a path (link or not) that leaves the folder is an error
that names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import xxhash

from ringpull.inference.degrade.steps import Step, plain_steps, read_steps
from ringpull.inference.model.manifest_chain import (
    FORMAT_OF_CHAINS,
    NO_CHAIN,
    OF_CHAINS,
    TABLES_OF_CHAINS,
    Chain,
    Follows,
    chain_to_plain,
    is_chained,
    read_chain,
    read_chained_table,
)
from ringpull.inference.model.manifest_parts import (
    MAX_INT64,
    Bfloat16Receipt,
    IdLimit,
    KeptBy,
    LookupSpec,
    ProgramInput,
    ProgramOutput,
    TableEntry,
    TableKind,
    names_of,
    read_file_entry,
    read_input,
    read_limit,
    read_lookup,
    read_output,
    read_receipt,
    read_table_entry,
    set_defaults,
)
from ringpull.inference.model.version_files import FileEntry, is_folder, resolve
from ringpull.inference.schema.fields import Fields
from ringpull.ps.errors import CorruptData, InvalidInput, OtherContent
from ringpull.ps.identity import differ, number_of
from ringpull.ps.spec import check_name
from ringpull.ps.store.file_errors import read_file, unreadable
from ringpull.ps.text.version_number import MAX_VERSION, version_number

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1
FORMAT_OF_TABLES_ALONE: Final = 2
FORMAT_OF_RUNTIMES: Final = 3
OF_RUNTIMES: Final = ("runtime", "program_data")
"""Fields that only a manifest of format 3 has."""
TABLES_ALONE: Final = ("model", "version", "created", "tables", "samples")
"""Fields of the manifest of a version of tables alone."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest manifest; a larger file is refused before it is read."""


T = TypeVar("T")

__all__ = [
    "Bfloat16Receipt",
    "Chain",
    "FileEntry",
    "Follows",
    "IdLimit",
    "KeptBy",
    "LookupSpec",
    "Manifest",
    "ProgramInput",
    "ProgramOutput",
    "TableEntry",
    "TableKind",
    "time_of_now",
    "versions",
]


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
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """What runs the dense program; in the file only where it is not torch."""
    program_data: tuple[FileEntry, ...] = ()
    """Files of weights that the program of onnxruntime names, each by its path; in the file only where that runs it."""
    bfloat16: Bfloat16Receipt | None = None
    """What the dense program in bfloat16 costs; None: it is served in float32. In the file only where there is one; the
    program that lies there is the same."""
    chain: Chain = NO_CHAIN
    """Version that it follows, its lineage, and the pushed rows that it includes; in the file only where there is any,
    or a table that is no full one."""
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

    def tables_by_name(self) -> dict[str, TableEntry]:
        """Return the entries of all tables by name, for whoever goes through them: a version may have thousands."""
        return {entry.spec.name: entry for entry in self.tables}

    def table_folder(self, version_dir: Path, name: str) -> Path:
        """Return the folder of the rows that the version has of the table called `name`, inside `version_dir`.

        Raises:
            CorruptData: It leaves the version's folder.
            InvalidInput: There is none: the table is that of the version that this one follows.
        """
        path = self.table(name).path
        if path is None:
            raise InvalidInput(f"{version_dir}: table {name} is that of version {self.chain.follows}, which it follows")
        return resolve(version_dir, path)

    def gone_folder(self, version_dir: Path, name: str) -> Path | None:
        """Return the folder of the keys that went from the table called `name`; None: none went.

        Raises:
            CorruptData: It leaves the version's folder.
        """
        path = self.table(name).gone
        return None if path is None else resolve(version_dir, path)

    def save(self, version_dir: Path) -> None:
        """Write `manifest.json` under a temporary name, make it durable, and rename it into place."""
        body = self._to_json()
        number = FORMAT if self.runtime == "torch" else FORMAT_OF_RUNTIMES
        number = FORMAT_OF_TABLES_ALONE if self.tables_alone else number
        number = FORMAT_OF_CHAINS if is_chained(self.chain, self.tables) else number
        text = json.dumps({"format": number, "xxh3": _checksum(body), "manifest": body}, indent=2) + "\n"
        temporary = version_dir / f".{FILE_NAME}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(version_dir / FILE_NAME)

    @classmethod
    def load(cls, version_dir: Path, *, check_name: bool = True, tables_only: bool = False) -> Manifest:
        """Read and verify the manifest of a version, and its schema and dense program against their checksums.

        Tables check themselves when they are opened (`ringpull.ps.store.base`); here only that their folders lie
        inside.

        Args:
            check_name: Whether a folder that is called by a number must be called by that of the version. Where links
                lead to, it need not.
            tables_only: Whether schema and dense program may be damaged, or not be there: of a version that is followed
                only rows are wanted.

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
            for path in entry.folders:
                if not is_folder(resolve(version_dir, path)):
                    raise CorruptData(f"{file}: the folder {path} of table {entry.spec.name} is missing")
        if tables_only:
            return manifest
        for part in (manifest.schema, manifest.program):
            if part is not None:
                part.read(version_dir)
        for part in manifest.program_data:
            part.verify(version_dir)
        return manifest

    def _to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["tables"] = [{**asdict(entry), "spec": entry.spec.to_dict()} for entry in self.tables]
        fields["degrade"] = plain_steps(self.degrade)
        del fields["identity"], fields["chain"]
        chained = is_chained(self.chain, self.tables)
        for table in () if chained else fields["tables"]:
            for name in TABLES_OF_CHAINS:
                del table[name]
        for name in ("degrade", "limits", "bfloat16"):
            if not fields[name]:
                del fields[name]  # So that older builds read it.
        if self.runtime == "torch":
            for name in OF_RUNTIMES:
                del fields[name]
        for lookup, spec in zip(fields["lookups"], self.lookups, strict=True):
            lookup["key"] = None if spec.key is None else spec.key.to_plain()
            for name in ("unpadded", "key", "kept_by"):
                if not lookup[name]:
                    del lookup[name]
        for output in fields["outputs"]:
            for name in ("classes", "ranks"):
                if not output[name]:
                    del output[name]
        if self.tables_alone:
            fields = {name: fields[name] for name in TABLES_ALONE}
        if chained:
            fields |= chain_to_plain(self.chain)
        # To plain lists and strings: what will be read back, so that checksums agree.
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        return plain


def versions(model_dir: Path) -> list[int]:
    """Return the complete versions in a model's folder, ascending; half-written ones, without a manifest, are not."""
    if not model_dir.is_dir():
        return []
    return sorted({version_number(path.parent.name) for path in model_dir.glob(f"*/{FILE_NAME}")} - {0})


def _checksum(body: Any) -> str:
    digest = xxhash.xxh3_64()
    for piece in canonical(body):
        digest.update(piece.encode())
    return digest.hexdigest()


def canonical(body: Any) -> Iterator[str]:
    """Yield the text of a manifest that its checksum is of: sorted keys, no spaces, ASCII.

    It comes in pieces, one for each entry of a list: one call for a thousand tables keeps the interpreter's lock for
    11 ms, in which a head answers nobody.
    """
    encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
    if not isinstance(body, dict) or not body:
        yield encode(body)
        return
    for place, (name, value) in enumerate(sorted(body.items())):
        yield f"{',' if place else '{'}{encode(name)}:"
        if isinstance(value, list) and value:
            yield from ((("," if number else "[") + encode(each)) for number, each in enumerate(value))
            yield "]"
        else:
            yield encode(value)
    yield "}"


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
    if number not in (FORMAT, FORMAT_OF_TABLES_ALONE, FORMAT_OF_RUNTIMES, FORMAT_OF_CHAINS):
        raise CorruptData(
            f"{file}: format {number}; this build reads {FORMAT}, {FORMAT_OF_TABLES_ALONE} of tables alone,"
            f" {FORMAT_OF_RUNTIMES} of what onnxruntime runs, and {FORMAT_OF_CHAINS} of what follows or is live"
        )
    found, said = _checksum(document["manifest"]), top.text("xxh3")
    if found != said:
        raise CorruptData(f"{file}: its checksum is {found}, but xxh3 says {said}: it was damaged or edited")
    body = document["manifest"]
    chained: tuple[str, ...] = ()
    if number == FORMAT_OF_CHAINS:
        chained, number = OF_CHAINS, _format_without_chain(body)
    if number == FORMAT_OF_TABLES_ALONE:
        manifest = _tables_alone(top.inner("manifest", (*TABLES_ALONE, *chained)))
    else:
        if isinstance(body, dict):
            # Versions exported before there were such fields.
            body.setdefault("samples", None)
            body.setdefault("degrade", [])
            body.setdefault("limits", [])
            body.setdefault("bfloat16", None)
            set_defaults(body.get("outputs"), {"classes": [], "ranks": None})
            set_defaults(body.get("lookups"), {"unpadded": False, "key": None, "kept_by": None})
        names = [name for name in names_of(Manifest) if name not in ("identity", "chain")]
        if number == FORMAT:
            names = [name for name in names if name not in OF_RUNTIMES]
        manifest = _manifest(top.inner("manifest", (*names, *chained)), number)
    return replace(manifest, identity=identity_of(content))


def _format_without_chain(body: Any) -> int:
    """Return the format that the body of a manifest of format 4 would have without the fields of chains."""
    if not isinstance(body, dict):
        return FORMAT
    if "schema" not in body and "program" not in body:
        return FORMAT_OF_TABLES_ALONE
    return FORMAT_OF_RUNTIMES if any(name in body for name in OF_RUNTIMES) else FORMAT


def check_identity(manifest: Manifest, identity: str, where: Path | str) -> None:
    """Check the identity of a version that was read at `where`.

    Args:
        identity: Identity that it must have; empty: any.

    Raises:
        OtherContent: It has another one.
    """
    if differ(number_of(manifest.identity), number_of(identity)):
        raise OtherContent.found(f"{manifest.model}/{manifest.version} in {where}", manifest.identity, identity)


def time_of_now() -> str:
    """Return the time of an export that is written now.

    To the microsecond: of two exports of a number whose other fields are equal, since only their rows differ, each is a
    version of its own.
    """
    return datetime.now(UTC).isoformat(timespec="microseconds")


def identity_of(manifest: bytes) -> str:
    """Return the identity of a version, given the bytes of its manifest."""
    return xxhash.xxh3_64_hexdigest(manifest)


def _items(fields: Fields, name: str, cls: type[T], read: Callable[[Fields], T]) -> tuple[T, ...]:
    return tuple(read(item) for item in fields.items(name, names_of(cls)))


def _manifest(fields: Fields, number: int) -> Manifest:
    manifest = Manifest(
        model=fields.checked("model", lambda value: check_name("model", value)),
        version=fields.integer("version", 1, MAX_VERSION),
        created=fields.text("created"),
        schema=read_file_entry(fields.inner("schema", names_of(FileEntry))),
        program=read_file_entry(fields.inner("program", names_of(FileEntry))),
        tables=_tables(fields),
        lookups=_items(fields, "lookups", LookupSpec, read_lookup),
        inputs=_items(fields, "inputs", ProgramInput, read_input),
        outputs=_items(fields, "outputs", ProgramOutput, read_output),
        samples=None if fields.absent("samples") else read_file_entry(fields.inner("samples", names_of(FileEntry))),
        degrade=read_steps(fields, "degrade"),
        limits=_items(fields, "limits", IdLimit, read_limit),
        bfloat16=None
        if fields.absent("bfloat16")
        else read_receipt(fields.inner("bfloat16", names_of(Bfloat16Receipt))),
    )
    if number == FORMAT_OF_RUNTIMES and manifest.bfloat16 is not None:
        raise fields.error("bfloat16", "must be null: onnxruntime runs a graph in the types that it has")
    if number == FORMAT_OF_RUNTIMES:
        if (runtime := fields.text("runtime")) != "onnxruntime":
            raise fields.error("runtime", f"is {runtime!r}; in format {number} it must be 'onnxruntime'")
        data = _items(fields, "program_data", FileEntry, read_file_entry)
        manifest = replace(manifest, runtime="onnxruntime", program_data=data)
    _check_references(fields, manifest)
    return _with_chain(fields, manifest)


def _tables(fields: Fields) -> tuple[TableEntry, ...]:
    names = names_of(TableEntry)
    if "follows" in fields.values:
        return tuple(read_chained_table(item) for item in fields.items("tables", names))
    names = tuple(name for name in names if name not in TABLES_OF_CHAINS)
    return tuple(read_table_entry(item) for item in fields.items("tables", names))


def _with_chain(fields: Fields, manifest: Manifest) -> Manifest:
    if "follows" not in fields.values:
        return manifest
    manifest = replace(manifest, chain=read_chain(fields, manifest.version, manifest.tables))
    if not is_chained(manifest.chain, manifest.tables):
        raise fields.error("follows", "is null, and no table is live: this is of an earlier format")
    return manifest


def _tables_alone(fields: Fields) -> Manifest:
    manifest = Manifest(
        model=fields.checked("model", lambda value: check_name("model", value)),
        version=fields.integer("version", 1, MAX_VERSION),
        created=fields.text("created"),
        tables=_tables(fields),
        samples=None if fields.absent("samples") else read_file_entry(fields.inner("samples", names_of(FileEntry))),
    )
    if not manifest.tables:
        raise fields.error("tables", "must be one or more")
    _check_table_names(fields, manifest)
    return _with_chain(fields, manifest)


def _check_references(fields: Fields, manifest: Manifest) -> None:
    """Check what no field can say by itself: names are unique, and everything referred to is there."""
    tables = manifest.tables_by_name()
    dims = {name: entry.spec.dim for name, entry in tables.items()}
    _check_table_names(fields, manifest)
    for i, lookup in enumerate(manifest.lookups):
        if lookup.table not in dims:
            raise fields.error(f"lookups[{i}].table", f"there is no table {lookup.table!r}")
        if tables[lookup.table].spec.is_bytes:
            raise fields.error(f"lookups[{i}].table", f"rows of {lookup.table!r} are bytes, which no program takes")
        if lookup.fill is not None and len(lookup.fill) != dims[lookup.table]:
            raise fields.error(
                f"lookups[{i}].fill", f"has {len(lookup.fill)} numbers; dim of the table is {dims[lookup.table]}"
            )
    for i, output in enumerate(manifest.outputs):
        if output.ranks is not None and (
            not dims.get(output.ranks.table) or output.shape != (dims[output.ranks.table],)
        ):
            raise fields.error(
                f"outputs[{i}].ranks",
                f"there is no table {output.ranks.table!r} whose rows have the shape {output.shape}",
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
