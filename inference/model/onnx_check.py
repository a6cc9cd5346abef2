"""A graph of ONNX, looked through before onnxruntime gets it: what it names, how large it is, what it asks for.

The file is parsed by protobuf with our own short description of it (`proto/onnx.proto`), so a server needs no package
`onnx`. Refused are: what is no whole model; operators of domains that onnxruntime's CPU build has not; tensors whose
bytes are not those of their shape, or whose shape is huge where it needs no bytes; weights in files that the version
does not list; graphs in graphs, or functions of functions, beyond any that a converter writes. onnxruntime opens no
file for us: what lies outside of the graph is mapped here, of files that were checked with the manifest.

A graph still computes, and what it computes may be large: the memory of a run is bounded where it is run
(`onnx_program`). Publish only what you would run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from ringpull.inference.proto.own_pool import OwnPool
from ringpull.ps.errors import CorruptData

MAX_BYTES: Final = (1 << 31) - 1
"""Largest file of a graph, which is protobuf's limit; larger weights lie in files beside it."""
MAX_NODES: Final = 100_000
"""Largest number of nodes, those of inner graphs and of called functions included."""
MAX_DEPTH: Final = 16
"""Largest depth of graphs in graphs, as the body of a loop is one."""
MAX_MADE: Final = 1 << 28
"""Largest number of elements that a constant may ask an operator for, or a sparse tensor may stand for."""
MAX_RANK: Final = 64

DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

RANDOM: Final = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
"""Operators that draw numbers: a score would be another each time, and onnxruntime ends the process on a scale of 0."""
"""Domains of operators that onnxruntime has by itself."""

