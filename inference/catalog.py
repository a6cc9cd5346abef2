"""The versions a head serves: which there are, and which one answers a request that names none.

A version is first there, loaded and checked, and then shown: requests see it from then on. Which version of a model is
live is said, never guessed from numbers: a rollback makes an older one live. Each version has its own pipeline and
batcher, so one batch, and one answer, never mixes two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Executor

from inference.batcher import Batcher
from inference.pipeline import Pipeline, PreparedBatch, PulledBatch, Puller, Scores
from inference.received import ReceivedColumns
from inference.version import LoadedVersion
from ps.errors import InvalidInput, NotFound

VersionName = tuple[str, int]
"""(model, version)."""


class ServedVersion:
    """A loaded version with what serves it."""

    def __init__(self, loaded: LoadedVersion, router: Puller, executor: Executor, *, max_batch_rows: int) -> None:
        """Bind pipeline and batcher, and rehearse them. Blocks while the dense program runs once.

        Raises:
            CorruptData: Manifest, schema and dense program do not fit each other.
        """
        self.loaded = loaded
        self.pipeline = Pipeline(loaded.manifest, loaded.schema, loaded.program, router)
        self.batcher: Batcher[ReceivedColumns, PreparedBatch, PulledBatch, Scores] = Batcher(
            self.pipeline.prepare, self.pipeline.pull, self.pipeline.compute, executor, max_rows=max_batch_rows
        )
        self.executor = executor
        self.outputs = frozenset(output.name for output in loaded.manifest.outputs)
        executor.submit(self.pipeline.rehearse).result()

    def __repr__(self) -> str:
        return f"ServedVersion({self.loaded.name}, {self.batcher!r})"

    @property
    def key(self) -> VersionName:
        """(model, version)."""
        return self.loaded.manifest.model, self.loaded.manifest.version


class Catalog:
    """All versions of all models. Owned by the event loop."""

    def __init__(self, served: Iterable[ServedVersion] = ()) -> None:
        """Take the versions and show them, the highest of each model live.

        Raises:
            InvalidInput: A version is there twice.
        """
        self._loaded: dict[VersionName, ServedVersion] = {}
        self._shown: dict[str, dict[int, ServedVersion]] = {}
        self._live: dict[str, int] = {}
        for each in served:
            self.add(each)
        self.show(highest(self._loaded), self._loaded)

    def __repr__(self) -> str:
        return f"Catalog({', '.join(each.loaded.name for each in self.served())})"

    def add(self, version: ServedVersion) -> None:
        """Take a version that is to be shown later.

        Raises:
            InvalidInput: It is there already.
        """
        if version.key in self._loaded:
            raise InvalidInput(f"version {version.loaded.name} is given twice")
        self._loaded[version.key] = version

    def has(self, key: VersionName) -> bool:
        """Return whether a version is loaded, shown or not."""
        return key in self._loaded

    def show(self, live: Mapping[str, int], versions: Collection[VersionName]) -> list[ServedVersion]:
        """Let requests see exactly these versions from now on; return those that are let go of.

        Raises:
            InvalidInput: One is not loaded, or a live one is not among them; nothing has changed.
        """
        for model, number in versions:
            if (model, number) not in self._loaded:
                raise InvalidInput(f"{model}/{number} is to be served, but is not loaded")
        for model, number in live.items():
            if (model, number) not in versions:
                raise InvalidInput(f"{model}/{number} is to be live, but is not among those to be served")
        leaving = [each for key, each in self._loaded.items() if key not in versions]
        self._loaded = {key: each for key, each in self._loaded.items() if key in versions}
        shown: dict[str, dict[int, ServedVersion]] = {}
        for (model, number), each in self._loaded.items():
            shown.setdefault(model, {})[number] = each
        self._shown, self._live = shown, dict(live)
        return leaving

    def get(self, model: str, version: int = 0) -> ServedVersion:
        """Return a version; 0 is the live one.

        Raises:
            NotFound: The model or version is not served here; the message says which are.
        """
        versions = self._shown.get(model)
        if versions is None:
            known = ", ".join(sorted(self._shown)) or "none"
            raise NotFound(f"model {model!r} is not served here; these are: {known}")
        found = versions.get(version or self._live[model])
        if found is None:
            known = ", ".join(map(str, sorted(versions)))
            raise NotFound(f"model {model} has no version {version} here; it has: {known}")
        return found

    def live(self) -> list[ServedVersion]:
        """Return the live version of every model, by model name."""
        return [self.get(model) for model in sorted(self._live)]

    def live_version(self, model: str) -> int:
        """Return the number of a served model's live version."""
        return self._live[model]

    def served(self) -> list[ServedVersion]:
        """Return every version that requests see, by model name, then ascending."""
        return [self._shown[model][n] for model in sorted(self._shown) for n in sorted(self._shown[model])]

    def loaded(self) -> list[ServedVersion]:
        """Return every version that is here, shown or not."""
        return list(self._loaded.values())

    def versions(self, model: str) -> list[int]:
        """Return the served versions of a model, ascending."""
        return sorted(self._shown[model])


def highest(versions: Iterable[VersionName]) -> dict[str, int]:
    """Return the highest version of each model."""
    live: dict[str, int] = {}
    for model, number in versions:
        live[model] = max(number, live.get(model, 0))
    return live
