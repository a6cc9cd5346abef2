"""Sequences masked by another one's ids or lengths, as categories are by their items: pulled, and scored as torch does.

The oracle is the module, run on the arguments that the schema makes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.report import ExportReport
from ringpull.inference.model.manifest import KeptBy, LookupSpec
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export.masked_pools import DIM, LENGTH, ROWS, assert_scores, export, rows_of

pytestmark = pytest.mark.medium

CATEGORIES: Final = 7

Makes = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Function of vectors of categories (B, L, D), ids of items and of categories, and their lengths."""


class Categories(nn.Module):
    """Vectors of categories, pooled by a function that also sees their items."""

    def __init__(self, make: Makes, *, items: bool = True, expression: bool = False) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.item, self.category = nn.Embedding(ROWS, DIM), nn.Embedding(CATEGORIES, DIM)
        self.make, self.items, self.expression = make, items, expression

    def forward(self, h: Tensor, h_lengths: Tensor, c: Tensor, c_lengths: Tensor) -> Tensor:
        vectors = self.category(c % CATEGORIES if self.expression else c)
        pooled = self.make(vectors, h, c, h_lengths, c_lengths)
        return torch.cat([pooled, self.item(h).flatten(1)], 1) if self.items else pooled


def columns_of(rows: int, seed: int = 0, *, alike: bool = False) -> dict[str, Column]:
    """Return rows of items and categories, of lengths of their own unless they are alike."""
    items = rows_of(rows, seed=seed)
    random = np.random.default_rng(seed + 100)
    offsets = items["h"].offsets  # type: ignore[union-attr]
    lengths = np.diff(offsets) if alike else random.integers(0, LENGTH + 1, rows)
    ids = random.integers(0, CATEGORIES, int(lengths.sum()))
    return {**items, "c": Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]))}


def checked(tmp_path: Path, module: nn.Module, schema: Schema, **more: Any) -> LookupSpec:
    """Export, hold against the module, and return how categories are looked up."""
    report: ExportReport = export(tmp_path, module, schema, **more)
    assert_scores(module, schema, report, columns_of(200))
    assert_scores(module, schema, report, columns_of(50, 1, alike=True))
    for seed in range(3):
        assert_scores(module, schema, report, columns_of(1, seed))
    (spec,) = (each for each in report.manifest.lookups if each.table == "category")
    return spec


def _sum(vectors: Tensor, keep: Tensor) -> Tensor:
    return (vectors * keep.unsqueeze(-1)).sum(1)


def _inside(lengths: Tensor, left: bool) -> Tensor:
    places = torch.arange(LENGTH)
    return places >= LENGTH - lengths[:, None] if left else places < lengths[:, None]


KEPT: Final[dict[str, tuple[Callable[..., Tensor], tuple[int | None, bool], tuple[int | None, bool] | None]]] = {
    "item": (lambda h, c, n, m, left: h != 0, (None, False), (0, False)),
    "item_above": (lambda h, c, n, m, left: h > 0, (None, False), (0, False)),
    "item_7": (lambda h, c, n, m, left: h != 7, (None, False), (7, False)),
    "items_length": (lambda h, c, n, m, left: _inside(n, left), (None, False), (None, True)),
    "items_length_not_7": (lambda h, c, n, m, left: _inside(n, left) & (h != 7), (None, False), (7, True)),
    "both": (lambda h, c, n, m, left: (h != 0) & (c != 0), (0, False), (0, False)),
    "item_and_category_3": (lambda h, c, n, m, left: (h != 0) & (c != 3), (3, False), (0, False)),
    "both_lengths": (lambda h, c, n, m, left: _inside(n, left) & _inside(m, left), (None, True), (None, True)),
    "all_four": (
        lambda h, c, n, m, left: _inside(n, left) & _inside(m, left) & (h != 7) & (c != 3), (3, True), (7, True),
    ),
    "no_such_item": (lambda h, c, n, m, left: h != -1, (None, False), None),
}  # fmt: skip
"""Mask, and what the look-up says: padding id and unpadded of its own, and of the items."""


