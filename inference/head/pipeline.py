"""The way of a prepared micro-batch through one model version: one pull -> the dense program -> scores.

    pull      batch -> look-ups -> router -> program inputs   (event loop; one pull for all tables and requests)
    compute   program inputs -> outputs, cut per request      (worker thread)
    split     program inputs -> those of some of the requests (worker thread; when the program failed for all together)

Context columns are looked up once per request and reach the program as one row with an index. Look-ups and inputs are
bound to the schema once, when the version is loaded: a manifest that does not fit its schema never serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.batch import BatchFeature, RequestBatch
from ringpull.inference.head.request.direct_ids import DirectFeatures, DirectIds, DirectPlan
from ringpull.inference.head.request.flat_plan import FlatPlan
from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.head.request.partial_lookup import PartialLookup
from ringpull.inference.head.request.pulled import Pulled
from ringpull.inference.head.request.unknown import UnknownIds, by_request, rows_with_unknown
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.flat_inputs import FlatInputs
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.program_errors import last_words, newer_torch
from ringpull.inference.prediction import Filled
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.features import Int64Array, Prepared, PreparedFeature, PreparedRequests
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, ProgramFailed
from ringpull.router.lookup import Lookup, LookupResult


class Puller(Protocol):
    """The part of a router that the pipeline needs."""

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float
    ) -> Sequence[LookupResult]: ...


class Program(Protocol):
    """The part of a dense program that the pipeline needs."""

    @property
    def writer(self) -> str:
        """Version of torch that exported it; empty: not known."""
        ...

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]: ...


class NoProgram:
    """The dense program of a version of tables alone, which nobody gets to run: such requests are refused before."""

    writer: Final = ""

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        raise AssertionError("a version of tables alone predicts nothing")


@dataclass(frozen=True, slots=True, eq=False)
class PulledBatch:
    """A batch whose vectors are here: all the dense program needs."""

    batch: RequestBatch
    inputs: Sequence[ProgramTensor]
    unavailable: tuple[Filled, ...]
    """Features whose rows no live shard had."""
    unknown: Mapping[str, Int64Array]
    """Unknown ids of each row (V,) of the features that have any."""
    kept: Mapping[int, int] | None = None
    """Requests that `inputs` has rows of: the place of each in the batch as it was pulled, and its place now. None: all
    of them, at their places."""

    def part(self, places: Sequence[int]) -> PulledBatch:
        """Return the part of the requests at these places, which are then its places 0, 1 and so on."""
        new_places = {place: new for new, place in enumerate(places)}
        kept: dict[int, int] = {}
        rows: list[NDArray[np.int64]] = []
        start = 0
        for pulled_place, place, count in self.requests():
            if place in new_places:
                kept[pulled_place] = new_places[place]
                rows.append(np.arange(start, start + count))
            start += count
        return PulledBatch(
            self.batch, _rows_of(self.inputs, np.concatenate(rows)), self.unavailable, self.unknown, kept
        )

    def requests(self) -> Iterator[tuple[int, int, int]]:
        """Yield the requests as `inputs` has them: place in the batch as it was pulled, place now, and rows."""
        for pulled_place, count in zip(self.batch.order, self.batch.row_counts, strict=True):
            if self.kept is None:
                yield pulled_place, pulled_place, count
            elif pulled_place in self.kept:
                yield pulled_place, self.kept[pulled_place], count


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The outputs of one request, and what its answer says of itself."""

    outputs: dict[str, NDArray[np.float32]]
    """Outputs by name, (rows, ...): views of the batch's, for the rows that were prepared."""
    filled: tuple[Filled, ...]
    """Features that were filled in."""
    unknown: tuple[UnknownIds, ...] = ()
    """Features with unknown ids."""
    degraded: tuple[str, ...] = ()
    """Phrases for what was left out before the request was prepared."""


