"""What the standard says of single documents, by hand: of each a graph and the plain evaluator give the number told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ringpull.inference.importers.pmml.model import PmmlModel, read_pmml
from ringpull.ps.errors import InvalidInput
from tests.inference.importers.pmml.documents import pmml, written

FIELDS = """<DataDictionary>
<DataField name="x" optype="continuous" dataType="{kind}">{inner}</DataField>
<DataField name="when" optype="continuous" dataType="date"/>
<DataField name="t" optype="continuous" dataType="double"/>
<DataField name="k" optype="{optype}" dataType="string"><Value value="yes"/><Value value="no"/>{more}</DataField>
</DataDictionary>"""


def read(
    folder: Path,
    model: str,
    *,
    kind: str = "double",
    inner: str = "",
    shared: str = "",
    optype: str = "categorical",
    more: str = "",
    fields: str = "",
) -> PmmlModel:
    known = FIELDS.format(kind=kind, inner=inner, optype=optype, more=more)
    fields = known.replace("</DataDictionary>", f"{fields}</DataDictionary>")
    return read_pmml(written(folder, pmml(model, shared, fields)))


def scores(model: PmmlModel, *given: float) -> dict[str, Any]:
    """The outputs of rows of `x`, which graph and evaluator must agree on."""
    arguments = model.schema.arguments(model.schema.prepare({"x": np.array(given)[:, None]}, len(given)))
    session = onnxruntime.InferenceSession(model.graph().SerializeToString())
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(None, arguments), strict=True))
    for name, expected in model.evaluate(arguments).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)
    return {name: values.squeeze(-1).tolist() if values.shape[-1] == 1 else values for name, values in found.items()}


def schema(more: str = "", target: str = "t") -> str:
    return (
        f'<MiningSchema><MiningField name="{target}" usageType="target"/><MiningField name="x" {more}/></MiningSchema>'
    )


def regression(more: str = "", field: str = "x", outputs: str = "", inner: str = "") -> str:
    return (
        f'<RegressionModel functionName="regression">{schema(more)}{outputs}{inner}<RegressionTable intercept="0.5">'
        f'<NumericPredictor name="{field}" coefficient="1"/></RegressionTable></RegressionModel>'
    )


TIMES_TEN = (
    '<DerivedField name="d" optype="continuous" dataType="double"><Apply function="*"><FieldRef field="x"/>'
    "<Constant>10</Constant></Apply></DerivedField>"
)


@pytest.mark.parametrize("kind", ["double", "float"])
def test_numbers_of_requests_lie_on_the_margins_that_they_are_written_as(kind: str, tmp_path: Path) -> None:
    """A float32 of 4.4 lies above 4.4, and that of 0.7 below: both are what the document calls so."""
    margins = '<Interval closure="closedClosed" leftMargin="0.7" rightMargin="4.4"/>'
    found = scores(read(tmp_path, regression(), kind=kind, inner=margins), 0.7, 4.4, 0.6999, 4.4001)
    np.testing.assert_allclose(found["prediction"], [1.2, 4.9, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("lessOrEqual", [1, 1, 2]), ("lessThan", [1, 2, 2]), ("equal", [2, 1, 2]), ("greaterOrEqual", [2, 1, 1])],
)
def test_decimals_are_the_thresholds_that_they_are_written_as(
    operator: str, expected: list[float], tmp_path: Path
) -> None:
    for threshold in (0.1, 0.7, 4.4):
        tree = (
            f'<TreeModel functionName="regression">{schema()}<Node><True/><Node score="1"><SimplePredicate field="x"'
            f' operator="{operator}" value="{threshold}"/></Node><Node score="2"><True/></Node></Node></TreeModel>'
        )
        assert scores(read(tmp_path, tree), threshold - 0.01, threshold, threshold + 0.01)["prediction"] == expected


def test_decimals_meet_the_bins_and_constants_that_they_are_written_as(tmp_path: Path) -> None:
    bins = "".join(
        f'<DiscretizeBin binValue="{place}"><Interval closure="closedOpen" leftMargin="0.{each}"'
        f' rightMargin="0.{after}"/></DiscretizeBin>'
        for place, (each, after) in enumerate([("1", "3"), ("3", "7"), ("7", "9")])
    )
    derived = (
        f'<LocalTransformations><DerivedField name="d" optype="continuous" dataType="double"><Apply function="+">'
        f'<Discretize field="x" defaultValue="-1" dataType="double">{bins}</Discretize><Apply function="lessOrEqual">'
        '<FieldRef field="x"/><Constant dataType="double">0.7</Constant></Apply></Apply></DerivedField>'
        "</LocalTransformations>"
    )
    found = scores(read(tmp_path, regression(field="d", inner=derived)), 0.1, 0.3, 0.7, 0.9)
    assert found["prediction"] == [1.5, 2.5, 3.5, -0.5]


def test_shared_transformations_take_fields_as_the_model_does(tmp_path: Path) -> None:
    """Their values are replaced, and invalid, by the mining schema first, as pypmml has it."""
    shared = f"<TransformationDictionary>{TIMES_TEN}</TransformationDictionary>"
    model = read(tmp_path, regression('missingValueReplacement="3"', "d"), shared=shared)
    assert scores(model, 2.0, np.nan)["prediction"] == [20.5, 30.5]


def test_names_of_two_fields_are_refused(tmp_path: Path) -> None:
    shared = f"<TransformationDictionary>{TIMES_TEN}</TransformationDictionary>"
    local = f"<LocalTransformations>{TIMES_TEN}</LocalTransformations>"
    for model, more, why in (
        (regression(field="d", inner=local), shared, "is a name of another field, too"),
        (regression(), shared.replace('"d"', '"x"'), "is a name of another field, too"),
        (regression(), shared.replace(TIMES_TEN, TIMES_TEN * 2), "is the second one called 'd'"),
    ):
        with pytest.raises(InvalidInput, match=rf"line \d+: <DerivedField> .*{why}"):
            read(tmp_path, model, shared=more)


def test_a_missing_value_may_make_its_row_invalid(tmp_path: Path) -> None:
    found = scores(read(tmp_path, regression('missingValueTreatment="returnInvalid"')), 2.0, np.nan)
    np.testing.assert_array_equal(found["prediction"], [2.5, np.nan])


def test_outputs_may_name_the_target(tmp_path: Path) -> None:
    outputs = (
        '<Output><OutputField name="doubled" optype="continuous" dataType="double" feature="transformedValue">'
        '<Apply function="*"><FieldRef field="t"/><Constant>2</Constant></Apply></OutputField></Output>'
    )
    assert scores(read(tmp_path, regression(outputs=outputs)), 2.0) == {"prediction": [2.5], "doubled": [5.0]}


def test_the_class_without_coefficients_is_the_reference(tmp_path: Path) -> None:
    """R's binomial glm names the class that its coefficients are of, and no reference."""
    model = (
        f'<GeneralRegressionModel functionName="classification" modelType="generalizedLinear" linkFunction="logit">'
        f'{schema(target="k")}<ParameterList><Parameter name="p0"/></ParameterList><ParamMatrix>'
        '<PCell targetCategory="yes" parameterName="p0" beta="2"/></ParamMatrix></GeneralRegressionModel>'
    )
    found = scores(read(tmp_path, model), 1.0)["probabilities"]
    np.testing.assert_allclose(found, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]], rtol=1e-6)


