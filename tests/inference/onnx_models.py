"""Models of ONNX for tests: a rest over two tables, the whole model it is of, and rows of them in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ringpull.inference.export.report import ExportReport
from ringpull.inference.importers.made_rows import made_rows
from ringpull.inference.importers.version_writer import CheckRows, ImportedTable, OnnxVersion, write_onnx_version
from ringpull.inference.model.manifest import IdLimit, LookupSpec, ProgramInput, ProgramOutput
from ringpull.inference.schema.kinds import Dense, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.spec import Pooling, RowType, TableSpec

USERS, TAGS, DIM, WIDTH, GENRES = 40, 30, 4, 3, 5
OPSET = 17
IR_VERSION = 9

SCHEMA = Schema([Sparse("user"), Sparse("tags", many=True), Dense("age", width=WIDTH), Sparse("genre")])
_RANDOM = np.random.default_rng(7)
USER = _RANDOM.standard_normal((USERS, DIM)).astype(np.float32)
TAG = _RANDOM.standard_normal((TAGS, DIM)).astype(np.float32)
GENRE = _RANDOM.standard_normal((GENRES, DIM)).astype(np.float32)
WEIGHT = _RANDOM.standard_normal((3 * DIM + WIDTH, 2)).astype(np.float32)

Columns = Mapping[str, NDArray[Any]]


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    outputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
) -> onnx.ModelProto:
    """Return a model of these nodes; inputs and outputs are types with shapes, the rows called "rows"."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [helper.make_tensor_value_info(name, *each) for name, each in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in (weights or {}).items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="tests"
    )


def rest() -> onnx.ModelProto:
    """Return the rest of the model: user vector, pooled tags, age, and a genre that stays inside."""
    nodes = [
        helper.make_node("Gather", ["genres", "genre"], ["genre_vector"]),
        helper.make_node("Concat", ["user", "tags", "genre_vector", "age"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weight"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["click"]),
        helper.make_node("ReduceSum", ["user", "axis"], ["norm"], keepdims=0),
    ]
    inputs = {
        "user": (TensorProto.FLOAT, ["rows", DIM]),
        "tags": (TensorProto.FLOAT, ["rows", DIM]),
        "age": (TensorProto.FLOAT, ["rows", WIDTH]),
        "genre": (TensorProto.INT64, ["rows"]),
    }
    outputs = {"click": (TensorProto.FLOAT, ["rows", 2]), "norm": (TensorProto.FLOAT, ["rows"])}
    weights = {"genres": GENRE, "weight": WEIGHT, "axis": np.array([1])}
    return graph_of(nodes, inputs, outputs, weights)


def vectors(table: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the rows of a table, zeros for ids that it lacks."""
    known = (ids >= 0) & (ids < len(table))
    return np.where(known[:, None], table[np.where(known, ids, 0)], np.float32(0))


def scores(arguments: Columns) -> dict[str, NDArray[np.float32]]:
    """Return what the whole model gives, in float64, for the schema's arguments."""
    user, ids, offsets = vectors(USER, arguments["user"]), arguments["tags"], arguments["tags_offsets"]
    bags = [vectors(TAG, ids[begin:end]).sum(0) for begin, end in pairwise(offsets)]
    parts = [user, np.array(bags), GENRE[arguments["genre"]], arguments["age"]]
    logits = np.concatenate([each.astype(np.float64) for each in parts], axis=1) @ WEIGHT
    return {
        "click": (1 / (1 + np.exp(-logits))).astype(np.float32),
        "norm": user.sum(1, dtype=np.float64).astype(np.float32),
    }


def parts(row_type: RowType = RowType.FLOAT32, graph: onnx.ModelProto | Path | None = None) -> OnnxVersion:
    """Return the model in parts."""
    tables = {
        name: ImportedTable(
            pieces=[(np.arange(len(rows)), rows)],
            spec=TableSpec(name=name, dim=DIM, row_type=row_type),
            keyed_by="row number",
            features=(name.removesuffix("_table"),),
        )
        for name, rows in {"user_table": USER, "tags_table": TAG}.items()
    }
    return OnnxVersion(
        schema=SCHEMA,
        rest=rest() if graph is None else graph,
        tables=tables,
        lookups=(
            LookupSpec(table="user_table", feature="user", pooling=Pooling.NONE),
            LookupSpec(table="tags_table", feature="tags", pooling=Pooling.SUM),
        ),
        inputs=(
            ProgramInput(kind="lookup", lookup=0),
            ProgramInput(kind="lookup", lookup=1),
            ProgramInput(kind="argument", argument="age"),
            ProgramInput(kind="argument", argument="genre"),
        ),
        outputs=(ProgramOutput(name="click", shape=(2,)), ProgramOutput(name="norm", shape=())),
        limits=(IdLimit(feature="genre", low=0, high=GENRES),),
    )


def check_rows(rows: int = 48) -> CheckRows:
    """Return made-up rows, ids beyond the tables among them."""
    ids = {
        "user": np.array([0, USERS - 1, USERS, USERS + 5, -1, 3, 3]),
        "tags": np.array([0, TAGS - 1, TAGS, -1, 4, 4]),
        "genre": np.arange(GENRES),
    }
    return CheckRows(served=made_rows(SCHEMA, rows, ids))


def write(out_dir: Path, version: int = 1, model: OnnxVersion | None = None) -> ExportReport:
    """Write the model as a version."""
    return write_onnx_version(
        parts() if model is None else model, out_dir, version, reference=scores, check=[check_rows()], quiet=True
    )
