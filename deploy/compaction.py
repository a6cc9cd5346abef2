"""Compaction of a served model by a process of its own: the live version is read from the shards and written anew.

The coordinator says which version is live, where its files are and where the shards listen. It takes no part in it: a
job that ends, however, leaves the deployment as it was.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ringpull.deploy.shard_access import asking_shards
from ringpull.inference.export.compaction.compact import Compacted, Progress, compact, has_changes
from ringpull.inference.export.version_folder import new_version
from ringpull.inference.model.manifest import FILE_NAME
from ringpull.inference.model.mirror import Mirror
from ringpull.inference.model.model_dir import numbered
from ringpull.ps.errors import InvalidInput, NotFound, UnmetCondition
from ringpull.ps.identity import number_of
from ringpull.ps.text.version_number import version_number
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.remote import RemoteFolder, is_url
from ringpull.ps.transfer.throttle import Throttle
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.operations import DeploymentStatus, GetShardMap, GetStatus, OperatorVerbs
from ringpull.router.newest import NewestRows
from ringpull.router.shard_map import ShardMap


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactOptions:
    """What is asked of a compaction."""

    model: str
    version: int = 0
    """Number of the new version; 0: the next free one."""
    folder: Path | None = None
    """Model's folder to write in; None: where the live version's is."""
    bytes_per_s: float | None = None
    """Most that is read; None: as fast as it goes."""


def live_version(status: DeploymentStatus, model: str) -> PlacedVersion:
    """Return the live version of a model.

    Raises:
        NotFound: No such model is served.
    """
    found = status.spec.version(model, status.spec.live.get(model, 0))
    if found is None:
        raise NotFound(f"model {model!r} is not served; there is {', '.join(sorted(status.spec.live)) or 'none'}")
    return found


def compacted(
    operations: OperatorVerbs, options: CompactOptions, *, progress: Progress = lambda table, rows, bytes: None
) -> Compacted | None:
    """Write the next full version of the live one; None: that has no deltas, and takes no pushes.

    Raises:
        InvalidInput: There is nowhere to write it, or the version's files cannot be seen from here.
        NotFound: The model is not served, or the version was closed meanwhile.
        UnmetCondition: Another version went live meanwhile.
        Unavailable: Shards have not answered for long.
        RingpullError: Any that `compact` raises.
    """
    status = operations.call(GetStatus())
    placed = live_version(status, options.model)
    folder = _folder(placed, options)
    if options.version:
        _check_number(placed, folder, options.version)
    if not has_changes(placed):
        return None

    def refresh() -> ShardMap:
        if operations.call(GetStatus()).spec.version(placed.model, placed.version) is None:
            raise NotFound(f"{placed.name} is not open any more, so it cannot be read on; run it again")
        return operations.call(GetShardMap())

    def still_live() -> None:
        now = live_version(operations.call(GetStatus()), placed.model)
        if (now.version, now.identity) != (placed.version, placed.identity):
            raise UnmetCondition(
                f"{now.name} went live while {placed.name} was compacted, which would leave out what that brought;"
                " nothing was written: run it again"
            )

    throttle = Throttle()
    throttle.set(options.bytes_per_s)
    with closing(Mirror()) as mirror, asking_shards(operations.call(GetShardMap()).deployment) as ask:
        rows = NewestRows(
            placed.model,
            placed.version,
            number_of(placed.identity),
            ask=ask,
            refresh=refresh,
            job=Job(),
            throttle=throttle,
        )
        return compact(
            placed,
            mirror.local(placed.folder, placed.identity),
            folder,
            rows,
            number=lambda: options.version or _next_number(operations.call(GetStatus()), placed, folder),
            still_live=still_live,
            progress=progress,
        )


def _folder(placed: PlacedVersion, options: CompactOptions) -> Path:
    if options.folder is not None:
        if (options.folder / FILE_NAME).exists():
            raise InvalidInput(f"--to {options.folder} is one version of a model; give the model's folder")
        return options.folder.absolute()
    if is_url(placed.models_folder):
        raise InvalidInput(
            f"{placed.name} lies at {placed.models_folder}, where ringpull writes nothing: give --to FOLDER, a folder"
            f" named {placed.model} on this machine; publish the version from there, or copy it to the URL first"
        )
    return Path(placed.models_folder)


def _check_number(placed: PlacedVersion, folder: Path, version: int) -> None:
    if version <= placed.version:
        raise InvalidInput(f"--version is {version}; it must be above {placed.version}, which it follows")
    new_version(folder, placed.model, version)


def _next_number(status: DeploymentStatus, placed: PlacedVersion, folder: Path) -> int:
    """Return the number after all that there are, or were."""
    there = [version_number(name) for name in numbered(RemoteFolder(str(folder)))]
    if str(folder) != placed.models_folder:
        there += [version_number(name) for name in numbered(RemoteFolder(placed.models_folder))]
    return max([placed.version, status.highest_live.get(placed.model, 0), *there]) + 1
