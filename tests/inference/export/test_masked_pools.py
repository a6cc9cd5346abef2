"""Sequences masked and pooled by hand: each way to write it is a pooled pull, and scores as its module does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.model.manifest import KeptBy, LookupSpec
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling
from tests.inference.export.versions import Exported

pytestmark = pytest.mark.medium

ROWS: Final = 12
DIM: Final = 4
LENGTH: Final = 5

Sums = Callable[[Tensor, Tensor], Tensor]
"""Function of vectors (B, L, D) and of which to keep (B, L) that gives a sum (B, D)."""


def _filled_in_place(vectors: Tensor, keep: Tensor) -> Tensor:
    vectors = vectors.clone()
    vectors[keep == 0] = 0
    return vectors.sum(1)


def _repeated(vectors: Tensor, keep: Tensor) -> Tensor:
    return (vectors * torch.repeat_interleave(keep.float().unsqueeze(2), vectors.shape[-1], dim=2)).sum(dim=1)


def _gathered(vectors: Tensor, keep: Tensor) -> Tensor:
    return torch.stack([vectors * keep.unsqueeze(-1), vectors * 0], 1).sum(1).sum(1)


SUMS: Final[dict[str, Sums]] = {
    "product": lambda e, keep: (e * keep.unsqueeze(-1)).sum(1),
    "keepdim": lambda e, keep: torch.sum(keep[:, :, None].float() * e, dim=-2, keepdim=True).squeeze(1),
    "bmm": lambda e, keep: torch.bmm(keep.float().unsqueeze(1), e).squeeze(1),
    "bmm_behind": lambda e, keep: torch.bmm(e.transpose(1, 2), keep.float().unsqueeze(2)).squeeze(-1),
    "matmul": lambda e, keep: (keep.float().unsqueeze(1) @ e).flatten(1),
    "masked_fill": lambda e, keep: e.masked_fill(~keep.unsqueeze(-1), 0).sum(1),
    "where_number": lambda e, keep: torch.where(keep.unsqueeze(-1), e, 0).sum(1),
    "where_tensor": lambda e, keep: torch.where(~keep.unsqueeze(-1), torch.zeros_like(e), e).sum(1),
    "in_place": _filled_in_place,
    "einsum": lambda e, keep: torch.einsum("bl,bld->bd", keep.float(), e),
    "expand": lambda e, keep: (e * keep.unsqueeze(2).expand(-1, -1, DIM)).sum(1),
    "expand_as": lambda e, keep: (e * keep.unsqueeze(2).expand_as(e).float()).sum(1),
    "repeat": lambda e, keep: (e * keep.unsqueeze(2).repeat(1, 1, DIM)).sum(1),
    "repeat_interleave": _repeated,
    "permuted": lambda e, keep: (e.permute(0, 2, 1) * keep.unsqueeze(1)).sum(-1),
    "in_double": lambda e, keep: (e.double() * keep.unsqueeze(-1)).sum(1).float(),
    "two_masks": lambda e, keep: (e * keep.unsqueeze(-1)).masked_fill(~keep.unsqueeze(-1), 0).sum(1),
    "twice_the_mean": lambda e, keep: (2 * e * keep.unsqueeze(-1)).mean(1) * (LENGTH / 2),
    "stacked": _gathered,
    "detached": lambda e, keep: (e.detach() * keep.unsqueeze(-1)).sum(1),
    "data": lambda e, keep: (e.data.masked_fill(~keep.unsqueeze(-1), 0)).sum(1),
    "dropout_off": lambda e, keep: (nn.functional.dropout(e, 0.3, training=False) * keep.unsqueeze(-1)).sum(1),
    "split_and_joined": lambda e, keep: torch.cat([e * keep.unsqueeze(-1), -e * 0], -1).sum(1)[:, :DIM],
}

Divides = Callable[[Tensor, Tensor, Sums, Tensor], Tensor]
"""Function of vectors, of which to keep, of a way to sum and of lengths (B,) that gives (B, D)."""

DIVISORS: Final[dict[str, Divides]] = {
    "sum": lambda e, keep, sums, n: sums(e, keep),
    "count": lambda e, keep, sums, n: torch.nan_to_num(sums(e, keep) / keep.sum(1, keepdim=True)),
    "count_eps": lambda e, keep, sums, n: sums(e, keep) / (keep.float().sum(dim=-1, keepdim=True) + 1e-8),
    "count_clamped": lambda e, keep, sums, n: sums(e, keep) / keep.sum(1).clamp(min=1).unsqueeze(-1),
    "lengths": lambda e, keep, sums, n: sums(e, keep) / (n.unsqueeze(1) + 1),
    "root": lambda e, keep, sums, n: sums(e, keep) * torch.rsqrt(keep.sum(1, keepdim=True) + 1.0),
    "always_length": lambda e, keep, sums, n: sums(e, keep) / e.shape[1],
    "before": lambda e, keep, sums, n: sums(e / (keep.sum(1) + 1e-6)[:, None, None], keep),
    "weights": lambda e, keep, sums, n: torch.bmm(
        (keep / keep.sum(1, keepdim=True).clamp(min=1)).unsqueeze(1), e
    ).squeeze(1),
}

Mask = Callable[[Tensor, Tensor], Tensor]
Expected = tuple[int | None, bool]
"""Padding id and whether padding is left out, of the look-up."""

MASKS: Final[dict[str, tuple[Mask, Callable[[int, str], Expected]]]] = {
    "not_pad": (lambda ids, n: ids != 3, lambda pad, side: (3, False)),
    "not_0": (lambda ids, n: ids != 0, lambda pad, side: (0, False)),
    "above_0": (lambda ids, n: ids > 0, lambda pad, side: (0, False)),
    "bool": (lambda ids, n: ids.bool(), lambda pad, side: (0, False)),
    "not_last": (lambda ids, n: ids.float().lt(ROWS - 1), lambda pad, side: (ROWS - 1, False)),
    "not_minus_1": (lambda ids, n: ids != -1, lambda pad, side: (None, False)),
    "all": (lambda ids, n: torch.ones_like(ids).bool(), lambda pad, side: (None, False)),
    "lengths": (lambda ids, n: _inside(ids, n), lambda pad, side: (None, True)),
    "lengths_not_7": (lambda ids, n: _inside(ids, n) & (ids != 7), lambda pad, side: (7, True)),
    "lengths_not_pad": (lambda ids, n: _inside(ids, n) & (ids != 3), lambda pad, side: (3, pad != 3)),
    "computed": (lambda ids, n: (2 * ids - 14).abs() > 0.5, lambda pad, side: (7, False)),
    "listed": (lambda ids, n: (torch.arange(ROWS) != 5)[ids], lambda pad, side: (5, False)),
}

_LEFT: bool = False


def _inside(ids: Tensor, lengths: Tensor) -> Tensor:
    places = torch.arange(ids.shape[1], device=ids.device)
    return places >= ids.shape[1] - lengths[:, None] if _LEFT else places < lengths[:, None]


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


def rows_of(rows: int, length: int = LENGTH, low: int = 0, seed: int = 0) -> dict[str, Column]:
    """Return rows of all lengths, with every id anywhere."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, length + 1, rows)
    lengths[:2] = [0, length][:rows]
    size = int(lengths.sum())
    ids = np.where(
        random.random(size) < 0.4, random.choice([0, 3, 7, ROWS - 1], size), random.integers(low, ROWS, size)
    )
    return {"h": Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]))}


