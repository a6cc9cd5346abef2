"""Packing of a torch program's inputs: look-ups that it lays side by side become one input, laid out before.

Most recommenders begin with `cat` or `stack` of their vectors: a copy of all of them, after each was made a tensor and
those of a context were spread over the rows one by one. One kernel does all of that where the vectors are
(`FlatInputs.side_by_side`), so the program is given the rows as they are to be, with room for what it lays between
them, and copies only that. The same numbers at the same places: all that it computes of them has the same bits.

Where a program takes these rows in bfloat16 alone, the kernel writes that: rounded as torch does, bit for bit but for
which NaN a NaN becomes.

What is rewritten is the module in memory, for the CPU; the version's file stays what it is. Only look-ups that nothing
else takes are packed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ringpull.inference.model.packed_inputs import MIN_INPUTS, Packed, single_places
from ringpull.inference.model.torch_script import same_bits

Int64Array = NDArray[np.int64]

_ATEN: Final[Any] = torch.ops.aten
_COLUMNS: Final[dict[Any, tuple[int, int]]] = {_ATEN.cat.default: (1, -1), _ATEN.stack.default: (1, -2)}
"""Operators that lay rows side by side, and the dimensions along which they do."""
_CHECKED_ROWS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows(Packed):
    """One input in place of several: rows in which their vectors lie, and room for what the program lays there."""

    columns: Int64Array
    """(P,): where those of each begin in a row."""
    width: int
    """Numbers of a row."""
    short: bool = False
    """Whether the numbers are bfloat16, as all that takes the rows casts them."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.short else torch.float32


@dataclass(frozen=True, slots=True, eq=False)
class PackedModule:
    """A program that takes packed rows first, and then the other inputs in their order."""

    module: fx.GraphModule
    packed: tuple[PackedRows, ...]


def packed_module(module: fx.GraphModule, lookups: Collection[int]) -> PackedModule | None:
    """Return a program with its inputs packed; None: there is nothing to pack.

    Args:
        module: Program, which is left as it was.
        lookups: Places of the inputs that are vectors of a look-up.

    Raises:
        ValueError: With packed inputs it gives other bits.
        Exception: Of any root: one of the two does not run.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    places = {inputs[place]: place for place in lookups if len(inputs[place].users) == 1 and _dim(inputs[place])}
    joins = [(node, found) for node in module.graph.nodes if (found := _joined(node, places)) is not None]
    if not joins:
        return None
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    rows = {node: graph.placeholder(f"packed_{number}") for number, (node, _) in enumerate(joins)}
    gone = {inputs[place] for _, found in joins for place in found.places.tolist()}
    cast = {user for node, found in joins if found.short for user in node.users}
    for node in module.graph.nodes:
        if node in rows:
            copies[node] = _filled(graph, node, rows[node], gone, copies)
        elif node in cast:
            copies[node] = copies[node.args[0]]
        elif node not in gone:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    made = PackedModule(fx.GraphModule(module, graph), tuple(found for _, found in joins))
    if not _agree(module, made, inputs):
        raise ValueError("with packed inputs its scores differ")
    return made


def _dim(node: fx.Node) -> int:
    """Return the numbers per row of a node's value; 0: it has no rows of float32 numbers."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.dim() != 2:
        return 0
    return value.shape[1] if isinstance(value.shape[1], int) else 0


def _joined(node: fx.Node, places: dict[fx.Node, int]) -> PackedRows | None:
    """Return what a node lays side by side, if it does, and enough of it may be packed: what is in `places`."""
    if node.target not in _COLUMNS or len(node.args) != 2 or node.args[1] not in _COLUMNS[node.target] or node.kwargs:
        return None
    parts: Any = node.args[0]
    if not isinstance(parts, list | tuple) or any(_writes(user) for user in node.users):
        return None
    dims = [_dim(part) for part in parts]
    own = [number for number, part in enumerate(parts) if part in places]
    if len(own) < MIN_INPUTS or not all(dims):
        return None
    columns = np.concatenate([[0], np.cumsum(dims)])
    short = all(
        user.target is _ATEN.to.dtype and user.args[1:] == (torch.bfloat16,) and not user.kwargs for user in node.users
    )
    found = np.array([places[parts[at]] for at in own])
    return PackedRows(found, np.array(dims)[own], columns[own], int(columns[-1]), short)


def _writes(node: fx.Node) -> bool:
    """Whether a node writes to what it takes: with packed rows that would be what the program is given."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _filled(
    graph: fx.Graph, node: fx.Node, rows: fx.Node, gone: Collection[fx.Node], copies: dict[fx.Node, fx.Node]
) -> fx.Node:
    """Put what is not packed into its room in the rows, and return them in the shape of what a node gives."""
    parts: Any = node.args[0]
    column = 0
    for part in parts:
        end = column + _dim(part)
        if part not in gone:
            room = graph.call_function(_ATEN.slice.Tensor, (rows, 1, column, end))
            graph.call_function(_ATEN.copy_.default, (room, copies[part]))
        column = end
    if node.target is _ATEN.cat.default:
        return rows
    return graph.call_function(_ATEN.view.default, (rows, [-1, len(parts), _dim(parts[0])]))


def _agree(module: fx.GraphModule, made: PackedModule, inputs: Sequence[fx.Node]) -> bool:
    """Whether both programs give the same bits for some rows."""
    generator = torch.Generator().manual_seed(0)
    given: list[Tensor] = []
    for node in inputs:
        like = node.meta["val"]
        shape = (_CHECKED_ROWS, *(int(size) for size in like.shape[1:]))
        given.append(torch.rand(shape, generator=generator).to(like.dtype))
    with torch.inference_mode():
        expected = module(*given)
        packed = []
        for each in made.packed:
            rows = torch.zeros(_CHECKED_ROWS, each.width, dtype=each.dtype)
            for place, dim, column in zip(each.places.tolist(), each.dims.tolist(), each.columns.tolist(), strict=True):
                rows[:, column : column + dim] = given[place]
            packed.append(rows)
        found = made.module(*packed, *[given[place] for place in single_places(len(inputs), made.packed)])
    return all(same_bits(one, other) for one, other in zip(found, expected, strict=True))
