"""Files of estimators: what is read of them, and what is never run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ringpull.inference.importers.trees.files import read_estimator
from ringpull.ps.errors import CorruptData, InvalidInput
from tests.inference.importers.trees.training import labels, matrix

pytestmark = pytest.mark.medium

X = matrix(nan=False)
TWO = labels(X)


class Own(ClassifierMixin, BaseEstimator):
    """An estimator that nobody knows."""


class Ran:
    """What a pickle of it would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("ran", "w")  # type: ignore[return-value]


def test_what_skops_saved_is_read_with_models_of_others_inside(tmp_path: Path) -> None:
    for model in (
        LogisticRegression(),
        lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1),
        xgboost.XGBClassifier(n_estimators=2),
    ):
        pipeline = make_pipeline(StandardScaler(), model).fit(X, TWO)
        skops.io.dump(pipeline, tmp_path / "m.skops")
        read = read_estimator(tmp_path / "m.skops", "sklearn")
        np.testing.assert_array_equal(read[-1].predict_proba(X), pipeline[-1].predict_proba(X))


def test_types_that_are_not_known_are_named_and_may_be_trusted(tmp_path: Path) -> None:
    skops.io.dump(Own(), tmp_path / "m.skops")
    with pytest.raises(InvalidInput, match=r"not known to be harmless: \S*Own\. .*--trust \S*Own"):
        read_estimator(tmp_path / "m.skops", "sklearn")
    name = f"{Own.__module__}.Own"
    assert isinstance(read_estimator(tmp_path / "m.skops", "sklearn", trusted=[name]), Own)


def test_a_function_in_a_pipeline_is_not_run(tmp_path: Path) -> None:
    skops.io.dump(make_pipeline(FunctionTransformer(np.save), StandardScaler()), tmp_path / "m.skops")
    with pytest.raises(InvalidInput, match="not known to be harmless"):
        read_estimator(tmp_path / "m.skops", "sklearn")


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.skops", "m.txt"])
def test_a_pickle_is_refused_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(Ran()))
    with pytest.raises(InvalidInput, match=r"is a pickle.*skops\.io\.dump.*import lightgbm.*export_model"):
        read_estimator(Path(name), "sklearn")
    assert not Path("ran").exists()


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(X, TWO), 2)
    whole = booster.model_to_string()
    (tmp_path / "m.txt").write_text(whole[: len(whole) // 3])
    with pytest.raises(CorruptData, match="LightGBM does not read it"):
        read_estimator(tmp_path / "m.txt", "lightgbm")
    (tmp_path / "n.txt").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(CorruptData, match="is no model of LightGBM"):
        read_estimator(tmp_path / "n.txt", "lightgbm")
    for content in (b"{}", b'{"learner": 1}', b"\xff" * 100):
        (tmp_path / "m.json").write_bytes(content)
        with pytest.raises(CorruptData, match="XGBoost does not read it"):
            read_estimator(tmp_path / "m.json", "xgboost")
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("schema.json", "{")
    with pytest.raises(CorruptData, match="skops does not read it"):
        read_estimator(tmp_path / "m.skops", "sklearn")
    with pytest.raises(InvalidInput, match=r"reads \.json and \.ubj"):
        read_estimator(tmp_path / "m.txt", "xgboost")
    with pytest.raises(InvalidInput, match="no such file"):
        read_estimator(tmp_path / "none.txt", "lightgbm")
