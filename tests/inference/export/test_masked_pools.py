"""Sequences masked and pooled by hand: each way to write it is a pooled pull, and scores as its module does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ringpull.inference.model.manifest import LookupSpec
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export import masked_pools
from tests.inference.export.masked_pools import (
    DIM,
    DIVISORS,
    LENGTH,
    MASKS,
    ROWS,
    SUMS,
    Mask,
    assert_scores,
    export,
    rows_of,
)

pytestmark = pytest.mark.medium


class Pools(nn.Module):
    """A model with an embedding for each way to sum and to divide, and an output for each."""

    def __init__(self, cases: list[tuple[str, str]], mask: Mask, padding_idx: int | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.cases = cases
        self.mask = mask
        self.e = nn.ModuleDict({f"{a}_{b}": nn.Embedding(ROWS, DIM, padding_idx=padding_idx) for a, b in cases})
        self.drop = nn.Dropout(0.5)

    def forward(self, h: Tensor, h_lengths: Tensor) -> dict[str, Tensor]:
        keep = self.mask(h, h_lengths)
        return {
            f"{a}_{b}": DIVISORS[b](self.drop(self.e[f"{a}_{b}"](h)), keep, SUMS[a], h_lengths) for a, b in self.cases
        }


CONFIGURED: Final[list[tuple[int, Any, int | None]]] = [(0, "right", None), (3, "left", None), (3, "right", 3)]
"""Pad, padded side and padding_idx."""


def assert_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: str, cases: list[tuple[str, str]], configured: int
) -> None:
    """Assert that every case is pulled as its mask says, and scores as the module does."""
    pad, side, padding_idx = CONFIGURED[configured % len(CONFIGURED)]
    monkeypatch.setattr(masked_pools, "LEFT", side == "left")
    keeps, expected = MASKS[mask]
    module = Pools(cases, keeps, padding_idx)
    schema = Schema([IdSequence("h", LENGTH, pad=pad, pad_side=side)])
    report = export(tmp_path, module, schema)
    padding_id, unpadded = expected(pad, side)
    for a, b in cases:
        wanted = LookupSpec(
            table=f"e.{a}_{b}", feature="h", pooling=Pooling.SUM, padding_id=padding_id, unpadded=unpadded
        )
        assert [each for each in report.manifest.lookups if each.table == wanted.table] == [wanted]
    assert all(table.poolings == ("sum",) for table in report.tables)
    assert not report.kept
    assert_scores(module, schema, report, rows_of(200))
    for seed in range(3):
        assert_scores(module, schema, report, rows_of(1, seed=seed))


def test_every_way_to_sum_is_a_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_pooled(tmp_path, monkeypatch, "lengths_not_pad", [(way, "count_eps") for way in SUMS], 0)


@pytest.mark.parametrize("configured", [1, 2])
def test_every_divisor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: int) -> None:
    cases = [(way, divisor) for divisor in DIVISORS for way in ("product", "einsum")]
    assert_pooled(tmp_path, monkeypatch, "not_pad", cases, configured)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("more", [0, 1])
def test_every_mask_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: str, more: int) -> None:
    at = list(MASKS).index(mask) + more
    ways, divisors = list(SUMS), [each for each in DIVISORS if each != "weights"]
    number = len(MASKS) + 1
    cases = [(ways[(at + step) % len(ways)], divisors[(at + step) % len(divisors)]) for step in (0, number)]
    assert_pooled(tmp_path, monkeypatch, mask, cases, at)


LAYERS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "double": lambda e: e.double(),
    "float": lambda e: e.to(torch.float32),
    "halved": lambda e: e / 2,
    "negative": lambda e: -e,
    "there and back": lambda e: e.transpose(1, 2).contiguous().permute(0, 2, 1),
    "one more dimension": lambda e: e.unsqueeze(1).squeeze(1),
    "in heads": lambda e: e.reshape(-1, LENGTH, 2, DIM // 2).flatten(2),
    "nothing added": lambda e: e + torch.zeros_like(e),
    "detached": lambda e: e.detach(),
}


class Composed(nn.Module):
    """A pool of a mask, a way to sum, a divisor, and whatever leaves the vectors what they are, in any order."""

    def __init__(self, mask: str, way: str, divisor: str, layers: list[str]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.e = nn.Embedding(ROWS, DIM)
        self.mask, self.way, self.divisor, self.layers = mask, way, divisor, layers

    def forward(self, h: Tensor, h_lengths: Tensor) -> Tensor:
        vectors, keep = self.e(h), MASKS[self.mask][0](h, h_lengths)
        for each in self.layers:
            vectors = LAYERS[each](vectors)

        def sums(given: Tensor, kept: Tensor) -> Tensor:
            return SUMS[self.way](given.float(), kept)

        return DIVISORS[self.divisor](vectors, keep, sums, h_lengths).float()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=st.sampled_from(list(MASKS)),
    way=st.sampled_from(list(SUMS)),
    divisor=st.sampled_from([each for each in DIVISORS if each != "weights"]),
    layers=st.lists(st.sampled_from(list(LAYERS)), max_size=4),
    pad=st.sampled_from([0, 3]),
    side=st.sampled_from(["left", "right"]),
)
@example(mask="not_pad", way="product", divisor="before", layers=["halved"], pad=0, side="left")
def test_any_composition_is_a_pull(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mask: str,
    way: str,
    divisor: str,
    layers: list[str],
    pad: int,
    side: Any,
) -> None:
    monkeypatch.setattr(masked_pools, "LEFT", side == "left")
    module, schema = Composed(mask, way, divisor, layers), Schema([IdSequence("h", LENGTH, pad=pad, pad_side=side)])
    report = export(Path(mkdtemp(dir=tmp_path)), module, schema)
    padding_id, unpadded = MASKS[mask][1](pad, side)
    wanted = LookupSpec(table="e", feature="h", pooling=Pooling.SUM, padding_id=padding_id, unpadded=unpadded)
    assert report.manifest.lookups == (wanted,)
    assert_scores(module, schema, report, rows_of(60))
    assert_scores(module, schema, report, rows_of(1))