class Pipeline:
    """The last two stages of one model version. Holds no state of requests; `pull` is for the event loop."""

    def __init__(self, manifest: Manifest, schema: Schema, program: Program | None, router: Puller) -> None:
        """Bind the manifest's look-ups and inputs to the schema; a version of tables alone has none, and no program.

        Raises:
            CorruptData: They do not fit; the message names the feature, table or argument.
        """
        self._model, self._version = manifest.model, manifest.version
        self._schema = schema
        self._program = program or NoProgram()
        self._router = router
        self._lookups: list[FeatureLookup] = []
        tables = manifest.tables_by_name()
        for spec in manifest.lookups:
            feature = schema.get(spec.feature)
            if feature is None:
                raise CorruptData(f"manifest: table {spec.table} is looked up by {spec.feature}, not in the schema")
            keeper = None if spec.kept_by is None else schema.get(spec.kept_by.feature)
            self._lookups.append(FeatureLookup(spec, feature, tables[spec.table].spec, keeper))
        self._plans: WeakKeyDictionary[DirectFeatures, DirectPlan] = WeakKeyDictionary()
        self._flat_plans: WeakKeyDictionary[DirectFeatures, FlatPlan] = WeakKeyDictionary()
        self._takes_flat = bool(getattr(self._program, "takes_flat", False))
        known = schema.argument_names()
        self._inputs: list[int | Argument] = []
        for source in manifest.inputs:
            if source.lookup is not None:
                self._inputs.append(source.lookup)
            elif source.argument in known:
                self._inputs.append(_fixed_width(known[source.argument]))
            else:
                raise CorruptData(f"manifest: the program takes the argument {source.argument}, not in the schema")

    def __repr__(self) -> str:
        return f"Pipeline({self._model}/{self._version}, {len(self._lookups)} look-ups, {len(self._inputs)} inputs)"

    def with_router(self, router: Puller) -> Pipeline:
        """Return the same stages, which pull through another router."""
        other = copy(self)
        other._router = router
        return other

    async def pull(self, batch: RequestBatch, deadline_s: float) -> PulledBatch:
        """Pull the vectors of a batch in one round and lay out the program's inputs.

        Raises:
            RingpullError: What the router raised: `Unavailable` naming the table, `DeadlineExceeded`.
        """
        if (direct := batch.direct) is not None:
            return await self._pull_directly(batch, direct, deadline_s)
        lookups = [
            lookup if feature.withheld is None else PartialLookup.of(lookup, feature, bound.default)
            for bound, lookup in zip(self._lookups, self._lookups_of(batch), strict=True)
            for feature in (_looked_up(batch, bound)[0].prepared,)
        ]
        rest = [each.rest if isinstance(each, PartialLookup) else each for each in lookups]
        wanted = [each for each in rest if each is not None]
        pulled: Sequence[LookupResult] = ()
        if wanted:
            pulled = await self._router.pull(self._model, self._version, wanted, deadline_s=deadline_s)
        answers = iter(pulled)
        return self._pulled(
            batch,
            Pulled(
                [
                    each.completed(None if each.rest is None else next(answers))
                    if isinstance(each, PartialLookup)
                    else next(answers)
                    for each in lookups
                ]
            ),
        )

    async def _pull_directly(self, batch: RequestBatch, ids: DirectIds, deadline_s: float) -> PulledBatch:
        """Pull as `pull` does, the look-ups of direct ids as one; nothing is withheld from a batch that has some."""
        plan = self._plan_of(ids.features)
        lookups = plan.lookups(ids, self._lookups_of(batch, plan.order[plan.direct :]))
        results = await self._router.pull(self._model, self._version, lookups, deadline_s=deadline_s)
        return self._pulled(batch, Pulled(results, plan))

    def _plan_of(self, features: DirectFeatures) -> DirectPlan:
        plan = self._plans.get(features)
        if plan is None:
            plan = self._plans[features] = DirectPlan.of(features, self._lookups)
        return plan

    def _pulled(self, batch: RequestBatch, pulled: Pulled) -> PulledBatch:
        lacking = pulled.lacking()
        return PulledBatch(
            batch,
            self._inputs_of(batch, pulled),
            self._unavailable(pulled, lacking),
            self._unknown(batch, pulled, lacking),
        )

    def compute(self, pulled: PulledBatch) -> dict[int, Scores]:
        """Run the dense program and cut its outputs by request, by their places in the micro-batch.

        A lost key is not traced to the request it came from: every request of the batch says that the feature may hold
        default vectors, with the batch's count.

        Raises:
            ProgramFailed: The dense program raised.
        """
        requests = list(pulled.requests())
        rows = sum(count for _, _, count in requests)
        try:
            outputs = self._program.run(pulled.inputs, rows)
        except Exception as exc:  # of any root: whatever the runtime raises
            whom = "this request" if len(requests) == 1 else f"{len(requests)} requests together"
            raise ProgramFailed(
                f"{self._model}/{self._version}: the dense program failed for {whom}: {last_words(exc)}"
            ) from exc
        batch = pulled.batch
        filled = dict(zip(batch.order, chain.from_iterable(group.filled() for group in batch.groups), strict=True))
        left_out = chain.from_iterable(group.degraded or [()] * len(group.row_counts) for group in batch.groups)
        degraded = dict(zip(batch.order, left_out, strict=True))
        unknown = by_request(batch, pulled.unknown) if pulled.unknown else {}
        scores = {}
        start = 0
        for pulled_place, place, count in requests:
            own = {name: values[start : start + count] for name, values in outputs.items()}
            own_filled = filled[pulled_place] + pulled.unavailable
            scores[place] = Scores(own, own_filled, unknown.get(pulled_place, ()), degraded[pulled_place])
            start += count
        return scores

    @staticmethod
    def split(pulled: PulledBatch, places: Sequence[int]) -> PulledBatch:
        """Return the part of a pulled batch that is of some requests; see `PulledBatch.part`."""
        return pulled.part(places)

    async def pull_samples(self, samples: Prepared, deadline_s: float) -> PulledBatch:
        """Pull the vectors of rows that are prepared already, as one request; see `pull`."""
        return await self.pull(
            RequestBatch([PreparedRequests((samples.rows,), samples, Prepared(1, {}))], [0]), deadline_s
        )

    def rehearse(self, batch: RequestBatch) -> None:
        """Take a batch through all stages but the pull, so that no request pays for first-time work.

        Raises:
            CorruptData: The dense program does not take what its look-ups and features give.
        """
        results = [
            LookupResult(np.zeros((lookup.outputs, bound.dim), np.float32), missing=0)
            for lookup, bound in zip(self._lookups_of(batch), self._lookups, strict=True)
        ]
        try:
            self.compute(PulledBatch(batch, self._inputs_of(batch, Pulled(results)), (), {}))
        except ProgramFailed as exc:
            reason = last_words(exc.__cause__ or exc)
            if newer := newer_torch(self._program.writer):
                reason = f"{newer} ({reason})"
            raise CorruptData(f"{self._model}/{self._version}: the dense program does not run: {reason}") from exc
        except Exception as exc:
            raise CorruptData(f"{self._model}/{self._version}: the dense program does not run: {exc}") from exc

    def _lookups_of(self, batch: RequestBatch, chosen: Sequence[int] | None = None) -> list[Lookup]:
        """Return the look-ups of a batch, or some of them by their numbers."""
        bounds = self._lookups if chosen is None else [self._lookups[number] for number in chosen]
        pairs = [(bound, *_looked_up(batch, bound)) for bound in bounds]
        return [bound.lookup(feature.prepared, keeper) for bound, feature, keeper in pairs]

    def _inputs_of(self, batch: RequestBatch, pulled: Pulled) -> Sequence[ProgramTensor]:
        plan = pulled.plan
        if plan is not None and self._takes_flat and (flat := self._flat_inputs_of(batch, pulled, plan)) is not None:
            return flat
        if plan is None:
            return [
                self._argument(batch, source) if isinstance(source, Argument) else self._vectors(batch, source, pulled)
                for source in self._inputs
            ]
        direct, places, context, rows = plan.direct, plan.places, plan.context, pulled.rows
        indexes = batch.row_index(context=False), batch.row_index(context=True)
        return [
            self._argument(batch, source)
            if isinstance(source, Argument)
            else ProgramTensor(rows(place), indexes[context[place]])
            if (place := places[source]) < direct
            else self._vectors(batch, source, pulled)
            for source in self._inputs
        ]

    def _flat_inputs_of(self, batch: RequestBatch, pulled: Pulled, plan: DirectPlan) -> FlatInputs | None:
        """Return the inputs with those of direct ids as they were pulled; None: they were not pulled end to end."""
        results, direct = pulled.flat, batch.direct
        if results is None or direct is None:
            return None
        layout = self._flat_plans.get(direct.features)
        if layout is None:
            layout = self._flat_plans[direct.features] = FlatPlan.of(plan, self._inputs, self._lookups)
        others: dict[int, ProgramTensor] = {}
        for place in layout.others:
            source = self._inputs[place]
            own = self._argument(batch, source) if isinstance(source, Argument) else None
            others[place] = own or self._vectors(batch, cast("int", source), pulled)
        begins = np.where(layout.direct, results.begins[layout.places], -1)
        index = batch.row_index(context=True)
        requests = len(batch.row_counts)
        return FlatInputs(results.values, begins, layout.dims, layout.context, requests, index, batch.rows, others)

    def _unavailable(self, pulled: Pulled, lacking: Sequence[int]) -> tuple[Filled, ...]:
        lost: dict[str, int] = {}
        for number in lacking:
            bound, result = self._lookups[number], pulled[number]
            if result.lost:
                lost[bound.spec.feature] = lost.get(bound.spec.feature, 0) + result.lost
        return tuple(Filled(feature, "unavailable", keys) for feature, keys in lost.items())

    def _unknown(self, batch: RequestBatch, pulled: Pulled, lacking: Sequence[int]) -> dict[str, Int64Array]:
        unknown: dict[str, Int64Array] = {}
        for number in lacking:
            bound, result = self._lookups[number], pulled[number]
            feature = bound.spec.feature
            looked_up = _looked_up(batch, bound)[0].prepared
            counts = rows_with_unknown(bound, looked_up, result)
            if counts is not None:
                own = batch.feature(feature)
                if own.row_index is not None and looked_up is not own.prepared:
                    counts = _most(counts, own.row_index, own.prepared.rows)
                unknown[feature] = np.maximum(counts, unknown[feature]) if feature in unknown else counts
        return unknown

    def _vectors(self, batch: RequestBatch, lookup: int, pulled: Pulled) -> ProgramTensor:
        bound = self._lookups[lookup]
        (prepared, row_index), _ = _looked_up(batch, bound)
        return ProgramTensor(bound.values(prepared, pulled[lookup]), row_index)

    def _argument(self, batch: RequestBatch, argument: Argument) -> ProgramTensor:
        members = [batch.feature(name) for name in argument.features]
        row_index = members[0].row_index
        if all(member.row_index is row_index for member in members):
            features = {name: member.prepared for name, member in zip(argument.features, members, strict=True)}
        else:
            # A stack of context and candidate features: only as batch rows are they side by side.
            features, row_index = {name: batch.every_row(name) for name in argument.features}, None
        rows = next(iter(features.values())).rows
        values = self._schema.arguments(Prepared(rows, features), (argument.name,))[argument.name]
        return ProgramTensor(values, row_index)


