"""Sequences masked by another one's ids or lengths, as categories are by their items: pulled, and scored as torch does.

The oracle is the module, run on the arguments that the schema makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """Vectors of categories, pooled by functions that also see their items, each of a table and to an output of its
    own.
    """

    def __init__(self, makes: Mapping[str, Makes], *, items: bool = True, expression: bool = False) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.item = nn.Embedding(ROWS, DIM)
        self.category = nn.ModuleDict({name: nn.Embedding(CATEGORIES, DIM) for name in makes})
        self.makes, self.items, self.expression = makes, items, expression

    def forward(self, h: Tensor, h_lengths: Tensor, c: Tensor, c_lengths: Tensor) -> dict[str, Tensor]:
        index = c % CATEGORIES if self.expression else c
        made = {name: make(self.category[name](index), h, c, h_lengths, c_lengths) for name, make in self.makes.items()}
        return {**made, "items": self.item(h).flatten(1)} if self.items else made


def columns_of(rows: int, seed: int = 0, *, alike: bool = False) -> dict[str, Column]:
    """Return rows of items and categories, of lengths of their own unless they are alike."""
    items = rows_of(rows, seed=seed)
    random = np.random.default_rng(seed + 100)
    offsets = items["h"].offsets  # type: ignore[union-attr]
    lengths = np.diff(offsets) if alike else random.integers(0, LENGTH + 1, rows)
    ids = random.integers(0, CATEGORIES, int(lengths.sum()))
    return {**items, "c": Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]))}


def checked(tmp_path: Path, module: nn.Module, schema: Schema, **more: Any) -> dict[str, LookupSpec]:
    """Export, hold against the module, and return how categories are looked up for each output."""
    report: ExportReport = export(tmp_path, module, schema, **more)
    assert_scores(module, schema, report, columns_of(200))
    assert_scores(module, schema, report, columns_of(50, 1, alike=True))
    for seed in range(3):
        assert_scores(module, schema, report, columns_of(1, seed))
    lookups = [each for each in report.manifest.lookups if each.feature == "c"]
    specs = {each.table.removeprefix("category."): each for each in lookups}
    assert len(specs) == len(lookups)
    return specs


def _sum(vectors: Tensor, keep: Tensor) -> Tensor:
    return (vectors * keep.unsqueeze(-1)).sum(1)


def _inside(lengths: Tensor, left: bool) -> Tensor:
    places = torch.arange(LENGTH)
    return places >= LENGTH - lengths[:, None] if left else places < lengths[:, None]


def _by_length(name: str) -> bool:
    """Return whether a mask compares places with lengths, so that both sequences must be padded on one side."""
    return "length" in name or name == "all_four"


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


WITH_ITEMS_TOO: Final = ("item_above", "no_such_item")
"""Masks that are tried on a left padded sequence whose items are looked up; the others on one whose are not."""


@pytest.mark.parametrize(
    ("configured", "names", "items"),
    [
        (0, list(KEPT), True),
        (1, WITH_ITEMS_TOO, True),
        (1, [each for each in KEPT if each not in WITH_ITEMS_TOO], False),
        # Of different padding and sides: places of both padded layouts are put side by side, as torch does.
        (2, [each for each in KEPT if not _by_length(each)], True),
        (3, [each for each in KEPT if _by_length(each)], True),
    ],
)
def test_places_are_kept_by_the_items(tmp_path: Path, configured: int, names: Sequence[str], *, items: bool) -> None:
    left = configured == 1
    side: Any = "left" if left else "right"
    other: Any = "left" if configured == 2 else side
    pad = 0 if configured < 2 else 1
    schema = Schema([IdSequence("h", LENGTH, pad=0, pad_side=side), IdSequence("c", LENGTH, pad=pad, pad_side=other)])

    def pooled(keep: Callable[..., Tensor]) -> Makes:
        def make(e: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> Tensor:
            kept = keep(h, c, n, m, left)
            return _sum(e, kept) / kept.sum(1, keepdim=True).clamp(1) if configured else _sum(e, kept)

        return make

    specs = checked(tmp_path, Categories({name: pooled(KEPT[name][0]) for name in names}, items=items), schema)
    assert specs.keys() == set(names)
    for name, spec in specs.items():
        _, (padding_id, unpadded), by = KEPT[name]
        rule = None if by is None else KeptBy(feature="h", padding_id=by[0], unpadded=by[1])
        assert (spec.pooling, spec.padding_id, spec.kept_by) == (Pooling.SUM, padding_id, rule), name
        # Where padding has the id that is dropped, nothing else need tell it apart.
        assert spec.unpadded == (unpadded and padding_id != pad), name


def test_the_largest_is_kept_by_the_items_too(tmp_path: Path) -> None:
    lowest = torch.tensor(-1e9)
    make: Makes = lambda e, h, c, n, m: torch.where((h != 0)[:, :, None], e, lowest).amax(1).clamp(min=-9)  # noqa: E731
    module = Categories({"largest": make})
    spec = checked(tmp_path, module, Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)]))["largest"]
    assert (spec.pooling, spec.kept_by) == (Pooling.MAX, KeptBy(feature="h", padding_id=0))


def test_ids_of_an_expression_are_kept_by_the_items(tmp_path: Path) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, h != 0)  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)])
    spec = checked(tmp_path, Categories({"sum": make}, expression=True), schema)["sum"]
    assert spec.kept_by == KeptBy(feature="h", padding_id=0)


ELSEWISE: Final[dict[str, Makes]] = {
    "equal_ids": lambda e, h, c, n, m: _sum(e, h == c),
    "either": lambda e, h, c, n, m: _sum(e, (h != 0) | (c != 0)),
    "two_items": lambda e, h, c, n, m: _sum(e, (h != 0) & (h != 1)),
    "computed_of_both": lambda e, h, c, n, m: _sum(e, (h + c) % 3 != 0),
    "the_item_before": lambda e, h, c, n, m: _sum(e, h.roll(1, 1) != 0),
    "weights_of_items": lambda e, h, c, n, m: _sum(e, h.float()),
    "one_longer": lambda e, h, c, n, m: _sum(e, torch.arange(LENGTH) < (n + 1)[:, None]),
    "shorter_of_both": lambda e, h, c, n, m: _sum(e, torch.arange(LENGTH) < (n + m)[:, None]),
}


def test_anything_else_is_looked_up_unpooled(tmp_path: Path) -> None:
    schema = Schema([IdSequence("h", LENGTH), IdSequence("c", LENGTH)])
    specs = checked(tmp_path, Categories(ELSEWISE), schema)
    assert specs.keys() == ELSEWISE.keys()
    assert {(each.pooling, each.kept_by) for each in specs.values()} == {(Pooling.NONE, None)}


def test_sequences_of_two_lengths_are_not_side_by_side(tmp_path: Path) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, (h != 0)[:, :LENGTH])  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH + 1), IdSequence("c", LENGTH)])
    assert checked(tmp_path, Categories({"sum": make}), schema)["sum"].pooling is Pooling.NONE


RAW: Final = np.arange(ROWS) * 11 - 7


@pytest.mark.parametrize("pad", [0, 4])
def test_items_of_raw_ids_keep_places_by_the_raw_id(tmp_path: Path, pad: int) -> None:
    make: Makes = lambda e, h, c, n, m: _sum(e, h != 4)  # noqa: E731
    schema = Schema([IdSequence("h", LENGTH, pad=pad), IdSequence("c", LENGTH)])
    module = Categories({"sum": make})
    report = export(tmp_path, module, schema, keys={"item": RAW.tolist()})
    (spec,) = (each for each in report.manifest.lookups if each.feature == "c")
    assert spec.kept_by == KeptBy(feature="h", padding_id=int(RAW[4]))
    columns = columns_of(100)
    ragged = columns["h"]
    assert isinstance(ragged, Ragged)
    served = {**columns, "h": Ragged(RAW[ragged.values], ragged.offsets)}
    assert_scores(module, schema, report, columns, served)
