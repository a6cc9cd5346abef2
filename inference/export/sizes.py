"""Sizes of ids, said as numbers of rows: once ids are no input of the graph, their sizes must come from what is.

The number of ids in a tensor of the batch is a * rows + c. The two are found by running the expression for a few
numbers of rows.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ringpull.inference.export.calls.by_row import BY_ROW
from ringpull.inference.export.operators import SIZES, aten
from ringpull.inference.export.probe import PROBED_ROWS, Probe
from ringpull.inference.schema.kinds import Sparse
from ringpull.ps.errors import ExportError


def number_of_rows(probe: Probe, graph: fx.Graph) -> fx.Node:
    """Insert the number of rows of the batch, taken from the size of any argument that tells it.

    Raises:
        ExportError: No argument has one.
    """
    nodes = probe.captured.arguments
    first_operation = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    with graph.inserting_before(first_operation):
        for name, argument in probe.arguments.items():
            if argument.part in BY_ROW:
                return graph.call_function(aten.sym_size.int, (nodes[name], 0))
        for name, argument in probe.arguments.items():
            if argument.part == "offsets":
                size = graph.call_function(aten.sym_size.int, (nodes[name], 0))
                feature = probe.schema[argument.features[0]]
                last = int(isinstance(feature, Sparse) and feature.include_last_offset)
                return graph.call_function(operator.sub, (size, last))
    raise ExportError("no argument of the module tells the number of rows; take the offsets of a ragged feature")


def free_sizes(probe: Probe, graph: fx.Graph, rows: fx.Node) -> None:
    """Replace every size of an integer tensor that is linear in the number of rows by arithmetic on `rows`."""
    for node in list(graph.nodes):
        if node.target not in SIZES or node is rows or node in rows.all_input_nodes:
            continue
        value = node.args[0].meta.get("val")
        if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32, torch.bool):
            continue
        if free_unbacked_symbols(value):  # the size depends on values, as that of nonzero() does
            continue
        sizes = [int(probe.evaluate(node, probe.example(count))) for count in PROBED_ROWS]
        factor, rest = divmod(sizes[1] - sizes[0], PROBED_ROWS[1] - PROBED_ROWS[0])
        constant = sizes[0] - factor * PROBED_ROWS[0]
        if rest or any(size != factor * count + constant for size, count in zip(sizes, PROBED_ROWS, strict=True)):
            continue
        with graph.inserting_before(node):
            product = graph.call_function(operator.mul, (rows, factor))
            node.replace_all_uses_with(graph.call_function(operator.add, (product, constant)))
