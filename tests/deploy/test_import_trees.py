"""`ringpull import sklearn`, `lightgbm` and `xgboost`: from a command line to a version."""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
import xgboost
from sklearn.linear_model import LogisticRegression

from tests.deploy.running import Run
from tests.inference.export.versions import Exported
from tests.inference.importers.trees.training import labels, matrix

pytestmark = pytest.mark.medium

X = matrix(nan=False)
TWO = labels(X)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_booster_with_rows_of_its_own(ringpull: Run, folder: Path) -> None:
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(X, TWO), 3)
    booster.save_model("ctr.txt")
    scores = booster.predict(X)
    columns = {name: X[:, place] for place, name in enumerate(booster.feature_name())}
    pq.write_table(pa.table({**columns, "prediction": scores}), "rows.parquet")
    ran = ringpull("import", "lightgbm", "ctr.txt", "models/ctr", "--check", "rows.parquet")
    assert ran.status == 0, ran.err
    assert "imported models/ctr/1; serve it with: ringpull serve models/ctr" in ran.out
    pq.write_table(pa.table({**columns, "prediction": scores + 0.1}), "wrong.parquet")
    ran = ringpull("import", "lightgbm", "ctr.txt", "models/ctr", "--check", "wrong.parquet")
    assert (ran.status, "the scores given with the rows say" in ran.err) == (1, True)
    assert not Path("models/ctr/2").exists()


def test_the_others_print_json(ringpull: Run, folder: Path) -> None:
    xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, TWO), 3).save_model("ctr.ubj")
    skops.io.dump(LogisticRegression().fit(X, TWO), "ctr.skops")
    for command, file, outputs in (("xgboost", "ctr.ubj", 1), ("sklearn", "ctr.skops", 2)):
        ran = ringpull("import", command, file, f"models/{command}", "--version", "4", "--json")
        assert ran.status == 0, ran.err
        assert json.loads(ran.out)["folder"] == f"models/{command}/4"
        assert len(Exported(Path(f"models/{command}/4")).score({"features": X}, len(X))) == outputs


def test_a_pickle_is_an_error_with_the_ways_that_there_are(ringpull: Run, folder: Path) -> None:
    Path("model.joblib").write_bytes(b"\x80\x04N.")
    ran = ringpull("import", "sklearn", "model.joblib", "models/m")
    assert ran.status == 1
    assert "is a pickle" in ran.err
    assert "skops.io.dump" in ran.err
