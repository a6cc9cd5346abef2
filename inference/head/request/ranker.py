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
from ringpull.inference.head.request.rows_by_key import REPLY_BYTES
from ringpull.inference.head.request.top_k import FLOAT32_BYTES, KEY_BYTES, TopKRequest, check_vectors, with_more
from ringpull.inference.key_types import check_key_type
from ringpull.inference.model.manifest import Manifest, ProgramOutput, TableEntry
from ringpull.inference.top_k_answer import TopK
from ringpull.ps.errors import InvalidInput, LimitExceeded
from ringpull.ps.spec import KeyType, Pooling
from ringpull.ps.top_k_messages import MAX_LISTED_KEYS, scan_cost
from ringpull.router.lookup import Lookup
from ringpull.router.top_k import KeyLists, TopKQuery, TopKResult

BYTES_OF_COST: Final = 512
"""Cost of a scan (`scan_cost`) that shards are through with in the time in which a head reads a byte of a message: some
7 GB/s against 4 KiB in 0.3 ms (`ringpull.inference.head.admission`)."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    """A request that fits its tables: what it needs."""

    table: TableEntry
    """Table whose rows are ranked."""
    query_table: TableEntry | None
    """Table that has the queries by key; None: they are no keys."""
    output: ProgramOutput | None
    """Output that is the queries; None: they are none."""
    rows: int
    """Rows that are looked at, each as often as there are queries for it."""
    room: int
    """Bytes of the reply, of the lists as shards have them, and of what shards answer until it is merged."""
    cost: float
    """Work of the shards, in bytes of a request's message that take a head as long."""


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
        self._outputs: Final[Mapping[str, ProgramOutput]] = {each.name: each for each in manifest.outputs}
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
        entry = self._reader.entry(request.table or self._table_of(request))
        spec = entry.spec
        if spec.is_bytes:
            raise InvalidInput(f"table {spec.name} has rows of bytes, which are no vectors and have no score")
        request.check()
        query_table, output = None, None
        if request.vectors is not None:
            check_vectors(request.vectors, spec.dim, spec.name)
        elif request.like is not None:
            query_table = self._query_table(request, entry)
        else:
            output = self._output(request.output, entry)
            if output.ranks is not None and output.ranks.table == spec.name and request.metric != "dot":
                raise InvalidInput(
                    f"metric: output {output.name} is made for dot products, which are the model's scores"
                )
        queries, rows = request.queries, entry.rows * request.queries
        cost = scan_cost(entry.rows, spec, queries)
        left_out = _left_out(output, entry)
        listed = len(left_out) * queries
        if left_out and request.exclude is not None:
            self._check_excluded(request, listed)
        for name, lists in (("exclude", request.exclude), ("among", request.among)):
            if lists is not None:
                check_key_type(name, lists.key_type, spec)
                listed += len(lists.keys) * (queries if lists.offsets is None else 1)
        if request.among is not None:
            rows = min(rows, len(request.among.keys) * (queries if request.among.offsets is None else 1))
            cost = scan_cost(rows, spec, 1)
        reply = queries * request.k * (KEY_BYTES + FLOAT32_BYTES) + REPLY_BYTES
        if reply > max_reply_bytes:
            raise LimitExceeded(
                f"k: {request.k} rows for each of {queries} queries have {reply} bytes; max_message_bytes is"
                f" {max_reply_bytes}, of the reply, too; ask for fewer"
            )
        room = reply + KEY_BYTES * listed + self._router.top_k_bytes(entry.rows, queries, request.k)
        return RankPlan(entry, query_table, output, rows, room, cost / BYTES_OF_COST)

    def _query_table(self, request: TopKRequest, ranked: TableEntry) -> TableEntry:
        assert request.like is not None
        entry = self._reader.entry(request.like.table or request.table)
        spec, dim = entry.spec, ranked.spec.dim
        if spec.dim != dim:
            has = f"vectors of {spec.dim} numbers" if spec.dim else "rows of bytes"
            raise InvalidInput(f"query_table: {spec.name} has {has}; the rows of {ranked.spec.name} have {dim}")
        check_key_type("like", request.like.key_type, spec)
        if entry is ranked and not request.like.keep_self:
            self._check_excluded(request, request.queries)
        return entry

    @staticmethod
    def _check_excluded(request: TopKRequest, more: int) -> None:
        exclude = request.exclude
        given = 0 if exclude is None else len(exclude.keys) * (request.queries if exclude.offsets is None else 1)
        if given + more > MAX_LISTED_KEYS:
            raise LimitExceeded(
                f"exclude: {given} keys, and {more} that are left out anyhow; the most is {MAX_LISTED_KEYS} in all"
            )

    def _table_of(self, request: TopKRequest) -> str:
        """Return the table that is ranked by an output, of a request that names none."""
        tables = {each.name: each.ranks.table for each in self._outputs.values() if each.ranks is not None}
        named = {tables[request.output]} if request.output in tables else set(tables.values())
        if request.columns is None or len(named) != 1:
            known = ", ".join(self._reader.tables) or "none"
            raise InvalidInput(f"table: name the one whose rows are ranked; {self._model}/{self._version} has: {known}")
        return named.pop()

    def _output(self, name: str, ranked: TableEntry) -> ProgramOutput:
        """Return the output that is the queries of a table: the one that is named, made for it, or fits alone."""
        dim, table = ranked.spec.dim, ranked.spec.name
        version, outputs = f"{self._model}/{self._version}", self._outputs
        if not outputs:
            raise InvalidInput(f"features: {version} has tables only, and computes no query of them")
        if name:
            if name not in outputs:
                raise InvalidInput(
                    f"output: {version} has no output {name!r:.80}; it has: {', '.join(sorted(outputs))}"
                )
            if outputs[name].shape != (dim,):
                shape = outputs[name].shape
                raise InvalidInput(
                    f"output: {name} has rows of the shape {shape}; those of table {table} have {dim} numbers"
                )
            return outputs[name]
        made = [each for each in outputs.values() if each.ranks is not None and each.ranks.table == table]
        fitting = made if len(made) == 1 else [each for each in outputs.values() if each.shape == (dim,)]
        if len(fitting) != 1:
            names = ", ".join(sorted(each.name for each in fitting))
            raise InvalidInput(
                f"output: {len(fitting)} outputs of {version} have as many numbers as rows of table {table}, {dim};"
                f" name the one that is the query{': ' if fitting else ''}{names}"
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
            query = TopKQuery(
                table=plan.table.spec.name,
                vectors=queries.vectors,
                k=request.k,
                metric=request.metric,
                exclude=_excluded(request, plan, many),
                among=None if request.among is None else request.among.laid_out(many),
            )
            result = await self._router.top_k(self._model, self._version, query, deadline_s=deadline_s)
        return self._answer(request, plan, queries, result, request_id)

    async def _queries(self, request: TopKRequest, plan: RankPlan, scores: Scores | None, deadline_s: float) -> Queries:
        if request.vectors is not None:
            return Queries(np.ascontiguousarray(request.vectors))
        if scores is not None:
            assert plan.output is not None
            vectors = np.ascontiguousarray(scores.outputs[plan.output.name], np.float32)
            _check_finite(vectors, f"output {plan.output.name} of row")
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
            table=plan.table.spec.name,
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


def _excluded(request: TopKRequest, plan: RankPlan, queries: int) -> KeyLists | None:
    """Return what is excluded for each query: keys of the request, a key's own row, what the model does not score."""
    found = None if request.exclude is None else request.exclude.laid_out(queries)
    if request.like is not None and plan.query_table is plan.table and not request.like.keep_self:
        found = with_more(found, request.like.keys[:, None])
    if left_out := _left_out(plan.output, plan.table):
        found = with_more(found, np.tile(np.array(left_out, np.int64).view(np.uint64), (queries, 1)))
    return found


def _left_out(output: ProgramOutput | None, table: TableEntry) -> tuple[int, ...]:
    """Return the keys of rows that the model does not score, of an output that is made for a table."""
    ranks = None if output is None else output.ranks
    return ranks.left_out if ranks is not None and ranks.table == table.spec.name else ()


def _check_finite(vectors: NDArray[np.float32], what: str) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InvalidInput(f"{what} {int(np.argmin(finite))} holds NaN or an infinity: nothing can be ranked by it")
