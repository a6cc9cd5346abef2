"""Constants among ids, and indexes that choose by lengths, numbers or other ids: embeddings are tables all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import RowType
from tests.inference.export.versions import assert_equal

ROWS, DIM, LENGTH, MASK = 30, 4, 5, 29

Expression = Callable[["Model"], Tensor]

USER, ITEM = Sparse("user"), Sparse("item")
HISTORY, SEEN = IdSequence("history", length=LENGTH), IdSequence("seen", length=LENGTH)
FEATURES: list[Feature] = [USER, ITEM, HISTORY, SEEN, Dense("number", width=1)]


class Model(nn.Module):
    """For each index an embedding, and an output of its vectors, each place with a weight of its own, after a tanh: no
    sum that could be pooled.
    """

    def __init__(self, indexes: Mapping[str, Expression]) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.e = nn.ModuleDict({name: nn.Embedding(ROWS, DIM) for name in indexes})
        self.out = nn.ModuleDict({name: nn.Linear(DIM, 1) for name in indexes})
        self.indexes = indexes

    def forward(
        self,
        user: Tensor,
        item: Tensor,
        history: Tensor,
        history_lengths: Tensor,
        seen: Tensor,
        seen_lengths: Tensor,
        number: Tensor,
    ) -> dict[str, Tensor]:
        self.user, self.item, self.history, self.lengths = user, item, history, history_lengths
        self.seen, self.seen_lengths, self.number = seen, seen_lengths, number[:, 0]
        self.places, self.rows = torch.arange(LENGTH), user.shape[0]
        outputs = {}
        for name, index in self.indexes.items():
            vectors = torch.tanh(self.e[name](index(self)))
            every = vectors.reshape(user.shape[0], -1, DIM).cumsum(1).cumsum(1)[:, -1]
            outputs[name] = self.out[name](every + self.e[name](user)) + number
        del self.user, self.item, self.history, self.lengths, self.seen, self.seen_lengths, self.number
        del self.places, self.rows
        return outputs


def columns(rows: int = 6, most: int = MASK) -> dict[str, Column]:
    random = np.random.default_rng(rows)
    lengths = np.array([[0, 3, 1, LENGTH, 2, LENGTH + 2], [2, 0, LENGTH, 1, LENGTH, 4]])[:, :rows]
    lists = [Ragged(random.integers(0, most, each.sum()), np.concatenate([[0], each.cumsum()])) for each in lengths]
    return {
        "user": random.integers(0, most, rows),
        "item": random.integers(0, most, rows),
        "history": lists[0],
        "seen": lists[1],
        "number": random.standard_normal((rows, 1)).astype(np.float32),
    }


def export(path: Path, module: nn.Module, features: list[Feature] = FEATURES, **more: Any) -> ExportReport:
    return export_model(module, Schema(features), path / "model", 1, quiet=True, **more)


def check(path: Path, module: nn.Module, **more: Any) -> ExportReport:
    report = export(path, module, **more)
    assert not report.kept, report.kept
    for rows in (1, 2, 6):
        assert_equal(module, Schema(FEATURES), report.path, columns(rows), rows)
    return report


def replaced(ids: Tensor, where: Any, value: Any) -> Tensor:
    ids = ids.clone()
    ids[where] = value
    return ids


def apart(indexes: Mapping[str, Expression]) -> list[Mapping[str, Expression]]:
    """Return the indexes that write in place apart from the others: torch decomposes the whole of a graph that does,
    which takes twice as long as to trace it.
    """
    in_place = {name: index for name, index in indexes.items() if "replaced" in index.__code__.co_names}
    return [in_place, {name: index for name, index in indexes.items() if name not in in_place}]


CONSTANTS: dict[str, tuple[Expression, int]] = {
    "a_token_in_front": (lambda m: torch.cat([torch.full((m.rows, 1), MASK), m.history], 1), 1),
    "a_token_behind": (lambda m: torch.cat([m.history, m.history.new_full((m.rows, 1), 3)], -1), 1),
    "a_token_from_a_parameter": (lambda m: torch.cat([torch.tensor([[MASK]]).expand(m.rows, 1), m.history], 1), 1),
    "like_an_id": (lambda m: torch.stack([m.item, torch.full_like(m.item, 7), torch.zeros_like(m.item)], 1), 1),
    "padding": (lambda m: F.pad(m.history, (0, 2), value=MASK), 1),
    "padding_on_both_sides": (lambda m: F.pad(m.history, (1, 2), value=4), 1),
    "shifted": (lambda m: torch.cat([torch.full((m.rows, 1), 1), m.history[:, :-1]], 1), 1),
    "shifted_in_place": (lambda m: replaced(m.history.roll(1, 1), (slice(None), 0), MASK), 1),
    "shifted_by_slices": (
        lambda m: replaced(torch.zeros_like(m.history), (slice(None), slice(1, None)), m.history[:, :-1]),
        1,
    ),
    "the_first_of_two": (lambda m: replaced(torch.stack([m.item, m.user], 1), (slice(None), 0), 9), 1),
    "places_of_a_list": (lambda m: replaced(m.history, (slice(None), [0, 2]), torch.tensor([4, 5])), 1),
    "a_triangle": (lambda m: torch.tril(m.history.unsqueeze(1).expand(-1, LENGTH, -1)), 1),
    "a_kept_part": (lambda m: torch.where(torch.tensor([True, False, True, True, False]), m.history, 2), 1),
    "turned": (lambda m: torch.cat([torch.full((1, m.rows), 6), m.history.T], 0).T, 1),
}
"""Indexes with constants at places that are the same in all rows, and how many look-ups there are but the user's."""


