"""Bags of ids given end to end: where a graph pools them, by a loop or by other means, and by which rule.

An EmbeddingBag is a Loop in ONNX, whose body gathers the rows of one bag. Nothing of the body is read but which tensor
of ids its indices are moved from: the graph is run with that tensor and a small table given, and what comes out is held
against pooled bags of it, empty ones among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ringpull.inference.importers.onnx.binding import FRONT
from ringpull.inference.importers.onnx.cutting import CutGraph, Pooled, PooledSite, Use, number_of
from ringpull.inference.importers.onnx.elements import NO_PLACE, Elements, Sent
from ringpull.inference.importers.onnx.layout import Looked, ragged_form
from ringpull.inference.importers.onnx.operators import MOVES
from ringpull.inference.importers.onnx.probing import Probed
from ringpull.inference.importers.onnx.reading import Reading
from ringpull.inference.importers.onnx.rest import set_nodes
from ringpull.inference.importers.onnx.sessions import GraphFailed, Session
from ringpull.inference.importers.onnx.sites import Site, inner_tables
from ringpull.inference.importers.onnx.source import SourceGraph, subgraphs
from ringpull.inference.schema.kinds import Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling

Array = NDArray[Any]

_TABLE_ROWS: Final = 8
_LENGTHS: Final = (3, 1, 4, 0, 2, 5)
"""Ids of the bags."""
_SEEDS: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class BagSource:
    """One table that bags are pooled of, and the tensor of ids that they are cut from."""

    table: str
    ids: str
    node: NodeProto
    """Node of the main graph from which on bags can come out."""


def find_bags(source: SourceGraph, reading: Reading) -> Iterator[BagSource]:
    """Yield what nodes inside loops gather: from constants, by what is moved from a tensor of the main graph."""
    inside = ((node, graph) for node in source.graph.node for graph in _inner_graphs(node))
    for node, graph in inside:
        for table, indices in _gathers(graph, reading):
            ids = _moved_from(graph, indices)
            if ids in reading.read:
                yield BagSource(table, ids, node)
    for node in source.graph.node:  # in the main graph, without a loop
        if node.op_type == "Gather" and node.input[1] in reading.read and _is_table(reading, node.input[0]):
            yield BagSource(node.input[0], node.input[1], node)


def _inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield all graphs inside a node, those of the nodes in them too."""
    pending = list(subgraphs(node))
    while pending:
        graph = pending.pop()
        yield graph
        pending += [each for inner in graph.node for each in subgraphs(inner)]