def _looked_up(batch: RequestBatch, bound: FeatureLookup) -> tuple[BatchFeature, PreparedFeature | None]:
    """Return the feature of a look-up, and with the same rows the sequence that says which of its places count."""
    if bound.spec.kept_by is None:
        return batch.feature(bound.spec.feature), None
    return batch.side_by_side(bound.spec.feature, bound.spec.kept_by.feature)


def _most(counts: NDArray[np.int64], row_index: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the most that is counted of each of a feature's rows, of counts (B,) for the batch rows that see them."""
    most = np.zeros(rows, np.int64)
    np.maximum.at(most, row_index, counts)
    return most


def _rows_of(inputs: Sequence[ProgramTensor], rows: NDArray[np.int64]) -> list[ProgramTensor]:
    """Return some batch rows of the program's inputs; those of inputs that share their index share one again."""
    indexes: dict[int, NDArray[np.int64]] = {}
    parts: list[ProgramTensor] = []
    for each in inputs:
        if each.row_index is None:
            parts.append(ProgramTensor(each.values[rows]))
            continue
        if id(each.row_index) not in indexes:
            indexes[id(each.row_index)] = each.row_index[rows]
        parts.append(ProgramTensor(each.values, indexes[id(each.row_index)]))
    return parts


def _fixed_width(argument: Argument) -> Argument:
    """Return an argument that has a row per batch row; ragged ones have not, and cannot reach the dense program."""
    if argument.part in ("values", "offsets", "weights"):
        raise CorruptData(f"manifest: the program takes the argument {argument.name}, whose rows are of any length")
    return argument
