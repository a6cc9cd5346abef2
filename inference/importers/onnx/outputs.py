"""Outputs of a graph that are served: tensors of numbers with one entry for each row of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper

from ringpull.inference.importers.onnx.reading import Reading
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import ExportError, InvalidInput


def open_batch(source: SourceGraph) -> SourceGraph:
    """Return a graph that says of no input and output how many rows it has: one was exported with a batch of 1."""
    model = ModelProto()
    model.CopyFrom(source.model)
    filled = {each.name for each in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in filled and len(dims):
            dims[0].dim_param = "rows"
    del model.graph.value_info[:]
    return SourceGraph(source.where, model, source.weights)


def plain_outputs(source: SourceGraph) -> SourceGraph:
    """Return a graph whose outputs are no maps: what a ZipMap makes one of comes out as it is, under its name."""
    makers = {node.output[0]: node for node in source.graph.node if node.op_type == "ZipMap"}
    if not any(each.name in makers for each in source.graph.output):
        return source
    model = ModelProto()
    model.CopyFrom(source.model)
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            identity = helper.make_node("Identity", list(node.input), list(node.output), node.name)
            node.CopyFrom(identity)
    for value in model.graph.output:
        if value.name in makers:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None, None]))
    return SourceGraph(source.where, model, source.weights)


def chosen_outputs(source: SourceGraph, wanted: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Return the tensors that are served, by the name that each is served under.

    Args:
        source: The graph.
        wanted: Names of its outputs; or what each is to be called; None: all that are numbers.

    Raises:
        InvalidInput: There is no such output, or none is of numbers.
    """
    there = {each.name: each for each in source.graph.output}
    if wanted is not None:
        named = dict(wanted) if isinstance(wanted, Mapping) else {each: each for each in wanted}
        strangers = [each for each in named if each not in there]
        if strangers or not named:
            raise InvalidInput(
                f"outputs: {source.where} has no output {', '.join(strangers) or '(none was named)'}; it has"
                f" {', '.join(there)}"
            )
        return {served: tensor for tensor, served in named.items()}
    found = {
        name: name
        for name, each in there.items()
        if each.type.HasField("tensor_type") and each.type.tensor_type.elem_type != TensorProto.STRING
    }
    if not found:
        raise InvalidInput(f"{source.where}: no output is a tensor of numbers; it has {', '.join(there)}")
    return found


def program_outputs(outputs: Mapping[str, str], readings: Sequence[Reading]) -> tuple[ProgramOutput, ...]:
    """Return what is said of outputs in a manifest.

    Raises:
        ExportError: One has not one entry for each row.
    """
    made = []
    for name, tensor in outputs.items():
        shapes = [each.values[tensor].shape if tensor in each.values else None for each in readings]
        whole = [shape is not None and shape[:1] == (each.rows,) for shape, each in zip(shapes, readings, strict=True)]
        if not all(whole) or len({shape[1:] for shape in shapes if shape is not None}) != 1:
            told = ", ".join(f"{shape} of {each.rows} rows" for shape, each in zip(shapes, readings, strict=True))
            raise ExportError(f"output {name}: is {told}; it must be (rows, ...), one entry for each row; leave it out")
        kind = readings[0].values[tensor].dtype
        if not (np.issubdtype(kind, np.number) or kind == np.bool_):
            raise ExportError(f"output {name}: is of type {kind}; outputs are numbers. Leave it out: outputs=[...]")
        made.append(ProgramOutput(name=name, shape=tuple(readings[0].values[tensor].shape[1:])))
    return tuple(made)
