"""Ranking the rows of one version's tables: a request becomes queries, and one top-k of the shards.

It rides in no micro-batch: shards look at every row of the table for it, which is nothing that others could share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.pipeline import Scores
from ringpull.inference.head.request.in_flight import InFlight
from ringpull.inference.head.request.row_reader import Puller, RowReader
from ringpull.inference.head.request.rows_by_key import REPLY_BYTES, check_key_type
from ringpull.inference.head.request.top_k import FLOAT32_BYTES, KEY_BYTES, TopKRequest, check_vectors, without_own
from ringpull.inference.model.manifest import Manifest, TableEntry
from ringpull.inference.top_k_answer import TopK
from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import KeyType, Pooling
from ringpull.router.lookup import Lookup
from ringpull.router.top_k import MAX_LISTED_KEYS, TopKQuery, TopKResult

BYTES_OF_COST: Final = 512
"""Bytes of rows that shards look at in the time in which a head reads a byte of a prediction's message: some 8 GB/s
against 4 KiB in 0.3 ms (`ringpull.inference.head.admission`)."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    """A request that fits its tables: what it needs."""

    table: TableEntry
    """Table whose rows are ranked."""
    query_table: TableEntry | None
    """Table that has the queries by key; None: they are no keys."""
    output: str
    """Output that is the queries; empty: they are none."""
    rows: int
    """Rows that are looked at, each as often as there are queries for it."""
    room: int
    """Bytes of the reply, and of the lists as shards have them."""

    @property
    def cost(self) -> float:
        """Work of the shards, in bytes of a prediction's message that take a head as long."""
        return self.rows * self.table.row_bytes / BYTES_OF_COST


class Queries(NamedTuple):
    """Queries as numbers, and what is to be said of them."""

    vectors: NDArray[np.float32]
    """(Q, dim)."""
    found: NDArray[np.bool_] | None = None
    """(Q,): whether the table has the key that the query is; None: it is no key."""
    lost: int = 0
    """Keys that no live shard could answer for."""
    scores: Scores | None = None
    """Scores of the model that they are of; None: they are of none."""


