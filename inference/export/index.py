"""Index expressions: is an embedding's index just ids of the input, reshaped, cast, and with a constant added?

If so, rows can be looked up before the dense program runs. The constant of each column is found by running the
expression on two sets of chosen ids: all zero, which leaves the constants, and each column its own number, which
tells whose they are.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.export.operators import ADDS, CASTS, JOINS, SHAPES, aten, values_of
from ringpull.inference.export.probe import PROBED_ROWS, Probe

ID_PARTS: Final = ("id", "values", "sequence", "id_stack")
"""Parts of arguments that hold ids."""

_INTEGERS: Final = (torch.int64, torch.int32)


class NotPlain(Exception):
    """Raised when an embedding cannot be expressed as a pull; the text is the reason, as in "its index is constant"."""


@dataclass(frozen=True, slots=True)
class Source:
    """One column of ids that an index reads."""

    argument: str
    column: int
    """Column of a stack; 0 otherwise."""
    feature: str


def read_index(probe: Probe, node: fx.Node) -> dict[Source, int]:
    """Return what an index reads: for each source, the constant that the model adds to its ids.

    Raises:
        NotPlain: The index is constant, computed, or adds different numbers to one column.
    """
    if not probe.reads(node):
        raise NotPlain("its index is constant")
    _check(probe, node)
    sources = [
        Source(name, column, feature)
        for name in sorted(probe.reads(node))
        for column, feature in enumerate(probe.arguments[name].features)
    ]
    found: dict[Source, set[int]] = {}
    for rows in PROBED_ROWS:
        for number, add in _numbers_and_adds(probe, node, rows, sources):
            found.setdefault(sources[number - 1], set()).add(add)
    for source, adds in found.items():
        if len(adds) > 1:
            raise NotPlain(f"its index adds different numbers to the ids of {source.feature}")
    return {source: adds.pop() for source, adds in found.items()}


def varying(probe: Probe, node: fx.Node) -> fx.Node:
    """Return the operand of an addition that reads ids; the other must be constant, and the ids be added just once."""
    left, right, *alpha = values_of(node)
    left_reads, right_reads = (isinstance(each, fx.Node) and bool(probe.reads(each)) for each in (left, right))
    if left_reads and not right_reads:
        return left  # type: ignore[no-any-return]
    if right_reads and not left_reads and node.target is aten.add.Tensor and alpha == [1]:
        return right  # type: ignore[no-any-return]
    raise NotPlain(f"its index is computed, by {node.target}")


def _numbers_and_adds(probe: Probe, node: fx.Node, rows: int, sources: list[Source]) -> list[tuple[int, int]]:
    """Run the index; return the different pairs (number of the source from 1, constant added) of its elements."""
    numbers: Mapping[Any, int] = {(each.argument, each.column): number for number, each in enumerate(sources, start=1)}
    marks = probe.example(rows, lambda argument, column: numbers.get((argument.name, column), 0))
    added = probe.evaluate(node, probe.example(rows)).flatten().long()
    marked = probe.evaluate(node, marks).flatten().long()
    return sorted({(number, add) for number, add in zip((marked - added).tolist(), added.tolist(), strict=True)})


def _check(probe: Probe, node: fx.Node) -> None:
    """Check that an index is made of ids by `ringpull.inference.export.operators` and nothing else."""
    if node.op == "placeholder":
        if probe.argument(node).part not in ID_PARTS:
            raise NotPlain(f"its index is made of {node.target}, which holds no ids")
        return
    target, kind = node.target, node.meta.get("val")
    parts: list[Any]
    if target in JOINS:
        parts = list(node.args[0])  # type: ignore[arg-type]
    elif target is operator.getitem or target in CASTS or target in SHAPES:
        parts = [node.args[0]]
    elif target in ADDS:
        parts = [varying(probe, node)]
    else:
        raise NotPlain(f"its index is computed, by {target}")
    if target in CASTS and isinstance(kind, Tensor) and kind.dtype not in _INTEGERS:
        raise NotPlain(f"its index is cast to {kind.dtype}")
    others = [each for each in node.all_input_nodes if each not in parts]
    if any(probe.reads(each) for each in others) or not all(probe.reads(each) for each in parts):
        raise NotPlain(f"its index is computed, by {target}")
    for part in parts:
        _check(probe, part)
