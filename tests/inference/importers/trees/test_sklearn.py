"""Estimators and pipelines of sklearn: versions say what they do, of texts, categories and NaN as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ringpull import export_model
from ringpull.inference.head.request.id_limits import IdLimits
from ringpull.inference.importers.onnx import one_hots
from ringpull.inference.importers.trees import sklearn_columns
from ringpull.inference.importers.trees.model import import_estimator
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.trees.training import assert_predicts, labels, matrix, numbers

pytestmark = pytest.mark.medium

X = matrix(nan=False)
HOLES = matrix()
NEAR = X + np.random.default_rng(5).normal(size=X.shape).astype(np.float32)
NEAR[200:220] = np.nextafter(NEAR[:20], np.float32(9))
TWO, THREE, ANY = labels(X), labels(X, 3), numbers(X)

CLASSIFIERS: dict[str, tuple[Any, Any, Any]] = {
    "forest": (RandomForestClassifier(5, random_state=0), X, TWO),
    "forest of texts": (RandomForestClassifier(5, random_state=0), X, np.array(["no", "yes"])[TWO]),
    "boosted": (GradientBoostingClassifier(n_estimators=5), X, THREE),
    "histograms": (HistGradientBoostingClassifier(max_iter=5), HOLES, TWO),
    "histograms, three": (HistGradientBoostingClassifier(max_iter=5), HOLES, THREE),
    "scaled": (make_pipeline(StandardScaler(), LogisticRegression()), X, TWO),
    "network": (MLPClassifier((4,), max_iter=20, random_state=0), X, THREE),
    "LightGBM": (lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1), HOLES, TWO),
    "LightGBM, three": (lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1), HOLES, THREE + 7),
    "XGBoost": (xgboost.XGBClassifier(n_estimators=5), HOLES, THREE),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(CLASSIFIERS))
def test_classifiers(tmp_path: Path, case: str) -> None:
    model, rows, target = CLASSIFIERS[case]
    model.fit(rows, target)
    report = export_model(model, None, tmp_path / "m", 1, quiet=True)
    named = next(each for each in report.manifest.outputs if each.name == "probabilities")
    assert list(named.classes) == [str(each) for each in model.classes_]
    expected = {"probabilities": model.predict_proba(rows)}
    if target.dtype.kind != "U":
        expected["label"] = model.predict(rows)
    assert_predicts(report, rows, expected)


ODD: dict[str, tuple[Any, Any, bool]] = {
    "forests stacked": (
        StackingClassifier([("f", RandomForestClassifier(2)), ("l", LogisticRegression())], cv=2),
        X,
        True,
    ),
    "votes, by weights": (
        VotingClassifier(
            [("f", RandomForestClassifier(2)), ("l", LogisticRegression())], voting="soft", weights=[1, 3]
        ),
        X,
        True,
    ),
    "a step of nothing": (Pipeline([("no", "passthrough"), ("l", LogisticRegression())]), X, True),
    "bins": (make_pipeline(KBinsDiscretizer(3), LogisticRegression()), X, True),
    "what was missing": (make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()), HOLES, True),
    "ties": (SGDClassifier(loss="modified_huber", random_state=0), X, False),
    "ties far out": (OneVsRestClassifier(LogisticRegression()), X, False),
    "categories": (lightgbm.LGBMClassifier(n_estimators=4, verbosity=-1), HOLES, True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(ODD))
def test_what_skl2onnx_takes_in_another_form(tmp_path: Path, case: str) -> None:
    """The class is the estimator's own choice where probabilities are alike: the label is left out, and said to be."""
    model, rows, labelled = ODD[case]
    model.fit(rows, THREE, **({"categorical_feature": [4]} if case == "categories" else {}))
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    expected = {"probabilities": model.predict_proba(rows)}
    assert_predicts(report, rows, expected | ({"label": model.predict(rows)} if labelled else {}))


REGRESSORS: dict[str, tuple[Any, Any, Any]] = {
    "forest of two": (RandomForestRegressor(4, random_state=0), X, np.stack([ANY, ANY * 2], 1)),
    "histograms": (HistGradientBoostingRegressor(max_iter=5, loss="poisson"), HOLES, ANY),
    "polynomial": (make_pipeline(PolynomialFeatures(2), Ridge()), X, ANY),
    "LightGBM": (lightgbm.LGBMRegressor(n_estimators=5, verbosity=-1), HOLES, ANY),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(REGRESSORS))
