"""`ringpull import pmml`: from a document to a version."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.ps.errors import ExportError
from tests.inference.importers.pmml.documents import clustering, written

pytestmark = pytest.mark.medium


def test_a_document_is_imported_and_checked(tmp_path: Path) -> None:
    """Rows of one's own are scored; where their scores are others, nothing is written."""
    path, out, rows = written(tmp_path, clustering()), tmp_path / "model", tmp_path / "rows.parquet"
    columns = {"x": [0.5, -0.5], "y": [-1.25, 2.0], "n": [3.0, None]}
    for cluster, version in (([0.0, 1.0], 1), ([0.0, 2.0], 2)):
        pq.write_table(pa.table({**columns, "cluster": cluster}), rows)
        arguments = ["import", "pmml", str(path), str(out), "--check", str(rows), "--json"]
        result = CliRunner().invoke(app, arguments)
        if version == 1:
            assert json.loads(result.stdout)["version"] == 1
        else:
            assert isinstance(result.exception, ExportError)
    assert sorted(each.name for each in out.iterdir()) == ["1"]
