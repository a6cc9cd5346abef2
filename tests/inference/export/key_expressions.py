"""Models that compute rows of ids, and how an export of them is held against its module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import ExportReport
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import assert_equal

ROWS = 12
DIM = 4
BIG = 2654435761

USER, A, B = Sparse("user"), Sparse("a"), Sparse("b")

EXTREME = [0, 1, 5, 11, 12, 13, 24, 1000, -1, -5, -12, -13, 2**24 + 1, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1,
           -(2**31) - 1, -(2**62) - 7, -(2**63)]  # fmt: skip
"""Ids that lie in, at and beyond a table, and where types end."""

Expression = Callable[[Tensor], Tensor]

ANY_ID: dict[str, Expression] = {
    "clamp": lambda x: x.clamp(0, ROWS - 1),
    "clamp_of_tensors": lambda x: torch.clamp(x, torch.tensor(2), torch.tensor(7)),
    "clamp_min_and_clamp_max": lambda x: x.clamp_min(1).clamp_max(ROWS - 1),
    "min_and_max": lambda x: torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.full_like(x, ROWS - 1)),
    "max_of_another": lambda x: torch.min(torch.max(x, torch.tensor(0)), torch.tensor(ROWS - 1)),
    "where": lambda x: torch.where((x < ROWS) & (x >= 0), x, 0),
    "where_of_zeros": lambda x: torch.where(torch.logical_and(x.lt(ROWS), x.ge(0)), x, torch.zeros_like(x)),
    "where_turned": lambda x: torch.where((x >= ROWS) | (x < 0), ROWS - 1, x),
    "masked_fill": lambda x: x.masked_fill(x >= ROWS, 0).masked_fill(x < 0, 3),
    "remainder": lambda x: x % ROWS,
    "fmod": lambda x: torch.fmod(x, ROWS // 2) + 6,
    "fmod_of_negatives": lambda x: torch.fmod(x, 6).abs(),
    "hash": lambda x: (x * BIG) % ROWS,
    "hash_of_bits": lambda x: ((x ^ (x >> 16)) * 0x45D9F3B ^ (x << 3)) & 7,
    "bits": lambda x: (~x | 2) & 11,
    "xor": lambda x: torch.bitwise_xor(x & 7, torch.tensor(5)),
    "floor_of_halves": lambda x: torch.div(x, 2, rounding_mode="floor") % ROWS,
    "trunc_of_halves": lambda x: torch.div(x, -3, rounding_mode="trunc") % ROWS,
    "quotient": lambda x: (x // 1000) % ROWS,
    "absolute": lambda x: (x.abs() % ROWS).abs(),
    "negative": lambda x: (-x + 1) % ROWS,
    "turned_difference": lambda x: (5 - x) % ROWS,
    "alpha": lambda x: torch.add(x, 3, alpha=2) % ROWS,
    "comparison_added": lambda x: (x > 3).long() + (x != 7).long() * 2 + x.eq(5),
    "negation": lambda x: torch.logical_not(x == 4).long(),
    "relu": lambda x: torch.relu(x).clamp(max=ROWS - 1),
    "int32": lambda x: x.int() % ROWS,
    "int32_wraps": lambda x: (x.int() * 65_537) % ROWS,
    "as_float": lambda x: x.float().clamp(0, ROWS - 1).long(),
    "float_divided": lambda x: torch.floor(x.clamp(0, 100).float() / 10).long(),
    "float_rounded": lambda x: (x.clamp(0, 100).double() / 10).round().long(),
    "true_division": lambda x: (x.clamp(0, 100) / 10).ceil().int(),
    "bool": lambda x: x.bool().long() + 1,
}
"""Expressions of any id at all that give a row of a table of `ROWS`."""

IN_PLACE: dict[str, Expression] = {"remainder_in_place": lambda x: x.clone().remainder_(ROWS)}
"""Those that write in place, apart: torch decomposes the whole of a graph that does, which takes twice as long as to
trace it.
"""


class Model(nn.Module):
    """A model with one embedding `e`, looked up by an expression of its argument."""

    def __init__(self, expression: Expression, rows: int = ROWS) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.e = nn.Embedding(rows, DIM)
        self.out = nn.Linear(DIM, 1)
        self.expression = expression


class Single(Model):
    def forward(self, user: Tensor) -> Tensor:
        return self.out(self.e(self.expression(user)))


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.pair, self.hashed, self.user = nn.Embedding(6 * 7, DIM), nn.Embedding(ROWS, DIM), nn.Embedding(6, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, user: Tensor, a: Tensor, x: Tensor) -> Tensor:
        pair = self.pair(user * 7 + a) + self.hashed((user * BIG ^ a * 31 ^ x[:, 1]) % ROWS)
        return self.out(torch.tanh(pair) + self.user(user) + torch.tanh(self.pair(user * 7 + x[:, 0])))


CROSSED: list[Feature] = [USER, A, B]


HISTORY = IdSequence("history", length=4, pad=2)


def lists(ids: list[int]) -> Ragged:
    return Ragged(np.array(ids, np.int64), np.array([0, 0, 1, 3, len(ids) - 8, len(ids)]))


def export(
    path: Path, module: nn.Module, features: list[Feature], stacks: dict[str, list[str]] | None = None, **more: Any
) -> ExportReport:
    return export_model(module, Schema(features, stacks or {}), path / "model", 1, quiet=True, **more)


def check(path: Path, module: nn.Module, features: list[Feature], columns: dict[str, Column], **more: Any) -> Any:
    report = export(path, module, features, **more)
    stacks = more.get("stacks")
    assert_equal(module, Schema(features, stacks or {}), report.path, columns, len(next(iter(columns.values()))))
    return report
