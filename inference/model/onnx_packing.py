"""Packing of a graph's inputs: look-ups that a `Concat` lays side by side become one input, laid out before.

onnxruntime takes half a microsecond per input, and copies each once more. A wide model begins with laying its look-ups
side by side, so that is done by one kernel where the vectors are (`FlatInputs.side_by_side`), and the graph is given
the result: the same numbers at the same places, so all that it computes of them has the same bits. What is rewritten is
the graph in memory: file and identity of the version stay what they are.

Only inputs that nothing else takes are packed. (To pack all of them, and have the graph `Split` them, was tried: with
1,000 inputs of 8 numbers that is 0.45 us for 0.61 us of an input for one row, but 2.0 us for 1.4 us for 128 rows.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from ringpull.inference.model.onnx_inputs import GraphInput
from ringpull.inference.model.packed_inputs import MIN_INPUTS, Packed
from ringpull.inference.proto.own_pool import OwnPool

MAX_BYTES: Final = 64 << 20
"""Largest graph that is rewritten, with its weights outside of it: both are loaded twice meanwhile, to be compared."""

_MODEL: Final = OwnPool("onnx").message("ringpull.onnx.Model")
_FLOAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedInput(Packed):
    """One input in place of several, by its name in the graph."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class PackedGraph:
    """A graph some of whose inputs are packed."""

    content: bytes
    inputs: tuple[PackedInput, ...]


def packed_graph(
    content: bytes, inputs: Sequence[GraphInput], lookups: Collection[int], outside_bytes: int = 0
) -> PackedGraph | None:
    """Return a graph with its inputs packed; None: there is nothing to pack.

    Args:
        content: Graph, which was checked.
        inputs: Its inputs.
        lookups: Places of those that are vectors of a look-up.
        outside_bytes: Bytes of its weights that lie in files beside it.
    """
    may = {
        inputs[place].name: place
        for place in lookups
        if inputs[place].rank == 2 and inputs[place].last and inputs[place].dtype == np.float32
    }
    if len(may) < MIN_INPUTS or len(content) + outside_bytes > MAX_BYTES:
        return None
    try:
        model = _MODEL.FromString(content)
        graph = model.graph
        used = Counter(_names(graph.node))
        used.update(each.name for each in graph.output)
        taken = {*used, *[name for node in graph.node for name in node.output], *[each.name for each in graph.input]}
        packed: list[PackedInput] = []
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type == "Concat" and _axis(node) in (1, -1):
                packed += _pack(
                    node, {name: may[name] for name in node.input if used[name] == 1 and name in may}, taken
                )
        if not packed:
            return None
        sizes = [each.last or 0 for each in inputs]
        made = tuple(PackedInput(each.places, np.array([sizes[p] for p in each.places]), each.name) for each in packed)
        _replace_inputs(graph, {inputs[place].name for each in made for place in each.places}, made)
        return PackedGraph(model.SerializeToString(), made)
    except (DecodeError, EncodeError):
        return None


def _pack(node: Any, may: dict[str, int], taken: set[str]) -> list[PackedInput]:
    """Have a `Concat` take one input for each long run of those that may be packed; return these."""
    found: list[PackedInput] = []
    names: list[str] = []
    run: list[str] = []
    for name in [*node.input, None]:
        if name in may:
            run.append(name)
            continue
        if len(run) >= MIN_INPUTS:
            fresh = f"packed_{run[0]}"
            while fresh in taken:
                fresh += "_"
            taken.add(fresh)
            found.append(PackedInput(np.array([may[each] for each in run]), np.zeros(0, np.int64), fresh))
            run = [fresh]
        names += run
        run = []
        if name is not None:
            names.append(name)
    node.ClearField("input")
    node.input.extend(names)
    return found


def _replace_inputs(graph: Any, names: Collection[str], packed: Sequence[PackedInput]) -> None:
    kept = [each for each in graph.input if each.name not in names]
    rows = next(each.type.tensor_type.shape.dim[0] for each in graph.input if each.name in names)
    made = []
    for each in packed:
        value = type(graph.input[0])(name=each.name)
        value.type.tensor_type.elem_type = _FLOAT
        value.type.tensor_type.shape.dim.add().CopyFrom(rows)
        value.type.tensor_type.shape.dim.add().dim_value = int(each.dims.sum())
        made.append(value)
    graph.ClearField("input")
    graph.input.extend([*kept, *made])


def _axis(node: Any) -> int | None:
    return next((each.i for each in node.attribute if each.name == "axis"), None)


def _names(nodes: Any) -> list[str]:
    """Return the names of all values that nodes take, those of graphs within them included."""
    names: list[str] = []
    for node in nodes:
        names += node.input
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else []
            for graph in (*graphs, *attribute.graphs):
                names += _names(graph.node)
                names += [each.name for each in graph.output]
    return names