class Ranker:
    """Ranks the rows of one version. Owned by the event loop."""

    def __init__(self, manifest: Manifest, reader: RowReader, router: Puller) -> None:
        self._model, self._version = manifest.model, manifest.version
        self._reader = reader
        self._router = router
        self._shapes: Final[Mapping[str, tuple[int, ...]]] = {each.name: each.shape for each in manifest.outputs}
        self._in_flight = InFlight()

    def __repr__(self) -> str:
        return f"<Ranker {self._model}/{self._version} {self._in_flight!r}>"

    def plan(self, request: TopKRequest, max_reply_bytes: int) -> RankPlan:
        """Check a request against the tables, and return what it needs.

        Raises:
            NotFound: The version has no such table; the message says which it has.
            InvalidInput: Queries, keys or output do not fit the table; the message names which.
            LimitExceeded: It asks for too much at once, or the reply would be too long.
        """
        self._in_flight.check_open()
        entry = self._reader.entry(request.table)
        spec = entry.spec
        if spec.is_bytes:
            raise InvalidInput(f"table {spec.name} has rows of bytes, which are no vectors and have no score")
        request.check()
        query_table, output = None, ""
        if request.vectors is not None:
            check_vectors(request.vectors, spec.dim, spec.name)
        elif request.like is not None:
            query_table = self._query_table(request, entry)
        else:
            output = self._output(request.output, entry)
        queries, listed, rows = request.queries, 0, entry.rows * request.queries
        for name, lists in (("exclude", request.exclude), ("among", request.among)):
            if lists is not None:
                check_key_type(name, lists.key_type, spec)
                listed += len(lists.keys) * (queries if lists.offsets is None else 1)
        if request.among is not None:
            rows = min(rows, len(request.among.keys) * (queries if request.among.offsets is None else 1))
        reply = queries * request.k * (KEY_BYTES + FLOAT32_BYTES) + REPLY_BYTES
        if reply > max_reply_bytes:
            raise LimitExceeded(
                f"k: {request.k} rows for each of {queries} queries have {reply} bytes; max_message_bytes is"
                f" {max_reply_bytes}, of the reply, too; ask for fewer"
            )
        return RankPlan(entry, query_table, output, rows, reply + KEY_BYTES * listed)

    def _query_table(self, request: TopKRequest, ranked: TableEntry) -> TableEntry:
        assert request.like is not None
        entry = self._reader.entry(request.like.table or request.table)
        spec, dim = entry.spec, ranked.spec.dim
        if spec.dim != dim:
            has = f"vectors of {spec.dim} numbers" if spec.dim else "rows of bytes"
            raise InvalidInput(f"query_table: {spec.name} has {has}; the rows of {ranked.spec.name} have {dim}")
        check_key_type("like", request.like.key_type, spec)
        if entry is ranked and not request.like.keep_self and request.exclude is not None:
            self._check_listed(len(request.exclude.keys), request)
        return entry

    def _check_listed(self, keys: int, request: TopKRequest) -> None:
        each = request.queries if request.exclude is not None and request.exclude.offsets is None else 1
        if keys * each + request.queries > MAX_LISTED_KEYS:
            raise LimitExceeded(f"exclude: {keys * each} keys, and those of the queries; the most is {MAX_LISTED_KEYS}")

    def _output(self, name: str, ranked: TableEntry) -> str:
        """Return the output that is the queries of a table."""
        dim, table = ranked.spec.dim, ranked.spec.name
        if not self._shapes:
            raise InvalidInput(
                f"features: {self._model}/{self._version} has tables only, and computes no query of them"
            )
        if name:
            if name not in self._shapes:
                known = ", ".join(sorted(self._shapes))
                raise InvalidInput(f"output: {self._model}/{self._version} has no output {name!r:.80}; it has: {known}")
            if self._shapes[name] != (dim,):
                raise InvalidInput(
                    f"output: {name} has rows of the shape {self._shapes[name]}; those of table {table} have {dim}"
                    " numbers"
                )
            return name
        fitting = [each for each, shape in self._shapes.items() if shape == (dim,)]
        if len(fitting) != 1:
            raise InvalidInput(
                f"output: {len(fitting)} outputs of {self._model}/{self._version} have as many numbers as rows of table"
                f" {table}, {dim}; name the one that is the query{': ' if fitting else ''}{', '.join(sorted(fitting))}"
            )
        return fitting[0]

    async def rank(
        self,
        request: TopKRequest,
        plan: RankPlan,
        scores: Scores | None = None,
        *,
        deadline_s: float,
        request_id: str = "",
    ) -> TopK:
        """Return the rows of a request that `plan` has passed.

        Args:
            scores: Scores of the request's columns, where its queries are an output.
            request_id: Id that the answer is to have.

        Raises:
            InvalidInput: A query that was pulled or computed is not finite.
            DeadlineExceeded: The deadline passed first.
            Unavailable: The head is stopping, or no live shard has a part of the table, whose policy is to fail.
        """
        with self._in_flight:
            queries = await self._queries(request, plan, scores, deadline_s)
            many = len(queries.vectors)
            exclude = None if request.exclude is None else request.exclude.laid_out(many)
            if request.like is not None and plan.query_table is plan.table and not request.like.keep_self:
                exclude = without_own(exclude, request.like.keys)
            query = TopKQuery(
                table=request.table,
                vectors=queries.vectors,
                k=request.k,
                metric=request.metric,
                exclude=exclude,
                among=None if request.among is None else request.among.laid_out(many),
            )
            result = await self._router.top_k(self._model, self._version, query, deadline_s=deadline_s)
        return self._answer(request, plan, queries, result, request_id)

    async def _queries(self, request: TopKRequest, plan: RankPlan, scores: Scores | None, deadline_s: float) -> Queries:
        if request.vectors is not None:
            return Queries(np.ascontiguousarray(request.vectors))
        if scores is not None:
            vectors = np.ascontiguousarray(scores.outputs[plan.output], np.float32)
            _check_finite(vectors, f"output {plan.output} of row")
            return Queries(vectors, scores=scores)
        assert request.like is not None
        assert plan.query_table is not None
        lookup = Lookup(plan.query_table.spec.name, Pooling.NONE, request.like.keys)
        [pulled] = await self._router.pull(self._model, self._version, [lookup], deadline_s=deadline_s)
        _check_finite(pulled.values, "like: the row of key number")
        return Queries(pulled.values, pulled.found, pulled.lost)

    def _answer(
        self, request: TopKRequest, plan: RankPlan, queries: Queries, result: TopKResult, request_id: str
    ) -> TopK:
        key_type = plan.table.spec.key_type
        found = queries.found
        return TopK(
            model=self._model,
            version=self._version,
            table=request.table,
            keys=result.keys.view(np.int64) if key_type is KeyType.INT64 else result.keys,
            scores=result.scores,
            counts=result.counts,
            hashed=key_type is KeyType.STRING,
            found=found,
            missing=0 if found is None else int(len(found) - found.sum()),
            lost=result.lost,
            lost_queries=queries.lost,
            filled=() if queries.scores is None else queries.scores.filled,
            unknown=() if queries.scores is None else tuple(each.told(False) for each in queries.scores.unknown),
            request_id=request_id,
        )

    async def close(self, timeout_s: float) -> None:
        """Take no more requests and wait until those here are answered, for at most `timeout_s`."""
        await self._in_flight.close(timeout_s)


def _check_finite(vectors: NDArray[np.float32], what: str) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InvalidInput(f"{what} {int(np.argmin(finite))} holds NaN or an infinity: nothing can be ranked by it")