@pytest.mark.parametrize("exponent", ["-1", "0.5", "3"])
def test_powers_without_a_number_are_none(exponent: str, tmp_path: Path) -> None:
    """Powers of 0 and of negative numbers: infinite, or missing, and no failure."""
    model = regression().replace('coefficient="1"', f'coefficient="1" exponent="{exponent}"')
    with np.errstate(all="ignore"):
        expected = 0.5 + np.array([0.0, -2.0, 4.0]) ** float(exponent)
    np.testing.assert_allclose(scores(read(tmp_path, model), 0.0, -2.0, 4.0)["prediction"], expected, rtol=1e-6)


def test_zero_divides_by_its_sign(tmp_path: Path) -> None:
    """Rows to check are drawn with -0.0 among them: a document that divides by a field must not differ there."""
    inverse = (
        '<LocalTransformations><DerivedField name="d" optype="continuous" dataType="double"><Apply function="/">'
        '<Constant>1</Constant><FieldRef field="x"/></Apply></DerivedField></LocalTransformations>'
    )
    found = scores(read(tmp_path, regression(field="d", inner=inverse)), 0.0, -0.0, 4.0)
    assert found["prediction"] == [np.inf, -np.inf, 0.75]


def test_ordinal_classes_and_dates_are_refused_where_a_model_takes_them(tmp_path: Path) -> None:
    tables = "".join(f'<RegressionTable intercept="1" targetCategory="{each}"/>' for each in ("yes", "no", "maybe"))
    ordinal = (
        f'<RegressionModel functionName="classification" normalizationMethod="logit">{schema(target="k")}{tables}'
        "</RegressionModel>"
    )
    with pytest.raises(InvalidInput, match="target of 3 ordinal classes"):
        read(tmp_path, ordinal, optype="ordinal", more='<Value value="maybe"/>')
    with pytest.raises(InvalidInput, match=r"line 4: <DataField> 'when' has dataType='date'"):
        read(tmp_path, regression().replace("</MiningSchema>", '<MiningField name="when"/></MiningSchema>'))


