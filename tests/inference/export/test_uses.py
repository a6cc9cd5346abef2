"""The ways a model may use an embedding: each is exported and must score as the module does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export.versions import assert_equal

ROWS = 12
DIM = 4

USER, A, B, C = Sparse("user"), Sparse("a"), Sparse("b"), Sparse("c")
BAG = Sparse("bag", many=True)
HISTORY = IdSequence("history", length=5)


class Model(nn.Module):
    """A model with one embedding `e`; the forward is given by each subclass."""

    def __init__(self, embedding: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.e = nn.Embedding(ROWS, DIM) if embedding is None else embedding
        self.out = nn.Linear(DIM, 1)


def export(
    tmp_path: Path, module: nn.Module, features: list[Feature], stacks: dict[str, list[str]] | None = None, **more: Any
) -> ExportReport:
    """Export, then compare with the module on raw columns of 1, 2 and 5 rows, empty bags among them."""
    schema = Schema(features, stacks or {})
    report = export_model(module, schema, tmp_path / "model", 1, check_rows=12, quiet=True, **more)
    for rows in (1, 2, 5):
        assert_equal(module, schema, report.path, columns_of(features, rows), rows)
    return report


def columns_of(features: list[Feature], rows: int) -> dict[str, Column]:
    random = np.random.default_rng(rows)
    columns: dict[str, Column] = {}
    for feature in features:
        if isinstance(feature, Cross):
            continue
        if isinstance(feature, Dense):
            columns[feature.name] = random.standard_normal((rows, feature.width), np.float32)
        elif isinstance(feature, IdSequence) or feature.many:
            lengths = random.integers(0, 5, rows)
            lengths[-1] = 0
            size = int(lengths.sum())
            weights = random.standard_normal(size, np.float32) if getattr(feature, "weighted", False) else None
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            columns[feature.name] = Ragged(random.integers(0, 6, size), offsets, weights)
        else:
            columns[feature.name] = random.integers(0, 6, rows)
    return columns


def lookups(report: ExportReport) -> list[tuple[str, Pooling, int]]:
    return [(each.feature, each.pooling, each.add) for each in report.manifest.lookups]


def only(report: ExportReport) -> LookupSpec:
    (lookup,) = report.manifest.lookups
    return lookup


# -- shapes, casts and constants ---------------------------------------------------------------------------------------


class Shapes(Model):
    def forward(self, x: Tensor, user: Tensor, history: Tensor) -> Tensor:
        first, *_ = torch.chunk(x, 3, dim=1)
        second = torch.unbind(x, 1)[1]
        vectors = self.e(first.squeeze(1)) + self.e(second.int()) + self.e(x[:, -1])
        vectors = vectors + self.e(x.view(-1)).view(x.shape[0], -1, DIM).sum(1)
        vectors = vectors + self.e(x.flatten().to(torch.int32)).reshape(-1, 3, DIM).mean(1)
        vectors = vectors + self.e(x.T).sum(0) + self.e(x[:, ::2].contiguous()).sum(1)
        vectors = vectors + self.e(torch.stack([user, second], dim=-1)).amax(1) + self.e(user[:, None]).squeeze(-2)
        vectors = (
            vectors + self.e(torch.cat([x, history], dim=1)).mean(1) + self.e(history[:, 1:3].unsqueeze(-1)).sum((1, 2))
        )
        return self.out(vectors)


@pytest.mark.medium
def test_ids_may_be_reshaped_and_cast(tmp_path: Path) -> None:
    report = export(tmp_path, Shapes(), [USER, A, B, C, HISTORY], {"x": ["a", "b", "c"]})
    assert lookups(report) == [(name, Pooling.NONE, 0) for name in ("a", "b", "c", "user", "history")]
    assert not report.kept


class Fields(Model):
    def __init__(self) -> None:
        super().__init__(nn.Embedding(3 * ROWS, DIM))
        self.register_buffer("starts", torch.tensor([0, ROWS, 2 * ROWS]))

    def forward(self, x: Tensor, user: Tensor) -> Tensor:
        x = x + self.starts.unsqueeze(0)
        return self.out(self.e(x).sum(1) + self.e(user + 7 - 2))


@pytest.mark.medium
def test_added_constants_become_key_transforms(tmp_path: Path) -> None:
    report = export(tmp_path, Fields(), [USER, A, B, C], {"x": ["a", "b", "c"]})
    assert {(each.feature, each.add) for each in report.manifest.lookups} == {
        ("a", 0), ("b", ROWS), ("c", 2 * ROWS), ("user", 5),
    }  # fmt: skip


class InPlace(Fields):
    def forward(self, x: Tensor, user: Tensor) -> Tensor:
        x += self.starts
        moved = user.clone()
        moved.add_(3)
        return self.out(self.e(x).sum(1) + self.e(moved))


@pytest.mark.medium
def test_constants_added_in_place_are_seen(tmp_path: Path) -> None:
    report = export(tmp_path, InPlace(), [USER, A, B, C], {"x": ["a", "b", "c"]})
    assert {each.add for each in report.manifest.lookups if each.feature in ("b", "user")} == {ROWS, 3}


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(ROWS, DIM) for _ in range(3)])
        self.out = nn.Linear(DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(sum(table(x[:, column]) for column, table in enumerate(self.tables)))


@pytest.mark.medium
def test_a_column_of_a_stack_is_looked_up_only_where_it_is_used(tmp_path: Path) -> None:
    report = export(tmp_path, Loop(), [A, B, C], {"x": ["a", "b", "c"]})
    assert [(each.table, each.feature) for each in report.manifest.lookups] == [
        ("tables.0", "a"), ("tables.1", "b"), ("tables.2", "c"),
    ]  # fmt: skip


class Crossed(Model):
    def forward(self, a_x_b: Tensor) -> Tensor:
        return self.out(self.e(a_x_b))


def test_a_cross_is_looked_up_like_any_id(tmp_path: Path) -> None:
    report = export(tmp_path, Crossed(), [A, B, Cross("a_x_b", of=("a", "b"), buckets=ROWS)])
    assert only(report).feature == "a_x_b"


# -- bags --------------------------------------------------------------------------------------------------------------


class RaggedBag(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        return self.out(self.e(bag, bag_offsets))


@pytest.mark.medium
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [True, False], ids=["last_offset", "no_last_offset"])
@pytest.mark.parametrize("padding", [None, 2])
def test_ragged_bags_are_pooled_by_the_pull(tmp_path: Path, mode: str, last: bool, padding: int | None) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode=mode, include_last_offset=last, padding_idx=padding)
    if padding is not None:
        nn.init.normal_(embedding.weight)
    report = export(tmp_path, RaggedBag(embedding), [Sparse("bag", many=True, include_last_offset=last)])
    expected = LookupSpec(table="e", feature="bag", pooling=Pooling(mode), padding_id=padding)
    assert only(report) == expected


class WeightedBag(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor, bag_weights: Tensor) -> Tensor:
        return self.out(self.e(bag + 1, bag_offsets[:-1], per_sample_weights=bag_weights))


@pytest.mark.medium
def test_weights_of_a_bag_travel_with_its_ids(tmp_path: Path) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=4)
    report = export(tmp_path, WeightedBag(embedding), [Sparse("bag", many=True, weighted=True)])
    assert only(report) == LookupSpec(table="e", feature="bag", pooling=Pooling.SUM, add=1, padding_id=3, weighted=True)


class OnlyBags(Model):
    def forward(self, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        rows = bag_offsets.shape[0] - 1
        return self.out(self.e(bag, bag_offsets)).view(rows) + torch.zeros(rows)


@pytest.mark.medium
def test_a_model_of_bags_alone_takes_its_rows_from_the_offsets(tmp_path: Path) -> None:
    export(tmp_path, OnlyBags(nn.EmbeddingBag(ROWS, DIM, include_last_offset=True)), [BAG])


class SequenceBag(Model):
    def forward(self, history: Tensor) -> Tensor:
        return self.out(self.e(history))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("pad", [0, 3])
def test_a_sequence_whose_padding_is_left_out_is_pooled_by_the_pull(tmp_path: Path, mode: str, pad: int) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=pad)
    report = export(tmp_path, SequenceBag(embedding), [IdSequence("history", length=5, pad=pad)])
    assert only(report) == LookupSpec(table="e", feature="history", pooling=Pooling(mode), padding_id=pad)


@pytest.mark.medium
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3], ids=["no_padding", "other_padding"])
def test_a_sequence_whose_padding_counts_is_pooled_with_it(tmp_path: Path, mode: str, padding: int | None) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=padding)
    report = export(tmp_path, SequenceBag(embedding), [HISTORY])
    assert only(report) == LookupSpec(table="e", feature="history", pooling=Pooling(mode), padding_id=padding)


class StackBag(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.e(x, per_sample_weights=None if self.e.mode != "sum" else x.float() / 3 + 1))


@pytest.mark.medium
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_over_a_stack(tmp_path: Path, mode: str) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=2)
    nn.init.normal_(embedding.weight)
    report = export(tmp_path, StackBag(embedding), [A, B, C], {"x": ["a", "b", "c"]})
    assert lookups(report) == [(name, Pooling.NONE, 0) for name in "abc"]


class SingleBag(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(user.unsqueeze(1)))


@pytest.mark.medium
@pytest.mark.parametrize("padding", [None, 2])
def test_a_bag_of_one_id(tmp_path: Path, padding: int | None) -> None:
    embedding = nn.EmbeddingBag(ROWS, DIM, mode="mean", padding_idx=padding)
    nn.init.normal_(embedding.weight)
    report = export(tmp_path, SingleBag(embedding), [USER])
    assert (only(report).pooling, only(report).padding_id) == (
        (Pooling.NONE, None) if padding is None else (Pooling.MEAN, padding)
    )


class OwnOffsets(Model):
    def forward(self, history: Tensor) -> Tensor:
        rows, length = history.shape
        return self.out(self.e(history.reshape(-1), torch.arange(0, rows * length, length, device=history.device)))


def test_offsets_made_by_the_model_are_understood(tmp_path: Path) -> None:
    report = export(tmp_path, OwnOffsets(nn.EmbeddingBag(ROWS, DIM, padding_idx=0)), [HISTORY])
    assert only(report).pooling is Pooling.MEAN


# -- sequences, sharing, what stays ------------------------------------------------------------------------------------


class Unpooled(Model):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:
        seen = torch.arange(history.shape[1]) < history_lengths.unsqueeze(1)
        return self.out((self.e(history) * seen.unsqueeze(-1)).sum(1) + self.e(history)[:, -1])


@pytest.mark.medium
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_places_of_a_sequence_hold_the_padding_row(tmp_path: Path, side: Any) -> None:
    module = Unpooled()
    report = export(tmp_path, module, [IdSequence("history", length=5, pad=9, pad_side=side)])
    assert only(report).fill == tuple(module.e.weight[9].tolist())


class Shared(Model):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Embedding(ROWS, DIM)
        self.same.weight = self.e.weight
        self.bag = nn.EmbeddingBag(ROWS, DIM, include_last_offset=True)
        self.bag.weight = self.e.weight

    def forward(self, user: Tensor, a: Tensor, bag: Tensor, bag_offsets: Tensor) -> Tensor:
        return self.out(self.same(user) + self.e(a) + self.same(a) + self.bag(bag, bag_offsets))


@pytest.mark.medium
def test_a_shared_weight_is_one_table_of_the_first_name(tmp_path: Path) -> None:
    report = export(tmp_path, Shared(), [USER, A, BAG])
    assert [table.name for table in report.tables] == ["e"]
    assert sorted(lookups(report)) == [("a", Pooling.NONE, 0), ("bag", Pooling.MEAN, 0), ("user", Pooling.NONE, 0)]


class Parameter(Model):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, user: Tensor) -> Tensor:
        with torch.no_grad():
            vectors = nn.functional.embedding(user, self.table)
        return self.out(vectors)


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer, torch.Tensor.clone], ids=["parameter", "buffer", "tensor"])
def test_any_tensor_looked_up_is_a_table(tmp_path: Path, kind: Any) -> None:
    assert only(export(tmp_path, Parameter(kind(torch.randn(ROWS, DIM))), [USER])).table == "table"


class Stays(Model):
    def __init__(self) -> None:
        super().__init__()
        self.computed = nn.Embedding(10, DIM)
        self.position, self.scaled = nn.Embedding(3, DIM), nn.Embedding(ROWS, DIM)

    def forward(self, user: Tensor, a: Tensor) -> Tensor:
        vectors = self.e(user) + self.computed(user.double().sqrt().long())
        vectors = vectors + self.position(torch.tensor([2])) + nn.functional.embedding(a, self.scaled.weight * 2)
        return self.out(vectors)


@pytest.mark.medium
def test_what_a_pull_cannot_express_stays_in_the_program_with_its_reason(tmp_path: Path) -> None:
    report = export(tmp_path, Stays(), [USER, A])
    assert [table.name for table in report.tables] == ["e", "scaled.computed"]
    reasons = {kept.name: kept.reason for kept in report.kept}
    assert set(reasons) == {"computed", "position"}
    assert "its index is computed, by aten.sqrt" in reasons["computed"]
    assert "constant" in reasons["position"]


class Outputs(Model):
    def forward(self, user: Tensor, user_age: Tensor, unused: Tensor | None = None) -> dict[str, Tensor]:
        vectors = self.e(user)
        return {"score": self.out(vectors).squeeze(-1).double(), "vector": vectors, "age": user_age}


@pytest.mark.medium
def test_outputs_keep_their_names_and_shapes(tmp_path: Path) -> None:
    report = export(tmp_path, Outputs(), [USER, Dense("user_age")])
    assert [(output.name, output.shape) for output in report.manifest.outputs] == [
        ("score", ()), ("vector", (DIM,)), ("age", (1,)),
    ]  # fmt: skip


class Recurrent(Model):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(DIM, DIM, batch_first=True)

    def forward(self, history: Tensor) -> Tensor:
        states, _ = self.gru(self.e(history))
        return self.out(states[:, -1])


@pytest.mark.medium
def test_a_recurrent_model(tmp_path: Path) -> None:
    export(tmp_path, Recurrent(), [HISTORY])
