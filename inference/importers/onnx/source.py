"""Source of an import: an ONNX graph that was read and looked over, its large tensors apart and mapped.

Nothing of a file is trusted: a tensor must hold as many bytes as its shape says before anything is made of it, external
data must lie in the graph's own folder, and operators must be such as onnxruntime has. Tensors of 64 KiB and more are
taken out of the graph (`SourceGraph.weights`), those of external data as maps of their files: a table of a hundred
gigabytes is never loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from ringpull.inference.importers.onnx.sparse import write_out
from ringpull.inference.model.onnx_check import MAX_DEPTH, MAX_MADE, MAX_NODES, RANDOM, SIZED_BY
from ringpull.ps.errors import CorruptData, InvalidInput

Array = NDArray[Any]

APART_BYTES: Final = 64 * 1024
"""Bytes of a tensor from which on it is kept apart from its graph."""

MAX_FILE_BYTES: Final = 2**31 - 1
"""Largest file of a graph: what protobuf can hold. Larger models have external data."""

DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators onnxruntime may have."""

_SIZES: Final = (TensorProto.INT32, TensorProto.INT64)
"""Types of tensors that say sizes."""
_MAX_RANK: Final = 64
_MAX_CALLS: Final = 100
"""Largest depth of functions that call functions."""

NO_FILE: Final = "kept-apart"
"""Location that stands in a graph for tensors that are kept apart."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceGraph:
    """A graph that was read, its functions inlined, and the tensors that are kept apart from it."""

    where: str
    """Name of the file, or what else to call it in messages."""
    model: ModelProto
    weights: Mapping[str, Array] = field(default_factory=dict)
    """Initializers that are kept apart, by name; those of external data are maps of their files."""

    @property
    def graph(self) -> GraphProto:
        """The graph."""
        return self.model.graph

    def opset(self, domain: str = "") -> int:
        """Return the version of a domain's operators; 1 where the graph names none."""
        names = ("", "ai.onnx") if domain == "" else (domain,)
        return max((each.version for each in self.model.opset_import if each.domain in names), default=1)

    def constants(self) -> dict[str, Array]:
        """Return all initializers by name; those of strings as objects."""
        own = {each.name: _array(each) for each in self.graph.initializer if each.name not in self.weights}
        return {**own, **self.weights}


def read_source(given: ModelProto | str | Path, folder: Path | None = None) -> SourceGraph:
    """Read an ONNX graph.

    Args:
        given: A file, or a graph; it is not changed.
        folder: Folder of a graph's external data; None: that of the file.

    Raises:
        InvalidInput: There is no such file, or the graph has what cannot be imported: no outputs, operators of
            strangers, inputs of no rank.
        CorruptData: The file is no ONNX graph, or one of its tensors is not what it says.
    """
    if isinstance(given, ModelProto):
        where, model = given.graph.name or "the graph", ModelProto()
        model.CopyFrom(given)
    else:
        path = Path(given)
        where, model, folder = str(path), _parsed(path), folder or path.absolute().parent
    _check_size(where, model)
    _check_names(where, model)
    for tensor in _all_tensors(model.graph):
        _check_tensor(where, tensor)
    _check_graph(where, model)
    model = _inlined(where, model)
    _check_made(where, model.graph)
    nodes = list(all_nodes(model.graph))
    write_out(where, [model.graph, *(inner for node in nodes for inner in subgraphs(node))], nodes)
    weights = {}
    for tensor in model.graph.initializer:
        array = _apart(where, tensor, folder)
        if array is not None:
            weights[tensor.name] = array
    for tensor in _all_tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in weights:
            raise CorruptData(
                f"{where}: tensor {tensor.name or 'of a node'} has external data, which only initializers of the main"
                " graph may have"
            )
    return SourceGraph(where, model, weights)


def _parsed(path: Path) -> ModelProto:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path}: has more than 2 GiB; save it with external data (onnx.save_model)")
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError as exc:
        raise CorruptData(f"{path}: is no ONNX graph, or was cut off: {exc}") from exc
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if not model.HasField("graph"):
        raise CorruptData(f"{path}: is no ONNX graph: it has no graph")
    return model