def test_regressors(tmp_path: Path, case: str) -> None:
    model, rows, target = REGRESSORS[case]
    model.fit(rows, target)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    assert_predicts(report, rows, {"prediction": model.predict(rows).reshape(len(rows), -1)}, 1e-4)


FRAME = pandas.DataFrame(
    {
        "age": np.where(np.arange(400) % 11 == 0, np.nan, X[:, 0].astype(np.float64) * 20 + 40),
        "income (k)": X[:, 1].astype(np.float64) * 10 + 50,
        "city": np.array(["Oslo", "Bergen", "Tromsø"])[THREE],
        "device": np.array([1, 2, 7])[labels(X[::-1], 3)],
    }
)


def mixed(unknown: str, model: Any) -> Any:
    """Return a pipeline of columns of each kind, fitted."""
    scaled = make_pipeline(SimpleImputer(), StandardScaler())
    encoded = OneHotEncoder(handle_unknown=unknown)
    columns = ColumnTransformer([("n", scaled, ["age", "income (k)"]), ("c", encoded, ["city", "device"])])
    return make_pipeline(columns, model).fit(FRAME, TWO)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "model", [LogisticRegression(), lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1)], ids=["linear", "LightGBM"]
)
def test_columns_of_each_kind(tmp_path: Path, model: Any) -> None:
    """Texts, integers and numbers with holes; what is not known is ignored, as the encoder was told."""
    pipeline = mixed("ignore", model)
    report = import_estimator(pipeline, tmp_path / "m", 1, quiet=True)
    rows = FRAME.astype({"age": np.float32, "income (k)": np.float32}).copy()
    rows.loc[0, ["city", "device"]] = ["Paris", 99]
    columns = {
        "age": rows["age"].to_numpy(),
        "income_k": rows["income (k)"].to_numpy(),
        "city": rows["city"].to_numpy(object),
        "device": rows["device"].to_numpy(np.int64),
    }
    found = Exported(report.path).score(columns, len(rows))
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(rows), 1e-5, 1e-5)
    np.testing.assert_array_equal(found["label"], pipeline.predict(rows))


@pytest.mark.filterwarnings("ignore")
def test_a_category_that_is_an_error_is_refused_by_name(tmp_path: Path) -> None:
    report = import_estimator(mixed("error", LogisticRegression()), tmp_path / "m", 1, quiet=True)
    version = Exported(report.path)
    columns = {
        "age": np.array([40.0], np.float32),
        "income_k": np.array([50.0], np.float32),
        "city": np.array(["Paris"], object),
        "device": np.array([1]),
    }
    limits = IdLimits(report.manifest.limits, version.schema)
    held = limits.held(version.schema.prepare_requests(columns, {}, [1]))
    assert "feature city" in str(held.refused[0])


@pytest.mark.parametrize(
    "model",
    [DecisionTreeClassifier(max_depth=5), RandomForestClassifier(3, random_state=0)],
    ids=["tree", "forest"],
)
def test_trees_take_nan_as_they_were_fitted(tmp_path: Path, model: Any) -> None:
    model.fit(HOLES, TWO)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    assert_predicts(report, HOLES, {"label": model.predict(HOLES), "probabilities": model.predict_proba(HOLES)})


