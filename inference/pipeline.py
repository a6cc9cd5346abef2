"""The way of a micro-batch through one model version: prepared requests -> one pull -> the dense program -> scores.

    prepare   columns of one request -> ids and numbers       (event loop, per request: bad input fails alone)
    pull      batch -> look-ups -> router -> program inputs   (event loop; one pull for all tables and requests)
    compute   program inputs -> outputs, cut per request      (worker thread)

Rows stay in the order of the requests. Context columns are looked up once per request and reach the program as one
row with an index. Look-ups and inputs are bound to the schema once, when the version is loaded: a manifest that does
not fit its schema never serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.arguments import Argument
from inference.batch import RequestBatch
from inference.columns import Column, Ragged
from inference.dense import ProgramTensor
from inference.features import Prepared, PreparedRequest
from inference.kinds import Dense, Sequence, Sparse
from inference.lookups import FeatureLookup
from inference.manifest import Manifest
from inference.prediction import Filled
from inference.schema import Schema
from ps.errors import CorruptData, InvalidInput
from router.lookup import Lookup, LookupResult

_REHEARSAL_ROWS: Final = 2
"""More than one: exported programs treat one row specially."""


class Puller(Protocol):
    """What the pipeline needs of a router."""

    async def pull(
        self, model: str, version: int, lookups: Rows[Lookup], *, deadline_s: float
    ) -> list[LookupResult]: ...


class Program(Protocol):
    """What the pipeline needs of a dense program."""

    def run(self, inputs: Rows[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class PulledBatch:
    """A batch whose vectors are here: all the dense program needs."""

    batch: RequestBatch
    inputs: list[ProgramTensor]
    unavailable: tuple[Filled, ...]
    """Features whose rows no live shard had."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The outputs of one request, and the features that were filled in."""

    outputs: dict[str, NDArray[np.float32]]
    """By name, (rows, ...): views of the batch's outputs."""
    filled: tuple[Filled, ...]


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

    def prepare(self, candidates: Mapping[str, Column], context: Mapping[str, Column]) -> PreparedRequest:
        """Prepare one request: candidate columns of B rows each, context columns of one.

        Raises:
            InvalidInput: The columns do not fit the schema, or there are no candidates. The message names the feature.
        """
        if not candidates:
            raise InvalidInput("features: there are no candidate columns; send at least one, with a row per candidate")
        return self._schema.prepare_request(candidates, context, len(next(iter(candidates.values()))))

    async def pull(self, requests: Rows[PreparedRequest], deadline_s: float) -> PulledBatch:
        """Pull the vectors of a batch in one round and lay out the program's inputs.

        Raises:
            RingpullError: What the router raised: `Unavailable` naming the table, `DeadlineExceeded`.
        """
        batch = RequestBatch(requests)
        lookups = self._lookups_of(batch)
        results: list[LookupResult] = []
        if lookups:
            results = await self._router.pull(self._model, self._version, lookups, deadline_s=deadline_s)
        return PulledBatch(batch, self._inputs_of(batch, results), self._unavailable(results))

    def compute(self, pulled: PulledBatch) -> list[Scores]:
        """Run the dense program and cut its outputs by request, in their order.

        A lost key is not traced to the request it came from: every request of the batch says that the feature may hold
        default vectors, with the batch's count.
        """
        batch = pulled.batch
        outputs = self._program.run(pulled.inputs, batch.rows)
        scores = []
        start = 0
        for request in batch.requests:
            end = start + request.candidates.rows
            own = {name: values[start:end] for name, values in outputs.items()}
            scores.append(Scores(own, request.context.filled + request.candidates.filled + pulled.unavailable))
            start = end
        return scores

    def rehearse(self) -> None:
        """Take one plain batch through all stages but the pull, so that no request pays for first-time work.

        Raises:
            CorruptData: The dense program does not take what its look-ups and features give.
        """
        columns = _plain_columns(self._schema, _REHEARSAL_ROWS)
        # Vocabularies build their look-up tables at first use: with millions of ids, seconds.
        request = PreparedRequest(self._schema.prepare(columns, _REHEARSAL_ROWS), Prepared(1, {}))
        batch = RequestBatch([request])
        results = [
            LookupResult(np.zeros((lookup.outputs, bound.dim), np.float32), missing=0)
            for lookup, bound in zip(self._lookups_of(batch), self._lookups, strict=True)
        ]
        try:
            self.compute(PulledBatch(batch, self._inputs_of(batch, results), ()))
        except Exception as exc:
            raise CorruptData(f"{self._model}/{self._version}: the dense program does not run: {exc}") from exc

    def _lookups_of(self, batch: RequestBatch) -> list[Lookup]:
        return [bound.lookup(batch.feature(bound.spec.feature).prepared) for bound in self._lookups]

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


def _fixed_width(argument: Argument) -> Argument:
    """Return an argument that has a row per batch row; ragged ones have not, and cannot reach the dense program."""
    if argument.part in ("values", "offsets", "weights"):
        raise CorruptData(f"manifest: the program takes the argument {argument.name}, whose rows are of any length")
    return argument


def _plain_columns(schema: Schema, rows: int) -> dict[str, Column]:
    """Return columns that any schema takes: empty bags and sequences, zeros and empty strings elsewhere."""
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
