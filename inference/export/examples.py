"""Arguments made up from the schema: to trace a module with, and to probe its graph with chosen ids.

They are made when they are read: of a thousand arguments, an index reads one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema

TRACED_ROWS = 11
"""Rows that a module is traced with: torch.export would specialise 0 and 1, and a prime is seldom a width."""

Ids = Callable[[Argument, int], int]
"""Function that gives the id to put in column `int` of an argument (0 unless it is a stack)."""


class Examples(Mapping[str, Tensor]):
    """Made-up arguments by name, each made when it is first read; one can be put in the place of another."""

    def __init__(
        self, schema: Schema, arguments: Mapping[str, Argument], rows: int, ids: Ids, device: torch.device
    ) -> None:
        self._schema = schema
        self._arguments = arguments
        self._rows = rows
        self._ids = ids
        self._device = device
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            made = _one(self._schema, self._arguments[name], self._rows, self._ids)
            self._made[name] = made.to(self._device)
        return self._made[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._made[name] = tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)


def example(schema: Schema, arguments: Mapping[str, Argument], rows: int, ids: Ids, device: torch.device) -> Examples:
    """Return made-up arguments of `rows` rows with the ids asked for; numbers are zeros, weights ones, sequences full.

    Bags have lengths of 0 to 3 that no linear function of `rows` sums up.
    """
    return Examples(schema, arguments, rows, ids, device)


def bag_starts(schema: Schema, feature: str, rows: int) -> Tensor:
    """Return the starts of the bags, int64 (rows + 1,), that `example` makes for a ragged feature.

    There are more values than rows, so that no size of theirs is taken for the number of rows.
    """
    place = schema.place(feature)
    lengths = [(i * i + rows + place) % 4 for i in range(rows)]
    lengths[-1] += place + 2 + rows
    return torch.tensor([0, *lengths]).cumsum(0)


def _one(schema: Schema, argument: Argument, rows: int, ids: Ids) -> Tensor:
    features = [schema[name] for name in argument.features]
    feature = features[0]
    match argument.part:
        case "number":
            return torch.zeros(rows)
        case "dense" | "dense_stack":
            return torch.zeros(rows, sum(each.width for each in features if isinstance(each, Dense)))
        case "id_stack":
            return torch.tensor([[ids(argument, column) for column in range(len(features))]] * rows)
        case "sequence" | "lengths" if isinstance(feature, IdSequence):
            if argument.part == "lengths":
                return torch.full((rows,), feature.length)
            return torch.full((rows, feature.length), ids(argument, 0))
        case "values" | "offsets" | "weights" if isinstance(feature, Sparse):
            starts = bag_starts(schema, feature.name, rows)
            if argument.part == "offsets":
                return starts if feature.include_last_offset else starts[:-1]
            size = int(starts[-1])
            return torch.ones(size) if argument.part == "weights" else torch.full((size,), ids(argument, 0))
    return torch.full((rows,), ids(argument, 0))
