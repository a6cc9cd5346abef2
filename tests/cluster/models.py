"""A tiny model that can be served, made by hand, and its answers worked out with the slow reference.

    score = sum of the user's row + sum of the rows of the genres

Keys of `user` are 0 to rows - 1; key k's row is k / 8, four times. Genres are strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ringpull import Schema, Sparse
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.ps.spec import KeyType, OnUnavailable, Pooling, Replicas, TableSpec
from ringpull.ps.store.writer import TableWriter

DIM = 4
GENRES = {"drama": 1.0, "crime": 2.0, "comedy": -3.0}


def _program() -> onnx.ModelProto:
    """Return the sum as ONNX: a head that runs it starts in half the time of one that imports torch."""
    nodes = [
        helper.make_node("Add", ["user", "genres"], ["both"]),
        helper.make_node("ReduceSum", ["both", "last"], ["score"], keepdims=0),
    ]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", DIM]) for name in ("user", "genres")]
    scores = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "sum", rows, scores, [last])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_model(
    model_dir: Path,
    version: int = 1,
    *,
    rows: int = 1000,
    user_replicas: Replicas = 1,
    user_on_unavailable: OnUnavailable = OnUnavailable.ERROR,
    factor: float = 1.0,
) -> Path:
    """Write `model_dir/version/`; return `model_dir`.

    Args:
        factor: Of the user's rows: with another one it is other content.
    """
    folder = model_dir / str(version)
    folder.mkdir(parents=True)
    schema = Schema([Sparse("user_id"), Sparse("genres", dtype="string", many=True, missing=())])
    (folder / "schema.json").write_text(schema.to_json())
    (folder / "dense.onnx").write_bytes(_program().SerializeToString())
    user = TableSpec(name="user", dim=DIM, replicas=user_replicas, on_unavailable=user_on_unavailable)
    genre = TableSpec(name="genre", dim=DIM, key_type=KeyType.STRING)
    with TableWriter(folder / "user", user) as writer:
        writer.add(np.arange(rows), np.repeat(np.arange(rows, dtype=np.float32) / 8 * factor, DIM).reshape(rows, DIM))
        writer.finish()
    with TableWriter(folder / "genre", genre) as writer:
        writer.add(list(GENRES), np.repeat(np.array(list(GENRES.values()), np.float32), DIM).reshape(-1, DIM))
        writer.finish()
    Manifest(
        model=model_dir.name,
        version=version,
        created="2026-01-01T00:00:00+00:00",
        schema=FileEntry.of(folder, "schema.json"),
        runtime="onnxruntime",
        program=FileEntry.of(folder, "dense.onnx"),
        tables=(_entry(folder, user, rows), _entry(folder, genre, len(GENRES))),
        lookups=(
            LookupSpec(table="user", feature="user_id", pooling=Pooling.SUM),
            LookupSpec(table="genre", feature="genres", pooling=Pooling.SUM),
        ),
        inputs=(ProgramInput(kind="lookup", lookup=0), ProgramInput(kind="lookup", lookup=1)),
        outputs=(ProgramOutput(name="score", shape=()),),
    ).save(folder)
    return model_dir


def score(user: int, genres: Sequence[str], *, rows: int = 1000) -> float:
    """What the model says; unknown ids count as zeros."""
    known = user / 8 if 0 <= user < rows else 0.0
    return DIM * (known + sum(GENRES.get(genre, 0.0) for genre in genres))


def _entry(folder: Path, spec: TableSpec, rows: int) -> TableEntry:
    size = sum(path.stat().st_size for path in (folder / spec.name).iterdir())
    return TableEntry(spec=spec, path=spec.name, rows=rows, bytes=size)
