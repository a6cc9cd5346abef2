"""Search for models: where the folders lie that requests name, and whether models may come from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ringpull.ps.errors import InvalidInput, NotFound, Unavailable
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.model_changes import source_of
from ringpull.router.control.model_roots import ModelRoots
from ringpull.router.control.operations import LoadModel, ModelSource, ServeModels

FindAmong = Callable[[ModelSource, Sequence[PlacedVersion]], tuple[PlacedVersion, ...]]
"""Function as `FindVersions` (`ringpull.router.control.model_changes`), given the versions that are open: what follows
one of these needs no folder of it."""


def look_nowhere(source: ModelSource, known: Sequence[PlacedVersion]) -> tuple[PlacedVersion, ...]:
    """Find nothing: for a coordinator that looks at no folders.

    Raises:
        InvalidInput: Always.
    """
    raise InvalidInput(f"{source.folder or source.name}: this coordinator looks for no models")


@dataclass(frozen=True, slots=True)
class ModelSearch:
    """Looks for the versions that requests ask for, in whatever thread it is called; reads folders."""

    find: FindAmong
    roots: ModelRoots | None
    """Roots that models lie below; None: they may come from anywhere."""

    def all_of(self, request: LoadModel | ServeModels, spec: DeploymentSpec) -> dict[str, tuple[PlacedVersion, ...]]:
        """Return the versions that each source of a request asks for, by the source's name.

        Raises:
            Forbidden: One lies below no root.
            InvalidInput, NotFound: One is not there, or its folder is no folder's name, or is another model's.
            CorruptData: A manifest is damaged.
            Unavailable: A folder cannot be read now.
        """
        sources = (_where(source_of(request), spec),) if isinstance(request, LoadModel) else request.models
        return {source.name: self._of(source, spec) for source in sources}

    def _of(self, source: ModelSource, spec: DeploymentSpec) -> tuple[PlacedVersion, ...]:
        live = spec.version(source.name, spec.live.get(source.name, 0))
        if live is not None and (not source.folder or _spelling(source.folder) == _spelling(live.models_folder)):
            # As it is named in the state, links and all, wherever it lies: it is served.
            return self.find(replace(source, folder=live.models_folder), spec.versions)
        if not source.folder:
            raise InvalidInput(f"model {source.name} is not served here, so its folder must be given")
        if "/" not in source.folder:
            return self._by_name(source, spec)
        return self.find(self._admitted(source, source.folder), spec.versions)

    def _by_name(self, source: ModelSource, spec: DeploymentSpec) -> tuple[PlacedVersion, ...]:
        """Find a folder by its name below the roots: in the first that has one, of those that can be read now."""
        why: list[str] = []
        unread = False
        for root in () if self.roots is None else self.roots.roots:
            try:
                admitted = self._admitted(source, f"{root.rstrip('/')}/{source.folder}")
                return self.find(admitted, spec.versions)
            except (InvalidInput, Unavailable) as exc:
                why.append(str(exc))
                unread |= isinstance(exc, Unavailable)
        reason = "; ".join(why) or "this deployment takes models from no folder"
        if unread:
            raise Unavailable(f"folder {source.folder!r:.80} cannot be looked for now: {reason}")
        raise NotFound(f"there is no model in a folder {source.folder!r:.80}: {reason}")

    def _admitted(self, source: ModelSource, folder: str) -> ModelSource:
        return replace(source, folder=folder if self.roots is None else self.roots.admit(folder))


def _spelling(folder: str) -> str:
    """Return the one way to write a folder's name that leads to the same place however links lie: `/srv//m/./` is
    `/srv/m`, and `..` stays."""
    scheme, colon, path = folder.rpartition("://")
    first = "/" if path.startswith("/") else ""
    return scheme + colon + first + "/".join(part for part in path.split("/") if part not in ("", "."))


def _where(source: ModelSource, spec: DeploymentSpec) -> ModelSource:
    """Return a source whose folder is the served model's own, where it names one that is served."""
    return replace(source, folder="") if source.name in spec.live else source
