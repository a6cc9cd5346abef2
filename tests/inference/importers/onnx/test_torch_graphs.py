"""Models as torch writes them to ONNX: DLRM, DIN, NCF, embedding bags, held against torch itself."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from ringpull import Dense, IdSequence, Ragged, Schema, Sparse
from tests.inference.importers.onnx.graphs import imported

pytestmark = pytest.mark.medium


def _graph(
    module: nn.Module, arguments: Sequence[Tensor], names: Sequence[str], *, one_row: bool = False
) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {} if one_row else {name: {0: f"{name}_rows"} for name in (*names, "score")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(arguments),
            file,  # type: ignore[arg-type]
            dynamo=False,
            input_names=list(names),
            output_names=["score"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


class _Dlrm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 8) for size in (100, 50, 300))
        self.bottom, self.top = nn.Linear(5, 8), nn.Linear(14, 1)

    def forward(self, dense: Tensor, c0: Tensor, c1: Tensor, c2: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        rows = [table(ids) for table, ids in zip(self.tables, (c0, c1, c2), strict=True)]
        stacked = torch.stack([bottom, *rows], 1)
        first, second = torch.tril_indices(4, 4, -1)
        crossed = (stacked @ stacked.transpose(1, 2))[:, first, second]
        score: Tensor = torch.sigmoid(self.top(torch.cat([bottom, crossed], 1)))
        return score[:, 0]


class _Din(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item, self.category = nn.Embedding(1000, 8, padding_idx=0), nn.Embedding(40, 4)
        self.attention = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
        self.out = nn.Linear(20, 1)

    def forward(self, item: Tensor, category: Tensor, history: Tensor) -> Tensor:
        query, keys = self.item(item), self.item(history)
        wide = query.unsqueeze(1).expand_as(keys)
        weights = self.attention(torch.cat([wide, keys, wide - keys, wide * keys], -1)).squeeze(-1)
        weights = weights.masked_fill(history == 0, -1e9).softmax(-1)
        interest = (weights.unsqueeze(-1) * keys).sum(1)
        score: Tensor = torch.sigmoid(self.out(torch.cat([query, interest, self.category(category)], 1)))
        return score


class _Ncf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(100, 8), nn.Embedding(200, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        score: Tensor = torch.sigmoid(self.out(self.users(user) * self.items(item)))
        return score.squeeze(-1)


class _Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.EmbeddingBag(50, 4, mode="mean", include_last_offset=True)
        self.weighted = nn.EmbeddingBag(60, 4, mode="sum")
        self.out = nn.Linear(8, 1)

    def forward(self, a: Tensor, a_offsets: Tensor, b: Tensor, b_offsets: Tensor, b_weights: Tensor) -> Tensor:
        bags = [self.mean(a.clamp(0, 49), a_offsets), self.weighted(b, b_offsets, b_weights)]
        score: Tensor = self.out(torch.cat(bags, 1))
        return score


def _ids(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.int64)


def test_dlrm_din_and_ncf_score_as_in_torch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cases: dict[str, tuple[nn.Module, list[Tensor], Schema, list[str]]] = {
        "dlrm": (
            _Dlrm(),
            [torch.rand(2, 5), _ids(2), _ids(2), _ids(2)],
            Schema([Dense("dense", 5), Sparse("c0"), Sparse("c1"), Sparse("c2")]),
            ["tables.0", "tables.1", "tables.2"],
        ),
        "din": (
            _Din(),
            [_ids(2), _ids(2), _ids(2, 6)],
            Schema([Sparse("item"), Sparse("category"), IdSequence("history", 6)]),
            ["item", "category"],
        ),
        "ncf": (_Ncf(), [_ids(2), _ids(2)], Schema([Sparse("user"), Sparse("item")]), ["users", "items"]),
    }
    for name, (module, arguments, schema, tables) in cases.items():
        names = [each.name for each in schema.features]
        version = imported(tmp_path / name, _graph(module, arguments, names), schema)
        assert sorted(version.tables) == sorted(tables), name
        columns = {
            each.name: random.standard_normal((9, each.width), np.float32)
            if isinstance(each, Dense)
            else random.integers(0, 40, (9, each.length) if isinstance(each, IdSequence) else 9)
            for each in schema.features
        }
        with torch.no_grad():
            expected = module(*(torch.tensor(columns[each]) for each in names)).numpy()
        found = version.score(columns, 9)["score"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_embedding_bags_score_as_in_torch(tmp_path: Path) -> None:
    """Bags are loops in ONNX: weighted, clamped and empty ones."""
    module = _Bags()
    arguments = [_ids(3), torch.tensor([0, 2, 3]), _ids(3), torch.tensor([0, 2]), torch.rand(3)]
    names = ["a", "a_offsets", "b", "b_offsets", "b_weights"]
    schema = Schema([Sparse("a", many=True), Sparse("b", many=True, weighted=True, include_last_offset=False)])
    version = imported(tmp_path, _graph(module, arguments, names), schema)
    assert sorted(version.tables) == ["mean", "weighted"]
    assert not [each for each in version.manifest.inputs if each.argument]
    weights = np.array([0.5, -1, 2], np.float32)
    columns = {
        "a": Ragged.from_lists([[1, 70, -3], [], [5]]),
        "b": Ragged(np.array([59, 0, 3]), np.array([0, 2, 3, 3]), weights),
    }
    with torch.no_grad():
        expected = module(
            torch.tensor([1, 70, -3, 5]),
            torch.tensor([0, 3, 3, 4]),
            torch.tensor([59, 0, 3]),
            torch.tensor([0, 2, 3]),
            torch.tensor(weights),
        )
    np.testing.assert_allclose(version.score(columns, 3)["score"], expected.numpy(), rtol=1e-5, atol=1e-6)


class _SequenceBags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.means, self.most = nn.EmbeddingBag(50, 4), nn.EmbeddingBag(50, 4, mode="max")
        self.single = nn.EmbeddingBag(60, 4, mode="sum")

    def forward(self, seen: Tensor, bought: Tensor, item: Tensor) -> Tensor:
        single = self.single(item, torch.arange(item.shape[0]))
        return torch.cat([self.means(seen % 50), self.most(bought), single], 1)


def test_bags_of_sequences_and_of_single_ids_are_tables(tmp_path: Path) -> None:
    """Their loops have no offsets of a feature: all places of a row are a bag, padded ones too."""
    module = _SequenceBags()
    graph = _graph(module, [_ids(3, 4), _ids(3, 2), _ids(3)], ["seen", "bought", "item"])
    columns = {name: np.random.default_rng(0).integers(0, 50, (5, n)) for name, n in (("seen", 4), ("bought", 2))}
    columns["item"] = np.array([0, 59, 3, 3, 7])
    with torch.no_grad():
        expected = module(*(torch.tensor(each) for each in columns.values())).numpy()
    schema = Schema([IdSequence("seen", 4), IdSequence("bought", 2), Sparse("item")])
    for given in (schema, None):
        version = imported(tmp_path / f"given_{given is not None}", graph, given)
        assert version.schema == schema
        assert sorted(version.tables) == ["means", "most", "single"]
        np.testing.assert_allclose(version.score(columns, 5)["score"], expected, rtol=1e-5, atol=1e-6)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(50, 8), nn.Embedding(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(48, 1)

    def forward(self, history: Tensor) -> Tensor:
        rows = self.items(history) + self.positions(torch.arange(6))
        mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
        score: Tensor = self.out(self.attention(rows, rows, rows, attn_mask=mask, need_weights=False)[0].view(1, 48))
        return score


def test_shapes_of_one_row_are_opened_to_any(tmp_path: Path) -> None:
    """Such a graph has the batch in its Reshapes as a 1, as a factor of heads, and of places."""
    module = _Attention()
    version = imported(
        tmp_path, _graph(module, [_ids(1, 6)], ["history"], one_row=True), Schema([IdSequence("history", 6)])
    )
    assert sorted(version.tables) == ["items"]
    ids = np.random.default_rng(0).integers(0, 50, (7, 6))
    with torch.no_grad():
        expected = np.concatenate([module(torch.tensor(ids[row : row + 1])).numpy() for row in range(7)])
    np.testing.assert_allclose(version.score({"history": ids}, 7)["score"], expected, rtol=1e-5, atol=1e-6)
