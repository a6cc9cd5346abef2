"""The versions a head serves: which there are, and which one answers a request that names none.

A version is first there, loaded and checked, and then shown: requests see it from then on. Which version of a model is
live is said, never guessed from numbers: a rollback makes an older one live. Each version has its own pipeline and
batcher, so one batch, and one answer, never mixes two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

from ringpull.inference.degrade.control import Thresholds
from ringpull.inference.degrade.degrader import Degrader
from ringpull.inference.degrade.steps import UseVersion
from ringpull.inference.head.batcher import Batcher
from ringpull.inference.head.lighter_version import can_stand_in
from ringpull.inference.head.pipeline import Pipeline, PulledBatch, Scores
from ringpull.inference.head.request.batch import RequestBatch
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.head.request.ranker import Ranker
from ringpull.inference.head.request.received import ReceivedColumns
from ringpull.inference.head.request.row_reader import Puller, RowReader
from ringpull.inference.head.request.row_writer import RowWriter
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import InvalidInput, NotFound, StaleLineage, Unavailable
from ringpull.ps.histogram import Histogram

VersionName = tuple[str, int]
"""Model and version."""

_NOTHING: Final[Mapping[VersionName, str]] = {}

Labels = Mapping[str, Mapping[str, int]]
"""Labels of versions, by model, then label."""

NO_LABELS: Final[Labels] = {}


class ServedVersion:
    """A loaded version with what serves it."""

    def __init__(
        self,
        loaded: LoadedVersion,
        router: Puller,
        executor: Executor,
        *,
        max_batch_rows: int,
        max_pulls: int = 1,
        batch_rows: Histogram | None = None,
        thresholds: Thresholds | None = None,
        live: Collection[str] = (),
    ) -> None:
        """Bind pipeline and batcher, and rehearse them. Blocks while the dense program, if it has one, runs once.

        Args:
            max_pulls: Pulls at a time; all but one are slow.
            batch_rows: Histogram of the rows of batches.
            thresholds: Thresholds of the degrade steps.
            live: Names of tables that take pushes, besides those that were exported so.

        Raises:
            CorruptData: Manifest, schema and dense program do not fit each other.
        """
        self.loaded = loaded
        self.pipeline = Pipeline(loaded.manifest, loaded.schema, loaded.program, router)
        self.rows: Final = RowReader(*self.key, loaded.manifest.tables, router)
        """Rows of its tables, by key."""
        self.writer: Final = RowWriter(
            *self.key,
            loaded.manifest.tables,
            router,
            live={*live, *(entry.spec.name for entry in loaded.manifest.tables if entry.live)},
            lineage=loaded.manifest.chain.lineage or loaded.manifest.identity,
        )
        """Rows of its tables, to be written."""
        self.ranker: Final = Ranker(loaded.manifest, self.rows, router)
        """Rows of its tables with the largest scores."""
        preparation = Preparation(loaded.manifest, loaded.schema)
        self.batcher: Batcher[ReceivedColumns, RequestBatch, PulledBatch, Scores] = Batcher(
            preparation.prepare,
            self.pipeline.pull,
            self.pipeline.compute,
            executor,
            max_rows=max_batch_rows,
            split=self.pipeline.split,
            max_pulls=max_pulls,
            batch_rows=batch_rows,
        )
        self.executor = executor
        self.outputs = frozenset(output.name for output in loaded.manifest.outputs)
        self.degrader = Degrader(*self.key, loaded.manifest.degrade, loaded.schema, thresholds)
        self.stand_in: ServedVersion | None = None
        """Lighter version of its degrade steps, while requests see that; set by the catalog."""
        if loaded.program is not None:
            executor.submit(lambda: self.pipeline.rehearse(preparation.plain_batch())).result()

    def __repr__(self) -> str:
        return f"ServedVersion({self.loaded.name}, {self.batcher!r})"

    @property
    def key(self) -> VersionName:
        """Model and version."""
        return self.loaded.manifest.model, self.loaded.manifest.version

    @property
    def tables(self) -> list[str]:
        """Names of its tables."""
        return self.rows.tables

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered; fail what is left after `timeout_s`."""
        parts = (self.batcher, self.rows, self.ranker, self.writer)
        await asyncio.gather(*[part.close(timeout_s) for part in parts])

    def degraded(self, columns: ReceivedColumns, *, named: bool) -> tuple[ServedVersion, ReceivedColumns]:
        """Return who answers a request for this version that comes now, and with what it is to leave out.

        Args:
            named: The request asked for this very version, so no other answers.
        """
        degradation = self.degrader.in_force
        if degradation is None:
            return self, columns
        lighter = None if named or degradation.other is None else self.stand_in
        return lighter or self, replace(columns, degradation=degradation)


