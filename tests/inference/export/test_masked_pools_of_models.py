"""Pools of models of other shapes: largest ones, bags, side by side, of any floats, of computed rows; and no pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.report import ExportReport
from ringpull.inference.model.manifest import KeptBy
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export.masked_pools import DIM, LENGTH, MASKS, ROWS, Sums, assert_scores, export, inside, rows_of

pytestmark = pytest.mark.medium


class One(nn.Module):
    """A model with one embedding `e`, and what a function makes of its vectors, ids and lengths."""

    def __init__(self, make: Callable[..., Tensor], rows: int = ROWS, dim: int = DIM) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.e = nn.Embedding(rows, dim)
        self.other = nn.Embedding(rows, dim)
        self.make = make

    def forward(self, h: Tensor, h_lengths: Tensor, a: Tensor) -> Tensor:
        return self.make(self.e(h), h, h_lengths, self.other(a))


def scored(tmp_path: Path, make: Callable[..., Tensor], length: int = LENGTH, pad: int = 0, **more: Any) -> list[Any]:
    """Export a model of one function, hold it against its module, and return pooling, padding and unpadded of `e`."""
    schema = Schema([IdSequence("h", length, pad=pad), Sparse("a")])
    module = One(make)
    report = export(tmp_path, module, schema, **more)
    for rows in (1, 150):
        columns = rows_of(rows, length)
        assert_scores(module, schema, report, {**columns, "a": np.arange(rows) % ROWS})
    looked_up = [each for each in report.manifest.lookups if each.table == "e"]
    return [(each.pooling.value, each.padding_id, each.unpadded) for each in looked_up]


class Several(nn.Module):
    """A model with an embedding and an output for each of several functions, as `One` has one."""

    def __init__(self, makes: Mapping[str, Callable[..., Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.e = nn.ModuleDict({name: nn.Embedding(ROWS, DIM) for name in makes})
        self.other = nn.Embedding(ROWS, DIM)
        self.makes = makes

    def forward(self, h: Tensor, h_lengths: Tensor, a: Tensor) -> dict[str, Tensor]:
        other = self.other(a)
        return {name: make(self.e[name](h), h, h_lengths, other) for name, make in self.makes.items()}


def pooled_in(report: ExportReport) -> dict[str, list[Any]]:
    """Return pooling, padding and unpadded of the look-ups of each embedding `e.NAME`, by the name."""
    pooled: dict[str, list[Any]] = {}
    for each in report.manifest.lookups:
        if each.table.startswith("e."):
            of_name = pooled.setdefault(each.table.removeprefix("e."), [])
            of_name.append((each.pooling.value, each.padding_id, each.unpadded))
    return pooled


def all_scored(tmp_path: Path, makes: Mapping[str, Callable[..., Tensor]], pad: int = 0) -> dict[str, list[Any]]:
    """Export a model of functions, hold it against its module, and return `pooled_in` its version."""
    schema, module = Schema([IdSequence("h", LENGTH, pad=pad), Sparse("a")]), Several(makes)
    report = export(tmp_path, module, schema)
    for rows in (1, 150):
        assert_scores(module, schema, report, {**rows_of(rows), "a": np.arange(rows) % ROWS})
    return pooled_in(report)


LOWEST: Final[dict[str, Sums]] = {
    "infinite": lambda e, keep: e.masked_fill(~keep.unsqueeze(-1), float("-inf")).amax(1).clamp(min=-9),
    "where": lambda e, keep: torch.where(keep.unsqueeze(-1), e, torch.tensor(-1e9)).max(1).values / 1e8,
    "minus_1e9": lambda e, keep: (
        torch.max(e - (1 - keep.float().unsqueeze(2)) * 1e9, dim=1, keepdim=True)[0][:, 0] / 1e8
    ),
    "mended": lambda e, keep: torch.nan_to_num(
        e.masked_fill(~keep.unsqueeze(-1), float("-inf")).max(dim=1)[0], neginf=0.0
    ),
}


def test_the_largest_of_what_is_kept_is_a_pull(tmp_path: Path) -> None:
    expected = {"not_pad": ("max", 3, False), "lengths": ("max", None, True)}

    def largest(lowest: Sums, mask: str) -> Callable[..., Tensor]:
        return lambda e, h, n, a: lowest(e, MASKS[mask][0](h, n))

    makes = {f"{way}_{mask}": largest(LOWEST[way], mask) for way in LOWEST for mask in expected}
    pooled = all_scored(tmp_path, makes, pad=3)
    assert pooled == {f"{way}_{mask}": [expected[mask]] for way in LOWEST for mask in expected}


def test_the_largest_of_all_is_a_pull_with_padding(tmp_path: Path) -> None:
    assert scored(tmp_path, lambda e, h, n, a: e.amax(1)) == [("max", None, False)]


ELSEWISE: Final[dict[str, Callable[..., Tensor]]] = {
    "attention": lambda e, h, n, a: ((e @ a.unsqueeze(-1)).softmax(1) * e).sum(1),
    "masked_attention": lambda e, h, n, a: (
        (e * a.unsqueeze(1)).sum(-1).masked_fill(h == 0, -1e9).softmax(-1).unsqueeze(-1) * e
    ).sum(1),
    "weights_of_another_feature": lambda e, h, n, a: (e * a[:, None, :1]).sum(1),
    "mask_of_the_target": lambda e, h, n, a: (e * (a[:, :1] > h)[:, :, None]).sum(1),
    "decay": lambda e, h, n, a: (e * (0.9 ** torch.arange(LENGTH))[:, None]).sum(1),
    "decay_by_length": lambda e, h, n, a: (e * (n[:, None] - torch.arange(LENGTH))[:, :, None].relu()).sum(1),
    "some_places": lambda e, h, n, a: e[:, :3].sum(1),
    "one_place": lambda e, h, n, a: e.sum(1) + e[:, -1],
    "two_ids": lambda e, h, n, a: (e * ((h != 3) & (h != 7)).unsqueeze(-1)).sum(1),
    "a_range_of_ids": lambda e, h, n, a: (e * (h < 5).unsqueeze(-1)).sum(1),
    "each_id_once": lambda e, h, n, a: (e * (torch.cat([h[:, :1] + 1, h[:, :-1]], 1) != h).unsqueeze(-1)).sum(1),
    "weights_of_ids": lambda e, h, n, a: (e * (h.float() / 7).unsqueeze(-1)).sum(1),
    "largest_id": lambda e, h, n, a: (e * (h == h.max(1, keepdim=True).values).unsqueeze(-1)).sum(1),
    "squares": lambda e, h, n, a: (e * e).sum(1),
    "activation": lambda e, h, n, a: (e.relu() * (h != 0).unsqueeze(-1)).sum(1),
    "norm": lambda e, h, n, a: nn.functional.normalize(e, dim=-1).sum(1),
    "sum_of_numbers": lambda e, h, n, a: e.sum(-1),
    "factorisation_machine": lambda e, h, n, a: e.sum(1).pow(2) - e.pow(2).sum(1),
    "largest_masked_by_0": lambda e, h, n, a: (e * (h != 0).unsqueeze(-1)).amax(1),
    "place_of_the_largest": lambda e, h, n, a: e.max(1).indices.float(),
    "all_pulls": lambda e, h, n, a: torch.stack([(e * (h != k).unsqueeze(-1)).sum(1) for k in range(LENGTH + 1)], 1),
    "columns_mixed": lambda e, h, n, a: torch.cat([e[:, :, 2:], e[:, :, :2]], -1).sum(1),
}


def test_anything_else_is_looked_up_unpooled(tmp_path: Path) -> None:
    assert all_scored(tmp_path, ELSEWISE) == {what: [("none", None, False)] for what in ELSEWISE}


SHORT_OR_LONG: Final[dict[str, tuple[torch.dtype, Callable[..., Tensor]]]] = {
    "short_16": (torch.bfloat16, lambda e, h: (e * (h != 0).unsqueeze(-1)).sum(1) / 2),
    "half_16": (torch.float16, lambda e, h: torch.bmm((h != 0).to(e.dtype).unsqueeze(1), e).squeeze(1)),
    "long_64": (torch.float64, lambda e, h: (e * (h != 0).unsqueeze(-1)).sum(1) / ((h != 0).sum(1, keepdim=True) + 1)),
    "the_largest": (torch.bfloat16, lambda e, h: e.masked_fill((h == 0).unsqueeze(-1), -1e9).amax(1).clamp(min=-1)),
    "cast": (torch.float32, lambda e, h: (e.half() * (h != 0).unsqueeze(-1)).sum(1)),
    "cast_from": (torch.bfloat16, lambda e, h: (e.float() * (h != 0).unsqueeze(-1)).sum(1)),
}  # fmt: skip


class OfTypes(nn.Module):
    """A history of vectors of several types, all whole eighths, so that no sum of them is rounded in any."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.e = nn.ModuleDict({case: nn.Embedding(ROWS, DIM) for case in SHORT_OR_LONG})
        for case, (dtype, _) in SHORT_OR_LONG.items():
            self.e[case].weight.data = (torch.randint(-8, 9, (ROWS, DIM)) / 8).to(dtype)

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        return {case: make(self.e[case](h), h).float() for case, (_, make) in SHORT_OR_LONG.items()}


