"""`ringpull import onnx`: from a file to a version, its schema guessed, given as JSON or as Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.deploy.commands.importing.schema_file import read_schema_file
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.onnx.graphs import FLOAT, INT, graph, node, rows, run

pytestmark = pytest.mark.medium

W = rows(50, 4)
MODEL = graph(
    [
        node("Gather", ["W", "user"], ["u"]),
        node("Gather", ["W", "seen"], ["s"]),
        node("ReduceMean", ["s"], ["m"], axes=[1], keepdims=0),
        node("Mul", ["u", "m"], ["p"]),
        node("ReduceSum", ["p", "one"], ["score"], keepdims=1),
    ],
    [("user", INT, ["b"]), ("seen", INT, ["b", 3])],
    [("score", FLOAT, ["b", 1])],
    {"W": W, "one": [1]},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save_model(MODEL, str(tmp_path / "ranker.onnx"))
    return tmp_path / "ranker.onnx"


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["import", "onnx", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_guess_is_printed_corrected_and_given_back(file: Path, tmp_path: Path) -> None:
    """The guess alone writes nothing; with it, rows that came with scores are compared before anything is written."""
    code, printed = _run(file, tmp_path / "m", "--guess")
    assert code == 0
    assert not (tmp_path / "m").exists()
    schema = tmp_path / "features.json"
    schema.write_text(printed.replace('"length": 3', '"length": 3, "pad": 7'))
    columns = {"user": np.array([1, 49]), "seen": np.array([[1, 2, 3], [4, 4, -1]])}
    (scores,) = run(MODEL, columns)
    given = {name: each.tolist() for name, each in columns.items()}
    pq.write_table(pa.table({**given, "score": scores[:, 0].tolist(), "clicked": [0, 1]}), tmp_path / "rows.parquet")
    code, printed = _run(file, tmp_path / "m", "--schema", schema, "--check", tmp_path / "rows.parquet", "--json")
    told = json.loads(printed)
    assert (code, told["version"], told["check"]["rows"]) == (0, 1, 66)
    assert [each["name"] for each in told["tables"]] == ["W"]
    found = Exported(tmp_path / "m" / "1").score(columns, 2)["score"]
    np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)
    pq.write_table(pa.table({**given, "score": [0.0, 1.0]}), tmp_path / "rows.parquet")
    with pytest.raises(ExportError, match="scores of the rows given"):
        _run(file, tmp_path / "m", "--schema", schema, "--check", tmp_path / "rows.parquet")
    assert not (tmp_path / "m" / "2").exists()


def test_python_says_more(file: Path, tmp_path: Path) -> None:
    """Python with a schema may name raw ids of rows; options say how rows are stored and outputs are called."""
    source = tmp_path / "features.py"
    source.write_text(
        "from ringpull import IdSequence, Schema, Sparse\n"
        "schema = Schema([Sparse('who'), IdSequence('seen', 3)])\n"
        "arguments = {'user': 'who'}\n"
        "def keys():\n    return {'W': [f'n{i}' for i in range(50)]}\n"
    )
    options = ["--schema", source, "--output", "score=ctr", "--row-type", "W=float16", "--version", 4]
    code, printed = _run(file, tmp_path / "m", *options)
    assert code == 0
    assert "imported" in printed
    version = Exported(tmp_path / "m" / "4")
    columns = {"who": np.array(["n3"], object), "seen": np.array([["n1", "n2", "n2"]], object)}
    (expected,) = run(MODEL, {"user": np.array([3]), "seen": np.array([[1, 2, 2]])})
    np.testing.assert_allclose(version.score(columns, 1)["ctr"], expected, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.py", None, "no such file"),
        ("none.json", None, "cannot be read"),
        ("other.txt", "", "must be a .py file"),
        ("empty.py", "", "`schema` must be"),
        ("fails.py", "1 / 0", "ZeroDivisionError"),
        ("bad.json", "{", "not JSON"),
    ],
)
def test_files_that_are_no_schema(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_schema_file(tmp_path / name)


def test_options_that_cannot_be_read_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--argument 'user'"):
        _run(file, tmp_path / "m", "--argument", "user")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match=r"--check .*rows\.parquet"):
        _run(file, tmp_path / "m", "--check", tmp_path / "rows.parquet")
    pq.write_table(pa.table({"user": [1, None]}), tmp_path / "rows.parquet")
    with pytest.raises(InvalidInput, match="column user has 1 nulls"):
        _run(file, tmp_path / "m", "--check", tmp_path / "rows.parquet")
    assert not (tmp_path / "m").exists()