def assert_scores(
    module: nn.Module,
    schema: Schema,
    report: ExportReport,
    columns: dict[str, Column],
    served: dict[str, Column] | None = None,
) -> None:
    """Assert that a version answers rows as its module does; `served` are their columns where its ids are others."""
    version = Exported(report.path)
    rows = len(columns["h"].offsets) - 1  # type: ignore[union-attr]
    names = [name for name in module.forward.__annotations__ if name != "return"]
    arguments = schema.arguments(schema.prepare(columns, rows), names)
    with torch.no_grad():
        expected = module.eval()(**{name: torch.tensor(values) for name, values in arguments.items()})
    expected = expected if isinstance(expected, dict) else {"output": expected}
    actual = version.score(served or columns, rows)
    assert set(actual) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values.numpy(), 1e-5, 1e-5, err_msg=name)


def export(tmp_path: Path, module: nn.Module, schema: Schema, **more: Any) -> ExportReport:
    return export_model(module, schema, tmp_path / "model", 1, quiet=True, **{"check_rows": 16, **more})


CONFIGURED: Final[list[tuple[int, Any, int | None]]] = [(0, "right", None), (3, "left", None), (3, "right", 3)]
"""Pad, padded side and padding_idx."""


def assert_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: str, cases: list[tuple[str, str]], configured: int
) -> None:
    """Assert that every case is pulled as its mask says, and scores as the module does."""
    pad, side, padding_idx = CONFIGURED[configured % len(CONFIGURED)]
    monkeypatch.setitem(globals(), "_LEFT", side == "left")
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
    monkeypatch.setitem(globals(), "_LEFT", side == "left")
    module, schema = Composed(mask, way, divisor, layers), Schema([IdSequence("h", LENGTH, pad=pad, pad_side=side)])
    report = export(Path(mkdtemp(dir=tmp_path)), module, schema)
    padding_id, unpadded = MASKS[mask][1](pad, side)
    wanted = LookupSpec(table="e", feature="h", pooling=Pooling.SUM, padding_id=padding_id, unpadded=unpadded)
    assert report.manifest.lookups == (wanted,)
    assert_scores(module, schema, report, rows_of(60))
    assert_scores(module, schema, report, rows_of(1))


