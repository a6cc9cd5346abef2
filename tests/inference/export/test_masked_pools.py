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
    assert_scores,
    export,
    rows_of,
)

pytestmark = pytest.mark.medium


Case = tuple[str, str, str]
"""Names of a mask, of a way to sum and of a divisor."""


class Pools(nn.Module):
    """A model with an embedding for each mask, way to sum and way to divide, and an output for each."""

    def __init__(self, cases: list[Case], padding_idx: int | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.cases = cases
        self.e = nn.ModuleDict({"_".join(each): nn.Embedding(ROWS, DIM, padding_idx=padding_idx) for each in cases})
        self.drop = nn.Dropout(0.5)

    def forward(self, h: Tensor, h_lengths: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for case in self.cases:
            mask, way, divisor = case
            name, keep = "_".join(case), MASKS[mask][0](h, h_lengths)
            outputs[name] = DIVISORS[divisor](self.drop(self.e[name](h)), keep, SUMS[way], h_lengths)
        return outputs


CONFIGURED: Final[list[tuple[int, Any, int | None]]] = [(0, "right", None), (3, "left", None), (3, "right", 3)]
"""Pad, padded side and padding_idx."""


def assert_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: list[Case], configured: tuple[int, Any, int | None]
) -> None:
    """Assert that every case is pulled as its mask says, and scores as the module does."""
    pad, side, padding_idx = configured
    monkeypatch.setattr(masked_pools, "LEFT", side == "left")
    module = Pools(cases, padding_idx)
    schema = Schema([IdSequence("h", LENGTH, pad=pad, pad_side=side)])
    report = export(tmp_path, module, schema)
    for case in cases:
        padding_id, unpadded = MASKS[case[0]][1](pad, side)
        table = f"e.{'_'.join(case)}"
        wanted = LookupSpec(table=table, feature="h", pooling=Pooling.SUM, padding_id=padding_id, unpadded=unpadded)
        assert [each for each in report.manifest.lookups if each.table == wanted.table] == [wanted]
    assert all(table.poolings == ("sum",) for table in report.tables)
    assert not report.kept
    assert_scores(module, schema, report, rows_of(200))
    for seed in range(3):
        assert_scores(module, schema, report, rows_of(1, seed=seed))


def test_every_way_to_sum_is_a_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [("lengths_not_pad", way, "count_eps") for way in SUMS]
    in_place = cases.pop(list(SUMS).index("in_place"))  # Apart: torch decomposes the whole of a graph that writes so.
    assert_pooled(tmp_path / "others", monkeypatch, cases, CONFIGURED[0])
    assert_pooled(tmp_path / "in place", monkeypatch, [in_place], CONFIGURED[0])


@pytest.mark.parametrize("configured", [1, 2])
def test_every_divisor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: int) -> None:
    ways = ("product", "einsum")
    # Each in both configurations, and with both ways: those that scale a sum, and a product with the mask itself.
    cases = [("not_pad", ways[(at + configured) % 2], divisor) for at, divisor in enumerate(DIVISORS)]
    assert_pooled(tmp_path, monkeypatch, cases, CONFIGURED[configured])


@pytest.mark.parametrize("configured", [0, 1, 2])
def test_every_mask_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: int) -> None:
    """In every configuration, each time with another way to sum and another divisor."""
    ways, divisors = [each for each in SUMS if each != "in_place"], [each for each in DIVISORS if each != "weights"]
    starts = {mask: at + configured * (len(MASKS) + 1) for at, mask in enumerate(MASKS)}
    cases = [(mask, ways[at % len(ways)], divisors[at % len(divisors)]) for mask, at in starts.items()]
    assert_pooled(tmp_path, monkeypatch, cases, CONFIGURED[configured])


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


@pytest.mark.slow
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