def test_tables_of_any_floats_are_pooled(tmp_path: Path) -> None:
    module, schema = OfTypes(), Schema([IdSequence("h", LENGTH)])
    report = export(tmp_path, module, schema)
    expected = {case: [("max" if case == "the_largest" else "sum", 0, False)] for case in SHORT_OR_LONG}
    assert pooled_in(report) == expected
    assert_scores(module, schema, report, rows_of(200))


class BagsOfSequences(nn.Module):
    """Bags of a sequence weighted by a mask, or by anything else, by modules or by the function."""

    def __init__(self, *, module: bool) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.e = nn.ModuleDict(
            {
                case: nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=padding)
                for case, (_, padding, _) in BAGS.items()
            }
        )
        self.module = module

    def forward(self, h: Tensor, h_lengths: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for case, (weigh, padding_idx, _) in BAGS.items():
            weights, e = weigh(h, h_lengths), self.e[case]
            outputs[case] = (
                e(h, per_sample_weights=weights)
                if self.module
                else nn.functional.embedding_bag(
                    h, e.weight, mode="sum", per_sample_weights=weights, padding_idx=padding_idx
                )
            )
        return outputs


BAGS: Final[dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int | None, tuple[str, int | None, bool]]]] = {
    "mask": (lambda h, n: (h != 0).float(), None, ("sum", 0, False)),
    "lengths": (lambda h, n: inside(h, n).float(), None, ("sum", None, True)),
    "lengths_and_padding_idx": (lambda h, n: inside(h, n).float(), 7, ("sum", 7, True)),
    "mean": (lambda h, n: (h != 0).float() / (h != 0).sum(1, keepdim=True).clamp(min=1), 0, ("sum", 0, False)),
    "ids": (lambda h, n: h.float(), None, ("none", None, False)),
    "places": (lambda h, n: torch.arange(LENGTH).expand(h.shape[0], -1).float(), 3, ("none", None, False)),
}
"""Weights, padding_idx, and pooling, padding id and unpadded of the look-up."""