def _check_size(where: str, model: ModelProto) -> None:
    """Check that a graph is none that a head would refuse, before much is made of it."""
    functions = {(each.domain, each.name): each for each in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def nodes_of(graph: Any, depth: int, calls: int = 0) -> int:
        """Return the nodes of a graph, those of inner ones and of the functions that it calls included."""
        if depth > MAX_DEPTH or calls > _MAX_CALLS:
            what, most = (
                ("graphs in graphs", MAX_DEPTH) if depth > MAX_DEPTH else ("functions in functions", _MAX_CALLS)
            )
            raise InvalidInput(f"{where}: has {what}, more than {most} deep")
        nodes = 0
        for node in graph.node:
            key = (node.domain, node.op_type)
            if key in functions and key not in counted:
                counted[key] = 0  # of one that calls itself, which is refused as such
                counted[key] = nodes_of(functions[key], depth, calls + 1)
            nodes += 1 + counted.get(key, 0) + sum(nodes_of(inner, depth + 1, calls) for inner in subgraphs(node))
            if nodes > MAX_NODES:
                raise InvalidInput(
                    f"{where}: has more than {MAX_NODES:,} nodes, those of inner graphs and of functions included"
                )
        return nodes

    nodes_of(model.graph, 1)


def _check_made(where: str, graph: GraphProto) -> None:
    """Check that no constant asks an operator for a huge tensor."""
    constants = {each.name: each for each in graph.initializer}
    nodes = list(all_nodes(graph))
    for node in nodes:
        value = next((each.t for each in node.attribute if each.name == "value" and each.HasField("t")), None)
        if node.op_type == "Constant" and value is not None:
            constants[node.output[0]] = value
    for node in nodes:
        place = SIZED_BY.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        tensor = constants.get(node.input[place]) if place is not None and place < len(node.input) else None
        if tensor is None or tensor.data_type not in _SIZES or math.prod(tensor.dims) > _MAX_RANK:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        sizes = numpy_helper.to_array(tensor).reshape(-1).tolist()
        if math.prod(abs(each) for each in sizes if each) > MAX_MADE:
            raise InvalidInput(
                f"{where}: node {node.name or node.output[0]!r} ({node.op_type}) would make {sizes} elements; at most"
                f" {MAX_MADE:,} may be asked for by a constant"
            )


def _check_names(where: str, model: ModelProto) -> None:
    """Check that names are text: what is no UTF-8 is read as bytes, in the place of strings."""
    for node in all_nodes(model.graph):
        texts = (node.name, node.op_type, node.domain, *node.input, *node.output)
        _check_texts(where, f"node {node.name!r:.60}", (*texts, *(each.name for each in node.attribute)))
    values = (*model.graph.input, *model.graph.output)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    named = [each.name for each in values] + [each.name for each in _all_tensors(model.graph)]
    _check_texts(where, "a tensor", (model.graph.name, *named, *(each.value for each in entries)))


def _check_texts(where: str, what: str, texts: Iterable[Any]) -> None:
    if any(not isinstance(each, str) for each in texts):
        raise CorruptData(f"{where}: {what} has a name that is no UTF-8")


def _check_graph(where: str, model: ModelProto) -> None:
    if not model.graph.output:
        raise InvalidInput(f"{where}: the graph has no outputs; name one as its output when you save it")
    if not model.opset_import:
        raise CorruptData(f"{where}: says no version of its operators (opset_import)")
    _check_inputs(where, model)
    functions = {(each.domain, each.name) for each in model.functions}
    for node in all_nodes(model.graph):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
            raise InvalidInput(
                f"{where}: node {node.name or node.output[0]!r} is of the operator {node.op_type} of {node.domain!r},"
                f" which onnxruntime does not have; it has those of {', '.join(DOMAINS[1:])}. Export the model with"
                " operators of ONNX"
            )
        if node.op_type in RANDOM and node.domain != "ai.onnx.ml":
            raise InvalidInput(
                f"{where}: node {node.name or node.output[0]!r} ({node.op_type}) draws random numbers, so that no score"
                " would be the same twice; export the model in evaluation mode"
            )
    try:
        onnx.checker.check_model(_for_checker(model))
    except onnx.checker.ValidationError as exc:
        raise CorruptData(f"{where}: is no valid ONNX graph: {_first_line(exc)}") from exc


def _for_checker(model: ModelProto) -> ModelProto:
    """Return the graph for the checker: it would look for external data, and wants shapes of outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.input}
    for tensor in [each for each in copy.graph.initializer if each.data_location == TensorProto.EXTERNAL]:
        if tensor.name not in given:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        copy.graph.initializer.remove(tensor)
    for value in copy.graph.output:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return copy


def _check_inputs(where: str, model: ModelProto) -> None:
    filled = {tensor.name for tensor in model.graph.initializer}
    for value in [each for each in model.graph.input if each.name not in filled]:
        if not value.type.HasField("tensor_type"):
            raise InvalidInput(f"{where}: input {value.name} is a {value.type.WhichOneof('value')}, no tensor")
        if not value.type.tensor_type.HasField("shape"):
            raise InvalidInput(
                f"{where}: input {value.name} says no shape; say how many dimensions it has, (batch,) or"
                " (batch, width), when the model is exported"
            )


def _inlined(where: str, model: ModelProto) -> ModelProto:
    if not model.functions:
        return model
    try:
        made: ModelProto = inliner.inline_local_functions(model)
    except Exception as exc:  # of the library's C++, of any root
        raise InvalidInput(f"{where}: its functions cannot be inlined: {_first_line(exc)}") from exc
    return made


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    pending = [graph]
    while pending:
        for node in pending.pop().node:
            yield node
            pending += subgraphs(node)


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs inside a node: the body of a loop, the branches of an If."""
    found = [each.g for each in node.attribute if each.type == AttributeProto.GRAPH]
    return found + [graph for each in node.attribute if each.type == AttributeProto.GRAPHS for graph in each.graphs]


def _all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from inner.initializer


def _check_tensor(where: str, tensor: TensorProto) -> None:
    """Check that a tensor holds as many numbers as its shape says: it may claim 2^40."""
    what = f"{where}: tensor {tensor.name or 'of a node'}"
    try:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError) as exc:
        raise CorruptData(f"{what} is of the type {tensor.data_type}, which there is not") from exc
    if any(each < 0 for each in tensor.dims):
        raise CorruptData(f"{what} has the shape {tuple(tensor.dims)}")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        wanted, found = _packed_bytes(tensor, kind), len(tensor.raw_data)
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        wanted, found = count, len(tensor.string_data) or max(len(each) for each in fields)
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            wanted *= 2
        elif _bits(tensor) < 8:
            wanted = found if count <= found * 8 else count
    if wanted != found:
        raise CorruptData(
            f"{what} has the shape {tuple(tensor.dims)}, so {wanted:,} of {kind}; the file holds {found:,}"
        )


