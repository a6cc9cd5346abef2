"""One signature as a plain graph: functions inlined, small variables constants, big ones inputs.

A big variable would be copied into the graph, which a message of 2 GiB at most has to hold. It becomes a placeholder of
its shape instead, and what reads it (`ResourceGather`, `ReadVariableOp`) the same of a plain tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from ringpull.inference.importers.savedmodel.converter.refusing import Refused, brief

_PASSES: Final = frozenset({"Identity", "ReadVariableOp", "ResourceGather"})
"""Ops that a big variable may go through."""


_CHANGES: Final = ("Assign", "ResourceApply", "ResourceScatter")
"""What names of ops that change variables begin with."""


@dataclass(frozen=True)
class Flat:
    """One signature as a plain graph."""

    graph: Any
    """Its `GraphDef`."""
    inputs: dict[str, str]
    """Placeholder of each input of the signature."""
    outputs: dict[str, str]
    """Tensor of each output of the signature."""
    weights: dict[str, Any]
    """Variable by its constant, or its placeholder."""
    variables: dict[str, Any]
    """Variables that are placeholders, because they are big."""
    handles: dict[str, Any]
    """Tables of look-ups by their placeholder: resources as TensorFlow holds them."""


def flatten(name: str, function: Any, big_bytes: int) -> Flat:
    """Return a signature as a plain graph.

    Args:
        function: The signature as TensorFlow loads it.
        big_bytes: Bytes from which a variable stays outside the graph.

    Raises:
        Refused: TensorFlow cannot put it into one graph, or a big variable is used in a way that needs all of it there.
    """
    captured = _captured(function)
    big = {
        place for place, (_, variable) in captured.items() if variable is not None and _nbytes(variable) >= big_bytes
    }
    try:
        graph, inputs, outputs = _frozen(function, big)
        if within := _used_whole(graph, big):  # by a function that could not be inlined, say
            big -= within
            graph, inputs, outputs = _frozen(function, big)
    except Exception as exc:  # errors of TensorFlow have no root of their own
        raise Refused(
            "refused", f"signature {name}: TensorFlow cannot make one plain graph of it: {brief(exc)}"
        ) from exc
    _check_unchanging(name, graph, outputs.values())
    there = [node.name for node in graph.node if node.op == "Placeholder" and node.name in captured]
    variables = {place: captured[place][1] for place in there if place in big}
    _unwrap(graph, variables)
    handles = {place: captured[place][0] for place in there if place not in big}
    weights = {place: variable for place, (_, variable) in captured.items() if variable is not None}
    return Flat(pruned(graph, outputs.values()), inputs, outputs, weights, variables, handles)


def _check_unchanging(name: str, graph: Any, outputs: Iterable[str]) -> None:
    """Check that nothing changes variables, which would make an answer depend on those before it."""
    by_name = {node.name: node for node in graph.node}
    due = [tensor.split(":")[0] for tensor in outputs]
    seen = set(due)
    while due:
        node = by_name[due.pop()]
        if node.op.startswith(_CHANGES):
            raise Refused(
                "refused",
                f"signature {name}: {node.op} ({node.name}) changes a variable, so that no score would be the same"
                " twice; save it as it is served, without training",
            )
        above = {each.lstrip("^").split(":")[0] for each in node.input} - seen
        seen |= above
        due += sorted(above)


def pruned(graph: Any, outputs: Any) -> Any:
    """Return a graph without what its outputs do not need; checks that only raise are such."""
    for node in graph.node:
        kept = [each for each in node.input if not each.startswith("^")]
        del node.input[:]
        node.input.extend(kept)
        for key in [key for key in node.attr if key.startswith("_")]:  # such as the node that it shall lie beside
            node.attr.pop(key)
    nodes = sorted({tensor.split(":")[0] for tensor in outputs})
    return tf.compat.v1.graph_util.extract_sub_graph(graph, nodes)


def take_directly(graph: Any, weights: Collection[str]) -> None:
    """Have what takes a variable through `Identity` take it directly: tables are called like what is looked up in."""
    origin = {name: name for name in weights}
    for node in in_order(graph):
        if node.op == "Identity" and (found := origin.get(node.input[0].split(":")[0])) is not None:
            origin[node.name] = found
        for place, given in enumerate(node.input):
            if (found := origin.get(given.split(":")[0])) is not None:
                node.input[place] = found


def _frozen(function: Any, big: set[str]) -> tuple[Any, dict[str, str], dict[str, str]]:
    # TensorFlow 1 lists initializers of tables beside a graph; they are no part of it, and would be looked for in vain.
    function.graph.clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    data = convert_to_constants._FunctionConverterDataInEager(
        func=function, lower_control_flow=False, aggressive_inlining=True, variable_names_denylist=big
    )
    graph, _ = convert_to_constants._replace_variables_by_constants(converter_data=data)
    nodes = {node.name for node in graph.node}
    inputs = {}
    for name, tensor in function.structured_input_signature[1].items():
        found = _input_of(function, name, tensor)
        if found in nodes:
            inputs[name] = found
    structured = function.structured_outputs
    named = structured if isinstance(structured, dict) else {"output": structured}
    flat = tf.nest.flatten(named, expand_composites=True)
    if len(flat) != len(function.outputs):
        raise ValueError("its outputs are no plain tensors")
    names = tf.nest.pack_sequence_as(named, [each.name for each in function.outputs])
    return graph, inputs, dict(names)


def _input_of(function: Any, name: str, spec: Any) -> str:
    """Return the placeholder of an input, whose name TensorFlow makes of the input's, in small letters."""
    for tensor in function.inputs:
        node = tensor.op
        given = node.node_def.attr.get("_user_specified_name")
        if given is not None and given.s.decode() == name:
            return str(node.name)
    names = function._arg_keywords or []
    for keyword, tensor in zip(names, function.inputs, strict=False):
        if keyword == name:
            return str(tensor.op.name)
    raise ValueError(f"its input {name} ({spec.dtype.name}) has no place in the graph")


