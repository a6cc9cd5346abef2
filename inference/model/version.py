"""One model version, loaded from its folder: manifest, schema and dense program, each verified before it serves.

Tables are not opened here: the shards have them. Loading trusts nothing in the folder; what does not fit is
`CorruptData`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ringpull.inference.degrade.levels import check_steps
from ringpull.inference.model.dense_program import DenseProgram, Precision, load_program
from ringpull.inference.model.manifest import FILE_NAME, Manifest, check_identity
from ringpull.inference.model.part_threads import PartThreads
from ringpull.inference.model.samples import Samples
from ringpull.inference.model.script_maker import ScriptMaker
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import TableSpec


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A version as a head holds it."""

    folder: Path
    manifest: Manifest
    schema: Schema
    """Schema; that of a version of tables alone has no features."""
    program: DenseProgram | None
    """Dense program; None: the version is of tables alone."""
    samples: Samples | None = None
    """Samples for the self-check; None: the version has none, or was loaded without."""
    source: str = ""
    """Folder or URL of the version, where new versions appear beside it."""

    @classmethod
    def load(
        cls,
        version_dir: Path,
        *,
        device: str | None = None,
        threads: int | None = None,
        precision: Precision = "as-exported",
        source: str = "",
        identity: str = "",
        like: Iterable[LoadedVersion] = (),
        maker: ScriptMaker | None = None,
        parts: PartThreads | None = None,
    ) -> LoadedVersion:
        """Read and verify a version.

        Args:
            version_dir: The folder `NAME/VERSION/`.
            device: Device of the dense program; None: CUDA when there is one, else the CPU.
            threads: CPU threads of the dense program; None: as many as its runtime takes by itself.
            precision: Precision of the dense program.
            source: Folder or URL that the files in `version_dir` are a copy of.
            identity: Identity that it must have; empty: any.
            like: Versions that were loaded with the same device, threads and precision: where one has the same dense
                program, that is this one's.
            maker: Makes the script of a wide program of torch elsewhere, as requests wait here; None: nobody does.
            parts: Threads that run parts of a batch on the CPU side by side; None: it has the thread that runs it.

        Raises:
            InvalidInput: There is no such folder, or no such device, or no instructions for bfloat16.
            OtherContent: It has another identity.
            CorruptData: The version is half-written or damaged; the message names the file.
            Unavailable: A file cannot be read now.
        """
        manifest = Manifest.load(version_dir, check_name=not identity)  # It was checked where it was found.
        check_identity(manifest, identity, source or version_dir)
        source = source or str(version_dir)
        samples = None
        if manifest.samples is not None:
            where = version_dir / manifest.samples.path
            samples = Samples.from_bytes(manifest.samples.read(version_dir), str(where))
        if manifest.schema is None:
            return cls(version_dir, manifest, Schema.without_features(), None, samples, source)
        try:
            schema = Schema.from_json(manifest.schema.read(version_dir))
        except InvalidInput as exc:
            raise CorruptData(f"{version_dir / manifest.schema.path}: {exc}") from exc
        try:
            check_steps(manifest.degrade, schema, [each.feature for each in manifest.lookups], manifest.version)
        except InvalidInput as exc:
            raise CorruptData(f"{version_dir / FILE_NAME}: {exc}") from exc
        program = next((each.program for each in like if _same_program(each.manifest, manifest)), None)
        if program is None:
            program = load_program(
                version_dir, manifest, device, threads=threads, precision=precision, maker=maker, parts=parts
            )
        return cls(version_dir, manifest, schema, program, samples, source)

    @property
    def name(self) -> str:
        """`MODEL/VERSION`, for messages."""
        return f"{self.manifest.model}/{self.manifest.version}"

    def specs(self) -> dict[str, TableSpec]:
        """Return the specs of the version's tables, by table name."""
        return {entry.spec.name: entry.spec for entry in self.manifest.tables}


def _same_program(one: Manifest, other: Manifest) -> bool:
    """Return whether two versions have one dense program: the same bytes, given and giving the same."""
    return _program_of(one) == _program_of(other)


def _program_of(manifest: Manifest) -> tuple[object, ...]:
    tables = manifest.tables_by_name()
    dims = [tables[lookup.table].spec.dim for lookup in manifest.lookups]
    files = [None if each is None else (each.bytes, each.xxh3) for each in (manifest.program, *manifest.program_data)]
    paths = [each.path for each in manifest.program_data]
    given = manifest.inputs, manifest.lookups, dims, manifest.outputs
    return manifest.runtime, manifest.bfloat16 is None, files, paths, *given
