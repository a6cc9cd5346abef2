"""A router and a dense program without processes or torch: what the head's own code is tested with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.model.dense_program import ProgramTensor, RuntimeFacts
from ringpull.ps.errors import Unavailable
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import Pooling, TableSpec
from ringpull.router.lookup import Absent, Lookup, LookupResult
from ringpull.router.pushed_rows import PushedRows, PushResult
from ringpull.router.shard_map import ShardMap
from ringpull.router.top_k import KeyLists, TopKQuery, TopKResult
from ringpull.router.top_k_merge import merge_bytes
from tests.reference import ReferenceTable


class ReferenceRouter:
    """Answers pulls from reference tables, and remembers what was asked."""

    def __init__(self, tables: Mapping[str, ReferenceTable]) -> None:
        self.tables = dict(tables)
        self.pulls: list[Sequence[Lookup]] = []
        self.lost: dict[str, int] = {}
        """Table -> keys that its look-ups report as lost."""
        self.ranked: list[TopKQuery] = []
        self.lost_slots = 0
        self.pushed: list[PushedRows] = []
        self.shards = 1
        self.map: ShardMap | None = None

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float, max_reply_bytes: int = 0
    ) -> list[LookupResult]:
        self.pulls.append(lookups)
        return [self._answer(lookup) for lookup in lookups]

    async def top_k(self, model: str, version: int, query: TopKQuery, *, deadline_s: float) -> TopKResult:
        table = self.tables[query.table]
        self.ranked.append(query)
        query.check(TableSpec(name=query.table, dim=len(table.default)))
        shape = (len(query.vectors), query.k)
        result = TopKResult(
            np.zeros(shape, np.uint64), np.full(shape, -np.inf, np.float32), np.zeros(shape[0], np.int64)
        )
        counts = []
        for place, vector in enumerate(query.vectors):
            best = best_rows(table, vector, query.metric, listed(query.exclude, place), listed(query.among, place))
            best = best[: query.k]
            counts.append(len(best))
            for at, (score, key) in enumerate(best):
                result.keys[place, at], result.scores[place, at] = key, score
        return replace(result, counts=np.array(counts, np.int64), lost=self.lost_slots)

    async def push(self, pushed: PushedRows, *, deadline_s: float) -> PushResult:
        self.pushed.append(pushed)
        return PushResult(stamp={0: len(self.pushed)}, rows=len(np.unique(pushed.keys)), new_keys=0, repeated=0)

    @property
    def shard_map(self) -> ShardMap:
        if self.map is None:
            raise Unavailable("this router has no shard map yet")
        return self.map

    def top_k_bytes(self, rows: int, queries: int, k: int) -> int:
        return merge_bytes(self.shards, rows, queries, k)

    def _answer(self, lookup: Lookup) -> LookupResult:
        table = self.tables[lookup.table]
        rows, found = table.pull(lookup.keys)
        missing, lost = int((~found).sum()), self.lost.get(lookup.table, 0)
        if lookup.pooling is Pooling.NONE:
            return LookupResult(rows, missing, found, lost)
        assert lookup.offsets is not None
        pooled = table.pull_bags(lookup.keys, lookup.offsets, lookup.pooling, lookup.weights)
        bags = np.repeat(np.arange(lookup.outputs), np.diff(lookup.offsets))
        absent = Absent(bags[~found], positions_of(lookup.keys[~found])) if missing else None
        return LookupResult(pooled.astype(np.float32), missing, None, lost, absent=absent)


def listed(lists: KeyLists | None, query: int) -> set[int] | None:
    """The keys of one query's list."""
    if lists is None:
        return None
    return {int(key) for key in lists.keys[lists.offsets[query] : lists.offsets[query + 1]]}


def best_rows(
    table: ReferenceTable, vector: NDArray[np.float32], metric: str, exclude: set[int] | None, among: set[int] | None
) -> list[tuple[float, int]]:
    """All rows that may be in an answer with their scores, best first, ties by key: one at a time, in Python."""
    found = []
    for key, row in table.rows.items():
        if (exclude is not None and key in exclude) or (among is not None and key not in among):
            continue
        score = float(np.dot(row.astype(np.float64), vector.astype(np.float64)))
        if metric == "cosine":
            norms = float(np.linalg.norm(row.astype(np.float64)) * np.linalg.norm(vector.astype(np.float64)))
            score = score / norms if norms else 0.0
        found.append((score, key))
    return sorted(found, key=lambda each: (-each[0], each[1]))


class EchoProgram:
    """Gives every input back as an output `input0`, `input1`, ..., one row per batch row."""

    def __init__(self) -> None:
        self.runs: list[tuple[Sequence[ProgramTensor], int]] = []
        self.device = "cpu"
        self.writer = ""
        self.runtime = RuntimeFacts(name="torch", version="2.9.1", provider="cpu", threads=1)

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        self.runs.append((inputs, rows))
        outputs = {}
        for place, tensor in enumerate(inputs):
            values = tensor.values if tensor.row_index is None else tensor.values[tensor.row_index]
            assert len(values) == rows, f"input {place} has {len(values)} rows of {rows}"
            outputs[f"input{place}"] = values.astype(np.float32)
        return outputs
