"""Binding of a graph's inputs to a schema's arguments: types and shapes that differ are changed in front of the graph.

A schema gives ids as int64 (B,), numbers as float32 (B, w). Graphs want them as int32, as (B, 1), side by side in one
matrix, or as strings: what turns the one into the other are nodes in front of the graph (`bound_model`), and numpy for
the graph as it was (`Bound.feeds`), so that the nodes are checked too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ringpull.inference.export.ranges import HIGHEST
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import InvalidInput

Array = NDArray[Any]

FRONT: Final = "ringpull/"
"""Beginning of the names of tensors that are put in front of a graph."""

UNKNOWN_STRING: Final = "\x00unknown"
"""String that a graph is given for one that it knows nothing of."""

_COLUMN_STACKS: Final = ("id_stack", "dense_stack", "matrix")


@dataclass(frozen=True, slots=True, eq=False)
class BoundInput:
    """One input of a graph, and the argument that it is given."""

    name: str
    argument: Argument
    members: tuple[Argument, ...]
    """Arguments that are put together for it: of a stack its members, else the argument itself."""
    type: int
    """Its type, of `TensorProto`."""
    rank: int
    strings: tuple[str, ...] | None = None
    """Strings that ids stand for, where it takes strings."""

    def feed(self, arguments: Mapping[str, Array]) -> Array:
        """Return what the graph as it was is given."""
        values = arguments[self.argument.name]
        if self.strings is not None:
            values = np.array(self.strings, object)[values]
        else:
            values = values.astype(helper.tensor_dtype_to_np_dtype(self.type))
        return self._shaped(values)

    def _shaped(self, values: Array) -> Array:
        if values.ndim < self.rank:
            return values[:, None]
        return values[:, 0] if values.ndim > self.rank else values


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """All inputs of a graph, bound."""

    inputs: tuple[BoundInput, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that the graph is given, each once."""
        return tuple(dict.fromkeys(each.name for bound in self.inputs for each in bound.members))

    def within(self) -> dict[str, tuple[int, int]]:
        """Return the bounds [low, high) of the ids that inputs of another type than int64 hold, by feature."""
        found: dict[str, tuple[int, int]] = {}
        for each in self.inputs:
            bounds = _bounds(each.type)
            for member in each.members if bounds is not None else ():
                if bounds is not None and member.part in ("id", "sequence", "values"):
                    low, high = found.get(member.features[0], bounds)
                    found[member.features[0]] = max(low, bounds[0]), min(high, bounds[1])
        return found

    def feeds(self, arguments: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the graph as it was is given, of the schema's arguments."""
        return {each.name: each.feed(arguments) for each in self.inputs}


def graph_inputs(source: SourceGraph) -> list[ValueInfoProto]:
    """Return the inputs of a graph that no initializer fills.

    Raises:
        InvalidInput: There is none.
    """
    filled = {each.name for each in source.graph.initializer}
    inputs = [each for each in source.graph.input if each.name not in filled]
    if not inputs:
        raise InvalidInput(f"{source.where}: the graph has no inputs: nothing of a request could change its answer")
    return inputs


def bind_inputs(source: SourceGraph, schema: Schema, arguments: Mapping[str, str]) -> Bound:
    """Bind the inputs of a graph.

    Args:
        source: The graph.
        schema: Schema of its features.
        arguments: Argument by name of an input, where these are not called alike.

    Raises:
        InvalidInput: The schema has no such argument, or one that does not fit the input.
    """
    known = schema.argument_names()
    inputs = graph_inputs(source)
    strangers = set(arguments) - {each.name for each in inputs}
    if strangers:
        raise InvalidInput(
            f"arguments: {source.where} has no input {min(strangers)!r}; it has {', '.join(i.name for i in inputs)}"
        )
    bound = []
    for each in inputs:
        name = arguments.get(each.name, each.name)
        if name not in known:
            raise InvalidInput(
                f"{source.where}: its input {each.name} has no argument {name!r} in the schema, which makes"
                f" {', '.join(known)}. Name the feature so, or say which it is: arguments={{{each.name!r}: ...}}"
            )
        bound.append(_bind(source, schema, each, known[name]))
    return Bound(tuple(bound))


def _bind(source: SourceGraph, schema: Schema, value: ValueInfoProto, argument: Argument) -> BoundInput:
    tensor = value.type.tensor_type
    dims = [each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim]
    what = f"{source.where}: input {value.name}"
    strings = None
    if tensor.elem_type == TensorProto.STRING:
        feature = schema.get(argument.features[0])
        last = getattr(feature, "transforms", ())[-1:]
        if not last or not isinstance(last[0], Vocabulary) or not isinstance(last[0].ids[0], str):
            raise InvalidInput(
                f"{what} takes strings; feature {argument.features[0]} must be of strings and end in a Vocabulary of"
                " those that the model knows: Sparse(..., dtype='string', transforms=[Vocabulary([...])])"
            )
        strings = (UNKNOWN_STRING, *(str(each) for each in last[0].ids))
    elif tensor.elem_type not in _TAKEN:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InvalidInput(f"{what} is of type {kind}; inputs are integers, floats, bool or strings")
    rank = 1 if argument.part in ("id", "values", "offsets", "weights", "lengths", "number") else 2
    shaped = len(dims) == rank or (rank == 1 and len(dims) == 2 and dims[1] in (1, None))
    shaped = shaped or (argument.part == "dense" and len(dims) == 1)
    if not shaped:
        told = ", ".join("?" if each is None else str(each) for each in dims)
        raise InvalidInput(f"{what} is ({told}); argument {argument.name} of the schema is {_SHAPES[argument.part]}")
    made = schema.argument_names()
    members: tuple[Argument, ...] = (argument,)
    if argument.part in _COLUMN_STACKS:
        members = tuple(made[each] for each in argument.members or argument.features)
    if rank == 2 and len(dims) == 2 and dims[1] is not None:
        width = sum(_width(schema, each) for each in members)
        if width != dims[1]:
            raise InvalidInput(f"{what} has {dims[1]} columns; argument {argument.name} of the schema has {width}")
    return BoundInput(value.name, argument, members, tensor.elem_type, len(dims), strings)


_INTEGER_NAMES: Final = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_EXACT_HALF: Final = 2**11
"""Integer up to which float16 holds every one: id 2,049 would be another's."""
_INTEGERS: Final = frozenset(getattr(TensorProto, each) for each in _INTEGER_NAMES)
_TAKEN_NAMES: Final = ("BOOL", *_INTEGER_NAMES, "FLOAT", "FLOAT16", "DOUBLE")
_TAKEN: Final = frozenset(getattr(TensorProto, each) for each in _TAKEN_NAMES)
_SHAPES: Final = {
    "id": "(batch,)",
    "values": "(ids of all rows,)",
    "offsets": "(batch + 1,)",
    "weights": "(ids of all rows,)",
    "lengths": "(batch,)",
    "number": "(batch,)",
    "dense": "(batch, width)",
    "sequence": "(batch, length)",
    "id_stack": "(batch, features)",
    "dense_stack": "(batch, widths)",
    "matrix": "(batch, columns)",
}


def _bounds(kind: int) -> tuple[int, int] | None:
    """Return the bounds [low, high) of the ids that a type of `TensorProto` holds; None: all, or as a float."""
    if kind == TensorProto.FLOAT16:
        return -_EXACT_HALF, _EXACT_HALF + 1
    if kind not in _INTEGERS or kind == TensorProto.INT64:
        return None
    bounds = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    return int(bounds.min), min(int(bounds.max) + 1, HIGHEST)


def _width(schema: Schema, argument: Argument) -> int:
    feature: Any = schema[argument.features[0]]
    if argument.part == "sequence":
        return int(feature.length)
    return int(feature.width) if argument.part == "dense" else 1


def argument_type(argument: Argument) -> int:
    """Return the type of an argument of a schema, of `TensorProto`."""
    return TensorProto.FLOAT if argument.part in ("dense", "number", "weights") else TensorProto.INT64


def bound_model(source: SourceGraph, bound: Bound, schema: Schema) -> SourceGraph:
    """Return a graph whose inputs are the schema's arguments themselves; tensors of the old ones keep their names."""
    model = ModelProto()
    model.CopyFrom(source.model)
    nodes: list[NodeProto] = []
    inputs: dict[str, ValueInfoProto] = {}
    for each in bound.inputs:
        for member in each.members:
            inputs[FRONT + member.name] = _argument_info(schema, member)
        nodes += _front_nodes(model, each)
    filled = {each.name for each in source.graph.initializer}
    kept = [each for each in model.graph.input if each.name in filled]
    del model.graph.input[:]
    model.graph.input.extend([*inputs.values(), *kept])
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])
    del model.graph.value_info[:]
    return SourceGraph(source.where, model, source.weights)


