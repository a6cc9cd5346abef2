"""Boosters of LightGBM and XGBoost: versions predict what they do, on the thresholds of their trees as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pytest
import xgboost

from ringpull.inference.importers.trees.lightgbm_model import forest_of_lightgbm, read_lightgbm
from ringpull.inference.importers.trees.model import import_estimator
from ringpull.inference.importers.trees.xgboost_model import forest_of_xgboost, read_xgboost
from ringpull.ps.errors import InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.trees.training import assert_predicts, labels, matrix, numbers, on_thresholds

pytestmark = pytest.mark.medium

X = matrix()
TWO, THREE, ANY = labels(X), labels(X, 3), numbers(X)
SIMPLE: dict[str, Any] = {"verbosity": -1, "num_leaves": 8, "min_data_in_leaf": 3, "seed": 1}
CATEGORICAL: dict[str, Any] = {"cat_smooth": 1, "min_data_per_group": 2, "max_cat_to_onehot": 1}

LIGHTGBM: dict[str, tuple[Any, dict[str, Any]]] = {
    "binary": (TWO, {"sigmoid": 2.0}),
    "regression": (ANY, {}),
    "regression of roots": (ANY, {"objective": "regression", "reg_sqrt": True}),
    "multiclass": (THREE, {"num_class": 3}),
    "multiclassova": (THREE, {"num_class": 3}),
    "cross_entropy_lambda": (TWO, {}),
    "poisson": (ANY, {}),
    "lambdarank": (THREE, {}),
    "a forest": (TWO, {"objective": "binary", "boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}),
    "dart": (TWO, {"objective": "binary", "boosting": "dart"}),
    "without missing": (TWO, {"objective": "binary", "use_missing": False}),
}


@pytest.mark.parametrize("case", list(LIGHTGBM))
def test_lightgbm(tmp_path: Path, case: str) -> None:
    """Every objective, with categories in every second one, written to a file and read."""
    target, options = LIGHTGBM[case]
    sets = list(LIGHTGBM).index(case) % 2 == 1
    data = lightgbm.Dataset(
        X, target, categorical_feature=[4] if sets else [], group=[40] * 10 if case == "lambdarank" else None
    )
    trained = lightgbm.train({"objective": case, **SIMPLE, **CATEGORICAL, **options}, data, 6)
    trained.save_model(tmp_path / "model.txt")
    booster = read_lightgbm(tmp_path / "model.txt")
    forest = forest_of_lightgbm(booster).forest
    assert forest.has_sets is (sets and any(tree.sets for tree in forest.trees))
    report = import_estimator(booster, tmp_path / "m", 1, quiet=True)
    rows = np.concatenate([X, on_thresholds(X, forest.thresholds()), np.full((1, X.shape[1]), np.nan, np.float32)])
    rows[-9:-1, -1] = [-0.5, 2.5, 100, -1, -3, 8.999, 1e9, 0]  # categories are cut off behind the point
    assert_predicts(report, rows, {"prediction": booster.predict(rows).reshape(len(rows), -1)})


def test_lightgbm_around_zero(tmp_path: Path) -> None:
    """Numbers nearer to 0 than 1e-35 are 0 for it, so that they go where 0 goes."""
    rows = np.repeat(np.array([[-1.0], [0.0], [1.0], [np.nan]], np.float32), 50, axis=0)
    booster = lightgbm.train(
        {"objective": "regression", **SIMPLE}, lightgbm.Dataset(rows, np.repeat([1.0, 2, 3, 4], 50)), 3
    )
    tiny = np.float32(1e-35)
    near = np.array([0, tiny, -tiny, 1e-36, -1e-36, 2 * tiny, -2 * tiny, np.nextafter(tiny, 1), -1, 1], np.float32)[
        :, None
    ]
    report = import_estimator(booster, tmp_path / "m", 1, quiet=True)
    assert_predicts(report, near, {"prediction": booster.predict(near)[:, None]})


XGBOOST: dict[str, tuple[Any, dict[str, Any]]] = {
    "binary:logistic": (TWO, {"num_parallel_tree": 2, "subsample": 0.5}),
    "binary:logitraw": (TWO, {}),
    "binary:hinge": (TWO, {}),
    "reg:squarederror": (ANY, {}),
    "reg:gamma": (ANY, {}),
    "count:poisson": (ANY, {"booster": "dart", "rate_drop": 0.3}),
    "multi:softprob": (THREE, {"num_class": 3}),
    "multi:softmax": (THREE, {"num_class": 3}),
    "rank:ndcg": (THREE, {}),
}


@pytest.mark.parametrize("objective", list(XGBOOST))
def test_xgboost(tmp_path: Path, objective: str) -> None:
    target, options = XGBOOST[objective]
    sets = list(XGBOOST).index(objective) % 2 == 1
    types = ["float"] * 4 + ["c" if sets else "float"]
    data = xgboost.DMatrix(X, target, feature_types=types, enable_categorical=True)
    if objective.startswith("rank"):
        data.set_group([40] * 10)
    trained = xgboost.train({"objective": objective, "max_depth": 3, "max_cat_to_onehot": 1, **options}, data, 6)
    file = tmp_path / ("model.ubj" if sets else "model.json")
    trained.save_model(file)
    booster = read_xgboost(file)
    forest = forest_of_xgboost(booster).forest
    report = import_estimator(booster, tmp_path / "m", 1, quiet=True)
    rows = np.concatenate([X, on_thresholds(X, forest.thresholds()), np.full((1, X.shape[1]), np.nan, np.float32)])
    if sets:  # XGBoost itself refuses what is no category
        rows = rows[np.isnan(rows[:, -1]) | ((rows[:, -1] >= 0) & (rows[:, -1] < 9))]
    expected = booster.predict(xgboost.DMatrix(rows, feature_types=types, enable_categorical=True))
    assert_predicts(report, rows, {"prediction": expected.reshape(len(rows), -1)})


@pytest.mark.parametrize("objective", ["binary:hinge", "binary:logitraw", "multi:softmax"])
def test_objectives_without_probabilities_of_their_own(tmp_path: Path, objective: str) -> None:
    """XGBoost's classifier shows margins and decisions as it does probabilities, and makes those of a softmax."""
    target = THREE if objective.startswith("multi") else TWO
    model = xgboost.XGBClassifier(objective=objective, n_estimators=4, max_depth=3).fit(X, target)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    rows = np.concatenate([X, on_thresholds(X, forest_of_xgboost(model.get_booster()).forest.thresholds())])
    assert_predicts(report, rows, {"probabilities": model.predict_proba(rows), "label": model.predict(rows)})


