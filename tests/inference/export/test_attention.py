"""Attention and recurrent layers as torch has them, with masks: exported, and scoring as the module does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Ragged
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import assert_equal

pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
    pytest.mark.filterwarnings(
        "ignore:The PyTorch API of nested tensors"
    ),  # of the module itself, with fused attention
]

LENGTH = 6
SCHEMA = Schema([IdSequence("items", length=LENGTH)])


class Encoded(nn.Module):
    """A transformer's encoder over a history, with padding masked, later places masked, or both."""

    def __init__(self, *, padding: bool, causal: bool, layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.items = nn.Embedding(60, 8, padding_idx=0)
        self.places = nn.Embedding(LENGTH, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.last = nn.Linear(8, 1)
        self._padding, self._causal = padding, causal

    def forward(self, items: Tensor, items_lengths: Tensor) -> Tensor:
        places = torch.arange(items.size(1), device=items.device)
        padded = places >= items_lengths.unsqueeze(1)
        padded = padded & (places > 0)  # attention over nothing is NaN
        later = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1) if self._causal else None
        inner = self.items(items) + self.places(places)
        inner = self.encoder(inner, mask=later, src_key_padding_mask=padded if self._padding else None)
        return self.last((inner * (~padded).unsqueeze(2)).sum(1))


class Attended(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.items = nn.Embedding(60, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 1)
        self._options = options

    def forward(self, items: Tensor, items_lengths: Tensor) -> Tensor:
        padded = torch.arange(LENGTH) >= items_lengths.clamp(min=1).unsqueeze(1)
        inner = self.items(items)
        inner, _ = self.attention(inner, inner, inner, key_padding_mask=padded, **self._options)
        return self.last(inner.sum(1))


class Recurrent(nn.Module):
    def __init__(self, kind: str, *, layers: int = 1, given: bool = False) -> None:
        super().__init__()
        self.items = nn.Embedding(60, 8)
        self.layer = getattr(nn, kind)(8, 8, layers, batch_first=True, dropout=0.5 if layers > 1 else 0.0)
        self.normal = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 1)
        self._given = given

    def forward(self, items: Tensor, items_lengths: Tensor) -> Tensor:
        zeros = torch.zeros(self.layer.num_layers, items.size(0), 8, device=items.device)
        first: Any = (zeros, zeros) if isinstance(self.layer, nn.LSTM) else zeros
        inner, _ = self.layer(self.items(items), first if self._given else None)
        place = (items_lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, 8)
        return self.last(self.normal(inner.gather(1, place).squeeze(1)))


MODELS = {
    "padding": lambda: Encoded(padding=True, causal=False),
    "causal": lambda: Encoded(padding=False, causal=True),
    "both, two layers": lambda: Encoded(padding=True, causal=True, layers=2),
    "norm_first": lambda: Encoded(padding=True, causal=True, norm_first=True),
    "gelu": lambda: Encoded(padding=True, causal=False, activation="gelu"),
    "attention": Attended,
    "attention without weights": lambda: Attended(need_weights=False),
    "GRU": lambda: Recurrent("GRU"),
    "GRU from zeros": lambda: Recurrent("GRU", layers=2, given=True),
    "LSTM": lambda: Recurrent("LSTM"),
    "LSTM from zeros": lambda: Recurrent("LSTM", layers=2, given=True),
    "RNN": lambda: Recurrent("RNN"),
}


UNFUSED = ("both, two layers", "attention")
"""What is also exported with torch's fused attention off: all others with attention are made of these layers."""


@pytest.mark.parametrize(("model", "fused"), [*((each, True) for each in MODELS), *((each, False) for each in UNFUSED)])
def test_layers_of_sequences_score_as_the_module(tmp_path: Path, model: str, fused: bool) -> None:
    """With torch's fused attention on or off, which is as it was afterwards."""
    torch.manual_seed(3)
    module = MODELS[model]()
    random = np.random.default_rng(4)
    lengths = np.array([0, 1, 2, 3, 5, 6, 6])
    offsets = np.concatenate([[0], lengths.cumsum()])
    columns = {"items": Ragged(random.integers(1, 60, lengths.sum()), offsets)}
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fused)
    try:
        report = export_model(module, SCHEMA, tmp_path / "ranker", 1, quiet=True)
        assert torch.backends.mha.get_fastpath_enabled() is fused
        assert_equal(module, SCHEMA, report.path, columns, len(lengths))
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    assert [table.name for table in report.tables] == ["items"]
