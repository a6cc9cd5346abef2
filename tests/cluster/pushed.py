"""A model whose rows are pushed, and clients of it: all numbers of a row are its version, or that of the last push."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ringpull import Client, PushAnswer, Schema, Sparse, export_model
from ringpull.inference.export.table_options import TableOptions
from ringpull.loadtest.chaos.pushed_model import DIM, EXPORTED, FEATURE, LOW, PUSHED, TABLE, Numbers

KEYS = [*range(0, EXPORTED, 10), *range(EXPORTED, EXPORTED + 20)]
"""Exported keys and new ones, on every shard."""
UNKNOWN = 0.0
"""What the table's policy answers for slots that nobody answers for."""


def export(folder: Path, version: int) -> None:
    """Export a full version, whose rows have its number."""
    module = Numbers()
    module.number = nn.Embedding.from_pretrained(torch.full((EXPORTED, DIM), float(version)))  # type: ignore[no-untyped-call]
    tables = {TABLE: TableOptions(live=True, on_unavailable="default")}
    export_model(module, Schema([Sparse(FEATURE)]), folder, version, name=PUSHED, tables=tables, quiet=True)


def rows_of(number: float, keys: Sequence[int] = KEYS) -> np.ndarray:
    """Rows of these keys."""
    return np.full((len(keys), DIM), number, np.float32)


def push(client: Client, number: float, keys: Sequence[int] = KEYS) -> PushAnswer:
    """Push a number to keys."""
    return client.push(PUSHED, TABLE, keys, rows_of(number, keys))


def shown(client: Client, keys: Sequence[int] = KEYS) -> list[float]:
    """The number that each key has now."""
    numbers: list[float] = client.predict(PUSHED, {FEATURE: np.array(keys)}).outputs[LOW].tolist()
    return numbers
