"""Sparse tensors of a graph, written out as onnxruntime does when it loads one: weights as all others.

A graph has them as initializers, or as constants of a node. A few bytes may stand for as many numbers as the checks of
`onnx_check` let one have, so there is a limit for all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, SparseTensorProto, helper, numpy_helper

from ringpull.inference.model.onnx_check import MAX_MADE
from ringpull.ps.errors import CorruptData

_VALUE: Final = "sparse_value"


def write_out(where: str, graphs: Collection[GraphProto], nodes: Iterable[NodeProto]) -> None:
    """Replace the sparse tensors of graphs and of nodes by what they stand for.

    Raises:
        CorruptData: One holds other numbers than it says, or has indices that are none of its shape's; or they stand
            for too many numbers.
    """
    attributes = [each for node in nodes if node.op_type == "Constant" for each in node.attribute]
    constants = [each for each in attributes if each.name == _VALUE]
    all_sparse = [each for graph in graphs for each in graph.sparse_initializer]
    all_sparse += [each.sparse_tensor for each in constants]
    if (count := sum(math.prod(each.dims) for each in all_sparse)) > MAX_MADE:
        raise CorruptData(f"{where}: its sparse tensors stand for {count:,} elements; at most {MAX_MADE:,} may be")
    for graph in graphs:
        for each in graph.sparse_initializer:
            graph.initializer.append(numpy_helper.from_array(_dense(where, each), each.values.name))
        del graph.sparse_initializer[:]
    for constant in constants:
        values = _dense(where, constant.sparse_tensor)
        constant.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def _dense(where: str, sparse: SparseTensorProto) -> NDArray[Any]:
    """Return the numbers of a sparse tensor, zeros among them."""
    shape, what = tuple(sparse.dims), f"{where}: sparse tensor {sparse.values.name or 'of a node'}"
    try:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    except (ValueError, TypeError) as exc:
        raise CorruptData(f"{what}: its numbers or indices are not what it says: {exc}") from exc
    if values.dtype.hasobject:
        raise CorruptData(f"{what}: holds texts, of which there is no 0")
    if values.ndim != 1 or indices.shape not in ((len(values),), (len(values), len(shape))):
        raise CorruptData(f"{what}: has the shape {list(shape)}, {values.size} numbers and {indices.size} indices")
    try:
        places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    except ValueError as exc:
        raise CorruptData(f"{what}: has an index beyond its shape {list(shape)}") from exc
    if places.size and not 0 <= places.min() <= places.max() < math.prod(shape):
        raise CorruptData(f"{what}: has an index beyond its shape {list(shape)}")
    flat = np.zeros(math.prod(shape), values.dtype)
    flat[places] = values
    return flat.reshape(shape)
