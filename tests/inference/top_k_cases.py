"""Top-k of the served small model as sorting finds it, and tables with keys of any type beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.model.manifest import Manifest, TableEntry
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.schema import Schema
from ringpull.inference.top_k_answer import TopK
from ringpull.ps.spec import KeyType, TableSpec
from tests.inference.fakes import best_rows
from tests.inference.served import Served
from tests.inference.small_model import DIM, make_tables
from tests.reference import ReferenceTable

RNG = np.random.default_rng(3)
QUERIES = RNG.normal(size=(4, DIM)).astype(np.float32)


def expected(table: str, vectors: Any, k: int, metric: str = "dot", **lists: Any) -> list[list[tuple[int, float]]]:
    """The answer as sorting finds it: of each query its keys and scores."""
    exclude, among = lists.get("exclude"), lists.get("among")
    return [
        [(key, score) for score, key in best_rows(make_tables()[table], vector, metric, exclude, among)[:k]]
        for vector in np.atleast_2d(vectors)
    ]


def check(answer: TopK, wanted: list[list[tuple[int, float]]]) -> None:
    assert [[key for key, _ in each] for each in answer.items()] == [[key for key, _ in each] for each in wanted]
    for found, sought in zip(answer.items(), wanted, strict=True):
        np.testing.assert_allclose([score for _, score in found], [score for _, score in sought], rtol=1e-6)
    assert answer.counts.tolist() == [len(each) for each in wanted]


@asynccontextmanager
async def keyed_by(served: Served, kind: KeyType, keys: Any, **others: Any) -> AsyncIterator[ServedVersion]:
    """Serve model `feed`, whose table `t` has rows of 2 numbers with these keys, the first number 1, 2, 3 and so on."""
    rows = np.array([[place + 1, 1] for place in range(len(keys))], np.float32)
    served.router.tables["t"] = ReferenceTable.from_arrays(keys, rows)
    spec = TableSpec(name="t", dim=2, key_type=kind, **others)
    entry = TableEntry(spec=spec, path="x", rows=len(keys), bytes=1)
    manifest = Manifest(model="feed", version=1, created="now", tables=(entry,))
    with ThreadPoolExecutor(1) as executor:
        loaded = LoadedVersion(Path("feed/1"), manifest, Schema.without_features(), None)
        version = ServedVersion(loaded, served.router, executor, max_batch_rows=8)
        served.catalog.add(version)
        served.catalog.show({"ranker": 3, "feed": 1}, [("ranker", 3), ("feed", 1)])
        yield version
        await version.close(timeout_s=60)
