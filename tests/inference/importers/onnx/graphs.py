"""Small ONNX graphs, made by hand, and what of an import is held against onnxruntime on the graph itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ringpull.inference.head.request.id_limits import IdLimits
from ringpull.inference.importers.onnx.model import import_onnx
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.schema import Schema
from tests.inference.export.versions import Exported

Array = NDArray[Any]
Value = tuple[str, int, Any]
"""Name, type and shape of an input or output."""

INT, INT32, FLOAT, STRING = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.STRING
node = helper.make_node


def rows(n: int, dim: int, seed: int = 0) -> Array:
    """Return rows no two of which are alike."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, Any],
    opset: int = 17,
    ml: int | None = None,
) -> ModelProto:
    """Return a graph."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


@lru_cache(maxsize=4)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Return what onnxruntime makes of a graph's inputs, on the graph as it is."""
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4
    return list(_session(model.SerializeToString()).run(None, dict(feeds), quiet))


def imported(folder: Path, model: ModelProto, schema: Schema | None = None, **options: Any) -> Exported:
    """Return a graph as it was imported."""
    report = import_onnx(model, schema, folder / "model", 1, quiet=True, **options)
    assert report.check is not None or options.get("check_rows") == 0
    return Exported(report.path)


def assert_same(
    version: Exported, model: ModelProto, columns: Mapping[str, Column], feeds: Mapping[str, Array], rows: int
) -> None:
    """Assert that a version scores rows as its graph does."""
    for (name, found), expected in zip(version.score(columns, rows).items(), run(model, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def taken(version: Exported, columns: Mapping[str, Column], rows: int) -> bool:
    """Return whether a head takes rows: none of their ids is beyond what the model has rows for."""
    prepared = version.schema.prepare_requests(columns, {}, (rows,))
    return not IdLimits(version.manifest.limits, version.schema).held(prepared).refused


def assert_edges(version: Exported, model: ModelProto, name: str, ids: Sequence[int], shape: Sequence[int]) -> None:
    """Assert that each id alone gives what the graph gives, and is refused where the graph fails on it.

    Args:
        name: Input of the graph, and the only feature.
        ids: Ids that are tried one by one.
        shape: Shape of one row of the input.
    """
    (value,) = (each for each in model.graph.input if each.name == name)
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    for each in ids:
        column = np.full((1, *shape), each, np.int64)
        columns = {name: column if len(shape) and shape[0] > 1 else column.reshape(1)}
        try:
            (expected,) = run(model, {name: column.astype(kind)})
        except Exception:  # onnxruntime's have no root of their own
            assert not taken(version, columns, 1), f"{each}: the graph fails on it"
            continue
        assert taken(version, columns, 1), f"{each}: the graph takes it"
        (found,) = version.score(columns, 1).values()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=str(each))
