"""`ringpull delta` of every kind of version: what is served is the full version's answer, bit for bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.model.manifest import Manifest
from tests.inference import onnx_models
from tests.inference.onnx_models import parts
from tests.integration.local import local_cluster
from tests.integration.test_onnx_versions import columns


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.net
@pytest.mark.medium
def test_a_version_that_onnxruntime_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = tmp_path / "m", tmp_path / "whole" / "m"
    onnx_models.write(folder, 1)
    monkeypatch.setattr(onnx_models, "TAG", onnx_models.TAG[:25] * np.where(np.arange(25)[:, None] < 3, 2, 1))
    monkeypatch.setattr(onnx_models, "TAG", onnx_models.TAG.astype(np.float32))
    monkeypatch.setattr(onnx_models, "TAGS", 25)
    onnx_models.write(whole, 2, replace(parts(), limits=()))
    assert "tags_table: 3 rows changed, 0 new, 5 gone" in run("delta", folder / "1", whole / "2", folder / "2")
    made = Manifest.load(folder / "2")
    assert (made.runtime, [each.kind for each in made.tables]) == ("onnxruntime", ["same", "delta"])
    asked, found = columns(200, 3), []
    for version in (whole / "2", folder / "2"):
        with local_cluster([version], config=HeadConfig(default_timeout_s=60)) as cluster, cluster.client() as client:
            found.append(client.predict("m", asked).outputs)
    assert {name: values.tobytes() for name, values in found[0].items()} == {
        name: values.tobytes() for name, values in found[1].items()
    }


@pytest.mark.net
def test_tables_that_were_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("users.csv").write_text("7\t0.5 1\n8\t2 3\n0\t4 4\n")
    run("import", "table", "users.csv", "models/m", "--version", "1")
    Path("users.csv").write_text("7\t0.5 1\n8\t2 9\n12\t5 5\n")
    run("import", "table", "users.csv", "whole/m", "--version", "2")
    told = run("delta", "models/m/1", "whole/m/2", "models/m/2")
    assert "users: 1 row changed, 1 new, 1 gone" in told.replace("1 rows", "1 row")
    shutil.copytree("models/m/1", "kept/m/1")
    found = []
    for version in ("whole/m/2", "models/m/2"):
        config = HeadConfig(default_timeout_s=60)
        with local_cluster([tmp_path / version], config=config) as cluster, cluster.client() as client:
            answer = client.lookup("m", "users", [7, 8, 0, 12, 13])
            found.append((answer.rows.tobytes(), answer.found.tolist()))
    assert found[0] == found[1]
    assert found[0][1] == [True, True, False, True, False]
