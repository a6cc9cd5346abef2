"""`write_onnx_version`: what is written scores like its source, and what differs from it is not written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ringpull.inference.importers import onnx_files
from ringpull.inference.importers.version_writer import CheckRows, write_onnx_version
from ringpull.inference.model.manifest import Manifest, ProgramOutput
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import DuplicateKey, ExportError
from ringpull.ps.spec import RowType
from tests.inference import onnx_models
from tests.inference.export.versions import Exported
from tests.inference.onnx_models import SCHEMA, check_rows, graph_of, parts, scores, write
from tests.reference import assert_close

ROWS = 9


pytestmark = pytest.mark.medium


def columns() -> dict[str, Any]:
    return {
        "user": np.array([0, 39, 40, -1, 5, 5, 7, 8, 9]),
        "tags": [[1], [], [2, 2, 29], [30, 1], [5], [6, 7], [8], [9], [-3]],
        "age": np.arange(27, dtype=np.float32).reshape(9, 3),
        "genre": np.arange(9) % 5,
    }


def assert_scores(folder: Path) -> None:
    found = Exported(folder).score(columns(), ROWS)
    expected = scores(SCHEMA.arguments(SCHEMA.prepare(columns(), ROWS)))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert_close(found[name], values, largest=10.0)


def test_it_scores_like_its_source_and_says_so(tmp_path: Path) -> None:
    report = write(tmp_path / "ranker")
    assert report.path == tmp_path / "ranker" / "1"
    assert_scores(report.path)
    manifest = Manifest.load(report.path)
    assert (manifest.model, manifest.runtime, manifest.program_data) == ("ranker", "onnxruntime", ())
    assert report.check is not None
    assert report.check.largest_difference < 1e-6
    assert report.cost is None
    assert [(each.name, each.rows, each.poolings) for each in report.tables] == [
        ("user_table", 40, ("none",)),
        ("tags_table", 30, ("sum",)),
    ]
    samples = Samples.from_bytes(manifest.samples.read(report.path), "samples")
    assert {name: values.shape for name, values in samples.outputs.items()} == {"click": (16, 2), "norm": (16,)}
    assert sorted(samples.tables) == ["tags_table", "user_table"]
    assert [each.name for each in (tmp_path / "ranker").iterdir()] == ["1"]


def test_nothing_is_checked_where_no_rows_are_given(tmp_path: Path) -> None:
    report = write_onnx_version(parts(), tmp_path / "ranker", 1, reference=scores, check=[], quiet=True)
    assert (report.check, report.manifest.samples) == (None, None)
    assert_scores(report.path)


def test_weights_lie_beside_the_graph_where_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "INLINE_BYTES", 100)
    monkeypatch.setattr(onnx_files, "LARGE_BYTES", 60)
    report = write(tmp_path / "ranker")
    assert [each.path for each in report.manifest.program_data] == ["dense.onnx.data"]
    assert_scores(report.path)


def test_a_graph_in_a_file_brings_its_external_data(tmp_path: Path) -> None:
    file = tmp_path / "source" / "model.onnx"
    file.parent.mkdir()
    onnx.save(onnx_models.rest(), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    report = write(tmp_path / "ranker", model=parts(graph=file))
    assert_scores(report.path)
    (file.parent / "weights.bin").unlink()
    with pytest.raises(ExportError, match=r"weight 'genres' lies in the file 'weights\.bin', which cannot be read"):
        write(tmp_path / "ranker", 2, parts(graph=file))
    assert [each.name for each in (tmp_path / "ranker").iterdir()] == ["1"]


def test_a_fixed_number_of_rows_becomes_any(tmp_path: Path) -> None:
    graph = onnx_models.rest()
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert_scores(write(tmp_path / "ranker", model=parts(graph=graph)).path)


def test_short_rows_are_checked_before_they_are_rounded_and_the_cost_is_said(tmp_path: Path) -> None:
    report = write(tmp_path / "ranker", model=parts(RowType.INT8))
    assert report.check is not None
    assert report.cost is not None
    assert report.check.largest_difference < 1e-6
    assert 1e-4 < report.cost.largest_difference < 0.2


def refused(
    folder: Path, message: str, model: Any = None, error: type[Exception] = ExportError, **options: Any
) -> None:
    given = {"reference": scores, "check": [check_rows()], "quiet": True} | options
    with pytest.raises(error, match=message):
        write_onnx_version(parts() if model is None else model, folder / "ranker", 1, **given)
    assert not (folder / "ranker").exists()


def test_what_differs_from_its_source_is_not_written(tmp_path: Path) -> None:
    def other(arguments: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        found = scores(arguments)
        found["norm"][3] += np.float32(0.01)
        return found

    refused(tmp_path, r"output norm: of made-up rows.*in row 3 it is .*, and should be", reference=other)


def test_scores_that_come_with_rows_are_held_against(tmp_path: Path) -> None:
    rows = check_rows()
    expected = {"norm": scores(SCHEMA.arguments(rows.served))["norm"] + 1}
    given = CheckRows(served=rows.served, expected=expected, described="rows.parquet")
    refused(tmp_path, r"output norm: differs from the scores of rows\.parquet", check=[given])


def test_rows_that_depend_on_others_are_refused(tmp_path: Path) -> None:
    graph = onnx_models.rest()
    graph.graph.node[-1].CopyFrom(helper.make_node("ReduceSum", ["user", "axis"], ["sums"], keepdims=0))
    graph.graph.node.append(helper.make_node("Softmax", ["sums"], ["norm"], axis=0))

    def together(arguments: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        found = scores(arguments)
        powers = np.exp(found["norm"] - found["norm"].max())
        return {**found, "norm": powers / powers.sum()}

    refused(tmp_path, "depends on the other rows of its batch", parts(graph=graph), reference=together)


def test_a_rest_that_does_not_run_is_refused(tmp_path: Path) -> None:
    graph = onnx_models.rest()
    graph.graph.node[-1].op_type = "Tomorrow"
    refused(tmp_path, r"the rest of the model does not run.*Tomorrow", parts(graph=graph))
    wrong = dataclasses.replace(parts(), outputs=(ProgramOutput(name="click", shape=(3,)),) * 2)
    refused(tmp_path, r"its output 'click' has the shape \(None, 2\); the manifest says", wrong)


def test_two_rows_of_one_key_are_refused(tmp_path: Path) -> None:
    model = parts()
    table = dataclasses.replace(
        model.tables["user_table"], pieces=[(np.zeros(2, np.int64), np.ones((2, 4), np.float32))]
    )
    twice = dataclasses.replace(model, tables={**model.tables, "user_table": table})
    refused(tmp_path, "user_table", twice, DuplicateKey)


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    graph = onnx_models.rest()
    graph.graph.output[1].CopyFrom(helper.make_tensor_sequence_value_info("norm", TensorProto.FLOAT, None))
    refused(tmp_path, r"'norm' of the graph is a sequence.*zipmap=False", parts(graph=graph))


def test_integers_come_out_exactly_or_not_at_all(tmp_path: Path) -> None:
    def model(factor: int) -> Any:
        nodes = [
            *onnx_models.rest().graph.node[:-1],
            helper.make_node("Mul", ["genre", "factor"], ["norm"]),
        ]
        graph = graph_of(
            nodes,
            {
                "user": (TensorProto.FLOAT, ["rows", 4]),
                "tags": (TensorProto.FLOAT, ["rows", 4]),
                "age": (TensorProto.FLOAT, ["rows", 3]),
                "genre": (TensorProto.INT64, ["rows"]),
            },
            {"click": (TensorProto.FLOAT, ["rows", 2]), "norm": (TensorProto.INT64, ["rows"])},
            {"genres": onnx_models.GENRE, "weight": onnx_models.WEIGHT, "factor": np.array(factor)},
        )
        return parts(graph=graph), lambda given: {**scores(given), "norm": given["genre"] * factor}

    graph, reference = model(1 << 22)
    report = write_onnx_version(graph, tmp_path / "exact", 1, reference=reference, check=[check_rows()], quiet=True)
    assert Exported(report.path).score(columns(), ROWS)["norm"][4] == 1 << 24
    graph, reference = model((1 << 22) + 1)
    refused(tmp_path, "output norm is an integer, 16777220, which float32 does not hold", graph, reference=reference)