def _bits(tensor: TensorProto) -> int:
    name = TensorProto.DataType.Name(tensor.data_type)
    return 4 if "4" in name.removesuffix("64") and name.startswith(("INT4", "UINT4", "FLOAT4")) else 8


def _packed_bytes(tensor: TensorProto, kind: np.dtype[Any]) -> int:
    count = math.prod(tensor.dims)
    name = TensorProto.DataType.Name(tensor.data_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return (count + 1) // 2
    return (count + 3) // 4 if name in ("INT2", "UINT2") else count * kind.itemsize


def _apart(where: str, tensor: TensorProto, folder: Path | None) -> Array | None:
    """Take a large tensor out of its graph, and return it; None: it stays."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return _mapped(where, tensor, folder)
    if len(tensor.raw_data) >= APART_BYTES and tensor.data_type != TensorProto.STRING:
        array = numpy_helper.to_array(tensor)
    else:
        return None
    _keep_apart(tensor, array.nbytes)
    return array


def add_weight(source: SourceGraph, name: str, values: Array) -> SourceGraph:
    """Add an initializer to the graph, kept apart where it is large, and return the graph with it."""
    values = np.ascontiguousarray(values)
    tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    if values.nbytes < APART_BYTES:
        source.graph.initializer.append(numpy_helper.from_array(values, name))
        return source
    _keep_apart(tensor, values.nbytes)
    source.graph.initializer.append(tensor)
    return SourceGraph(source.where, source.model, {**source.weights, name: values})


def _keep_apart(tensor: TensorProto, size: int) -> None:
    """Leave of a tensor its name, type and shape; its `size` bytes are elsewhere."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", NO_FILE), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _mapped(where: str, tensor: TensorProto, folder: Path | None) -> Array:
    """Return a tensor of external data, as a map of its file.

    Raises:
        CorruptData: The file is missing, lies elsewhere than beside the graph, or is too short.
    """
    what = f"{where}: tensor {tensor.name}"
    said = {each.key: each.value for each in tensor.external_data}
    location = said.get("location", "")
    if folder is None:
        raise InvalidInput(f"{what} has external data, and the graph was given without its folder; give its file")
    if "\0" in location:
        raise CorruptData(f"{what} has its data in {location!r}, which names no file")
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise CorruptData(f"{what} has its data in {location!r}, outside the folder {folder}")
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    size, count = _packed_bytes(tensor, kind), math.prod(tensor.dims)
    offset = _number(what, said.get("offset", "0"))
    if "length" in said and _number(what, said["length"]) != size:
        raise CorruptData(f"{what} has the shape {tuple(tensor.dims)}, so {size:,} bytes; it says {said['length']}")
    if not path.is_file():
        raise CorruptData(f"{what} has its data in {location}, which is missing beside {where}")
    if offset + size > path.stat().st_size:
        raise CorruptData(
            f"{what} has {size:,} bytes from {offset:,} on in {location}, which has {path.stat().st_size:,}"
        )
    if size != count * kind.itemsize or tensor.data_type == TensorProto.STRING:
        raise CorruptData(f"{what} is of a type that external data cannot have here")
    if count == 0:
        return np.zeros(tuple(tensor.dims), kind)
    # Where onnxruntime maps it itself, from the folder that the map's own file name and this one tell.
    for key, value in (("location", str(path.relative_to(folder.resolve()))), ("length", str(size))):
        entry = next((each for each in tensor.external_data if each.key == key), None) or tensor.external_data.add()
        entry.key, entry.value = key, value
    return np.memmap(path, kind, "r", offset, tuple(tensor.dims))


def _number(what: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise CorruptData(f"{what} has external data at {text!r:.40}, which is no number of bytes")
    return int(text)


def _array(tensor: TensorProto) -> Array:
    array = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.STRING:
        return np.array([each.decode() if isinstance(each, bytes) else each for each in array.ravel()], object).reshape(
            array.shape
        )
    return array


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n")[0]