def test_trees_that_came_after_the_best_are_left_out(tmp_path: Path) -> None:
    rows = matrix(seed=3)
    data, held = xgboost.DMatrix(X, TWO), xgboost.DMatrix(rows, np.random.default_rng(0).integers(0, 2, len(rows)))
    booster = xgboost.train(
        {"objective": "binary:logistic"}, data, 20, evals=[(held, "held")], early_stopping_rounds=2, verbose_eval=False
    )
    assert booster.num_boosted_rounds() > booster.best_iteration + 1
    report = import_estimator(booster, tmp_path / "m", 1, quiet=True)
    best = booster.predict(data, iteration_range=(0, booster.best_iteration + 1))
    assert_predicts(report, X, {"prediction": best[:, None]})


def test_names_of_columns_are_features(tmp_path: Path) -> None:
    names = ["age", "price_(eur)", "größe", "-x", "a" * 200]
    booster = xgboost.train({}, xgboost.DMatrix(X, ANY, feature_names=names), 2)
    report = import_estimator(booster, tmp_path / "m", 1, quiet=True)
    assert [each.argument for each in report.manifest.inputs] == ["age", "price__eur", "gr_e", "column_x", "a" * 100]
    assert_predicts(report, X, {"prediction": booster.predict(xgboost.DMatrix(X, feature_names=names))[:, None]})


CATEGORIES: dict[str, list[Any]] = {
    "texts": ["Oslo", "Bergen", "Troms"],
    "other texts": ["Tromsø", "Bodø", "Oslo"],
    "integers": [10, 20, 30],
    "truths": [False, True],
    "fractions": [0.5, 1.5, 2.5],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(CATEGORIES))
