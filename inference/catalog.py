"""The versions a head serves: which there are, and which one answers a request that names none.

The live version of a model is the newest of those given. Each version has its own pipeline and batcher, so one batch,
and one answer, never mixes two.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

from inference.batcher import Batcher
from inference.features import PreparedRequest
from inference.pipeline import Pipeline, PulledBatch, Puller, Scores
from inference.version import LoadedVersion
from ps.errors import InvalidInput, NotFound


class ServedVersion:
    """A loaded version with what serves it."""

    def __init__(self, loaded: LoadedVersion, router: Puller, executor: Executor, *, max_batch_rows: int) -> None:
        """Bind pipeline and batcher, and rehearse them. Blocks while the dense program runs once.

        Raises:
            CorruptData: Manifest, schema and dense program do not fit each other.
        """
        self.loaded = loaded
        self.pipeline = Pipeline(loaded.manifest, loaded.schema, loaded.program, router)
        self.batcher: Batcher[PreparedRequest, PulledBatch, Scores] = Batcher(
            self.pipeline.pull, self.pipeline.compute, executor, max_rows=max_batch_rows
        )
        self.outputs = frozenset(output.name for output in loaded.manifest.outputs)
        executor.submit(self.pipeline.rehearse).result()

    def __repr__(self) -> str:
        return f"ServedVersion({self.loaded.name}, {self.batcher!r})"


class Catalog:
    """All served versions of all models."""

    def __init__(self, served: Iterable[ServedVersion]) -> None:
        """Take the versions.

        Raises:
            InvalidInput: A version is there twice.
        """
        self._versions: dict[str, dict[int, ServedVersion]] = {}
        for each in served:
            manifest = each.loaded.manifest
            versions = self._versions.setdefault(manifest.model, {})
            if manifest.version in versions:
                raise InvalidInput(f"version {each.loaded.name} is given twice")
            versions[manifest.version] = each

    def __repr__(self) -> str:
        return f"Catalog({', '.join(each.loaded.name for each in self.served())})"

    def get(self, model: str, version: int = 0) -> ServedVersion:
        """Return a version; 0 is the live one.

        Raises:
            NotFound: The model or version is not served here; the message says which are.
        """
        versions = self._versions.get(model)
        if versions is None:
            known = ", ".join(sorted(self._versions)) or "none"
            raise NotFound(f"model {model!r} is not served here; these are: {known}")
        found = versions.get(version or max(versions))
        if found is None:
            known = ", ".join(map(str, sorted(versions)))
            raise NotFound(f"model {model} has no version {version} here; it has: {known}")
        return found

    def live(self) -> list[ServedVersion]:
        """Return the live version of every model, by model name."""
        return [self.get(model) for model in sorted(self._versions)]

    def served(self) -> list[ServedVersion]:
        """Return every version, by model name, then ascending."""
        return [self._versions[model][n] for model in sorted(self._versions) for n in sorted(self._versions[model])]

    def versions(self, model: str) -> list[int]:
        """Return the served versions of a model, ascending."""
        return sorted(self._versions[model])
