"""Packed sequences as a trace can follow them: all places of the padded sequence, with the lengths beside them.

A `PackedSequence` has as many elements as the lengths of its rows say, which no trace knows. While a module is traced
it holds every place of the padded sequence, step after step, and its `batch_sizes` are the lengths of the rows. The
recurrent layers run over all steps, and their last states are those at the end of each row: the same numbers.

What is padded again has the length of the padded sequence, as it has in a batch with a row that is as long; torch cuts
it to the longest row of the batch, whatever batch a row comes in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence

_TORCH: Final[Any] = rnn
"""Module of torch whose functions pack and pad."""

_LAYERS: Final[tuple[Any, ...]] = (nn.RNN, nn.GRU, nn.LSTM)


@dataclass(frozen=True, slots=True, eq=False)
class _Lengths:
    """Lengths of the rows, in place of `batch_sizes`."""

    lengths: Tensor
    """(B,), in the order of the packed rows."""
    steps: int
    """Places of the padded sequence, T."""
    device: ClassVar = torch.device("cpu")
    """Device of `batch_sizes`."""

    def size(self, dim: int = 0) -> int:
        """Return the number of steps, which `pad_packed_sequence` asks for."""
        return self.steps

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeError(f"batch_sizes.{name} of a packed_sequence is not known while a module is traced")

    def __getitem__(self, place: Any) -> Any:
        raise TypeError("the batch_sizes of a packed_sequence are not known while a module is traced")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("the batch_sizes of a packed_sequence are not known while a module is traced")

    def padded(self, data: Tensor) -> Tensor:
        """Return the packed elements by step and row: (T, B, ...)."""
        return data.reshape(self.steps, self.lengths.shape[0], *data.shape[1:])

    def valid(self, rank: int) -> Tensor:
        """Return which places are no padding, with so many dimensions: (T, B, 1, ...)."""
        steps = torch.arange(self.steps, device=self.lengths.device)
        return (steps[:, None] < self.lengths).reshape(self.steps, -1, *[1] * (rank - 2))

    def reversed(self, steps: Tensor) -> Tensor:
        """Return (T, B, D) with the places of each row in reverse order; where padding comes, anything."""
        from_end = self.lengths - 1 - torch.arange(self.steps, device=self.lengths.device)[:, None]
        return self._at(steps, from_end)

    def last(self, steps: Tensor) -> Tensor:
        """Return (T, B, D) at the last place of each row: (1, B, D)."""
        return self._at(steps, (self.lengths - 1).unsqueeze(0))

    def _at(self, steps: Tensor, places: Tensor) -> Tensor:
        chosen = places.clamp(min=0).to(steps.device).unsqueeze(-1).expand(-1, -1, steps.shape[-1])
        return steps.gather(0, chosen)


@contextmanager
def padded_sequences() -> Iterator[None]:
    """Have torch keep all places of padded sequences where it packs them, and recurrent layers take those."""
    functions, invert = _TORCH._VF, _TORCH.invert_permutation
    forwards = [each.forward for each in _LAYERS]
    _TORCH._VF = _Functions(functions)
    _TORCH.invert_permutation = lambda order: None if order is None else torch.argsort(order)
    for layer, forward in zip(_LAYERS, forwards, strict=True):
        layer.forward = _forward(forward)
    try:
        yield
    finally:
        _TORCH._VF, _TORCH.invert_permutation = functions, invert
        for layer, forward in zip(_LAYERS, forwards, strict=True):
            layer.forward = forward


class _Functions:
    """Functions of torch that pack and pad, and all others of theirs; other threads have torch's own."""

    def __init__(self, others: Any) -> None:
        self._others = others
        self._thread = get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)

    def _pack_padded_sequence(self, padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Any]:
        if get_ident() != self._thread:
            return self._others._pack_padded_sequence(padded, lengths, batch_first)  # type: ignore[no-any-return]
        steps = padded.transpose(0, 1) if batch_first else padded
        return steps.flatten(0, 1), _Lengths(lengths, steps.shape[0])

    def _pad_packed_sequence(
        self, data: Tensor, sizes: Any, batch_first: bool, padding_value: float, total_length: int
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(sizes, _Lengths):
            return self._others._pad_packed_sequence(  # type: ignore[no-any-return]
                data, sizes, batch_first, padding_value, total_length
            )
        steps = sizes.padded(data)
        steps = torch.where(sizes.valid(steps.dim()), steps, padding_value)
        if total_length > sizes.steps:
            behind = [0, 0] * (steps.dim() - 1) + [0, total_length - sizes.steps]
            steps = F.pad(steps, behind, value=padding_value)
        return (steps.transpose(0, 1) if batch_first else steps), sizes.lengths


def _forward(original: Any) -> Any:
    """Return the forward of a layer that takes such sequences, too."""

    def forward(layer: Any, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence) and isinstance(input.batch_sizes, _Lengths):
            return _run(layer, input, hx)
        return original(layer, input, hx)

    return forward


def _run(layer: Any, packed: PackedSequence, given: Any) -> Any:
    """Return what a recurrent layer makes of a packed sequence, and its states at the end of each row."""
    sizes: Any = packed.batch_sizes
    steps, directions = sizes.padded(packed.data), 2 if layer.bidirectional else 1
    begin = _begin(layer, steps, packed, given)
    finals: list[tuple[Tensor, ...]] = []
    for number in range(layer.num_layers):
        results = []
        for direction in range(directions):
            place = number * directions + direction
            weights = [getattr(layer, name) for name in layer._all_weights[place]]
            own = sizes.reversed(steps) if direction else steps
            result, final = _run_one(layer, weights, own, [each[place : place + 1] for each in begin], sizes)
            results.append(sizes.reversed(result) if direction else result)
            finals.append(final)
        steps = torch.cat(results, -1)
    states = [torch.cat(each) for each in zip(*finals, strict=True)]
    if packed.unsorted_indices is not None:
        states = [each.index_select(1, packed.unsorted_indices) for each in states]
    output = PackedSequence(steps.flatten(0, 1), sizes, packed.sorted_indices, packed.unsorted_indices)
    return output, tuple(states) if layer.mode == "LSTM" else states[0]


def _begin(layer: Any, steps: Tensor, packed: PackedSequence, given: Any) -> list[Tensor]:
    """Return the states before the first step, in the order of the packed rows."""
    if given is not None:
        states = list(given) if layer.mode == "LSTM" else [given]
        order = packed.sorted_indices
        return states if order is None else [each.index_select(1, order) for each in states]
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or layer.hidden_size, *([layer.hidden_size] if layer.mode == "LSTM" else [])]
    return [steps.new_zeros(count, steps.shape[1], width) for width in widths]