# -- other shapes of models --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("way", list(LOWEST))
@pytest.mark.parametrize("mask", ["not_pad", "lengths"])
def test_the_largest_of_what_is_kept_is_a_pull(tmp_path: Path, way: str, mask: str) -> None:
    keeps = MASKS[mask][0]
    pooled = scored(tmp_path, lambda e, h, n, a: LOWEST[way](e, keeps(h, n)), pad=3)
    assert pooled == [("max", 3, False) if mask == "not_pad" else ("max", None, True)]


def test_the_largest_of_all_is_a_pull_with_padding(tmp_path: Path) -> None:
    assert scored(tmp_path, lambda e, h, n, a: e.amax(1)) == [("max", None, False)]


ELSEWISE: Final[dict[str, Callable[..., Tensor]]] = {
    "attention": lambda e, h, n, a: ((e @ a.unsqueeze(-1)).softmax(1) * e).sum(1),
    "masked attention": lambda e, h, n, a: (
        (e * a.unsqueeze(1)).sum(-1).masked_fill(h == 0, -1e9).softmax(-1).unsqueeze(-1) * e
    ).sum(1),
    "weights of another feature": lambda e, h, n, a: (e * a[:, None, :1]).sum(1),
    "mask of the target": lambda e, h, n, a: (e * (a[:, :1] > h)[:, :, None]).sum(1),
    "decay": lambda e, h, n, a: (e * (0.9 ** torch.arange(LENGTH))[:, None]).sum(1),
    "decay by length": lambda e, h, n, a: (e * (n[:, None] - torch.arange(LENGTH))[:, :, None].relu()).sum(1),
    "some places": lambda e, h, n, a: e[:, :3].sum(1),
    "one place": lambda e, h, n, a: e.sum(1) + e[:, -1],
    "two ids": lambda e, h, n, a: (e * ((h != 3) & (h != 7)).unsqueeze(-1)).sum(1),
    "a range of ids": lambda e, h, n, a: (e * (h < 5).unsqueeze(-1)).sum(1),
    "each id once": lambda e, h, n, a: (e * (torch.cat([h[:, :1] + 1, h[:, :-1]], 1) != h).unsqueeze(-1)).sum(1),
    "weights of ids": lambda e, h, n, a: (e * (h.float() / 7).unsqueeze(-1)).sum(1),
    "largest id": lambda e, h, n, a: (e * (h == h.max(1, keepdim=True).values).unsqueeze(-1)).sum(1),
    "squares": lambda e, h, n, a: (e * e).sum(1),
    "activation": lambda e, h, n, a: (e.relu() * (h != 0).unsqueeze(-1)).sum(1),
    "norm": lambda e, h, n, a: nn.functional.normalize(e, dim=-1).sum(1),
    "sum of numbers": lambda e, h, n, a: e.sum(-1),
    "factorisation machine": lambda e, h, n, a: e.sum(1).pow(2) - e.pow(2).sum(1),
    "largest masked by 0": lambda e, h, n, a: (e * (h != 0).unsqueeze(-1)).amax(1),
    "place of the largest": lambda e, h, n, a: e.max(1).indices.float(),
    "all pulls": lambda e, h, n, a: torch.stack([(e * (h != k).unsqueeze(-1)).sum(1) for k in range(LENGTH + 1)], 1),
    "columns mixed": lambda e, h, n, a: torch.cat([e[:, :, 2:], e[:, :, :2]], -1).sum(1),
}