def test_categories_of_a_frame_are_sent_as_they_are(tmp_path: Path, case: str) -> None:
    """Categories of LightGBM and XGBoost, alone and as sklearn's; others are sent as codes, which is said."""
    kinds = CATEGORIES[case]
    values = np.array(kinds, object if isinstance(kinds[0], str) else None)[np.arange(len(X)) % len(kinds)]
    category = pandas.Categorical(values)
    frame = pandas.DataFrame({"x": X[:, 0], "c": category, "z": X[:, 1]})
    target = category.codes + (TWO > 0)
    models: list[tuple[Any, Any]] = [
        (booster := lightgbm.train({**SIMPLE, **CATEGORICAL}, lightgbm.Dataset(frame, target), 4), booster.predict),
        (model := lightgbm.LGBMRegressor(n_estimators=4, **SIMPLE, **CATEGORICAL).fit(frame, target), model.predict),
    ]
    if case in ("texts", "integers"):  # XGBoost takes no others, and cuts texts that are not ASCII off
        data = xgboost.DMatrix(frame, target, enable_categorical=True)
        own = xgboost.train({"max_cat_to_onehot": 1}, data, 4)
        wrapped = xgboost.XGBRegressor(n_estimators=4, enable_categorical=True).fit(frame, target)
        models += [(own, lambda _: own.predict(data)), (wrapped, wrapped.predict)]
    unknown = values.copy()
    unknown[0] = "Paris" if isinstance(kinds[0], str) else 77
    for number, (made, predict) in enumerate(models):
        report = import_estimator(made, tmp_path / f"m{number}", 1, quiet=True)
        sent = {"x": X[:, 0], "z": X[:, 1], "c": values.astype(np.int64) if values.dtype.kind in "bi" else values}
        if case == "fractions":
            sent["c"] = category.codes.astype(np.float32)
        version = Exported(report.path)
        found = version.score(sent, len(X))["prediction"]
        np.testing.assert_allclose(found[:, 0], predict(frame), 2e-5, 2e-5)
        if number < 2 and case in ("texts", "integers"):  # XGBoost takes none that it does not know
            sent["c"] = unknown
            none = frame.head(1).assign(c=pandas.Categorical([None], category.categories))
            found = version.score(sent, len(X))["prediction"]
            np.testing.assert_allclose(found[:1, 0], predict(none), 2e-5, 2e-5)


def test_texts_that_xgboost_cuts_off_are_sent_as_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file has the bytes of `é` without the second one: which category is which cannot be told."""
    codes = np.arange(len(X)) % 3
    frame = pandas.DataFrame({"x": X[:, 0], "c": pandas.Categorical(np.array(["éa", "b", "ü"])[codes])})
    data = xgboost.DMatrix(frame, codes, enable_categorical=True)
    booster = xgboost.train({"max_cat_to_onehot": 1}, data, 3)
    report = import_estimator(booster, tmp_path / "m", 1)
    assert "requests bring the codes" in " ".join(capsys.readouterr().out.split())
    sent = {"x": X[:, 0], "c": frame["c"].cat.codes.to_numpy().astype(np.float32)}
    found = Exported(report.path).score(sent, len(X))["prediction"]
    np.testing.assert_allclose(found[:, 0], booster.predict(data), 2e-5, 2e-5)


@pytest.mark.parametrize("missing", [0.0, -1.0])
def test_numbers_that_xgboost_takes_for_missing(tmp_path: Path, missing: float) -> None:
    rows = np.where(np.isnan(X), np.float32(missing), X)
    rows[:5, 0] = np.nan  # is missing, too
    model = xgboost.XGBClassifier(n_estimators=4, missing=missing).fit(rows, TWO)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    assert_predicts(report, rows, {"label": model.predict(rows), "probabilities": model.predict_proba(rows)})


def test_a_booster_without_trees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no trees"):
        import_estimator(xgboost.train({}, xgboost.DMatrix(X, ANY), 0), tmp_path / "m", 1, quiet=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"linear_tree": True}, "linear_tree=False"),
        ({"zero_as_missing": True}, "takes 0 for missing"),
    ],
)
def test_what_lightgbm_has_and_a_graph_has_not(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    booster = lightgbm.train({"objective": "binary", **SIMPLE, **options}, lightgbm.Dataset(X, TWO), 2)
    with pytest.raises(InvalidInput, match=said):
        import_estimator(booster, tmp_path / "m", 1, quiet=True)
    assert not (tmp_path / "m").exists()


def test_a_linear_booster_is_refused(tmp_path: Path) -> None:
    booster = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(X, ANY), 2)
    with pytest.raises(InvalidInput, match="'gblinear' is not of trees"):
        import_estimator(booster, tmp_path / "m", 1, quiet=True)