@pytest.mark.parametrize("module", [True, False])
def test_bags_weighted_by_a_mask_are_pooled(tmp_path: Path, *, module: bool) -> None:
    model, schema = BagsOfSequences(module=module), Schema([IdSequence("h", LENGTH)])
    report = export(tmp_path, model, schema)
    assert pooled_in(report) == {case: [expected] for case, (_, _, expected) in BAGS.items()}
    assert_scores(model, schema, report, rows_of(200))
    assert_scores(model, schema, report, rows_of(1))


def test_a_table_of_many_ids_is_pooled_by_the_one_that_a_mask_names(tmp_path: Path) -> None:
    module = One(lambda e, h, n, a: (e * (h != 77_777).unsqueeze(-1)).sum(1) + a, rows=100_000, dim=1)
    report = export(tmp_path, module, Schema([IdSequence("h", 3), Sparse("a")]))
    assert report.manifest.lookups[0].padding_id == 77_777


def test_a_mask_of_few_ids_of_many_is_seen(tmp_path: Path) -> None:
    banned = torch.zeros(100_000, dtype=torch.bool)
    banned[[54_321, 98_765]] = True
    module = One(lambda e, h, n, a: (e * ~banned[h].unsqueeze(-1)).sum(1) + a, rows=100_000, dim=1)
    report = export(tmp_path, module, Schema([IdSequence("h", 3), Sparse("a")]))
    assert report.manifest.lookups[0].pooling is Pooling.NONE