@pytest.mark.parametrize("what", list(ELSEWISE))
def test_anything_else_is_looked_up_unpooled(tmp_path: Path, what: str) -> None:
    assert scored(tmp_path, ELSEWISE[what]) == [("none", None, False)]


SHORT_OR_LONG: Final[dict[str, tuple[torch.dtype, Callable[..., Tensor]]]] = {
    "bfloat16": (torch.bfloat16, lambda e, h: (e * (h != 0).unsqueeze(-1)).sum(1) / 2),
    "float16": (torch.float16, lambda e, h: torch.bmm((h != 0).to(e.dtype).unsqueeze(1), e).squeeze(1)),
    "float64": (torch.float64, lambda e, h: (e * (h != 0).unsqueeze(-1)).sum(1) / ((h != 0).sum(1, keepdim=True) + 1)),
    "the largest": (torch.bfloat16, lambda e, h: e.masked_fill((h == 0).unsqueeze(-1), -1e9).amax(1).clamp(min=-1)),
    "cast": (torch.float32, lambda e, h: (e.half() * (h != 0).unsqueeze(-1)).sum(1)),
    "cast from": (torch.bfloat16, lambda e, h: (e.float() * (h != 0).unsqueeze(-1)).sum(1)),
}  # fmt: skip


class OfType(nn.Module):
    """A history of vectors of some type, all whole eighths, so that no sum of them is rounded in any."""

    def __init__(self, dtype: torch.dtype, make: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.e = nn.Embedding(ROWS, DIM)
        self.e.weight.data = (torch.randint(-8, 9, (ROWS, DIM)) / 8).to(dtype)
        self.make = make

    def forward(self, h: Tensor) -> Tensor:
        made: Tensor = self.make(self.e(h), h)
        return made.float()


@pytest.mark.parametrize("case", list(SHORT_OR_LONG))
def test_tables_of_any_floats_are_pooled(tmp_path: Path, case: str) -> None:
    module, schema = OfType(*SHORT_OR_LONG[case]), Schema([IdSequence("h", LENGTH)])
    report = export(tmp_path, module, schema)
    pooling = Pooling.MAX if case == "the largest" else Pooling.SUM
    assert [(each.pooling, each.padding_id) for each in report.manifest.lookups] == [(pooling, 0)]
    assert_scores(module, schema, report, rows_of(200))


class Bag(nn.Module):
    """A bag of a sequence weighted by a mask, or by anything else."""

    def __init__(self, weights: Callable[[Tensor, Tensor], Tensor], padding_idx: int | None, *, module: bool) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.e = nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=padding_idx)
        self.padding_idx = padding_idx
        self.weights = weights
        self.module = module

    def forward(self, h: Tensor, h_lengths: Tensor) -> Tensor:
        weights = self.weights(h, h_lengths)
        if self.module:
            return self.e(h, per_sample_weights=weights)
        return nn.functional.embedding_bag(
            h, self.e.weight, mode="sum", per_sample_weights=weights, padding_idx=self.padding_idx
        )