TYPES: Final[Mapping[int, np.dtype[Any]]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    16: np.dtype(np.uint16),  # bfloat16, which numpy has not: its bits
}
"""Types of numbers by their number in ONNX."""
STRING: Final = 8
_BITS: Final[Mapping[int, int]] = {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
"""Bits of numbers of the types that numpy has not, by their number in ONNX."""

_FROM: Final[Mapping[int, str]] = {
    1: "float_data",
    7: "int64_data",
    11: "double_data",
    12: "uint64_data",
    13: "uint64_data",
}
"""Fields with the numbers of tensors that have no `raw_data`; all others are in `int32_data`."""

SIZED_BY: Final[Mapping[str, int]] = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Range": 1}
"""Operators whose result is as large as an input says, and the place of that."""

_MODEL: Final = OwnPool("onnx").message("ringpull.onnx.Model")


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Weights of a graph that lie in a file beside it."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    path: str
    """File, relative to the folder of the graph."""
    offset: int
    """Bytes before them."""

    @property
    def nbytes(self) -> int:
        """Bytes of them."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class GraphValue:
    """One input or output of a graph."""

    name: str
    kind: str
    """Kind of it: tensor, or sequence, map, sparse tensor, optional."""
    elem_type: int
    """Type of a tensor's elements, by its number in ONNX; 0: not said."""
    shape: tuple[int | None, ...] | None
    """Sizes, those that vary None; None: not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedGraph:
    """What a graph says of itself."""

    producer: str
    """Program that wrote it, and its version."""
    ir_version: int
    opsets: Mapping[str, int]
    """Versions of the sets of operators, by domain."""
    inputs: tuple[GraphValue, ...]
    """Inputs that must be given: those that no initializer stands for."""
    outputs: tuple[GraphValue, ...]
    external: tuple[ExternalTensor, ...]
    nodes: int
    """Nodes, those of inner graphs and of called functions included."""
    squeezes: bool
    """Whether a node drops whatever dimensions have the size 1, the rows too, where there is one."""


def check_graph(content: bytes, where: str, files: Mapping[str, int]) -> CheckedGraph:
    """Check a graph.

    Args:
        content: The whole file, which is what onnxruntime must be given afterwards.
        where: Its name, for messages.
        files: Bytes of the files that hold weights, by their paths relative to the graph's folder.

    Raises:
        CorruptData: It is no such file, or is refused; the message names node or tensor.
    """
    if len(content) > MAX_BYTES:
        raise CorruptData(f"{where}: {len(content):,} bytes; a graph of ONNX has at most {MAX_BYTES:,}")
    try:
        model = _MODEL.FromString(content)
    except DecodeError as exc:
        raise CorruptData(
            f"{where}: not a whole model of ONNX: {exc}; a truncated file, or graphs in graphs too deep"
        ) from exc
    if not model.HasField("graph") or not model.opset_import:
        raise CorruptData(f"{where}: not a model of ONNX: it has no graph, or names no set of operators")
    look = _Look(where, files, {(each.domain, each.name): each for each in model.functions})
    opsets = _opsets(look, model.opset_import)
    nodes = look.graph(model.graph, 0)
    if sum(each.nbytes for each in look.external) > sum(files.values()):
        raise look.error("its weights in files are more than there is in the files: some lie in one place")
    given = {each.name for each in model.graph.initializer}
    return CheckedGraph(
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir_version=model.ir_version,
        opsets=opsets,
        inputs=tuple(_value(each) for each in model.graph.input if each.name not in given),
        outputs=tuple(_value(each) for each in model.graph.output),
        external=tuple(look.external),
        nodes=nodes,
        squeezes=look.squeezes,
    )


def _opsets(look: _Look, imports: Any) -> dict[str, int]:
    opsets: dict[str, int] = {}
    own = {domain for domain, _ in look.functions}
    for each in imports:
        if each.domain not in DOMAINS and each.domain not in own:
            # Many converters name domains that they do not use: what counts is which nodes are of them.
            continue
        opsets[each.domain] = each.version
    return opsets


def _value(value: Any) -> GraphValue:
    kind = next(
        (name for name in ("sequence", "map", "sparse_tensor", "optional") if value.type.HasField(f"{name}_type")),
        "tensor",
    )
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(each.dim_value if each.WhichOneof("size") == "dim_value" else None for each in tensor.shape.dim)
    return GraphValue(value.name, kind.replace("_", " "), tensor.elem_type, shape)


@dataclass(eq=False)
class _Look:
    """One look through a model."""

    where: str
    files: Mapping[str, int]
    functions: Mapping[tuple[str, str], Any]
    external: list[ExternalTensor] = field(default_factory=list)
    counted: dict[tuple[str, str], int] = field(default_factory=dict)
    """Nodes of each function, once it was looked through; -1 while it is."""
    squeezes: bool = False

    def error(self, problem: str) -> CorruptData:
        return CorruptData(f"{self.where}: refused: {problem}")

    def graph(self, graph: Any, depth: int) -> int:
        """Look through a graph and return its number of nodes."""
        if depth > MAX_DEPTH:
            raise self.error(f"graphs in graphs, more than {MAX_DEPTH} deep")
        constants: dict[str, Any] = {}
        for tensor in graph.initializer:
            self.tensor(tensor, f"initializer {tensor.name!r}", outside=depth == 0)
            constants[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            self.sparse(sparse, f"initializer {sparse.values.name!r}")
        return self.nodes(graph.node, constants, depth)

    def nodes(self, nodes: Any, constants: dict[str, Any], depth: int) -> int:
        """Look through nodes and return their number, those of what they call and hold included."""
        total = 0
        for node in nodes:
            total += 1 + self.node(node, constants, depth)
            if total > MAX_NODES:
                raise self.error(f"more than {MAX_NODES:,} nodes, those of inner graphs and functions included")
        return total

    def node(self, node: Any, constants: dict[str, Any], depth: int) -> int:
        name = f"node {node.name or ', '.join(node.output)!r} ({node.op_type})"
        inner = 0
        if (node.domain, node.op_type) in self.functions:
            inner += self.function((node.domain, node.op_type), depth)
        elif node.domain not in DOMAINS:
            raise self.error(
                f"{name} is of the domain {node.domain!r}, which onnxruntime does not have by itself; convert the model"
                f" with operators of {', '.join(filter(None, DOMAINS))} only"
            )
        elif node.op_type in RANDOM:
            raise self.error(f"{name} draws random numbers, so that no score would be the same twice")
        for attribute in node.attribute:
            what = f"attribute {attribute.name!r} of {name}"
            tensors = [attribute.t] if attribute.HasField("t") else []
            for tensor in (*tensors, *attribute.tensors):
                self.tensor(tensor, what, outside=False)
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for each in (*sparse, *attribute.sparse_tensors):
                self.sparse(each, what)
            graphs = [attribute.g] if attribute.HasField("g") else []
            inner += sum(self.graph(each, depth + 1) for each in (*graphs, *attribute.graphs))
            if node.op_type == "Constant" and attribute.HasField("t") and node.output:
                constants[node.output[0]] = attribute.t
        self.made(node, name, constants)
        if node.op_type == "Squeeze" and not any(node.input[1:]):
            self.squeezes |= all(each.name != "axes" for each in node.attribute)
        return inner

    def function(self, key: tuple[str, str], depth: int) -> int:
        """Look through a function of the model once, and return its number of nodes."""
        if key not in self.counted:
            self.counted[key] = -1
            if depth > MAX_DEPTH:
                raise self.error(f"functions that call functions, more than {MAX_DEPTH} deep")
            self.counted[key] = self.nodes(self.functions[key].node, {}, depth + 1)
        if self.counted[key] < 0:
            raise self.error(f"the function {key[1]!r} of {key[0]!r} calls itself")
        return self.counted[key]

    def made(self, node: Any, name: str, constants: Mapping[str, Any]) -> None:
        """Check that no constant asks an operator for a huge tensor."""
        place = SIZED_BY.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if place is None or place >= len(node.input) or node.input[place] not in constants:
            return
        sizes = _integers(constants[node.input[place]])
        if math.prod(abs(each) for each in sizes if each) > MAX_MADE:
            raise self.error(f"{name} would make {sizes} elements; at most {MAX_MADE:,} may be asked for by a constant")

    def sparse(self, sparse: Any, what: str) -> None:
        self.tensor(sparse.values, what, outside=False)
        self.tensor(sparse.indices, what, outside=False)
        if any(each < 0 for each in sparse.dims) or math.prod(sparse.dims) > MAX_MADE:
            raise self.error(
                f"{what} is a sparse tensor of the shape {list(sparse.dims)}; at most {MAX_MADE:,} elements"
            )

    def tensor(self, tensor: Any, what: str, *, outside: bool) -> None:
        """Check that a tensor has the bytes of its shape, and that those outside of the graph are the version's.

        Args:
            outside: Whether its bytes may lie in a file.
        """
        shape = tuple(tensor.dims)
        if len(shape) > MAX_RANK or any(each < 0 for each in shape):
            raise self.error(f"{what} has the shape {list(shape)[:MAX_RANK]}")
        elements = math.prod(shape)
        if tensor.data_location == 1:
            if not outside:
                raise self.error(f"{what} lies in a file; only initializers of the outer graph may")
            self.external.append(self.outside(tensor, what, shape))
            return
        if tensor.data_type == STRING:
            found, wanted = len(tensor.string_data), elements
        elif tensor.raw_data:
            found, wanted = len(tensor.raw_data), self.bytes_of(tensor.data_type, elements, what)
        else:
            found, wanted = len(getattr(tensor, _FROM.get(tensor.data_type, "int32_data"))), elements
            if _BITS.get(tensor.data_type, 8) < 8:  # how many lie in one entry differs by who wrote it
                packed = self.bytes_of(tensor.data_type, elements, what)
                wanted = packed if found == packed else elements
        if found != wanted:
            raise self.error(f"{what} has the shape {list(shape)}, but holds {found:,} of {wanted:,} bytes or numbers")

    def bytes_of(self, data_type: int, elements: int, what: str) -> int:
        if data_type in _BITS:
            return -(-elements * _BITS[data_type] // 8)
        if data_type not in TYPES:
            raise self.error(f"{what} is of type {data_type}, which is none that is known here")
        return elements * TYPES[data_type].itemsize

    def outside(self, tensor: Any, what: str, shape: tuple[int, ...]) -> ExternalTensor:
        entries = {each.key: each.value for each in tensor.external_data}
        path = entries.get("location", "")
        if path not in self.files:
            known = ", ".join(self.files) or "none"
            raise self.error(f"{what} lies in {path!r}, which is no file of weights of this version; there is {known}")
        if tensor.data_type not in TYPES:
            raise self.error(f"{what} is of type {tensor.data_type}, which cannot lie in a file")
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", "-1"))
        except ValueError as exc:
            raise self.error(f"{what}: offset and length in its file are no numbers") from exc
        found = ExternalTensor(tensor.name, TYPES[tensor.data_type], shape, path, offset)
        if offset < 0 or length not in (-1, found.nbytes) or offset + found.nbytes > self.files[path]:
            raise self.error(
                f"{what} has {found.nbytes:,} bytes, and lies at {offset:,} of {path!r}, which has"
                f" {self.files[path]:,}; it says that it has {length:,}"
            )
        return found


def _integers(tensor: Any) -> list[int]:
    """Return the first integers of a constant that says a size."""
    if tensor.data_type not in (6, 7):
        return []
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, TYPES[tensor.data_type])[:MAX_RANK].tolist()  # type: ignore[no-any-return]
    return list(tensor.int64_data or tensor.int32_data)[:MAX_RANK]
