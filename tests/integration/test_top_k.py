"""Top-k over gRPC, head and three shards, against numpy: vectors, keys, a model whose output layer is a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull import IdSequence, Schema, export_model, export_tables
from ringpull.inference.client.client import Client
from ringpull.ps.errors import InvalidInput, LimitExceeded
from tests.integration.local import local_cluster

pytestmark = [pytest.mark.net, pytest.mark.medium]

ITEMS, DIM, K = 500, 8, 7
TEXTS = [f"item {place}" for place in range(ITEMS)]


class NextItem(nn.Module):
    """A sequence model with a tied output layer: scores of every item but the padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.item = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.bias = nn.Parameter(torch.randn(ITEMS))
        self.rest = nn.Linear(DIM, DIM)

    def forward(self, history: Tensor) -> dict[str, Tensor]:
        query = torch.tanh(self.rest(self.item(history).sum(1)))
        scores = query @ self.item.weight.T
        return {"scores": scores[:, 1:], "biased": scores / 2 + self.bias}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    found = np.random.default_rng(2).normal(size=(ITEMS, DIM)).astype(np.float32)
    found[100:110] = found[50]  # of one score
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("models")
    tables: dict[str, Any] = {
        "by_text": (TEXTS, rows),
        "by_number": (np.arange(ITEMS, dtype=np.uint64) + np.uint64(2**64 - ITEMS), rows),
    }
    feed = export_tables(tables, folder / "feed", 1, quiet=True)
    schema = Schema([IdSequence("history", length=5, pad=0)])
    ranked = ["scores", "biased"]
    report = export_model(
        NextItem().eval(), schema, folder / "next", 1, ranked=ranked, max_dense_bytes=0, check_rows=8, quiet=True
    )
    with local_cluster([feed.path, report.path], shards=3) as cluster, cluster.client() as client:
        yield client


def best(scores: np.ndarray, k: int, keys: np.ndarray) -> list[int]:
    """Keys by score, ties by key as unsigned."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], int(keys[place]) & (2**64 - 1)))
    return [int(keys[place]) for place in order[:k]]


def test_vectors_and_keys_are_ranked_exactly(client: Client, rows: np.ndarray) -> None:
    keys = np.arange(ITEMS, dtype=np.uint64) + np.uint64(2**64 - ITEMS)
    queries = rows[[3, 50]] + np.float32(0.25)
    normal = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for metric, own in (("dot", rows), ("cosine", normal)):
        answer = client.top_k("feed", "by_number", queries, K, metric=metric)
        for place, query in enumerate(queries):
            scores = own @ (query if metric == "dot" else query / np.linalg.norm(query))
            scores[100:110] = scores[50]  # numpy sums equal rows in other orders
            assert answer.keys[place].tolist() == best(scores, K, keys)
            np.testing.assert_allclose(answer.scores[place], np.sort(scores)[::-1][:K], rtol=1e-5)
    like = client.top_k("feed", "by_number", like=keys[[50]], k=K, metric="cosine")
    assert like.keys[0].tolist() == [*keys[100:107].tolist()]
    assert like.found is not None
    assert like.found.all()
    assert (
        client.top_k("feed", "by_number", like=keys[[50]], k=1, keep_self=True, metric="cosine").keys[0, 0] == keys[50]
    )


def test_strings(client: Client, rows: np.ndarray) -> None:
    wanted = np.argsort(-(rows @ rows[7]))[:K]
    answer = client.top_k("feed", "by_text", rows[7], K)
    assert answer.hashed
    assert answer.with_texts(TEXTS).keys[0].tolist() == [TEXTS[place] for place in wanted]
    some = [*TEXTS[:40], "nothing"]
    answer = client.top_k("feed", "by_text", rows[7], 3, among=some, exclude=[TEXTS[wanted[0]]])
    order = [place for place in np.argsort(-(rows[:40] @ rows[7])) if place != wanted[0]]
    assert answer.keys[0].tolist() == [TEXTS[place] for place in order[:3]]
    like = client.top_k("feed", "by_text", like="item 9", query_table="by_text", keep_self=True)
    assert like.items() == client.top_k("feed", "by_text", rows[9]).items()


def test_the_next_item_of_a_sequence(client: Client) -> None:
    histories = [[3, 4, 5], [77], [400, 401, 402, 403, 404]]
    padded = torch.tensor([[*each, *[0] * (5 - len(each))] for each in histories])
    with torch.no_grad():
        own = NextItem().eval()(padded)
    for output, first, table in (("scores", 1, "item"), ("biased", 0, "item.ranked")):
        answer = client.top_k("next", features={"history": histories}, output=output, k=K)
        assert answer.table == table
        scores, places = own[output].topk(K)
        assert answer.keys.tolist() == (places + first).tolist()
        np.testing.assert_allclose(answer.scores, scores.numpy(), rtol=1e-4, atol=1e-5)
    seen = client.top_k("next", features={"history": histories}, output="scores", k=K, exclude=histories)
    assert not any(set(keys) & set(each) for keys, each in zip(seen.keys.tolist(), histories, strict=True))
    assert client.top_k("next", "item", features={"history": histories}).keys.shape == (3, 10)
    with pytest.raises(InvalidInput, match="table: name the one whose rows are ranked"):
        client.top_k("next", features={"history": histories})


def test_limits_are_the_heads(client: Client) -> None:
    with pytest.raises(LimitExceeded, match="k: is 10001; the most is 10000"):
        client.top_k("feed", "by_text", np.ones(DIM), 10_001)
    assert client.top_k("feed", "by_text", np.ones(DIM), 10_000).counts.tolist() == [ITEMS]
