"""Models of PMML of every kind: graphs against the plain evaluator, and that against another's where it is there."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest

from ringpull.inference.importers.pmml.evaluator.fields import OTHER
from ringpull.inference.importers.pmml.inputs import telling_rows
from ringpull.inference.importers.pmml.model import PmmlModel, import_pmml, read_pmml
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.errors import ExportError, InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.pmml.documents import every_document, forest, pmml, regression, schema, written

DOCUMENTS = every_document()
ROWS = 120


def rows_of(read: PmmlModel, rows: int = ROWS) -> dict[str, Any]:
    """Return the arguments of rows that tell branches apart."""
    columns = telling_rows(read.inputs, read.numbers, rows)
    return read.schema.arguments(read.schema.prepare(columns, rows))


@pytest.mark.medium
@pytest.mark.parametrize("name", DOCUMENTS)
def test_graphs_say_what_the_document_does(name: str, tmp_path: Path) -> None:
    read = read_pmml(written(tmp_path, DOCUMENTS[name]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(read.graph().SerializeToString(), options)
    arguments = rows_of(read)
    found = session.run(None, {each.name: arguments[each.name] for each in session.get_inputs()})
    expected = read.evaluate(arguments)
    assert [each.name for each in session.get_outputs()] == list(expected)
    told = 0
    for values, each in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(values, each, rtol=2e-5, atol=1e-5)
        told += int(np.isfinite(each).sum())
    assert told >= ROWS // 6  # not all of it is missing


def test_values_by_hand(tmp_path: Path) -> None:
    """Missing, invalid and outlying values get what the mining schema says, told here without the evaluator."""
    read = read_pmml(written(tmp_path, regression("none")))

    def score(**given: Any) -> float:
        columns: dict[str, Any] = {
            each.name: np.array([[given.get(each.name, np.nan)]], np.float32)
            if each.values is None
            else np.array([given.get(each.name, "" if each.field.data_type == "string" else -(2**63))])
            for each in read.inputs
        }
        return float(read.evaluate(read.schema.arguments(read.schema.prepare(columns, 1)))["prediction"][0, 0])

    base = 0.3 - 0.01 * 0.25  # y is missing: 0.5, squared
    assert score(x=0, n=0, color="green") == pytest.approx(base)
    assert score(x=0, n=0, color="red") == pytest.approx(base + 0.4)
    assert score(x=0, n=0, y=7) == pytest.approx(base)  # outside of its interval: as missing
    assert score(x=2, n=50) == pytest.approx(base + 1.4 + 0.45 + 0.36)  # n is 9 at most
    assert score(x=0, n=0, code=7) == pytest.approx(base + 0.125)
    assert np.isnan(score(n=0))
    assert np.isnan(score(x=0, n=-99))  # -99 says that it is missing


@pytest.mark.medium
@pytest.mark.parametrize("name", ["boosted", "surrogates_defaultChild", "derived", "clusters_squaredEuclidean"])
def test_versions_are_served(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, DOCUMENTS[name])
    import_pmml(path, tmp_path / "model", 1, quiet=True)
    read = read_pmml(path)
    columns = telling_rows(read.inputs, read.numbers, ROWS)
    found = Exported(tmp_path / "model" / "1").score(columns, ROWS)
    expected = read.evaluate(read.schema.arguments(read.schema.prepare(columns, ROWS)))
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_a_large_category_becomes_a_table_of_coefficients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("model", "nodes.graph", "nodes.regression"):
        monkeypatch.setattr(f"ringpull.inference.importers.pmml.{module}.LARGE", 500)
    count = 550
    values = "".join(f'<Value value="u{each}"/>' for each in range(count))
    fields = (
        '<DataDictionary><DataField name="x" optype="continuous" dataType="double"/>'
        f'<DataField name="user id" optype="categorical" dataType="string">{values}</DataField>'
        '<DataField name="t" optype="categorical" dataType="integer"><Value value="0"/><Value value="1"/></DataField>'
        "</DataDictionary>"
    )
    terms = "".join(
        f'<CategoricalPredictor name="user id" value="u{each}" coefficient="{each % 97 / 50 - 1}"/>'
        for each in range(count)
    )
    text = pmml(
        '<RegressionModel functionName="classification" normalizationMethod="logit"><MiningSchema>'
        '<MiningField name="t" usageType="target"/><MiningField name="x"/>'
        '<MiningField name="user id" invalidValueTreatment="asMissing"/></MiningSchema>'
        f'<RegressionTable intercept="0.5" targetCategory="1"><NumericPredictor name="x" coefficient="0.3"/>{terms}'
        '</RegressionTable><RegressionTable intercept="0" targetCategory="0"/></RegressionModel>',
        "",
        fields,
    )
    report = import_pmml(written(tmp_path, text), tmp_path / "model", 1, quiet=True)
    assert [(each.name, each.dim, each.rows) for each in report.tables] == [("user_id_coefficients", 1, count + 2)]
    named = Manifest.load(tmp_path / "model" / "1").outputs
    assert {each.name: each.classes for each in named} == {"probabilities": ("1", "0"), "label": ()}
    assert "probabilities has the classes, in order: 1, 0" in report.sentences
    found = Exported(tmp_path / "model" / "1").score(
        {"x": np.zeros((4, 1), np.float32), "user_id": np.array(["u0", "u96", "nobody", ""])}, 4
    )
    margins = 0.5 + np.array([-1, 96 / 50 - 1, 0, 0])
    np.testing.assert_allclose(found["probabilities"][:, 0], 1 / (1 + np.exp(-margins)), rtol=1e-6)


@pytest.mark.medium
def test_scores_that_differ_leave_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, forest("sum", trees=2))
    columns = {name: np.zeros((2, 1), np.float32) for name in ("x", "y", "n")}
    scores = {"prediction": np.array([[7.0], [8.0]], np.float32)}
    with pytest.raises(ExportError, match="scores of the rows given"):
        import_pmml(path, tmp_path / "model", 1, check_columns=columns | scores, quiet=True)
    assert not (tmp_path / "model" / "1").exists()


NOT_KNOWN = {
    '<NaiveBayesModel functionName="classification"/>': r"line 18: <NaiveBayesModel> is a model not known here",
    f'<TreeModel functionName="regression" missingValueStrategy="aggregateNodes">{schema()}<Node><True/></Node>'
    "</TreeModel>": "missingValueStrategy='aggregateNodes', which is not known",
    f'<TreeModel functionName="regression">{schema()}<Node score="1"><True/><Regression/></Node></TreeModel>': (
        r"<Regression> within <Node> is not known here"
    ),
    f'<RegressionModel functionName="regression">{schema()}<RegressionTable intercept="abc"/></RegressionModel>': (
        "intercept='abc', which is no number"
    ),
    f'<RegressionModel functionName="regression">{schema()}<RegressionTable intercept="NaN"/></RegressionModel>': (
        "intercept='NaN', which is no number"
    ),
    f'<RegressionModel functionName="regression">{schema()}<RegressionTable intercept="1">'
    '<NumericPredictor name="nowhere" coefficient="1"/></RegressionTable></RegressionModel>': "no field 'nowhere'",
    f'<RegressionModel functionName="regression">{schema()}<LocalTransformations>'
    '<DerivedField name="d" optype="continuous" dataType="double"><Apply function="magic"><FieldRef field="x"/></Apply>'
    '</DerivedField></LocalTransformations><RegressionTable intercept="1"/></RegressionModel>': (
        "function='magic', which is not known"
    ),
    f'<RegressionModel functionName="regression">{schema()}<LocalTransformations>'
    '<DerivedField name="d" optype="continuous" dataType="double"><FieldRef field="d"/></DerivedField>'
    '</LocalTransformations><RegressionTable intercept="1"><NumericPredictor name="d" coefficient="1"/>'
    "</RegressionTable></RegressionModel>": "'d' is computed of itself",
}


@pytest.mark.parametrize("model", NOT_KNOWN)
def test_what_is_not_known_is_named(model: str, tmp_path: Path) -> None:
    path = written(tmp_path, pmml(model))
    with pytest.raises(InvalidInput, match=NOT_KNOWN[model]) as raised:
        import_pmml(path, tmp_path / "model", 1, quiet=True)
    assert "model.pmml: line " in str(raised.value)
    assert not (tmp_path / "model").exists()


ORACLE = os.environ.get("RINGPULL_PMML_ORACLE", "")

UNLIKE = ("regression_loglog", "classes_logit", "glm_binomial", "derived", "forest_max", "forest_max_some")
"""Documents that pypmml refuses, or gives nothing for."""


@pytest.fixture(scope="module")
def jvm() -> Iterator[None]:
    """Stop the JVM that pypmml started, when the tests of this module are done."""
    yield
    sys.modules["pypmml.base"].PMMLContext.shutdown()
    for each in psutil.Process().children():
        if each.name() == "java":
            each.terminate()
            each.wait()
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("jvm")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not ORACLE, reason="RINGPULL_PMML_ORACLE names no folder with pypmml; it needs Java")
@pytest.mark.parametrize("name", [each for each in DOCUMENTS if each not in UNLIKE])
def test_pypmml_says_the_same(name: str, tmp_path: Path) -> None:
    """Rows without what pypmml does another way: unknown predicates, fractions of integers, exclusive or."""
    sys.path.append(ORACLE)
    from pypmml import Model  # type: ignore[import-not-found]

    unknown = any(each in name for each in ("Prediction", "bushy", "Vote", "median", "glm", "nomial", "ordinal"))
    text = DOCUMENTS[name].replace('booleanOperator="xor"', 'booleanOperator="and"')
    path = written(tmp_path, text)
    oracle, read = Model.load(str(path)), read_pmml(path)
    columns = telling_rows(read.inputs, read.numbers, 60)
    columns["n"] = np.round(np.asarray(columns["n"]))
    arguments = read.schema.arguments(read.schema.prepare(columns, 60))
    expected = read.evaluate(arguments)
    given = {each.field.name: each.given(arguments[each.name]) for each in read.inputs}
    compared = 0
    for place in range(60):
        row = {field: each[place] for field, each in given.items() if each[place] is not None}
        lost = len(row) < len(given) or row["n"] == -99
        if row.get("color") == OTHER or (unknown and lost):
            continue
        row = {field: "stranger" if each == OTHER else each for field, each in row.items()}
        for field in {"code", "n"} & row.keys():  # integers: as floats some models of it give nothing
            row[field] = 24 if row[field] == "stranger" else int(row[field] or 0)
        said = dict(oracle.predict(row))
        if read.classes:
            wanted = {each: expected["probabilities"][place, at] for at, each in enumerate(read.classes)}
            both = [
                (said.get(f"probability_{each}", said.get(f"probability({each})")), wanted[each]) for each in wanted
            ]
            if "weightedMajority" in name:  # its shares do not add up to 1
                total = sum(each or 0.0 for each, _ in both)
                both = [(None if each is None else each / total, other) for each, other in both]
            both = both[:1] if name == "boosted" else both
        elif "cluster" in expected:
            ids = [*getattr(read.model.body, "names", ())]
            at = expected["cluster"][place, 0]
            assert (
                str(said.get("cluster")) in ("None", "nan")
                if np.isnan(at)
                else said["cluster"] in (ids[int(at)], str(int(at) + 1))
            )
            both = []
        else:
            both = [
                (
                    next(each for key, each in said.items() if key.startswith("predicted")),
                    expected["prediction"][place, 0],
                )
            ]
        for one, other in both:
            np.testing.assert_allclose(np.nan if one is None else one, other, rtol=1e-6, atol=1e-9)
        compared += 1
    assert compared > 10