def test_what_is_added_to_the_vectors_stays_in_the_program(tmp_path: Path) -> None:
    places = torch.randn(LENGTH, DIM)

    def pooled(e: Tensor, h: Tensor, n: Tensor, a: Tensor) -> Tensor:
        keep = (h != 0).unsqueeze(-1)
        with_places = ((e + places + a.unsqueeze(1)) * keep).sum(1) / keep.sum(1).clamp(min=1)
        return with_places + torch.where(keep, e, 1.0).mean(1)

    assert scored(tmp_path, pooled) == [("sum", 0, False)]


def test_a_sequence_of_one_id_is_pooled(tmp_path: Path) -> None:
    assert scored(tmp_path, lambda e, h, n, a: (e * (h != 0).unsqueeze(-1)).mean(1), length=1) == [("sum", 0, False)]


def test_one_sequence_may_be_pooled_in_several_ways(tmp_path: Path) -> None:
    def pooled(e: Tensor, h: Tensor, n: Tensor, a: Tensor) -> Tensor:
        keep = (h != 0).unsqueeze(-1)
        return (e * keep).sum(1) + (e * inside(h, n).unsqueeze(-1)).sum(1) * e.mean(1)

    assert sorted(scored(tmp_path, pooled), key=str) == [("sum", 0, False), ("sum", None, False), ("sum", None, True)]


class Pairs(nn.Module):
    """Items and their categories, side by side or added, under one mask or each under its own."""

    def __init__(self, *, joined: bool, own_masks: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.item, self.category = nn.Embedding(ROWS, DIM), nn.Embedding(ROWS, DIM if not joined else 2)
        self.joined = joined
        self.own_masks = own_masks

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        item, category = self.item(h), self.category(c)
        seen = (h != 0).unsqueeze(-1)
        if self.own_masks:
            item, category, seen = item * seen, category * (c != 0).unsqueeze(-1), torch.ones_like(seen)
        both = torch.cat([item, category], dim=-1) if self.joined else item + category
        return (both * seen).sum(1) / (h != 0).sum(1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("own_masks", [True, False])
def test_sequences_side_by_side_are_pooled_each_by_its_mask(tmp_path: Path, *, joined: bool, own_masks: bool) -> None:
    schema = Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)])
    module = Pairs(joined=joined, own_masks=own_masks)
    report = export(tmp_path, module, schema)
    assert_scores(module, schema, report, {**rows_of(100), "c": rows_of(100, seed=1)["h"]})
    pooled = {each.table: each.pooling.value for each in report.manifest.lookups}
    assert pooled == {"item": "sum", "category": "sum"}
    kept_by = {each.table: each.kept_by for each in report.manifest.lookups}
    assert kept_by == {"item": None, "category": None if own_masks else KeptBy(feature="h", padding_id=0)}


