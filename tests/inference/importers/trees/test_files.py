"""Files of estimators: what is read of them, and what is never run."""

from __future__ import annotations

import io
import json
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


def parts_of(model: object, folder: Path) -> dict[str, bytes]:
    """Return what a file of skops of a model has inside, by name."""
    skops.io.dump(model, folder / "whole.skops")
    with zipfile.ZipFile(folder / "whole.skops") as archive:
        return {each: archive.read(each) for each in archive.namelist()}


def hostile(kind: str, folder: Path) -> Path:
    """Write a hostile file of skops."""
    parts = parts_of(LogisticRegression().fit(X, TWO), folder)
    schema = json.loads(parts["schema.json"])
    path = folder / "m.skops"
    array = next(name for name in parts if name.endswith(".npy"))
    if kind == "cut short":
        path.write_bytes((folder / "whole.skops").read_bytes()[:-200])
        return path
    if kind == "another file in place of one":
        parts = {name.replace(array, f"../{array}"): each for name, each in parts.items()}
    elif kind == "path":
        text = parts["schema.json"].decode().replace(array, "../../etc/passwd")
        parts["schema.json"] = text.encode()
    elif kind == "huge shape":
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 8), }"
        head = head.ljust(117) + b"\n"
        parts[array] = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    elif kind == "pickle in an array":
        data = io.BytesIO()
        np.save(data, np.array([Ran()], object), allow_pickle=True)
        parts[array] = data.getvalue()
    elif kind == "function":
        schema["content"] = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1,
                             "content": "os.system"}  # fmt: skip
        parts["schema.json"] = json.dumps(schema).encode()
    elif kind == "deep":
        parts["schema.json"] = b'{"content":' * 100_000 + b"1" + b"}" * 100_000
    elif kind == "reduce":
        text = (
            json.dumps(schema)
            .replace("LogisticRegression", "Popen")
            .replace("sklearn.linear_model._logistic", "subprocess")
        )
        parts["schema.json"] = text.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in parts.items():
            archive.writestr(name, each)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        "cut short",
        "another file in place of one",
        "path",
        "huge shape",
        "pickle in an array",
        "function",
        "deep",
        "reduce",
    ],
)
def test_hostile_files_of_skops_are_refused_and_run_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hostile(kind, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((CorruptData, InvalidInput), match=r"m\.skops: (skops does not|holds types)") as raised:
        read_estimator(path, "sklearn")
    assert len(str(raised.value)) < 1_000
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_bomb_is_measured_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.importers.trees.files.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "m.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"[" * (1 << 21))
    assert (tmp_path / "m.skops").stat().st_size < 1 << 14
    with pytest.raises(InvalidInput, match=r"m\.skops: unpacks to 2097152 bytes"):
        read_estimator(tmp_path / "m.skops", "sklearn")
