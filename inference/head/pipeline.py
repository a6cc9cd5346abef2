"""The way of a micro-batch through one model version: prepared requests -> one pull -> the dense program -> scores.

    prepare   columns of all requests -> ids and numbers      (event loop; once per layout, bad input fails alone)
    pull      batch -> look-ups -> router -> program inputs   (event loop; one pull for all tables and requests)
    compute   program inputs -> outputs, cut per request      (worker thread)

Context columns are looked up once per request and reach the program as one row with an index. Look-ups and inputs are
bound to the schema once, when the version is loaded: a manifest that does not fit its schema never serves.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from copy import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.batcher import Ready
from ringpull.inference.model.dense import ProgramTensor
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.prediction import Filled
from ringpull.inference.request.batch import RequestBatch
from ringpull.inference.request.column_codec import encode_column
from ringpull.inference.request.degrade_lookups import PartialLookup, withheld_rows
from ringpull.inference.request.degrade_requests import DegradedRequests, prepare_degraded
from ringpull.inference.request.lookups import FeatureLookup
from ringpull.inference.request.packing import pack
from ringpull.inference.request.received import Limits, ReceivedColumns
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.features import Prepared, PreparedRequests
from ringpull.inference.schema.kinds import MAX_WIDTH, Dense, Sequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData
from ringpull.router.lookup import Lookup, LookupResult

_REHEARSAL_ROWS: Final = 2
"""More than one: exported programs treat one row specially."""


_Group = PreparedRequests | DegradedRequests


class Puller(Protocol):
    """What the pipeline needs of a router."""

    async def pull(
        self, model: str, version: int, lookups: Rows[Lookup], *, deadline_s: float
    ) -> list[LookupResult]: ...


class Program(Protocol):
    """What the pipeline needs of a dense program."""

    def run(self, inputs: Rows[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """Requests as one batch, which may have them in another order."""

    batch: RequestBatch
    order: list[int]
    """The place among the requests of each of the batch's."""
    defaults: list[frozenset[str]] = field(default_factory=list)
    """Of each group of the batch: features whose ids are not looked up. Empty when there are none in any."""
    degraded: dict[int, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """By place, of requests that something was left out of: their rows as they came, and what it was."""


@dataclass(frozen=True, slots=True, eq=False)
class PulledBatch:
    """A batch whose vectors are here: all the dense program needs."""

    prepared: PreparedBatch
    inputs: list[ProgramTensor]
    unavailable: tuple[Filled, ...]
    """Features whose rows no live shard had."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The outputs of one request, and the features that were filled in."""

    outputs: dict[str, NDArray[np.float32]]
    """By name, (rows, ...): views of the batch's outputs."""
    filled: tuple[Filled, ...]
    degraded: tuple[str, ...] = ()
    """What was left out of the request; rows that were not scored hold NaN."""


class Pipeline:
    """The stages of one model version. Holds no state of requests; `prepare` and `pull` on the event loop."""

    def __init__(self, manifest: Manifest, schema: Schema, program: Program, router: Puller) -> None:
        """Bind the manifest's look-ups and inputs to the schema.

        Raises:
            CorruptData: They do not fit; the message names the feature, table or argument.
        """
        self._model, self._version = manifest.model, manifest.version
        self._schema = schema
        self._program = program
        self._router = router
        self._lookups: list[FeatureLookup] = []
        for spec in manifest.lookups:
            feature = schema.get(spec.feature)
            if feature is None:
                raise CorruptData(f"manifest: table {spec.table} is looked up by {spec.feature}, not in the schema")
            self._lookups.append(FeatureLookup(spec, feature, manifest.table(spec.table).spec))
        self._looked_up = frozenset(bound.spec.feature for bound in self._lookups)
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

    def prepare(self, requests: Rows[ReceivedColumns]) -> Ready[PreparedBatch]:
        """Prepare the requests of a batch, those of one layout and level as one; what one breaks, it breaks alone.

        Refused with `InvalidInput`: columns that do not fit the schema; the message names the feature.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault((id(request.layout), id(request.degradation)), []).append(place)
        groups: list[tuple[list[int], _Group]] = []
        refused: dict[int, Exception] = {}
        for places in alike.values():
            try:
                groups.append((places, self._prepared([requests[place] for place in places])))
            except Exception as error:
                if len(places) == 1:
                    refused[places[0]] = error
                    continue
                for place in places:
                    try:
                        groups.append(([place], self._prepared([requests[place]])))
                    except Exception as own_error:
                        refused[place] = own_error
        return Ready(_put_together(groups, requests), refused)

    def _prepared(self, requests: Rows[ReceivedColumns]) -> _Group:
        joined = ReceivedColumns.joined(requests)
        if joined.degradation is not None:
            return prepare_degraded(self._schema, joined, joined.degradation, self._looked_up, self._version)
        return self._schema.prepare_requests(*joined.columns(), joined.row_counts)

    async def pull(self, prepared: PreparedBatch, deadline_s: float) -> PulledBatch:
        """Pull the vectors of a batch in one round and lay out the program's inputs.

        Raises:
            RingpullError: What the router raised: `Unavailable` naming the table, `DeadlineExceeded`.
        """
        batch = prepared.batch
        lookups = self._lookups_of(batch)
        partial = self._partial(prepared, lookups) if prepared.defaults else {}
        asked = {number: partial[number].rest if number in partial else lookup for number, lookup in enumerate(lookups)}
        wanted = {number: lookup for number, lookup in asked.items() if lookup is not None}
        pulled: dict[int, LookupResult] = {}
        if wanted:
            answers = await self._router.pull(self._model, self._version, list(wanted.values()), deadline_s=deadline_s)
            pulled = dict(zip(wanted, answers, strict=True))
        results = [
            partial[number].completed(pulled.get(number), bound.default) if number in partial else pulled[number]
            for number, bound in enumerate(self._lookups)
        ]
        return PulledBatch(prepared, self._inputs_of(batch, results), self._unavailable(results))

    def compute(self, pulled: PulledBatch) -> dict[int, Scores]:
        """Run the dense program and cut its outputs by request, by their places among the requests prepared.

        A lost key is not traced to the request it came from: every request of the batch says that the feature may hold
        default vectors, with the batch's count.
        """
        batch = pulled.prepared.batch
        outputs = self._program.run(pulled.inputs, batch.rows)
        filled = chain.from_iterable(group.filled() for group in batch.groups)
        scores = {}
        start = 0
        for place, rows, own_filled in zip(pulled.prepared.order, batch.row_counts, filled, strict=True):
            own = {name: values[start : start + rows] for name, values in outputs.items()}
            sent, left_out = pulled.prepared.degraded.get(place, (rows, ()))
            if sent > rows:
                own = {name: _extended(values, sent) for name, values in own.items()}
            scores[place] = Scores(own, own_filled + pulled.unavailable, left_out)
            start += rows
        return scores

    async def pull_samples(self, samples: Prepared, deadline_s: float) -> PulledBatch:
        """Pull the vectors of rows that are prepared already, as one request; see `pull`."""
        batch = RequestBatch([PreparedRequests((samples.rows,), samples, Prepared(1, {}))])
        return await self.pull(PreparedBatch(batch, [0]), deadline_s)

    def rehearse(self) -> None:
        """Take one plain batch through all stages but the pull, so that no request pays for first-time work.

        Raises:
            CorruptData: The dense program does not take what its look-ups and features give.
        """
        columns = {name: encode_column(name, each) for name, each in _plain_columns(self._schema).items()}
        request = ReceivedColumns.of(pack(columns, {}), Limits(_REHEARSAL_ROWS, MAX_WIDTH))
        # Vocabularies build their look-up tables at first use: with millions of ids, seconds.
        ready = self.prepare([request, request])
        for error in ready.refused.values():
            raise CorruptData(f"{self._model}/{self._version}: its schema refuses a plain request: {error}") from error
        batch = ready.work.batch
        results = [
            LookupResult(np.zeros((lookup.outputs, bound.dim), np.float32), missing=0)
            for lookup, bound in zip(self._lookups_of(batch), self._lookups, strict=True)
        ]
        try:
            self.compute(PulledBatch(ready.work, self._inputs_of(batch, results), ()))
        except Exception as exc:
            raise CorruptData(f"{self._model}/{self._version}: the dense program does not run: {exc}") from exc

    def _lookups_of(self, batch: RequestBatch) -> list[Lookup]:
        return [bound.lookup(batch.feature(bound.spec.feature).prepared) for bound in self._lookups]

    def _partial(self, prepared: PreparedBatch, lookups: Rows[Lookup]) -> dict[int, PartialLookup]:
        """Return the look-ups, by number, of which some or all ids are not pulled."""
        partial = {}
        for number, (bound, lookup) in enumerate(zip(self._lookups, lookups, strict=True)):
            rows = withheld_rows(prepared.batch, prepared.defaults, bound.spec.feature)
            if rows is not None:
                feature = prepared.batch.feature(bound.spec.feature).prepared
                partial[number] = PartialLookup.of(lookup, feature, rows)
        return partial

    def _inputs_of(self, batch: RequestBatch, results: Rows[LookupResult]) -> list[ProgramTensor]:
        return [
            self._argument(batch, source) if isinstance(source, Argument) else self._vectors(batch, source, results)
            for source in self._inputs
        ]

    def _unavailable(self, results: Rows[LookupResult]) -> tuple[Filled, ...]:
        lost: dict[str, int] = {}
        for bound, result in zip(self._lookups, results, strict=True):
            if result.lost:
                lost[bound.spec.feature] = lost.get(bound.spec.feature, 0) + result.lost
        return tuple(Filled(feature, "unavailable", keys) for feature, keys in lost.items())

    def _vectors(self, batch: RequestBatch, lookup: int, results: Rows[LookupResult]) -> ProgramTensor:
        bound = self._lookups[lookup]
        prepared, row_index = batch.feature(bound.spec.feature)
        return ProgramTensor(bound.values(prepared, results[lookup]), row_index)

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


def _put_together(groups: Rows[tuple[list[int], _Group]], requests: Rows[ReceivedColumns]) -> PreparedBatch:
    """Return groups as one batch; each comes with the places of its requests."""
    prepared: list[PreparedRequests] = []
    defaults: list[frozenset[str]] = []
    degraded: dict[int, tuple[int, tuple[str, ...]]] = {}
    for places, group in groups:
        if isinstance(group, DegradedRequests):
            prepared.append(group.prepared)
            defaults.append(group.defaults)
            for place, phrases in zip(places, group.phrases, strict=True):
                degraded[place] = requests[place].rows, phrases
        else:
            prepared.append(group)
            defaults.append(frozenset())
    order = [place for places, _ in groups for place in places]
    return PreparedBatch(RequestBatch(prepared), order, defaults if any(defaults) else [], degraded)


def _extended(values: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return an output with NaN in the rows that were not scored."""
    extended = np.full((rows, *values.shape[1:]), np.nan, np.float32)
    extended[: len(values)] = values
    return extended


def _fixed_width(argument: Argument) -> Argument:
    """Return an argument that has a row per batch row; ragged ones have not, and cannot reach the dense program."""
    if argument.part in ("values", "offsets", "weights"):
        raise CorruptData(f"manifest: the program takes the argument {argument.name}, whose rows are of any length")
    return argument


def _plain_columns(schema: Schema) -> dict[str, Column]:
    """Return columns that any schema takes: empty bags and sequences, zeros and empty strings elsewhere."""
    rows = _REHEARSAL_ROWS
    columns: dict[str, Column] = {}
    for feature in schema.features:
        if isinstance(feature, Dense):
            columns[feature.name] = np.zeros((rows, feature.width), np.float32)
        elif isinstance(feature, Sequence) or (isinstance(feature, Sparse) and feature.many):
            columns[feature.name] = Ragged(np.empty(0, np.int64), np.zeros(rows + 1, np.int64))
        elif isinstance(feature, Sparse):
            zero = "" if feature.dtype == "string" else 0
            columns[feature.name] = np.full(rows, zero, object if feature.dtype == "string" else feature.dtype)
    return columns
