"""Ways to mask and to pool a sequence by hand, and how an export of them is held against its module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import exported_at

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
    "lengths": (lambda ids, n: inside(ids, n), lambda pad, side: (None, True)),
    "lengths_not_7": (lambda ids, n: inside(ids, n) & (ids != 7), lambda pad, side: (7, True)),
    "lengths_not_pad": (lambda ids, n: inside(ids, n) & (ids != 3), lambda pad, side: (3, pad != 3)),
    "computed": (lambda ids, n: (2 * ids - 14).abs() > 0.5, lambda pad, side: (7, False)),
    "listed": (lambda ids, n: (torch.arange(ROWS) != 5)[ids], lambda pad, side: (5, False)),
}

LEFT: bool = False
"""Whether the padded side of what `inside` is given is the left; tests set it."""


def inside(ids: Tensor, lengths: Tensor) -> Tensor:
    places = torch.arange(ids.shape[1], device=ids.device)
    return places >= ids.shape[1] - lengths[:, None] if LEFT else places < lengths[:, None]


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
    version = exported_at(report.path)
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