def test_nan_is_refused_where_the_estimator_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trees of which no feature has ids have no tables, which is no news."""
    import_estimator(GradientBoostingClassifier(n_estimators=2).fit(X, TWO), tmp_path / "m", 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "NaN is refused: the estimator takes none" in shown
    assert "NO TABLE" not in shown
    with pytest.raises(InvalidInput, match="feature features: holds NaN"):
        Exported(tmp_path / "m" / "1").score({"features": HOLES}, len(HOLES))


def test_categories_as_numbers_of_a_matrix(tmp_path: Path) -> None:
    encode = ColumnTransformer(
        [("o", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [4])], remainder="passthrough"
    )
    model = make_pipeline(encode, RandomForestClassifier(4, random_state=0)).fit(X, TWO)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    rows = X.copy()
    rows[0, 4] = 77
    assert_predicts(report, rows, {"label": model.predict(rows), "probabilities": model.predict_proba(rows)})


def test_rows_and_scores_of_the_source(tmp_path: Path) -> None:
    """Scores that came with rows are compared; one that is wrong is named, and nothing is written."""
    model = Ridge().fit(X, ANY)
    scores = model.predict(X)
    given = {"features": X, "prediction": scores.astype(np.float32)}
    assert import_estimator(model, tmp_path / "m", 1, check_columns=given, quiet=True).check.rows > 0
    wrong = scores.astype(np.float32)
    wrong[3] += 1
    with pytest.raises(ExportError, match="output prediction of row 3 of the check"):
        import_estimator(model, tmp_path / "n", 1, check_columns={"features": X, "prediction": wrong}, quiet=True)
    assert not (tmp_path / "n").exists()
    with pytest.raises(InvalidInput, match="no column is called like a feature"):
        import_estimator(model, tmp_path / "n", 1, check_columns={"x": X}, quiet=True)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (RandomForestClassifier(), "not fitted"),
        (LinearSVC().fit(X, TWO), "CalibratedClassifierCV"),
        (StandardScaler().fit(X), "predicts nothing"),
        (object(), "is no estimator"),
        (VotingClassifier([("l", LogisticRegression())]).fit(X, TWO), "voting='soft' makes them"),
        (RandomForestClassifier(2).fit(X, np.stack([TWO, THREE], 1)), "has several outputs"),
        (FeatureHasher(4), "FeatureHasher takes texts apart"),
    ],
    ids=["not fitted", "no probabilities", "no model", "anything", "votes", "several outputs", "hashes"],
)
def test_what_cannot_be_imported(tmp_path: Path, model: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        import_estimator(model, tmp_path / "m", 1, quiet=True)
    assert not (tmp_path / "m").exists()


CITIES = np.array(["Oslo", "Bergen", "Tromsø", "Bodø", None], object)[np.arange(400) ** 2 % 5]
LARGE: dict[str, tuple[Any, bool]] = {
    "ignored": (OneHotEncoder(handle_unknown="ignore"), True),
    "an error": (OneHotEncoder(), False),
    "the first dropped": (OneHotEncoder(drop="first"), False),
    "infrequent": (OneHotEncoder(min_frequency=90, handle_unknown="infrequent_if_exist"), True),
    "at most three, ignored": (OneHotEncoder(max_categories=3, handle_unknown="ignore"), True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(LARGE))
def test_large_categories_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Texts, None among them, and integers: rows of the weight, by a vocabulary, of dim 1 for two classes."""
    monkeypatch.setattr(one_hots, "LARGE", 2)
    monkeypatch.setattr(sklearn_columns, "LARGE", 2)
    encoder, ignores = LARGE[case]
    frame = FRAME.assign(city=CITIES)[["age", "city", "device"]].fillna({"age": 0})
    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", encoder, ["city", "device"])])
    model = make_pipeline(columns, LogisticRegression()).fit(frame, TWO)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    assert sorted((each.spec.name, each.spec.dim) for each in report.manifest.tables) == [
        ("city_weights", 1),
        ("device_weights", 1),
    ]
    rows = frame.astype({"age": np.float32})
    if ignores:
        rows.loc[:9, "city"], rows.loc[5:19, "device"] = "Paris", 99
    sent = {
        "age": rows["age"].to_numpy(),
        "city": rows["city"].fillna("").to_numpy(object),
        "device": rows["device"].to_numpy(np.int64),
    }
    found = Exported(report.path).score(sent, len(rows))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows), 1e-5, 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_that_comes_first(tmp_path: Path) -> None:
    """Without a ColumnTransformer before it, its columns have names and types all the same."""
    frame = FRAME[["city", "device"]]
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(frame, TWO)
    report = import_estimator(model, tmp_path / "m", 1, quiet=True)
    sent = {"city": frame["city"].to_numpy(object), "device": frame["device"].to_numpy()}
    found = Exported(report.path).score(sent, len(frame))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), 1e-5, 1e-6)


def test_texts_that_are_taken_apart_are_refused(tmp_path: Path) -> None:
    words = ColumnTransformer([("w", TfidfVectorizer(), "city")])
    model = make_pipeline(words, LogisticRegression()).fit(FRAME, TWO)
    with pytest.raises(InvalidInput, match="TfidfVectorizer takes texts apart into words"):
        import_estimator(model, tmp_path / "m", 1, quiet=True)


def test_options_of_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="method: is for modules of torch"):
        export_model(Ridge().fit(X, ANY), None, tmp_path / "m", 1, method="predict", quiet=True)


SEVERAL = np.stack([TWO, 1 - TWO, THREE > 1], 1).astype(int)


