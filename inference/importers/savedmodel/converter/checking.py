"""The message of a SavedModel, looked over before TensorFlow loads it: loading runs what fills its tables.

Refused are ops that run Python, read files beside the assets or write any, assets outside of their folder, and sizes
that nothing in the files accounts for: a constant of one number and 2^50 places, a variable larger than the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from ringpull.inference.importers.savedmodel.converter.refusing import Refused

MAX_MADE: Final = 1 << 28
"""Largest number of elements that a constant may stand for with fewer bytes, or ask an op for."""
_SPARE_BYTES: Final = 1 << 30
"""Bytes that a variable may have beyond those of the checkpoint: some are never saved."""
_RUNS_CODE: Final = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_TOUCHES_FILES: Final = frozenset(
    (
        *("ReadFile", "WriteFile", "MatchingFiles", "PrintV2", "Print", "DebugIdentityV2", "LoadAndRemapMatrix"),
        *("TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset", "CSVDataset"),
        *("FixedLengthRecordDatasetV2", "CSVDatasetV2", "SqlDataset", "MatchingFilesDataset", "CacheDataset"),
        *("CacheDatasetV2", "SaveDataset", "SaveDatasetV2", "LoadDataset", "SnapshotDataset", "SnapshotDatasetV2"),
        *("DatasetToTFRecord", "DataServiceDataset", "DataServiceDatasetV2", "CreateSummaryFileWriter"),
        *("WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2", "TFRecordReader"),
        *("TFRecordReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "LMDBReader", "LMDBDataset"),
        *("GenerateVocabRemapping", "FileSystemSetConfiguration", "Rpc", "TryRpc", "RpcCall"),
    )
)
"""Ops that read or write what a model is not, wherever its author said."""
_READS_ASSETS: Final = ("InitializeTableFromTextFile", "InitializeTableFromTextFileV2")
"""Ops that fill a table from a file, whose name is their second input."""
_SIZED_BY: Final = {"Fill": 0, "Empty": 0, "BroadcastTo": 1, "Tile": 1, "OneHot": 1, "Range": 1, "LinSpace": 2}
"""Ops whose result is as large as an input says, and the place of that."""
_VARIABLES: Final = ("VarHandleOp", "VariableV2", "Variable")


def check_model(folder: Path, proto: Any) -> None:
    """Check the message of a SavedModel.

    Raises:
        Refused: It has what is never run, or sizes that are not its own; the message names it.
    """
    file = folder / "saved_model.pb"
    stored = sum(each.stat().st_size for each in (folder / "variables").glob("variables.data-*"))
    for graph in proto.meta_graphs:
        bodies = [graph.graph_def.node, *(each.node_def for each in graph.graph_def.library.function)]
        _check_ops(file, {node.op for nodes in bodies for node in nodes})
        assets = _check_assets(folder, graph)
        for place, nodes in enumerate(bodies):
            _check_nodes(file, nodes, assets if place == 0 else frozenset(), stored)
        for each in graph.object_graph_def.nodes:
            if each.WhichOneof("kind") == "variable":
                _check_variable(file, each.variable.name, each.variable.dtype, each.variable.shape, stored)


def _check_ops(file: Path, ops: set[str]) -> None:
    if code := sorted(ops & _RUNS_CODE):
        raise Refused(
            "refused",
            f"{file}: calls Python by {', '.join(code)} (tf.py_function), which is not in the file and is never run;"
            " write that part in TensorFlow's own ops",
        )
    if touching := sorted(ops & _TOUCHES_FILES):
        raise Refused(
            "refused", f"{file}: has {', '.join(touching)}, which read or write files or print; save it without"
        )


def _check_assets(folder: Path, graph: Any) -> frozenset[str]:
    """Check that assets are files of the folder `assets`, and return the nodes that stand for their paths."""
    found = list(graph.asset_file_def)
    for packed in graph.collection_def["saved_model_assets"].any_list.value if _has_assets(graph) else ():
        asset = meta_graph_pb2.AssetFileDef()
        packed.Unpack(asset)
        found.append(asset)
    for each in found:
        path = PurePosixPath(each.filename)
        what = f"{folder / 'saved_model.pb'}: its asset {each.filename!r}"
        if not each.filename or path.is_absolute() or ".." in path.parts or "\0" in each.filename:
            raise Refused("corrupt", f"{what} lies outside of the folder assets; save the SavedModel again")
        if not (folder / "assets" / path).is_file():
            raise Refused("corrupt", f"{what} is missing in {folder / 'assets'}; copy the SavedModel whole")
    return frozenset(each.tensor_info.name.split(":")[0] for each in found)


def _has_assets(graph: Any) -> bool:
    return "saved_model_assets" in graph.collection_def


def _check_nodes(file: Path, nodes: Sequence[Any], assets: frozenset[str], stored: int) -> None:
    constants = {node.name: node.attr["value"].tensor for node in nodes if node.op == "Const"}
    for node in nodes:
        for tensor in _tensors(node):
            _check_tensor(file, node, tensor)
        if node.op in _VARIABLES:
            _check_variable(file, node.name, node.attr["dtype"].type, node.attr["shape"].shape, stored)
        if node.op in _READS_ASSETS and len(node.input) > 1:
            path = _origin(node.input[1], nodes)
            if path in constants and path not in assets:
                raise Refused(
                    "refused",
                    f"{file}: {node.op} ({node.name}) reads a file that is no asset of it; save it with the file as an"
                    " asset, as tf.lookup.TextFileInitializer does",
                )
        place = _SIZED_BY.get(node.op)
        if place is not None and place < len(node.input):
            _check_made(file, node, constants.get(_origin(node.input[place], nodes)))


def _origin(name: str, nodes: Sequence[Any]) -> str:
    """Return the node that a tensor comes from, through those that pass it on."""
    there = {node.name: node for node in nodes if node.op in ("Identity", "Snapshot", "StopGradient")}
    plain = name.lstrip("^").split(":")[0]
    for _ in range(len(there)):
        if plain not in there:
            break
        plain = there[plain].input[0].split(":")[0]
    return plain


def _tensors(node: Any) -> Iterator[Any]:
    for value in node.attr.values():
        if value.WhichOneof("value") == "tensor":
            yield value.tensor
        yield from value.list.tensor


def _check_tensor(file: Path, node: Any, tensor: Any) -> None:
    sizes = [each.size for each in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(each < 0 for each in sizes):
        raise Refused("corrupt", f"{file}: constant {node.name} has no whole shape, but {sizes}")
    if (count := math.prod(sizes)) > MAX_MADE and len(tensor.tensor_content) < count:
        raise Refused("corrupt", f"{file}: constant {node.name} announces {count:,} numbers, which the file has not")


def _check_made(file: Path, node: Any, tensor: Any) -> None:
    """Check that no constant asks an op for a huge tensor."""
    if tensor is None or tensor.dtype not in (tf.int32.as_datatype_enum, tf.int64.as_datatype_enum):
        return
    if math.prod(each.size for each in tensor.tensor_shape.dim) > 64:
        return
    sizes = np.asarray(tf.make_ndarray(tensor)).reshape(-1).tolist()
    if math.prod(abs(each) for each in sizes if each) > MAX_MADE:
        raise Refused(
            "refused", f"{file}: {node.op} ({node.name}) would make {sizes} elements; at most {MAX_MADE:,} may be made"
        )


def _check_variable(file: Path, name: str, dtype: int, shape: Any, stored: int) -> None:
    sizes = [each.size for each in shape.dim]
    if shape.unknown_rank or any(each < 0 for each in sizes):
        return
    nbytes = math.prod(sizes) * max(1, tf.as_dtype(dtype).size or 1)
    if nbytes > stored + _SPARE_BYTES:
        raise Refused(
            "corrupt",
            f"{file}: variable {name} has the shape {sizes}, so {nbytes:,} bytes; the files of variables have"
            f" {stored:,}",
        )