@pytest.mark.medium
def test_constants_among_ids_are_no_lookups(tmp_path: Path) -> None:
    for number, indexes in enumerate(apart({name: index for name, (index, _) in CONSTANTS.items()})):
        report = check(tmp_path / str(number), Model(indexes))
        looked_up = Counter(each.table for each in report.manifest.lookups)
        for name in indexes:
            assert 1 <= looked_up[f"e.{name}"] <= 1 + CONSTANTS[name][1], name


CHOICES: dict[str, Expression] = {
    "by_lengths": lambda m: torch.where(m.places < m.lengths[:, None], m.history, MASK),
    "filled_by_lengths": lambda m: m.history.masked_fill(m.places >= m.lengths[:, None], 0),
    "multiplied_by_a_mask": lambda m: m.history * (m.places < m.lengths[:, None]),
    "multiplied_by_a_mask_of_numbers": lambda m: (m.places < m.lengths.unsqueeze(1)).long() * m.history,
    "by_a_number": lambda m: torch.where(m.number > 0, m.item, 0),
    "by_a_number_of_a_sequence": lambda m: torch.where(m.number[:, None] > 0, m.history, m.seen),
    "by_another_sequence": lambda m: torch.where(m.seen > 9, m.history, MASK),
    "by_all_ids_of_the_row": lambda m: torch.where((m.history > 4).any(1, keepdim=True), m.history, 8),
    "ids_or_another_id": lambda m: torch.where(m.places == m.lengths[:, None], m.item[:, None], m.history),
    "nested": lambda m: torch.where(
        m.places < m.lengths[:, None], torch.where(m.seen > 9, m.history, m.seen), torch.full_like(m.history, 2)
    ),
    "and_then_added_to": lambda m: torch.where(m.places < m.lengths[:, None], m.history, 0).add(1) % ROWS,
    "and_then_cut": lambda m: torch.where(m.places < m.lengths[:, None], m.history, 1)[:, -3:],
    "and_then_laid_out": lambda m: torch.where(m.places < m.lengths[:, None], m.history, m.seen).flatten().view(-1, 5),
    "and_then_joined": lambda m: torch.cat(
        [torch.full((m.rows, 1), MASK), torch.where(m.places < m.lengths[:, None], m.history, 1), m.item[:, None]], 1
    ),
    "a_token_behind_a_history": lambda m: replaced(F.pad(m.history, (0, 1)), (torch.arange(m.rows), m.lengths), MASK),
    "the_last_of_a_history": lambda m: replaced(m.history, (torch.arange(m.rows), (m.lengths - 1).clamp(min=0)), MASK),
    "an_id_behind_a_history": lambda m: replaced(F.pad(m.history, (0, 1)), (torch.arange(m.rows), m.lengths), m.item),
    "scattered": lambda m: F.pad(m.history, (0, 1)).scatter(1, m.lengths[:, None], MASK),
    "an_id_scattered": lambda m: F.pad(m.history, (0, 1)).scatter(1, m.lengths[:, None], m.item[:, None]),
    "by_a_mask_in_place": lambda m: replaced(m.history, m.places >= m.lengths[:, None], MASK),
    "converted": lambda m: torch.where(m.places < m.lengths[:, None], m.history.float(), 3.0).long(),
    "clamped_lengths": lambda m: m.history.masked_fill(m.places >= m.lengths.clamp(min=1)[:, None], 5),
}
"""Indexes whose elements depend on more than the ids of their place."""


@pytest.mark.slow
def test_what_chooses_by_something_else_looks_up_both(tmp_path: Path) -> None:
    for number, indexes in enumerate(apart(CHOICES)):
        check(tmp_path / str(number), Model(indexes))