def test_truths_are_compared_as_numbers(tmp_path: Path) -> None:
    """R's rpart splits a boolean at 0.5; what is neither true nor false goes to the default child."""
    fields = (
        '<DataDictionary><DataField name="x" optype="categorical" dataType="boolean"/>'
        '<DataField name="t" optype="continuous" dataType="double"/></DataDictionary>'
    )
    tree = (
        f'<TreeModel functionName="regression" missingValueStrategy="defaultChild">{schema()}<Node id="0"'
        ' defaultChild="2"><True/><Node id="1" score="1"><SimplePredicate field="x" operator="lessThan" value="0.5"/>'
        '</Node><Node id="2" score="2"><SimplePredicate field="x" operator="greaterOrEqual" value="0.5"/></Node>'
        "</Node></TreeModel>"
    )
    model = read_pmml(written(tmp_path, pmml(tree, "", fields)))
    arguments = model.schema.arguments(model.schema.prepare({"x": ["false", "true", "maybe", ""]}, 4))
    session = onnxruntime.InferenceSession(model.graph().SerializeToString())
    for found in (session.run(None, arguments)[0], model.evaluate(arguments)["prediction"]):
        assert found[:, 0].tolist() == [1, 2, 2, 2]


def test_texts_that_are_numbers_are_served_as_numbers(tmp_path: Path) -> None:
    """An output that is declared to be a text, though its values are numbers; others are left out, and that is said."""
    bins = (
        '<Discretize field="x" defaultValue="{other}"><DiscretizeBin binValue="1"><Interval closure="openClosed"'
        ' rightMargin="2"/></DiscretizeBin></Discretize>'
    )
    declared = (
        '<OutputField name="{name}" optype="categorical" dataType="string" feature="{feature}">{inner}</OutputField>'
    )
    outputs = "".join(
        declared.format(name=name, feature=feature, inner=inner)
        for name, feature, inner in [
            ("band", "decision", bins.format(other="2.5")),
            ("word", "decision", bins.format(other="far")),
            ("sum", "transformedValue", '<Apply function="+"><FieldRef field="t"/><Constant>1</Constant></Apply>'),
        ]
    )
    model = read(tmp_path, regression(outputs=f"<Output>{outputs}</Output>"))
    assert scores(model, 2.0, 3.0) == {"prediction": [2.5, 3.5], "band": [1.0, 2.5], "sum": [3.5, 4.5]}
    assert model.notes == (
        "output 'band' is declared to be a text; its values are numbers, and served as such",
        "output 'word' is declared to be a text; left out: numbers are served",
        "output 'sum' is declared to be a text; its values are numbers, and served as such",
    )


def test_a_target_that_is_declared_as_text_is_a_number_where_the_model_is_of_numbers(tmp_path: Path) -> None:
    outputs = '<Output><OutputField name="own" dataType="string" feature="predictedValue"/></Output>'
    model = read(tmp_path, regression(outputs=outputs).replace('"t"', '"k"'))
    assert scores(model, 2.0, 3.0) == {"prediction": [2.5, 3.5]}


def test_classes_that_are_texts_of_numbers_are_counted_with_by_the_model_behind(tmp_path: Path) -> None:
    """The class "2" of the first model is the number 2 of the second, whose output declares it a text."""
    tables = "".join(
        f'<RegressionTable intercept="{start}" targetCategory="{each}"><NumericPredictor name="x"'
        f' coefficient="{slope}"/></RegressionTable>'
        for each, start, slope in (("2", 0, 1), ("30", 1, 0))
    )
    first = (
        '<RegressionModel functionName="classification" normalizationMethod="softmax"><MiningSchema>'
        '<MiningField name="x"/></MiningSchema><Output><OutputField name="told" dataType="string"'
        f' feature="predictedValue"/></Output>{tables}</RegressionModel>'
    )
    second = regression(field="told").replace('<MiningField name="x" />', '<MiningField name="told"/>')
    segments = "".join(f"<Segment><True/>{each}</Segment>" for each in (first, second))
    chained = (
        f'<MiningModel functionName="regression">{schema()}<Segmentation multipleModelMethod="modelChain">{segments}'
        "</Segmentation></MiningModel>"
    )
    assert scores(read(tmp_path, chained), 5.0, -5.0)["prediction"] == [2.5, 30.5]