class Catalog:
    """The versions of all models. Owned by the event loop."""

    def __init__(self, served: Iterable[ServedVersion] = ()) -> None:
        """Take the versions and show them, the highest of each model live.

        Raises:
            InvalidInput: A version is there twice.
        """
        self._loaded: dict[VersionName, ServedVersion] = {}
        self._shown: dict[str, dict[int, ServedVersion]] = {}
        self._live: dict[str, int] = {}
        self._labels: Labels = NO_LABELS
        self._refused: dict[VersionName, str] = {}
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

    def find(self, key: VersionName) -> ServedVersion | None:
        """Return a version that is loaded, shown or not; None: it is not."""
        return self._loaded.get(key)

    def remove(self, version: ServedVersion, reason: str) -> None:
        """Let go of a version, shown or not: requests see it no more, and are told the reason."""
        model, number = version.key
        del self._loaded[version.key]
        shown = self._shown.get(model, {})
        if shown.pop(number, None) is not None:
            self._refused[version.key] = reason
        for each in shown.values():
            each.stand_in = _stand_in(each, shown)

    def show(
        self,
        live: Mapping[str, int],
        versions: Collection[VersionName],
        refused: Mapping[VersionName, str] = _NOTHING,
        labels: Labels = NO_LABELS,
    ) -> list[ServedVersion]:
        """Let requests see exactly these versions from now on; return those that are let go of.

        Args:
            refused: Versions that could not be loaded, with the reason: whoever asks for one of them is told.
            labels: All labels from now on.

        Raises:
            InvalidInput: One is not loaded, or one that is live or has a label is not among them; nothing has changed.
        """
        for model, number in versions:
            if (model, number) not in self._loaded and (model, number) not in refused:
                raise InvalidInput(f"{model}/{number} is to be served, but is not loaded")
        for model, number in live.items():
            if (model, number) not in versions:
                raise InvalidInput(f"{model}/{number} is to be live, but is not among those to be served")
        for model, named in labels.items():
            for label, number in named.items():
                if (model, number) not in versions:
                    raise InvalidInput(f"label {label} names {model}/{number}, which is not among those to be served")
        leaving = [each for key, each in self._loaded.items() if key not in versions]
        self._loaded = {key: each for key, each in self._loaded.items() if key in versions}
        shown: dict[str, dict[int, ServedVersion]] = {}
        for (model, number), each in self._loaded.items():
            shown.setdefault(model, {})[number] = each
        self._shown, self._live = shown, dict(live)
        self._labels = {model: dict(named) for model, named in labels.items()}
        self._refused = {key: refused[key] for key in versions if key not in self._loaded}
        for each in self._loaded.values():
            each.stand_in = _stand_in(each, shown[each.key[0]])
        return leaving

    def get(self, model: str, version: int = 0, label: str = "") -> ServedVersion:
        """Return a version, by its number or a label; 0 and no label is the live one.

        Raises:
            InvalidInput: Both a version and a label are asked for.
            NotFound: The model, version or label is not served here; the message says which are.
            Unavailable: It should be, and could not be loaded.
        """
        versions = self._shown.get(model)
        wanted = self._labelled(model, version, label) if label else version or self._live.get(model, 0)
        if (reason := self._refused.get((model, wanted))) is not None:
            raise Unavailable(f"{model}/{wanted} is not served by this head: {reason}")
        if versions is None:
            known = ", ".join(sorted(self._shown)) or "none"
            raise NotFound(f"model {model!r} is not served here; these are: {known}")
        found = versions.get(wanted)
        if found is None:
            known = ", ".join(map(str, sorted(versions)))
            raise NotFound(f"model {model} has no version {wanted} here; it has: {known}")
        return found

    def of_lineage(self, model: str, lineage: str, *, only_live: bool = False) -> ServedVersion:
        """Return a version of a lineage, the live one if that is of it, else the highest.

        Args:
            only_live: Whether it has to be the live one.

        Raises:
            NotFound: The model is not served here.
            StaleLineage: No version of that lineage is, or is live; the message says which lineage is live.
        """
        live = self.get(model)
        shown = self._shown.get(model, {})
        others = [shown[number] for number in sorted(shown, reverse=True)]
        found = next((each for each in (live, *others) if each.writer.lineage == lineage), None)
        if found is not None and (found is live or not only_live):
            return found
        what = "open" if found is None else "live"
        raise StaleLineage(
            f"lineage {lineage} of model {model} is not {what} here: {live.loaded.name}, which is live, is of lineage"
            f" {live.writer.lineage}; rows that were made for another one are not mixed in"
            + ("" if found is None else f" (they go on to {found.loaded.name} where its lineage is asked for by name)")
        )

    def _labelled(self, model: str, version: int, label: str) -> int:
        check_one_of(version, label)
        labels = self._labels.get(model, {})
        if label not in labels and model in self._live:
            known = ", ".join(sorted(labels)) or "none"
            raise NotFound(f"model {model} has no label {label!r:.80} here; its labels: {known}")
        return labels.get(label, 0)

    def labels(self, model: str) -> dict[str, int]:
        """Return the labels of a model: label -> version."""
        return dict(self._labels.get(model, {}))

    def refused(self, model: str) -> dict[int, str]:
        """Return the versions of a model that should be served and could not be loaded, each with the reason."""
        return {number: reason for (name, number), reason in self._refused.items() if name == model}

    def live(self) -> list[ServedVersion]:
        """Return the live version of every model, by model name; those that could not be loaded are left out."""
        live = [(model, self._shown.get(model, {}).get(number)) for model, number in sorted(self._live.items())]
        return [each for _, each in live if each is not None]

    def served(self) -> list[ServedVersion]:
        """Return every version that requests see, by model name, then ascending."""
        return [self._shown[model][n] for model in sorted(self._shown) for n in sorted(self._shown[model])]

    def loaded(self) -> list[ServedVersion]:
        """Return every version that is here, shown or not."""
        return list(self._loaded.values())

    def versions(self, model: str) -> list[int]:
        """Return the served versions of a model, ascending."""
        return sorted(self._shown[model])


def check_one_of(version: int, label: str) -> None:
    """Check that a version is asked for by its number or by a label.

    Raises:
        InvalidInput: It is asked for by both.
    """
    if version and label:
        raise InvalidInput(f"version is {version} and label is {label!r:.80}; ask for one of both")


def _stand_in(version: ServedVersion, shown: Mapping[int, ServedVersion]) -> ServedVersion | None:
    """Return the version among those shown that may answer in place of one under load."""
    for step in version.degrader.steps:
        if isinstance(step, UseVersion):
            lighter = shown.get(step.version)
            return lighter if lighter is not None and can_stand_in(lighter.loaded, version.loaded) else None
    return None


def highest(versions: Iterable[VersionName]) -> dict[str, int]:
    """Return the highest version of each model."""
    live: dict[str, int] = {}
    for model, number in versions:
        live[model] = max(number, live.get(model, 0))
    return live