class Tokens(nn.Module):
    """Rows of the item table at constants, besides look-ups of it."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.out = nn.Embedding(ROWS, DIM), nn.Linear(DIM, 1)
        self.register_buffer("tokens", torch.tensor([[MASK, 3], [3, 0]]))

    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        start = self.e(history.new_full((item.shape[0], 1), MASK))
        vectors = torch.cat([start, self.e(history), self.e(torch.full_like(item, 2)).unsqueeze(1)], 1)
        tokens = self.e(self.tokens).sum(0)[0] + self.e(torch.tensor(1))
        return self.out(torch.tanh(vectors).cumsum(1)[:, -1] + self.e(item) + tokens)


TWO: list[Feature] = [ITEM, HISTORY]


def two(rows: int) -> dict[str, Column]:
    return {name: column for name, column in columns(rows).items() if name in ("item", "history")}


@pytest.mark.medium
@pytest.mark.parametrize("row_type", ["float32", "int8"])
def test_a_table_that_constants_look_up_needs_no_copy(tmp_path: Path, row_type: str) -> None:
    module = Tokens()
    report = export(tmp_path, module, TWO, tables={"e": TableOptions(row_type=RowType(row_type))})
    assert [each.reason for each in report.kept] == []
    assert len(report.manifest.lookups) == 2
    if row_type == "float32":
        for rows in (1, 6):
            assert_equal(module, Schema(TWO), report.path, two(rows), rows)


class MixedTypes(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.e = nn.Embedding(ROWS, DIM).to(dtype)

    def forward(self, item: Tensor, history: Tensor, history_lengths: Tensor) -> Tensor:
        kept = torch.where(torch.arange(LENGTH) < history_lengths[:, None], history, 3)
        vectors = self.e(torch.cat([torch.full_like(item, MASK)[:, None], kept, item[:, None]], 1))
        return torch.tanh(vectors).cumsum(1)[:, -1].sum(1).float()


@pytest.mark.medium
@pytest.mark.parametrize("row_type", ["float32", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_constants_are_rounded_as_the_rows_of_their_table(tmp_path: Path, dtype: torch.dtype, row_type: str) -> None:
    report = export(tmp_path, MixedTypes(dtype), TWO, tables={"e": TableOptions(row_type=RowType(row_type))})
    assert not report.kept


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.e = nn.EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=3)

    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        return self.e(
            torch.cat([torch.full_like(item, MASK)[:, None], history, torch.full((1,), 3).expand(item.shape[0], 1)], 1)
        ).sum(1)


@pytest.mark.medium
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_may_have_constants(tmp_path: Path, mode: str) -> None:
    module = Bag(mode)
    report = export(tmp_path, module, TWO)
    assert not report.kept
    for rows in (1, 6):
        assert_equal(module, Schema(TWO), report.path, two(rows), rows)


PADDED: list[Feature] = [ITEM, IdSequence("history", length=LENGTH, pad=-1)]


class Negative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(ROWS, DIM)

    def forward(self, item: Tensor, history: Tensor, history_lengths: Tensor) -> Tensor:
        kept = torch.where(torch.arange(LENGTH) < history_lengths[:, None], history, 3)
        return torch.tanh(self.e(kept)).cumsum(1)[:, -1].sum(1) + self.e(item).sum(1)


@pytest.mark.medium
def test_padding_that_is_never_chosen_needs_no_row(tmp_path: Path) -> None:
    module = Negative()
    report = export(tmp_path, module, PADDED)
    assert not report.kept
    assert_equal(module, Schema(PADDED), report.path, two(6), 6)


BEYOND: dict[str, tuple[Expression, str]] = {
    "a_constant_beyond": (lambda m: torch.cat([m.history, torch.full((m.rows, 1), ROWS)], 1), "index is constant"),
    "lengths": (lambda m: torch.where(m.number > 0, m.lengths, m.item), "which holds no ids"),
    "accumulated": (
        lambda m: m.history.index_put((torch.arange(m.rows), m.lengths.clamp(max=4)), m.item * 0, accumulate=True),
        "index_put",
    ),
    "rows_mixed": (lambda m: torch.where(m.number > 0, m.item.flip(0), m.item), "different rows"),
}


@pytest.mark.medium
def test_what_no_lookups_can_say_stays(tmp_path: Path) -> None:
    kept = export(tmp_path, Model({name: index for name, (index, _) in BEYOND.items()}), check_rows=0).kept
    reasons = {each.name.removeprefix("e."): each.reason for each in kept}
    assert reasons.keys() == BEYOND.keys()
    for name, (_, reason) in BEYOND.items():
        assert reason in reasons[name]
