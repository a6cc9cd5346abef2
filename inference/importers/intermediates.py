"""The largest number that a graph of ONNX comes by on its way: what its sums and products may be rounded by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from ringpull.inference.model.onnx_check import check_graph
from ringpull.inference.model.onnx_session import open_session

COUNTED: Final = frozenset(
    {
        "Gemm",
        "MatMul",
        "Mul",
        "Pow",
        "ReduceSum",
        "ReduceMean",
        "Einsum",
        "Conv",
        "Sum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
    }
)
"""Operators whose results are rounded."""


def largest_intermediate(
    file: Path, data: Mapping[str, int], given: Mapping[str, NDArray[Any]], limit: int = 512
) -> float:
    """Return the largest finite magnitude among the products and sums of a graph, at least 1.

    Args:
        file: The graph, in the folder of its weights.
        data: Bytes of the files with these, by path.
        given: Inputs by name.
        limit: Results that are looked at, at most: the first ones.
    """
    model = ModelProto.FromString(file.read_bytes())
    known = {each.name for each in model.graph.output}
    names = [each for each in _rounded(model) if each not in known][:limit]
    model.graph.output.extend(ValueInfoProto(name=each) for each in names)
    content = model.SerializeToString()
    graph = check_graph(content, str(file), data)
    session = open_session(content, file.parent, graph.external, "cpu", None, optimized=False)
    largest = 1.0
    for values in session.run([*names, *known], dict(given)):
        numbers = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "f" else np.empty(0)
        largest = max(largest, float(numbers.max(initial=0.0)))
    return largest


def _rounded(model: ModelProto) -> list[str]:
    """Return the results that are rounded and that a number of a request, a vector or a weight reaches.

    Left out is what is computed of ids alone, as the -1e9 of a mask.
    """
    graph = model.graph
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    reached = {each.name for each in graph.input if each.type.tensor_type.elem_type in floats}
    reached |= {each.name for each in graph.initializer if each.data_type in floats and len(each.dims) > 1}
    found = []
    for node in graph.node:
        if reached.isdisjoint(node.input):
            continue
        reached |= set(node.output)
        if node.op_type in COUNTED and node.output and node.output[0]:
            found.append(node.output[0])
    return found