def _nbytes(variable: Any) -> int:
    elements = variable.shape.num_elements()
    return 0 if elements is None or variable.shape.rank != 2 else int(elements) * variable.dtype.size


def _captured(function: Any) -> dict[str, tuple[Any, Any]]:
    """Return what a function holds by its placeholder: the tensor outside, and the variable, if it is one's handle."""
    by_handle = {id(variable.handle): variable for variable in function.graph.variables if hasattr(variable, "handle")}
    return {
        inner.op.name: (outer, by_handle.get(id(outer)))
        for outer, inner in function.graph.captures
        if inner is not None
    }


def _used_whole(graph: Any, big: set[str]) -> set[str]:
    """Return the big variables that something takes which a plain tensor could not be given to."""
    origin = {place: place for place in big}
    whole = set()
    for node in in_order(graph):
        for given in node.input:
            if (place := origin.get(given.split(":")[0])) is not None and node.name not in big:
                if node.op not in _PASSES:
                    whole.add(place)
                elif node.op == "Identity":
                    origin[node.name] = place
    return whole


def _unwrap(graph: Any, variables: dict[str, Any]) -> None:
    """Turn big variables into plain placeholders, and what reads them into what reads a tensor."""
    reached = {place: variable.dtype.base_dtype.as_datatype_enum for place, variable in variables.items()}
    axes: list[Any] = []
    for node in in_order(graph):
        if node.name in variables:
            variable = variables[node.name]
            node.attr["dtype"].type = reached[node.name]
            node.attr["shape"].shape.CopyFrom(variable.shape.as_proto())
            node.attr.pop("_output_shapes", None)
            continue
        if not node.input or node.input[0].split(":")[0] not in reached:
            continue
        if node.op == "Identity" and node.attr["T"].type == tf.resource.as_datatype_enum:
            node.attr["T"].type = reached[node.name] = reached[node.input[0].split(":")[0]]
        elif node.op == "ReadVariableOp":
            dtype = node.attr["dtype"].type
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = dtype
        elif node.op == "ResourceGather":
            axes.append(_to_gather(node))
    graph.node.extend(axes)


def _to_gather(node: Any) -> Any:
    """Turn a `ResourceGather` into a `GatherV2`; return the constant of its axis."""
    batch, dtype, index = node.attr["batch_dims"].i, node.attr["dtype"].type, node.attr["Tindices"].type
    axis = tf.compat.v1.NodeDef(name=f"{node.name}/ringpull_axis", op="Const")
    axis.attr["dtype"].type = tf.int32.as_datatype_enum
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(batch, tf.int32))
    node.op = "GatherV2"
    node.input.append(axis.name)
    node.attr.clear()
    node.attr["Tparams"].type, node.attr["Tindices"].type = dtype, index
    node.attr["Taxis"].type, node.attr["batch_dims"].i = tf.int32.as_datatype_enum, batch
    return axis


def in_order(graph: Any) -> Sequence[Any]:
    """Return the nodes, each behind what it takes."""
    names = {node.name: node for node in graph.node}
    order: dict[str, None] = {}
    for first in graph.node:
        due = [first]
        while due:
            node = due[-1]
            open_ones = [
                names[each]
                for given in node.input
                if (each := given.lstrip("^").split(":")[0]) in names and each not in order and names[each] not in due
            ]
            if node.name in order or not open_ones:
                order.setdefault(node.name)
                due.pop()
            else:
                due.append(open_ones[0])
    return [names[each] for each in order]
