"""Outputs by row: scores of a whole catalogue, that a method returns end to end as (B * k,), are made (B, k)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema

BY_ROW: Final = ("id", "dense", "number", "sequence", "lengths", "id_stack", "dense_stack")
"""Parts of arguments whose first dimension is the row."""

RowCounts = Mapping[str, int]
"""What the first dimension of an argument has more than there are rows, by name of those that tell."""


def row_counts(arguments: Mapping[str, Argument], schema: Schema) -> RowCounts:
    """Return which arguments tell the number of rows, and how."""
    counts: dict[str, int] = {}
    for name, argument in arguments.items():
        if argument.part in BY_ROW:
            counts[name] = 0
        elif argument.part == "offsets":
            feature = schema[argument.features[0]]
            counts[name] = int(isinstance(feature, Sparse) and feature.include_last_offset)
    return counts


def by_row(outputs: Any, counts: RowCounts, flat: Mapping[str, Tensor]) -> Any:
    """Return outputs, of which those with a multiple of the rows as first dimension have rows and that multiple."""

    def one(output: Any) -> Any:
        if isinstance(output, Tensor) and output.dim():
            for rows in _distinct(counts, flat):
                times = _times(output.shape[0], rows)
                if times > 1:
                    return output.reshape(rows, times, *output.shape[1:])
        return output

    return tree_map(one, outputs)


def _distinct(counts: RowCounts, flat: Mapping[str, Tensor]) -> Iterator[int | torch.SymInt]:
    """Yield the numbers of rows that arguments tell: in a trace, several symbols that are not known to be one."""
    seen = set()
    for name, more in counts.items():
        rows = flat[name].shape[0] - more
        told = rows.node.expr if isinstance(rows, torch.SymInt) else rows
        if told not in seen:
            seen.add(told)
            yield rows


def _times(size: int | torch.SymInt, rows: int | torch.SymInt) -> int:
    """Return how many times the rows a size is, whatever the rows; 1 where it is no such multiple."""
    if isinstance(size, torch.SymInt) and isinstance(rows, torch.SymInt):
        hint, per = size.node.hint, rows.node.hint
        if hint is None or not per or hint % per:
            return 1
        times = int(hint // per)
        return times if size.node.expr.equals(rows.node.expr * times) else 1
    if isinstance(size, int) and isinstance(rows, int) and rows > 0 and size % rows == 0:
        return max(1, size // rows)
    return 1