def _argument_info(schema: Schema, argument: Argument) -> ValueInfoProto:
    dims: list[int | str | None] = ["ids" if argument.part in ("values", "weights") else "batch"]
    if argument.part == "offsets":
        dims = [None]
    if argument.part in ("dense", "sequence"):
        dims.append(_width(schema, argument))
    return helper.make_tensor_value_info(FRONT + argument.name, argument_type(argument), dims)


def _front_nodes(model: ModelProto, bound: BoundInput) -> list[NodeProto]:
    nodes: list[NodeProto] = []
    made = f"{FRONT}{bound.name}/"

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [made + name], made + name, **attributes))
        return made + name

    def reshaped(name: str, shape: list[int], to: str) -> str:
        tensor = numpy_helper.from_array(np.array(shape, np.int64), f"{made}{to}_shape")
        model.graph.initializer.append(tensor)
        return node("Reshape", [name, tensor.name], to)

    stacked = bound.argument.part in _COLUMN_STACKS
    columns = []
    for place, member in enumerate(bound.members):
        name = FRONT + member.name
        if stacked and bound.argument.part == "matrix" and argument_type(member) == TensorProto.INT64:
            name = node("Cast", [name], f"{place}_float", to=TensorProto.FLOAT)
        if stacked and member.part not in ("dense", "sequence"):
            name = reshaped(name, [-1, 1], f"{place}_column")
        columns.append(name)
    name = node("Concat", columns, "stacked", axis=1) if len(columns) > 1 else columns[0]
    given = TensorProto.FLOAT if stacked and bound.argument.part != "id_stack" else argument_type(bound.members[0])
    if bound.strings is not None:
        tensor = numpy_helper.from_array(np.array(bound.strings, object), made + "strings")
        model.graph.initializer.append(tensor)
        name = node("Gather", [tensor.name, name], "looked_up", axis=0)
    elif given != bound.type:
        name = node("Cast", [name], "cast", to=bound.type)
    rank = 2 if stacked or bound.argument.part in ("dense", "sequence") else 1
    if rank != bound.rank:
        name = reshaped(name, [-1, 1] if bound.rank == 2 else [-1], "shaped")
    if nodes and nodes[-1].output[0] == name:
        nodes[-1].output[0] = bound.name
    else:
        nodes.append(helper.make_node("Identity", [name], [bound.name], made + "identity"))
    return nodes