@pytest.mark.parametrize("kept", list(KEPT))
@pytest.mark.parametrize("configured", [0, 1, 2])
def test_places_are_kept_by_the_items(tmp_path: Path, kept: str, configured: int) -> None:
    keep, (padding_id, unpadded), by = KEPT[kept]
    left = configured == 1
    side: Any = "left" if left else "right"
    # Of different padding and sides in the last: places of both padded layouts are put side by side, as torch does.
    other: Any = "left" if configured == 2 and "length" not in kept and kept != "all_four" else side
    items, pad = IdSequence("h", LENGTH, pad=0, pad_side=side), 0 if configured < 2 else 1
    schema = Schema([items, IdSequence("c", LENGTH, pad=pad, pad_side=other)])

    def pooled(e: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> Tensor:
        kept = keep(h, c, n, m, left)
        return _sum(e, kept) / kept.sum(1, keepdim=True).clamp(1) if configured else _sum(e, kept)

    spec = checked(
        tmp_path,
        Categories(pooled, items=configured != 1 or kept in ("item_above", "no_such_item")),
        schema,
    )
    rule = None if by is None else KeptBy(feature="h", padding_id=by[0], unpadded=by[1])
    assert (spec.pooling, spec.padding_id, spec.kept_by) == (Pooling.SUM, padding_id, rule)
    # Where padding has the id that is dropped, nothing else need tell it apart.
    assert spec.unpadded == (unpadded and padding_id != pad)


def test_the_largest_is_kept_by_the_items_too(tmp_path: Path) -> None:
    lowest = torch.tensor(-1e9)
    make: Makes = lambda e, h, c, n, m: torch.where((h != 0)[:, :, None], e, lowest).amax(1).clamp(min=-9)  # noqa: E731
    spec = checked(tmp_path, Categories(make), Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)]))
    assert (spec.pooling, spec.kept_by) == (Pooling.MAX, KeptBy(feature="h", padding_id=0))


def test_ids_of_an_expression_are_kept_by_the_items(tmp_path: Path) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, h != 0)  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)])
    assert checked(tmp_path, Categories(make, expression=True), schema).kept_by == KeptBy(feature="h", padding_id=0)


ELSEWISE: Final[dict[str, Makes]] = {
    "equal ids": lambda e, h, c, n, m: _sum(e, h == c),
    "either": lambda e, h, c, n, m: _sum(e, (h != 0) | (c != 0)),
    "two items": lambda e, h, c, n, m: _sum(e, (h != 0) & (h != 1)),
    "computed of both": lambda e, h, c, n, m: _sum(e, (h + c) % 3 != 0),
    "the item before": lambda e, h, c, n, m: _sum(e, h.roll(1, 1) != 0),
    "weights of items": lambda e, h, c, n, m: _sum(e, h.float()),
    "one longer": lambda e, h, c, n, m: _sum(e, torch.arange(LENGTH) < (n + 1)[:, None]),
    "shorter of both": lambda e, h, c, n, m: _sum(e, torch.arange(LENGTH) < (n + m)[:, None]),
}


@pytest.mark.parametrize("what", list(ELSEWISE))
def test_anything_else_is_looked_up_unpooled(tmp_path: Path, what: str) -> None:
    schema = Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)])
    spec = checked(tmp_path, Categories(ELSEWISE[what]), schema)
    assert (spec.pooling, spec.kept_by) == (Pooling.NONE, None)


def test_sequences_of_two_lengths_are_not_side_by_side(tmp_path: Path) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, (h != 0)[:, :LENGTH])  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH + 1), IdSequence("c", LENGTH)])
    assert checked(tmp_path, Categories(make), schema).pooling is Pooling.NONE


RAW: Final = np.arange(ROWS) * 11 - 7


@pytest.mark.parametrize("pad", [0, 4])
def test_items_of_raw_ids_keep_places_by_the_raw_id(tmp_path: Path, pad: int) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, h != 4)  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH, pad=pad), IdSequence("c", LENGTH)])
    module = Categories(make)
    report = export(tmp_path, module, schema, keys={"item": RAW.tolist()})
    (spec,) = (each for each in report.manifest.lookups if each.table == "category")
    assert spec.kept_by == KeptBy(feature="h", padding_id=int(RAW[4]))
    columns = columns_of(100)
    ragged = columns["h"]
    assert isinstance(ragged, Ragged)
    served = {**columns, "h": Ragged(RAW[ragged.values], ragged.offsets)}
    assert_scores(module, schema, report, columns, served)
