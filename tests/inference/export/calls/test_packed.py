"""Packed sequences: recurrent layers over histories of any length are exported, and score as the module does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ringpull.inference.export.calls.packed import padded_sequences
from ringpull.inference.export.model import export_model
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.kinds import IdSequence
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError
from tests.inference.export.versions import assert_equal

ROWS, DIM, LENGTH, HIDDEN = 12, 4, 6, 3
LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "rnn": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "no bias": (nn.LSTM, {"bias": False}),
    "two layers": (nn.GRU, {"num_layers": 2, "dropout": 0.5}),
    "both ways": (nn.GRU, {"bidirectional": True}),
    "both ways, two layers": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "projected": (nn.LSTM, {"proj_size": 2}),
}


def layer_of(name: str, *, batch_first: bool = True) -> nn.RNNBase:
    torch.manual_seed(3)
    kind, options = LAYERS[name]
    return kind(DIM, HIDDEN, batch_first=batch_first, **options).eval()  # type: ignore[arg-type]


def run(layer: nn.RNNBase, steps: Tensor, lengths: Tensor, *, given: Any = None, **options: Any) -> list[Tensor]:
    """Pack, run and pad, and return all that comes out."""
    packed = pack_padded_sequence(steps, lengths, batch_first=layer.batch_first, **options)
    output, states = layer(packed, given)
    padded, told = pad_packed_sequence(
        output, batch_first=layer.batch_first, padding_value=-2.5, total_length=LENGTH + 1
    )
    again, _ = pad_packed_sequence(
        PackedSequence(output.data.tanh(), *output[1:]), batch_first=True, total_length=LENGTH
    )
    return [padded, told, again, *([states] if isinstance(states, Tensor) else states)]


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sorted_first", [True, False])
def test_what_stands_for_packed_sequences_computes_the_same(name: str, batch_first: bool, sorted_first: bool) -> None:
    layer = layer_of(name, batch_first=batch_first)
    random = torch.Generator().manual_seed(1)
    for rows in (1, 2, 7):
        lengths = torch.randint(1, LENGTH + 1, (rows,), generator=random)
        lengths[0] = LENGTH
        steps = torch.randn(rows, LENGTH, DIM, generator=random)
        options: dict[str, Any] = {"enforce_sorted": False}
        if sorted_first:
            lengths, options = lengths.sort(descending=True).values, {}
        if not batch_first:
            steps = steps.transpose(0, 1)
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        begin = [torch.randn(count, rows, width, generator=random) for width in (layer.proj_size or HIDDEN, HIDDEN)]
        for given in (None, tuple(begin) if isinstance(layer, nn.LSTM) else begin[0]):
            with torch.no_grad():
                expected = run(layer, steps, lengths, given=given, **options)
                with padded_sequences():
                    actual = run(layer, steps, lengths, given=given, **options)
            for own, other in zip(actual, expected, strict=True):
                torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


def test_torch_is_afterwards_as_it_was() -> None:
    def parts() -> list[Any]:
        return [*(each.forward for each in (nn.RNN, nn.GRU, nn.LSTM)), rnn._VF, rnn.invert_permutation]

    def fail() -> None:
        with padded_sequences():
            assert not any(own is other for own, other in zip(parts(), before, strict=True))
            raise ZeroDivisionError

    before = parts()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(own is other for own, other in zip(parts(), before, strict=True))


def test_other_threads_pack_as_ever() -> None:
    steps, lengths = torch.randn(2, LENGTH, DIM), torch.tensor([3, 2])
    with padded_sequences(), ThreadPoolExecutor() as others:
        packed = others.submit(pack_padded_sequence, steps, lengths, batch_first=True).result()
        assert packed.batch_sizes.tolist() == [2, 2, 1]
        output, _ = others.submit(layer_of("gru"), packed).result()
        assert output.data.shape == (5, HIDDEN)


STEPS = 3
"""Length of histories that are exported: every step of a recurrent layer is traced for itself."""


class Recurrent(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.items, self.layer = nn.Embedding(ROWS, DIM), layer_of(name)

    def forward(self, history: Tensor, history_lengths: Tensor) -> tuple[Tensor, ...]:
        vectors = self.items(history)
        packed = pack_padded_sequence(vectors, history_lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, states = self.layer(packed)
        padded, _ = pad_packed_sequence(output, batch_first=True, total_length=STEPS)
        last = states if isinstance(states, Tensor) else torch.cat(states, -1)
        return padded.sum(1), last.transpose(0, 1).flatten(1)


SCHEMA = Schema([IdSequence("history", length=STEPS, never_empty=True)])


def columns_of(rows: int) -> dict[str, Column]:
    random = np.random.default_rng(rows)
    lengths = random.integers(1, STEPS + 1, rows)
    return {"history": Ragged(random.integers(0, ROWS, int(lengths.sum())), np.concatenate([[0], np.cumsum(lengths)]))}


@pytest.mark.medium
@pytest.mark.parametrize("name", ["gru", "both ways, two layers"])
def test_recurrent_models_score_as_their_module(tmp_path: Path, name: str) -> None:
    module = Recurrent(name)
    report = export_model(module, SCHEMA, tmp_path / "model", 1, quiet=True)
    assert [table.name for table in report.tables] == ["items"]
    assert not report.kept
    for rows in (1, 2, 5, 9):
        assert_equal(module, SCHEMA, report.path, columns_of(rows), rows)


class Last(Recurrent):
    """It pads to the longest row of the batch, and takes what is at the end of its own."""

    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:  # type: ignore[override]
        packed = pack_padded_sequence(self.items(history), history_lengths, batch_first=True, enforce_sorted=False)
        padded, lengths = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        return padded[torch.arange(padded.shape[0]), lengths - 1]


@pytest.mark.medium
def test_a_cell_that_is_not_used_is_not_computed(tmp_path: Path) -> None:
    module = Last("lstm")
    report = export_model(module, SCHEMA, tmp_path / "model", 1, quiet=True)
    for rows in (1, 2, 5, 9):
        assert_equal(module, SCHEMA, report.path, columns_of(rows), rows)
    program = torch.export.load(report.path / "dense.pt2")
    assert not [node for node in program.graph.nodes if "sigmoid" in str(node.target)]


class ByStep(Recurrent):
    def forward(self, history: Tensor, history_lengths: Tensor) -> Tensor:  # type: ignore[override]
        packed = pack_padded_sequence(self.items(history), history_lengths, batch_first=True, enforce_sorted=False)
        total = torch.zeros(DIM)
        for size in packed.batch_sizes:
            total = total + packed.data[:size].sum(0)
        return total


@pytest.mark.medium
def test_steps_one_by_one_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"test_packed\.py:\d+, in forward: `for size in packed\.batch_sizes:`.*steps"
    ):
        export_model(ByStep("gru"), SCHEMA, tmp_path / "model", 1, quiet=True)
