"""The next deployment spec for what changes the list of models, or the labels of versions; or why it is refused.

Pure functions, as `ringpull.router.control.changes`. Where nothing is to change, the spec is equal to the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ringpull.ps.errors import InvalidInput, NotFound
from ringpull.ps.spec import Replicas
from ringpull.router.control.chains import check_chain
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.events import Begin
from ringpull.router.control.full_names import check_full_names
from ringpull.router.control.operations import (
    LabelVersion,
    LoadModel,
    ModelSource,
    ModelsRequest,
    ServeModels,
    UnloadModel,
)

FindVersions = Callable[[ModelSource], tuple[PlacedVersion, ...]]
"""Function that finds the versions on disk that a source asks for, one at least; raises `InvalidInput` or `CorruptData`
when one is missing or incomplete, `Unavailable` when they cannot be looked for now."""

STOP = "stop the deployment instead"
"""What to do who wants nothing served."""


def begin_of_models(request: ModelsRequest, spec: DeploymentSpec, find: FindVersions, *, keep: int) -> Begin:
    """Return the event that begins a change of models or labels.

    Args:
        find: See `FindVersions`; called for each source of the request.
        keep: Versions of a model that stay open behind the live one.

    Raises:
        InvalidInput: The request is refused; the message names the field and what would be accepted.
        NotFound: It names a model that is not served.
        OtherContent: A version is open with another content.
    """
    match request:
        case LoadModel():
            [found] = find(source_of(request))
            target = loaded(spec, found, request.replicas, pinned=request.pinned)
            return Begin(Kind.LOAD, found.name, target, trust_files=request.trust_files)
        case UnloadModel():
            check_is_from(spec, request.model, request.gone_from)
            forgets = (request.model,) if request.gone_from else ()
            return Begin(Kind.UNLOAD, request.model, unloaded(spec, request.model), forgets=forgets)
        case ServeModels():
            target = served(spec, [(source, find(source)) for source in request.models], keep=keep)
            subject = ", ".join(f"{model}/{version}" for model, version in sorted(target.live.items()))
            return Begin(Kind.SERVE, subject, target, trust_files=request.trust_files)
        case LabelVersion():
            words = [f"{label}={version}" for label, version in request.labels.items()]
            words += [f"without {label}" for label in request.remove]
            return Begin(Kind.LABEL, f"{request.model} {', '.join(words)}", labelled(spec, request))


def source_of(request: LoadModel) -> ModelSource:
    """Return the source of the one version that is to be loaded, of a model whose name may not be known yet."""
    return ModelSource(
        name=request.model, folder=request.folder, versions=(request.version,) if request.version else ()
    )


def loaded(
    spec: DeploymentSpec, version: PlacedVersion, replicas: Mapping[str, Replicas], *, pinned: bool = False
) -> DeploymentSpec:
    """Return the spec in which the version of another model is open and live.

    Args:
        pinned: Whether it stays so, see `DeploymentSpec.pinned`; of a model that is served already that is as it was.

    Raises:
        InvalidInput: Its model is served with another version, or `replicas` names no table of it.
        OtherContent: It is live already, with another content.
    """
    model, live = version.model, spec.live.get(version.model)
    copies = {(model, table): count for table, count in _copies(version, replicas).items()}
    if live == version.version:
        opened = spec.version(model, live)
        assert opened is not None
        opened.check_same(version)
        if other := [table for (_, table), count in copies.items() if spec.replicas[model, table] != count]:
            raise InvalidInput(
                f"{version.name} is served already, with {spec.replicas[model, other[0]]} copies of {other[0]};"
                " to have others, rebalance"
            )
        return spec
    if live is not None:
        raise InvalidInput(
            f"model {model} is served already, with version {live}; to make {version.name} live, publish it"
        )
    check_full_names([*spec.versions, version], spec.versions)
    return spec.with_models(
        [*spec.versions, version],
        {**spec.live, model: version.version},
        spec.labels,
        replicas=copies,
        pinned=(*spec.pinned, model) if pinned else spec.pinned,
    )


def unloaded(spec: DeploymentSpec, model: str) -> DeploymentSpec:
    """Return the spec without a model.

    Raises:
        NotFound: It is not served.
        InvalidInput: It is the last one.
    """
    check_served(spec, model)
    if len(spec.live) == 1:
        raise InvalidInput(f"{model} is the last model that is served; {STOP}")
    return spec.with_models(
        [each for each in spec.versions if each.model != model],
        {each: version for each, version in spec.live.items() if each != model},
        {each: labels for each, labels in spec.labels.items() if each != model},
    )


def served(
    spec: DeploymentSpec, found: Sequence[tuple[ModelSource, Sequence[PlacedVersion]]], *, keep: int
) -> DeploymentSpec:
    """Return the spec in which these models are served, and no others.

    Args:
        found: Sources, with the versions that each asks for.
        keep: Versions of a model that stay open behind the live one, of those that are open.

    Raises:
        InvalidInput: There is no model, or a label names a version that would not be open, or a version has tables only
            where the live one predicts, or the other way round.
        OtherContent: A version is open with another content.
    """
    if not found:
        raise InvalidInput(f"models is empty; {STOP}")
    versions: list[PlacedVersion] = []
    live: dict[str, int] = {}
    labels: dict[str, Mapping[str, int]] = {}
    for source, placed in found:
        model = source.name
        labels[model] = spec.labels.get(model, {}) if source.labels is None else source.labels
        opened = [_as_open(spec, each) for each in placed]
        for each in opened:
            check_kind(spec, each)
        opened = [with_live(spec, each) for each in opened]
        check_chain(spec, max(opened, key=lambda each: each.version))
        live[model] = max(each.version for each in opened)
        numbers = {each.version for each in opened}
        others = [each for each in spec.versions if each.model == model and each.version not in numbers]
        opened += kept_open(spec, others, labels[model], keep=0 if source.versions else keep)
        check_open(model, labels[model], [each.version for each in opened])
        versions += opened
    check_full_names(versions, spec.versions)
    pinned = [source.name for source, _ in found if source.versions]
    return spec.with_models(versions, live, labels, pinned=pinned)


def labelled(spec: DeploymentSpec, request: LabelVersion) -> DeploymentSpec:
    """Return the spec with other labels of a model.

    Raises:
        NotFound: The model is not served.
        InvalidInput: A version is not open, or a label that is to go is not there.
    """
    model = request.model
    check_served(spec, model)
    there = spec.labels.get(model, {})
    for label in request.remove:
        if label not in there:
            known = ", ".join(sorted(there)) or "none"
            raise InvalidInput(f"{model} has no label {label!r}; its labels: {known}")
    check_open(model, request.labels, [each.version for each in spec.versions if each.model == model])
    wanted = {label: version for label, version in {**there, **request.labels}.items() if label not in request.remove}
    labels = {**spec.labels, model: dict(sorted(wanted.items()))}
    return replace(spec, labels={each: named for each, named in sorted(labels.items()) if named})


def kept_open(
    spec: DeploymentSpec, before: Sequence[PlacedVersion], labels: Mapping[str, int], *, keep: int
) -> list[PlacedVersion]:
    """Return which of a model's versions stay open behind the one that goes live: the highest, but first of all the one
    that was live, because a rollback goes back to it; and every one that has a label.

    Args:
        before: Open versions of the model, but for those that are open afterwards anyhow.
    """
    by_rank = sorted(before, key=lambda each: (each.version == spec.live.get(each.model), each.version), reverse=True)
    return by_rank[:keep] + [each for each in by_rank[keep:] if each.version in labels.values()]


def check_served(spec: DeploymentSpec, model: str) -> None:
    """Check that a model is served.

    Raises:
        NotFound: It is not; the message says which are.
    """
    if model not in spec.live:
        raise NotFound(f"model {model!r} is not served here; these are: {', '.join(sorted(spec.live))}")


def check_kind(spec: DeploymentSpec, version: PlacedVersion) -> None:
    """Check that a version predicts if its model's live one does, and is of tables alone if that is.

    Raises:
        InvalidInput: It is not: all that is asked of the model now would fail.
    """
    live = spec.version(version.model, spec.live.get(version.model, 0))
    if live is None or live.tables_alone == version.tables_alone:
        return
    kinds = ("predicts", "has tables only")
    raise InvalidInput(
        f"{version.name} {kinds[version.tables_alone]}, and {live.name}, which is live, {kinds[live.tables_alone]}:"
        f" clients of the one would fail with the other; export it as another model, or unload {version.model} first"
    )


def with_live(spec: DeploymentSpec, version: PlacedVersion) -> PlacedVersion:
    """Return a version whose tables take pushes as those of the live version do, whatever made these live."""
    live = spec.version(version.model, spec.live.get(version.model, 0))
    tables = {*version.live_tables, *(() if live is None else version.tables.keys() & set(live.live_tables))}
    return replace(version, live_tables=tuple(sorted(tables)))


def check_is_from(spec: DeploymentSpec, model: str, folder: str) -> None:
    """Check that a model is served from a folder; empty: from any.

    Raises:
        InvalidInput: It is served from elsewhere by now.
    """
    live = spec.version(model, spec.live.get(model, 0))
    if folder and live is not None and live.models_folder.rstrip("/") != folder.rstrip("/"):
        raise InvalidInput(f"{model} is served from {live.models_folder} by now, not from {folder}")


def check_open(model: str, labels: Mapping[str, int], versions: Sequence[int]) -> None:
    """Check that labels name open versions.

    Raises:
        InvalidInput: One does not; the message says which are open.
    """
    for label, version in labels.items():
        if version not in versions:
            known = ", ".join(map(str, sorted(versions)))
            raise InvalidInput(f"label {label}: {model}/{version} is not open; these are: {known}")


def _as_open(spec: DeploymentSpec, version: PlacedVersion) -> PlacedVersion:
    """Return a version as it is open, if it is: it is found again wherever it lies by now."""
    opened = spec.version(version.model, version.version)
    if opened is None:
        return version
    opened.check_same(version)
    return opened


def _copies(version: PlacedVersion, replicas: Mapping[str, Replicas]) -> dict[str, Replicas]:
    found: dict[str, Replicas] = {}
    for name, count in replicas.items():
        table = name.removeprefix(f"{version.model}/")
        if table not in version.tables:
            known = ", ".join(sorted(version.tables)) or "none at all"
            raise InvalidInput(f"replicas of {name}: {version.name} has no table {table}; it has {known}")
        found[table] = count
    return found