def _gathers(graph: GraphProto, reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield the table and the indices of each node of a graph that gathers rows of a constant table."""
    for node in graph.node:
        if node.op_type == "Gather" and _is_table(reading, node.input[0]):
            yield node.input[0], node.input[1]


def _is_table(reading: Reading, name: str) -> bool:
    """Return whether a tensor is a table of vectors that no request changes."""
    if not reading.is_fixed(name):
        return False
    values = reading.values[name]
    return values.ndim == 2 and values.dtype == np.float32


def _moved_from(graph: GraphProto, name: str) -> str:
    """Return the tensor outside a graph that a tensor inside is moved from; itself where it is computed inside."""
    makers = {each: node for node in graph.node for each in node.output}
    while (node := makers.get(name)) is not None and node.op_type in (*MOVES, "Cast") and node.op_type != "Concat":
        name = node.input[0]
    return name


def add_bags(source: SourceGraph, cut: CutGraph, schema: Schema, probed: Probed) -> set[str]:
    """Add the pooled bags of ids given end to end, and return the features whose bags may not be empty."""
    never_empty: set[str] = set()
    for bags in find_bags(source, probed.readings[0]):
        use = _use(cut, bags, probed.readings, probed.elements, schema)
        if use is None:
            continue
        for tensor, tail, pooled, empty in _pooled(source, probed.readings[0], schema, bags, use):
            table = probed.readings[0].values[bags.table]
            cut.tables.setdefault(bags.table, table)
            cut.originals.setdefault(bags.table, table)
            cut.axes.setdefault(bags.table, 0)
            cut.pools.append(PooledSite(tensor, tail, number_of(cut, schema, replace(use, pooled=pooled))))
            if not empty:
                never_empty.add(use.features[0])
    _leave_unpooled(cut)
    taken = {cut.uses[each.use].table for each in cut.pools}
    for node, name in inner_tables(source, probed.readings[0]):
        if name not in taken:
            reason = "it is looked up inside a loop or a branch, by which no bags of ids were seen to be pooled"
            cut.left.append((Site(node, name, node.input[1]), reason))
    return never_empty


def _leave_unpooled(cut: CutGraph) -> None:
    """Leave look-ups of ids end to end in the graph: there are none such but pooled ones."""
    for site in [each for each in cut.sites if each.layout is None]:
        cut.sites.remove(site)
        use = cut.uses[site.uses[0]]
        if not any(cut.uses[each.use].table == use.table for each in cut.pools):
            cut.left.append((site.site, "its bags are pooled in a way that no pull has"))
            cut.limits.append(use.range(use.features[0]))


def _use(cut: CutGraph, bags: BagSource, readings: Sequence[Reading], elements: Elements, schema: Schema) -> Use | None:
    forms = {_form(elements, each, bags, schema) if bags.ids in each.read else None for each in readings}
    looked = forms.pop() if len(forms) == 1 else None
    if looked is None or len(looked.sent) != 1:
        return None
    name = looked.sent[0].feature
    expression = elements.expression(looked.form, (name,))
    if expression is None:
        return None
    rows = readings[0].values[bags.table].shape[0]
    use = Use(bags.table, (name,), expression.cast("int64"), rows, True, cut.within_of((name,), expression))
    return use.without_overflow()


def _form(elements: Elements, reading: Reading, bags: BagSource, schema: Schema) -> Looked | None:
    """Return the one form that a tensor makes of the ids of all rows, end to end; None: it is no such tensor."""
    numbers = reading.read[bags.ids][0]
    first = elements[int(numbers[0])] if numbers.ndim == 1 and numbers.size else None
    feature = schema[first.sent[0].feature] if first is not None and first.sent else None
    if isinstance(feature, Sparse) and feature.many:
        return ragged_form(elements, numbers)
    if first is None or not isinstance(feature, IdSequence | Sparse) or not subgraphs(bags.node):
        return None
    own = range(feature.length) if isinstance(feature, IdSequence) else (NO_PLACE,)
    told = [(each.row, each.sent, each.form) for each in map(elements.__getitem__, numbers.tolist())]
    places = [(row, (Sent(feature.name, place),), first.form) for row in range(reading.rows) for place in own]
    return Looked(first.form, first.sent) if told == places else None


def _pooled(
    source: SourceGraph, reading: Reading, schema: Schema, bags: BagSource, use: Use
) -> Iterator[tuple[str, tuple[int, ...], Pooled | None, bool]]:
    """Yield the first tensors that are pooled bags, their shape after the batch, how, and whether empty ones may be."""
    dim = reading.values[bags.table].shape[1]
    feature = schema[use.features[0]]
    if not getattr(feature, "many", False):
        # All places of a sequence are a bag, padded ones too; the only id of a row is one by itself.
        length = feature.length if isinstance(feature, IdSequence) else 0
        found = _run(source, schema, bags, use, dim, (length or 1,) * len(_LENGTHS))
        for name, (tail, rules) in list(found.items())[:1]:
            yield name, tail, min(rules, key=lambda each: each[0].pooling)[0] if length else None, True
        return
    for lengths in (_LENGTHS, tuple(max(1, each) for each in _LENGTHS)):
        rows = len(lengths)
        try:
            found = _run(source, schema, bags, use, dim, lengths)
        except GraphFailed:
            continue
        yielded = False
        for name, (tail, rules) in found.items():
            if not yielded:
                fitting = min(rules, key=lambda each: (each[0].pooling, not each[1]))
                yield name, tail, fitting[0], fitting[1] and 0 in lengths and rows > 0
                yielded = True
        if yielded:
            return


def _run(
    source: SourceGraph, schema: Schema, bags: BagSource, use: Use, dim: int, lengths: Sequence[int]
) -> dict[str, tuple[tuple[int, ...], set[tuple[Pooled, bool]]]]:
    """Return the tensors that are pooled bags in every run, with the rules that fit and whether empty ones do."""
    rows = len(lengths)
    found: dict[str, tuple[tuple[int, ...], set[tuple[Pooled, bool]]]] = {}
    for seed in _SEEDS:
        random = np.random.default_rng(seed)
        table = random.standard_normal((_TABLE_ROWS, dim), np.float32)
        order = random.permutation(lengths)
        offsets = np.concatenate([[0], np.cumsum(order)]).astype(np.int64)
        ids = random.integers(0, _TABLE_ROWS, offsets[-1])
        weights = random.random(offsets[-1], np.float32)
        model, names = _opened(source, bags, table, ids)
        session = Session(model, source.weights, source.where, optimised=False)
        given = {bags.table: table, bags.ids: ids.astype(_type_of(model, bags.ids))}
        made = _Arguments(schema, use.features[0], offsets, weights, random)
        feeds = {name: given[name] if name in given else made.of(name) for name in session.inputs}
        values = session.run(feeds, names)
        for name, each in zip(names, values, strict=True):
            if not isinstance(each, np.ndarray) or each.dtype != np.float32 or each.size != rows * dim:
                continue
            if each.shape[:1] != (rows,):
                continue
            fitting = set(_fitting(each.reshape(rows, dim), table[ids], offsets, weights, schema, use))
            if seed == _SEEDS[0] and fitting:
                found[name] = each.shape[1:], fitting
            elif name in found:
                found[name][1].intersection_update(fitting)
    return {name: each for name, each in found.items() if each[1]}


def _fitting(
    values: Array, vectors: Array, offsets: Array, weights: Array, schema: Schema, use: Use
) -> Iterator[tuple[Pooled, bool]]:
    full = np.diff(offsets) > 0
    weighted = bool(getattr(schema[use.features[0]], "weighted", False))
    for rule in (Pooled(Pooling.SUM), Pooled(Pooling.MEAN), Pooled(Pooling.MAX), Pooled(Pooling.SUM, weighted=True)):
        if rule.weighted and not weighted:
            continue
        scaled = vectors.astype(np.float64) * (weights[:, None] if rule.weighted else 1)
        expected = np.zeros(values.shape)
        for row in np.flatnonzero(full):
            bag = scaled[offsets[row] : offsets[row + 1]]
            expected[row] = (
                bag.max(0)
                if rule.pooling is Pooling.MAX
                else bag.mean(0)
                if rule.pooling is Pooling.MEAN
                else bag.sum(0)
            )
        if np.allclose(values[full], expected[full], rtol=1e-5, atol=1e-6):
            yield rule, bool(np.allclose(values[~full], 0)) and not bool(full.all())


def _opened(source: SourceGraph, bags: BagSource, table: Array, ids: Array) -> tuple[ModelProto, list[str]]:
    """Return a graph whose table and tensor of ids are inputs, and what may be pooled bags, as its outputs."""
    model = ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    kept = [each for each in graph.initializer if each.name != bags.table]
    nodes = [node for node in graph.node if bags.ids not in node.output and bags.table not in node.output]
    inputs = [each for each in graph.input if each.name not in (bags.table, bags.ids)]
    opened = [
        helper.make_tensor_value_info(bags.ids, _id_type(source, bags), [None]),
        helper.make_tensor_value_info(bags.table, TensorProto.FLOAT, [None, None]),
    ]
    place = next(number for number, node in enumerate(nodes) if node.output == bags.node.output)
    after = set(bags.node.output)
    names = list(bags.node.output)
    for node in nodes[place + 1 :]:
        if after.intersection(node.input):
            after.update(node.output)
            names += [each for each in node.output if each]
    initializers = [TensorProto.FromString(each.SerializeToString()) for each in kept]
    values = [ValueInfoProto.FromString(each.SerializeToString()) for each in inputs]
    set_nodes(graph, nodes)
    del graph.initializer[:], graph.input[:], graph.output[:]
    graph.initializer.extend(initializers)
    graph.input.extend([*opened, *values])
    graph.output.extend([helper.make_empty_tensor_value_info(each) for each in names])
    return model, names


def _id_type(source: SourceGraph, bags: BagSource) -> int:
    """Return the type of the tensor of ids: int32 where a cast makes it that, else int64."""
    maker = next((node for node in source.graph.node if bags.ids in node.output), None)
    while maker is not None and maker.op_type in MOVES:
        maker = next((node for node in source.graph.node if maker.input[0] in node.output), None)
    if maker is not None and maker.op_type == "Cast":
        return int(next(each.i for each in maker.attribute if each.name == "to"))
    return TensorProto.INT64


def _type_of(model: ModelProto, name: str) -> np.dtype[Any]:
    value = next(each for each in model.graph.input if each.name == name)
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


@dataclass(frozen=True, slots=True, eq=False)
class _Arguments:
    """Arguments of one run."""

    schema: Schema
    feature: str
    offsets: Array
    weights: Array
    random: np.random.Generator

    def of(self, name: str) -> Array:
        """Return what an input of the graph is given."""
        argument = self.schema.argument_names()[name.removeprefix(FRONT)]
        feature, rows = self.schema[argument.features[0]], len(self.offsets) - 1
        match argument.part:
            case "offsets":
                return self.offsets if getattr(feature, "include_last_offset", True) else self.offsets[:-1]
            case "weights":
                return self.weights
            case "values":
                return np.zeros(int(self.offsets[-1]), np.int64)
            case "sequence" if isinstance(feature, IdSequence):
                return np.full((rows, feature.length), feature.pad, np.int64)
            case "id" | "lengths":
                return np.zeros(rows, np.int64)
        width = feature.width if isinstance(feature, Dense) else 1
        values = self.random.standard_normal((rows, width), np.float32)
        return values[:, 0] if argument.part == "number" else values