def _run_one(
    layer: Any, weights: Sequence[Tensor], steps: Tensor, begin: list[Tensor], sizes: _Lengths
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output (T, B, H) of one layer in one direction, and its states (1, B, H) at the end of each row."""
    options: Any = (weights, layer.bias, 1, 0.0, False, False, False)
    if layer.mode != "LSTM":
        run = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layer.mode]
        output = run(steps, begin[0], *options)[0]
        return output, (sizes.last(output),)
    output = torch.lstm(steps, begin, *options)[0]
    return output, (sizes.last(output), _cells(layer, weights, steps, torch.cat([begin[0], output[:-1]]), begin, sizes))


def _cells(
    layer: Any, weights: Sequence[Tensor], steps: Tensor, before: Tensor, begin: list[Tensor], sizes: _Lengths
) -> Tensor:
    """Return the cell of an LSTM at the end of each row, (1, B, H), which it tells of the last step alone.

    All gates come at once of the outputs `before` each step, which are known. Where no cell is used, this is not kept.
    """
    of_input, of_output = (weights[2], weights[3]) if layer.bias else (None, None)
    gates = F.linear(steps, weights[0], of_input) + F.linear(before, weights[1], of_output)
    let_in, keep, new, _ = gates.chunk(4, -1)
    added, kept = let_in.sigmoid() * new.tanh(), keep.sigmoid()
    cell, valid = begin[1][0], sizes.valid(3)
    for step in range(sizes.steps):
        cell = torch.where(valid[step], kept[step] * cell + added[step], cell)
    return cell.unsqueeze(0)
