"""One-hot vectors of categories of many values, times a weight: rows of a table instead.

Encoders, OneHot, and Equal with a constant make vectors as long as there are categories, for every row, of which one
number is a 1. Where a linear layer takes them, whatever is put beside them, and however columns are scaled or left out
on the way, its product is a row of its weight and the product of what is beside them. So the graph is changed before it
is cut: the rows are gathered, and the row after the last, of what is no category, is zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from ringpull.inference.importers.onnx.columns import ColumnParts, columns_of, linear_inputs, taken_back
from ringpull.inference.importers.onnx.operators import attribute
from ringpull.inference.importers.onnx.reading import Reading
from ringpull.inference.importers.onnx.rest import GraphEditor, set_nodes
from ringpull.inference.importers.onnx.sites import Site, site_of
from ringpull.inference.importers.onnx.source import SourceGraph, add_weight

Array = NDArray[Any]

LARGE: Final = 10_000
"""Categories from which on a one-hot vector is not made."""

_ML: Final = "ai.onnx.ml"
_LABEL_ENCODER: Final = 2
"""Version of its domain from which on LabelEncoder takes and gives integers; nothing else changed in it."""
_COMPARISONS: Final = 9
"""Version of operators from which on integers are compared."""
_PRODUCTS: Final = ("MatMul", "Gemm", "Einsum")
_LINEAR: Final = ("LinearClassifier", "LinearRegressor")
_MADE: Final = "ringpull/one_hot/"


@dataclass(frozen=True, slots=True, eq=False)
class _OneHot:
    """Vectors of one 1 each, (B, n) or (B, 1, n)."""

    node: NodeProto
    given: str
    """What they are made of, (B,) or (B, 1)."""
    size: int
    values: tuple[Any, ...] | None
    """What each place stands for; None: its own number."""
    from_behind: bool = False
    """Whether numbers below 0 count from behind."""
    strict: bool = False
    """Whether what is none of them is an error; else it is zeros."""


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """A node that multiplies columns with a weight."""

    node: NodeProto
    weight: Array
    """(n, D)."""
    bias: Array | None = None
    """What it adds, (D,); None: nothing, or by itself."""


def gathered(source: SourceGraph, readings: Sequence[Reading]) -> SourceGraph | None:
    """Return a graph in which one-hot vectors of many categories times a weight are gathered; None: it has none."""
    nodes = list(source.graph.node)
    hots = {node.output[0]: hot for node in nodes if (hot := _one_hot(node, readings)) is not None and hot.size > LARGE}
    if not hots or not _has_label_encoder(source):
        return None
    wide, through = set(hots), {}
    for place, node in enumerate(nodes):
        if not wide.isdisjoint(node.input) and linear_inputs(node, readings):
            through[place] = node
            wide.update(node.output)
    makers = {name: node for node in nodes for name in node.output}
    products = [
        product
        for node in nodes
        if node.input
        and node.input[0] in wide
        and site_of(node, makers, readings[0]) is None
        and (product := _product(node, readings)) is not None
    ]
    if not products:
        return None
    model = ModelProto()
    model.CopyFrom(source.model)
    writer = _Writer(SourceGraph(source.where, model, source.weights), readings, hots)
    made: dict[str, list[NodeProto]] = {}
    for product in products:
        basis, mix = _basis(product.weight)
        parts = taken_back(nodes, readings, through, product.node.input[0], basis)
        if any(each in hots for each in parts.weights):
            made[product.node.output[0]] = writer.product(product, parts, mix)
    if not made:
        return None
    _set_label_encoder(model)
    set_nodes(model.graph, [new for node in nodes for new in made.get(node.output[0] if node.output else "", [node])])
    return writer.source


def multiplied(source: SourceGraph, reading: Reading) -> Iterator[Site]:
    """Yield the products of weights and one-hot vectors of many categories that a graph has still.

    Vectors are such by their numbers, whatever made them.
    """
    makers = {name: node for node in source.graph.node for name in node.output}
    for node in source.graph.node:
        if node.op_type not in _PRODUCTS or site_of(node, makers, reading) is not None:
            continue
        for hot in node.input:
            size = _size_of_one_hots(reading, hot)
            for weight in node.input:
                if size > LARGE and reading.is_fixed(weight) and size in reading.values[weight].shape:
                    yield Site(node, weight, hot)


def _size_of_one_hots(reading: Reading, tensor: str) -> int:
    """Return how long the vectors of a tensor are that have a 1 at most, and zeros; 0: they are none."""
    values = reading.values.get(tensor)
    if values is None or values.ndim < 2 or values.dtype.kind not in "fiu" or tensor not in reading.asked:
        return 0
    single = (np.count_nonzero(values, axis=-1) <= 1).all()
    return values.shape[-1] if single and values.any() and np.isin(values, (0, 1)).all() else 0


def _has_label_encoder(source: SourceGraph) -> bool:
    """Return whether a graph may have the operator that numbers categories: other encoders have its name before."""
    before = source.opset(_ML) < _LABEL_ENCODER and any(each.op_type == "LabelEncoder" for each in source.graph.node)
    return source.opset() >= _COMPARISONS and not before


def _set_label_encoder(model: ModelProto) -> None:
    own = next((each for each in model.opset_import if each.domain == _ML), None) or model.opset_import.add(domain=_ML)
    own.version = max(own.version, _LABEL_ENCODER)


def _one_hot(node: NodeProto, readings: Sequence[Reading]) -> _OneHot | None:
    reading = readings[0]
    if not node.output or columns_of(readings, node.output[0]) is None:
        return None
    found = _encoder(node) if node.op_type == "OneHotEncoder" else None
    if node.op_type == "OneHot" and attribute(node, "axis", -1) in (-1, reading.values[node.output[0]].ndim - 1):
        depth, values = (reading.values.get(each) for each in node.input[1:3])
        if depth is not None and values is not None and all(reading.is_fixed(each) for each in node.input[1:3]):
            plain = values.tolist() in ([0, 1], [False, True])
            found = _OneHot(node, node.input[0], int(depth.reshape(-1)[0]), None, True) if plain else None
    if node.op_type == "Equal":
        found = _equal(node, reading)
    if found is None or reading.is_fixed(found.given) or reading.values[found.given].size != reading.rows:
        return None
    return found if columns_of(readings, node.output[0]) == found.size else None


def _encoder(node: NodeProto) -> _OneHot:
    texts = attribute(node, "cats_strings", ())
    values = [each.decode() for each in texts] if texts else list(attribute(node, "cats_int64s", ()))
    return _OneHot(node, node.input[0], len(values), tuple(values), strict=not attribute(node, "zeros", 1))


def _equal(node: NodeProto, reading: Reading) -> _OneHot | None:
    """Return what compares a column with different integers or texts side by side."""
    for given, constant in (node.input, node.input[::-1]):
        values = reading.values.get(constant)
        if values is None or not reading.is_fixed(constant) or not _is_row(values):
            continue
        flat = values.reshape(-1).tolist()
        if values.dtype.kind not in "iuO" or len(set(flat)) < len(flat):
            continue
        own = None if values.dtype.kind != "O" and flat == list(range(len(flat))) else tuple(flat)
        return _OneHot(node, given, len(flat), own)
    return None


def _product(node: NodeProto, readings: Sequence[Reading]) -> _Product | None:
    reading = readings[0]
    columns = columns_of(readings, node.input[0])
    if columns is None:
        return None
    if node.op_type in _LINEAR:
        weight = np.asarray(attribute(node, "coefficients", ()), np.float32)
        fits = weight.size and weight.size % columns == 0
        return _Product(node, weight.reshape(-1, columns).T) if fits else None
    if node.op_type not in ("MatMul", "Gemm") or not all(reading.is_fixed(each) for each in node.input[1:] if each):
        return None
    weight = reading.values[node.input[1]]
    if weight.ndim != 2 or attribute(node, "transA", 0):
        return None
    if node.op_type == "MatMul":
        return _Product(node, weight)
    weight = (weight.T if attribute(node, "transB", 0) else weight) * weight.dtype.type(attribute(node, "alpha", 1.0))
    added = reading.values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1, weight.dtype)
    if added.size not in (1, weight.shape[1]) or not _is_row(added):
        return None
    return _Product(node, weight, np.broadcast_to(added.reshape(-1) * attribute(node, "beta", 1.0), weight.shape[1]))


def _is_row(values: Array) -> bool:
    return values.size == (values.shape[-1] if values.ndim else 1)


def _basis(weight: Array) -> tuple[Array, Array | None]:
    """Return the columns (n, K) of a weight that differ by more than their sign, and what (K, D) makes all of them.

    A classifier of two classes has a column and its negative: half as much is stored, and sent. None: all differ.
    """
    chosen: list[int] = []
    places: dict[bytes, tuple[int, float]] = {}
    mix = np.zeros((weight.shape[1], weight.shape[1]), weight.dtype)
    for number, column in enumerate(weight.T):
        first = column[np.flatnonzero(column)[:1]]
        sign = -1.0 if first.size and first[0] < 0 else 1.0
        place, other = places.setdefault((column * column.dtype.type(sign) + 0).tobytes(), (len(chosen), sign))
        if place == len(chosen):
            chosen.append(number)
        mix[place, number] = sign * other
    return (weight, None) if len(chosen) == weight.shape[1] else (weight[:, chosen], mix[: len(chosen)])


class _Writer:
    """A writer of what stands in the place of products."""

    def __init__(self, source: SourceGraph, readings: Sequence[Reading], hots: Mapping[str, _OneHot]) -> None:
        self.source = source
        """The graph, with the constants that were written."""
        self._readings = readings
        self._hots = hots
        self._makers = {name: node for node in source.graph.node for name in node.output}
        self._count = 0
        self._names = set(readings[0].values)

    def product(self, product: _Product, parts: ColumnParts, mix: Array | None) -> list[NodeProto]:
        """Return the nodes that make what a product gives, of the parts that its columns are made of."""
        node = product.node
        kind = np.dtype(np.float32) if node.op_type in _LINEAR else product.weight.dtype
        self._count += 1
        editor = GraphEditor(self.source.model, f"{_MADE}{self._count}/")
        terms = []
        for tensor, weight in parts.weights.items():
            hot = self._hots.get(tensor)
            if hot is not None:
                terms.append(self._rows(editor, hot, weight.astype(kind)))
            elif weight.any():
                flat = editor.node("Reshape", [tensor, editor.numbers([-1, len(weight)])])
                cast = editor.node("Cast", [flat], to=helper.np_dtype_to_tensor_dtype(kind))
                terms.append(editor.node("MatMul", [cast, editor.constant(weight.astype(kind))]))
        total = terms[0]
        for each in terms[1:]:
            total = editor.node("Add", [total, each])
        if parts.bias.any():
            total = editor.node("Add", [total, editor.constant(parts.bias.astype(kind))])
        if mix is not None:
            total = editor.node("MatMul", [total, editor.constant(mix.astype(kind))])
        if product.bias is not None:
            total = editor.node("Add", [total, editor.constant(product.bias.astype(kind))])
        if node.op_type in _LINEAR:
            return [*editor.nodes, _of_sums(node, total, product.weight.shape[1])]
        shape = editor.numbers([-1, *self._readings[0].values[node.output[0]].shape[1:]])
        return [*editor.nodes, helper.make_node("Reshape", [total, shape], list(node.output), node.name)]

    def _rows(self, editor: GraphEditor, hot: _OneHot, weight: Array) -> str:
        """Return rows (B, K) of a weight (n, K) by what a one-hot vector is made of, zeros where it is of zeros."""
        table = self._name(f"{self._source_of(hot.given).removeprefix('ringpull/')}_weights")
        self.source = add_weight(self.source, table, np.concatenate([weight, np.zeros_like(weight[:1])]))
        column = editor.node("Reshape", [hot.given, editor.numbers([-1])])
        return editor.node("Gather", [table, self._codes(editor, hot, column)], axis=0)

    def _source_of(self, tensor: str) -> str:
        """Return what a tensor is but another type of."""
        while (maker := self._makers.get(tensor)) is not None and maker.op_type == "Cast":
            tensor = maker.input[0]
        return tensor

    def _codes(self, editor: GraphEditor, hot: _OneHot, column: str) -> str:
        """Return the row (B,) of each category: of none the last, or where that is an error one that there is not."""
        if hot.values is not None:
            texts = isinstance(hot.values[0], str)
            if not texts:
                column = editor.node("Cast", [column], to=TensorProto.INT64)
            return editor.node(
                "LabelEncoder",
                [column],
                domain=_ML,
                values_int64s=list(range(hot.size)),
                default_int64=hot.size + hot.strict,
                **{"keys_strings" if texts else "keys_int64s": list(hot.values)},
            )
        number = editor.node("Cast", [column], to=TensorProto.INT64)
        zero, size = editor.numbers([0]), editor.numbers([hot.size])
        if hot.from_behind:
            behind = editor.node("Add", [number, size])
            number = editor.node("Where", [editor.node("Less", [number, zero]), behind, number])
        below, above = editor.node("Less", [number, zero]), editor.node("Less", [number, size])
        held = editor.node("And", [editor.node("Not", [below]), above])
        return editor.node("Where", [held, number, size])

    def _name(self, wanted: str) -> str:
        tried = (wanted, *(f"{wanted}_{number}" for number in range(2, len(self._names) + 3)))
        name = next(each for each in tried if each not in self._names)
        self._names.add(name)
        return name


def _of_sums(node: NodeProto, sums: str, count: int) -> NodeProto:
    """Return a linear model that takes the sums of its columns times its coefficients, and does all else itself."""
    made = NodeProto.FromString(node.SerializeToString())
    made.input[:] = [sums]
    for each in made.attribute:
        if each.name == "coefficients":
            each.CopyFrom(helper.make_attribute("coefficients", np.eye(count, dtype=np.float32).reshape(-1).tolist()))
    return made