BAGS: Final[dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int | None, tuple[str, int | None, bool]]]] = {
    "mask": (lambda h, n: (h != 0).float(), None, ("sum", 0, False)),
    "lengths": (lambda h, n: _inside(h, n).float(), None, ("sum", None, True)),
    "lengths and padding_idx": (lambda h, n: _inside(h, n).float(), 7, ("sum", 7, True)),
    "mean": (lambda h, n: (h != 0).float() / (h != 0).sum(1, keepdim=True).clamp(min=1), 0, ("sum", 0, False)),
    "ids": (lambda h, n: h.float(), None, ("none", None, False)),
    "places": (lambda h, n: torch.arange(LENGTH).expand(h.shape[0], -1).float(), 3, ("none", None, False)),
}
"""Weights, padding_idx, and pooling, padding id and unpadded of the look-up."""


@pytest.mark.parametrize("case", list(BAGS))
@pytest.mark.parametrize("module", [True, False])
def test_bags_weighted_by_a_mask_are_pooled(tmp_path: Path, case: str, *, module: bool) -> None:
    weights, padding_idx, expected = BAGS[case]
    model, schema = Bag(weights, padding_idx, module=module), Schema([IdSequence("h", LENGTH)])
    report = export(tmp_path, model, schema)
    assert [(each.pooling.value, each.padding_id, each.unpadded) for each in report.manifest.lookups] == [expected]
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
        return (e * keep).sum(1) + (e * _inside(h, n).unsqueeze(-1)).sum(1) * e.mean(1)

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
    """A history looked up by an expression of its ids, under a mask of the ids themselves."""

    def __init__(self, index: Callable[[Tensor], Tensor], mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.e = nn.Embedding(ROWS, DIM)
        self.index = index
        self.mask = mask

    def forward(self, h: Tensor) -> Tensor:
        keep = self.mask(h)
        return (self.e(self.index(h)) * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)


KEYED: Final[dict[str, tuple[Any, Any, int]]] = {
    "added": (lambda h: h + 2, lambda h: h != 0, 0),
    "padding shares the first row": (lambda h: h.clamp(min=0), lambda h: h != -1, -1),
    "padding shares the last row": (lambda h: torch.where(h < 0, ROWS - 1, h), lambda h: h >= 0, -1),
    "remainder": (lambda h: h % ROWS, lambda h: h != 0, 0),
    "remainder that is masked": (lambda h: h % ROWS, lambda h: h % ROWS != 0, 0),
    "quotient": (lambda h: h // 3, lambda h: h != 7, 7),
    "several share a row": (lambda h: h.clamp(min=3), lambda h: (h != 0) & (h != 2), 0),
    "all": (lambda h: h.clamp(0, ROWS - 1), lambda h: torch.ones_like(h), 0),
}


@pytest.mark.parametrize("case", list(KEYED))
def test_ids_may_become_rows_by_any_expression(tmp_path: Path, case: str) -> None:
    index, mask, pad = KEYED[case]
    schema = Schema([IdSequence("h", LENGTH, pad=pad)])
    module = Keyed(index, mask)
    report = export(tmp_path, module, schema)
    columns = rows_of(200)
    assert isinstance(columns["h"], Ragged)
    ids = np.where(columns["h"].values == ROWS - 1, pad, np.minimum(columns["h"].values, ROWS - 3))
    assert_scores(module, schema, report, {"h": Ragged(ids, columns["h"].offsets)})
    pooled = Pooling.NONE if case == "remainder that is masked" else Pooling.SUM  # any id may be one that it drops
    assert [each.pooling for each in report.manifest.lookups] == [pooled]