class Twice(nn.Module):
    """A history that is averaged, and also attended to."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(ROWS, DIM)

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        weights = (self.e(h) @ self.e(a).unsqueeze(-1)).softmax(1)
        return (self.e(h) * weights).sum(1) + self.e(h).mean(1)


def test_a_history_that_is_needed_one_by_one_anyway_is_looked_up_once(tmp_path: Path) -> None:
    schema = Schema([IdSequence("h", LENGTH), Sparse("a")])
    report = export(tmp_path, Twice(), schema)
    assert {(each.feature, each.pooling) for each in report.manifest.lookups} == {
        ("h", Pooling.NONE), ("a", Pooling.NONE),
    }  # fmt: skip


class Fields(nn.Module):
    """Rows of a stack summed over the fields: no sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(ROWS, DIM)

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        return self.e(x).sum(1) * number


def test_fields_of_a_stack_are_no_sequence(tmp_path: Path) -> None:
    report = export(tmp_path, Fields(), Schema([Sparse("a"), Sparse("b"), Dense("number")], {"x": ["a", "b"]}))
    assert [each.pooling for each in report.manifest.lookups] == [Pooling.NONE] * 2


def test_undefined_means_of_empty_rows_stay_undefined(tmp_path: Path) -> None:
    def pooled(e: Tensor, h: Tensor, n: Tensor, a: Tensor) -> Tensor:
        keep = (h != 0).unsqueeze(-1)
        return (e * keep).sum(1) / keep.sum(1) + torch.einsum("bl,bld->bd", keep[:, :, 0] / keep.sum(1), e)

    assert scored(tmp_path, pooled, check_rows=0) == [("sum", 0, False)]


class Keyed(nn.Module):
    """A history looked up by expressions of its ids, under masks of the ids themselves, each by an embedding of its
    own.
    """

    def __init__(self, cases: list[str]) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.e = nn.ModuleDict({case: nn.Embedding(ROWS, DIM) for case in cases})

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for case, e in self.e.items():
            index, mask, _ = KEYED[case]
            keep = mask(h)
            outputs[case] = (e(index(h)) * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        return outputs


KEYED: Final[dict[str, tuple[Any, Any, int]]] = {
    "added": (lambda h: h + 2, lambda h: h != 0, 0),
    "padding_shares_the_first_row": (lambda h: h.clamp(min=0), lambda h: h != -1, -1),
    "padding_shares_the_last_row": (lambda h: torch.where(h < 0, ROWS - 1, h), lambda h: h >= 0, -1),
    "remainder": (lambda h: h % ROWS, lambda h: h != 0, 0),
    "remainder_that_is_masked": (lambda h: h % ROWS, lambda h: h % ROWS != 0, 0),
    "quotient": (lambda h: h // 3, lambda h: h != 7, 7),
    "several_share_a_row": (lambda h: h.clamp(min=3), lambda h: (h != 0) & (h != 2), 0),
    "all": (lambda h: h.clamp(0, ROWS - 1), lambda h: torch.ones_like(h), 0),
}


@pytest.mark.parametrize("pad", sorted({pad for _, _, pad in KEYED.values()}))
def test_ids_may_become_rows_by_any_expression(tmp_path: Path, pad: int) -> None:
    cases = [case for case in KEYED if KEYED[case][2] == pad]
    schema = Schema([IdSequence("h", LENGTH, pad=pad)])
    module = Keyed(cases)
    report = export(tmp_path, module, schema)
    columns = rows_of(200)
    assert isinstance(columns["h"], Ragged)
    ids = np.where(columns["h"].values == ROWS - 1, pad, np.minimum(columns["h"].values, ROWS - 3))
    assert_scores(module, schema, report, {"h": Ragged(ids, columns["h"].offsets)})
    for case, looked_up in pooled_in(report).items():
        # Any id may be one that a mask of remainders drops.
        assert [pooling for pooling, _, _ in looked_up] == ["none" if case == "remainder_that_is_masked" else "sum"]
    assert pooled_in(report).keys() == set(cases)