@pytest.mark.filterwarnings("ignore")
def test_networks_of_several_outputs(tmp_path: Path) -> None:
    """Numbers of each row, and truths of several labels."""
    two = np.stack([ANY, -ANY], 1)
    numbered = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(4,), max_iter=20)).fit(X, two)
    report = export_model(numbered, None, tmp_path / "n", 1, quiet=True)
    assert_predicts(report, X, {"prediction": numbered.predict(X)})
    truths = MLPClassifier((4,), max_iter=20, random_state=0).fit(X, SEVERAL)
    report = export_model(truths, None, tmp_path / "t", 1, quiet=True)
    assert_predicts(report, X, {"probabilities": truths.predict_proba(X), "label": truths.predict(X)})


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_neighbors_weighed_by_distance(tmp_path: Path, scaled: bool) -> None:
    """Neighbors on the row itself are all there is; skl2onnx's own graph weighs every neighbor alike."""
    before = [StandardScaler()] if scaled else []
    classes = make_pipeline(*before, KNeighborsClassifier(weights="distance")).fit(NEAR[:200], THREE[:200])
    report = import_estimator(classes, tmp_path / "c", 1, quiet=True)
    assert_predicts(report, NEAR, {"probabilities": classes.predict_proba(NEAR), "label": classes.predict(NEAR)})
    several = make_pipeline(*before, KNeighborsRegressor(3, weights="distance")).fit(NEAR[:200], NEAR[:200, :2])
    report = import_estimator(several, tmp_path / "n", 1, quiet=True)
    assert_predicts(report, NEAR, {"prediction": several.predict(NEAR)})


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "weights of one's own": (
        KNeighborsClassifier(weights=np.negative),
        TWO,
        r"KNeighborsClassifier\(weights=.*'uniform' or 'distance'",
    ),
    "other distances": (KNeighborsRegressor(weights="distance", metric="manhattan"), ANY, "Euclidean.*'manhattan'"),
    "radius": (RadiusNeighborsClassifier(radius=9), TWO, "RadiusNeighborsClassifier .*KNeighborsClassifier has"),
    "radius of numbers": (
        RadiusNeighborsRegressor(radius=9),
        ANY,
        "RadiusNeighborsRegressor .*KNeighborsRegressor has",
    ),
    "labels": (
        KNeighborsClassifier(),
        SEVERAL,
        "KNeighborsClassifier has several outputs.*export one estimator for each",
    ),
    "chain": (ClassifierChain(LogisticRegression()), SEVERAL, "ClassifierChain has several outputs.*export one"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_estimators_that_no_graph_says_are_refused_with_a_cure(tmp_path: Path, case: str) -> None:
    model, target, why = REFUSED[case]
    with pytest.raises(InvalidInput, match=why):
        import_estimator(make_pipeline(StandardScaler(), model).fit(X, target), tmp_path / "m", 1, quiet=True)
    assert not (tmp_path / "m").exists()


def test_categories_of_naive_bayes_are_known_to_an_encoder_before_it(tmp_path: Path) -> None:
    rows = np.random.default_rng(4).integers(0, 4, (120, 2))
    with pytest.raises(InvalidInput, match=r"make_pipeline\(OrdinalEncoder\(\), CategoricalNB\(\)\)"):
        import_estimator(CategoricalNB().fit(rows, rows[:, 0] > 1), tmp_path / "m", 1, quiet=True)
    frame = pandas.DataFrame(rows, columns=["a", "b"])
    model = make_pipeline(OrdinalEncoder(), CategoricalNB()).fit(frame, rows[:, 0] > 1)
    import_estimator(model, tmp_path / "m", 1, quiet=True)
    found = Exported(tmp_path / "m" / "1").score({"a": rows[:, 0], "b": rows[:, 1]}, len(rows))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), atol=1e-6)


@pytest.mark.parametrize("dropped", [[], [("no", "drop", ["told"])]])
def test_columns_that_nothing_uses_are_left_out(
    tmp_path: Path, dropped: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A text among them would be declared a number."""
    random = np.random.default_rng(5)
    frame = pandas.DataFrame(
        {"told": random.choice(["p", "q"], 90), "c": random.choice(["a", "b"], 90), "x": random.normal(0, 1, 90)}
    )
    kept = [("texts", OneHotEncoder(), ["c"]), ("numbers", "passthrough", ["x"])]
    model = make_pipeline(ColumnTransformer([*dropped, *kept]), LogisticRegression()).fit(frame, frame["c"] == "a")
    report = import_estimator(model, tmp_path / "m", 1)
    assert "column 'told' is left out: nothing that is predicted uses it" in " ".join(capsys.readouterr().out.split())
    assert {each.argument for each in report.manifest.inputs} == {"c", "x"}
    given = {"c": frame["c"].to_numpy(str), "x": frame["x"].to_numpy(np.float32)[:, None]}
    found = Exported(tmp_path / "m" / "1").score(given, len(frame))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), atol=1e-6)
