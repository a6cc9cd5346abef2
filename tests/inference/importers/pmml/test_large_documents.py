"""Documents of many points, bins, fields and functions: held against numpy, and small graphs of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.importers.pmml.document import MAX_APPLIED
from ringpull.inference.importers.pmml.model import import_pmml, read_pmml
from ringpull.ps.errors import InvalidInput
from tests.inference.export.versions import Exported
from tests.inference.importers.pmml.documents import pmml, written
from tests.inference.importers.pmml.test_standard import read, regression, scores


def derived(name: str, expression: str) -> str:
    return f'<DerivedField name="{name}" optype="continuous" dataType="double">{expression}</DerivedField>'


def of(expression: str, more: str = "") -> str:
    """Return a model that predicts 0.5 more than an expression gives."""
    return regression(field="d", inner=f"<LocalTransformations>{derived('d', expression)}{more}</LocalTransformations>")


def test_many_points_are_joined_by_lines(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    origins = np.cumsum(random.integers(8, 64, 700)) / 64
    norms = random.normal(0, 1, 700).round(4)
    points = "".join(f'<LinearNorm orig="{x}" norm="{y}"/>' for x, y in zip(origins, norms, strict=True))
    model = read(tmp_path, of(f'<NormContinuous field="x" outliers="asExtremeValues">{points}</NormContinuous>'))
    given = np.concatenate([origins, random.uniform(-5, origins[-1] + 5, 300)]).astype(np.float32)
    expected = np.interp(given.astype(np.float64), origins, norms) + 0.5
    np.testing.assert_allclose(scores(model, *given.tolist())["prediction"], expected, rtol=1e-5, atol=1e-6)
    assert len(model.graph().graph.node) < 150


@pytest.mark.parametrize("seed", range(4))
def test_the_first_of_many_bins_that_a_number_lies_in_is_taken(seed: int, tmp_path: Path) -> None:
    """Bins that overlap, have open ends and margins in common; numbers on every margin and between."""
    random = np.random.default_rng(seed)
    bins, text = [], ""
    for value in range(40):
        low, high = np.sort(random.integers(-20, 20, 2) / 10).tolist()
        low, high = (None if random.random() < 0.05 else each for each in (low, high))
        closure = str(random.choice(["openOpen", "openClosed", "closedOpen", "closedClosed"]))
        margins = "" if low is None else f'leftMargin="{low}" '
        margins += "" if high is None else f'rightMargin="{high}"'
        text += f'<DiscretizeBin binValue="{value}"><Interval closure="{closure}" {margins}/></DiscretizeBin>'
        bins.append((low, high, closure.startswith("closed"), closure.endswith("Closed")))
    model = read(tmp_path, of(f'<Discretize field="x" defaultValue="-1" dataType="double">{text}</Discretize>'))
    given = np.round(np.arange(-25, 25) / 10 + random.choice([0, 0, 0.05], 50), 3)

    def first(number: float) -> float:
        for value, (low, high, low_closed, high_closed) in enumerate(bins):
            above = low is None or number > low or (low_closed and number == low)
            if above and (high is None or number < high or (high_closed and number == high)):
                return value + 0.5
        return -0.5

    assert scores(model, *given.tolist())["prediction"] == [first(each) for each in given.tolist()]


def test_numbers_are_found_among_many_cells(tmp_path: Path) -> None:
    rows = "".join(f"<row><c>{each / 10}</c><o>{each % 7}</o></row>" for each in range(300))
    table = (
        '<MapValues outputColumn="o" defaultValue="-1" dataType="double"><FieldColumnPair field="x" column="c"/>'
        f"<InlineTable>{rows}</InlineTable></MapValues>"
    )
    model = read(tmp_path, of(table))
    found = scores(model, 0.0, 0.7, 29.9, 0.75, -1.0, 30.0)["prediction"]
    assert found == [0.5, 0.5, 299 % 7 + 0.5, -0.5, -0.5, -0.5]
    assert len(model.graph().graph.node) < 100


@pytest.mark.parametrize("order", [1, -1])
def test_chains_of_derived_fields_may_be_long(order: int, tmp_path: Path) -> None:
    count = 600
    names = ["x", *(f"d{each}" for each in range(count))]
    chain = [
        derived(name, f'<Apply function="+"><FieldRef field="{before}"/><Constant>0.25</Constant></Apply>')
        for before, name in pairwise(names)
    ]
    model = of(f'<FieldRef field="d{count - 1}"/>', "".join(chain[::order]))
    assert scores(read(tmp_path, model), 1.0)["prediction"] == [1.5 + count / 4]


def test_fields_computed_of_each_other_are_refused(tmp_path: Path) -> None:
    circle = derived("a", '<FieldRef field="b"/>') + derived("b", '<FieldRef field="a"/>')
    with pytest.raises(InvalidInput, match=r"line \d+: field '[ab]' is computed of itself"):
        read(tmp_path, of('<FieldRef field="a"/>', circle)).graph()


def test_functions_may_lie_deep_within_each_other(tmp_path: Path) -> None:
    def deep(levels: int) -> str:
        return of(
            '<Apply function="+">' * levels + '<FieldRef field="x"/>' + "<Constant>0.25</Constant></Apply>" * levels
        )

    assert scores(read(tmp_path, deep(600)), 1.0)["prediction"] == [151.5]
    with pytest.raises(InvalidInput, match=f"line \\d+: <Apply> lies {MAX_APPLIED} functions deep"):
        read(tmp_path, deep(MAX_APPLIED + 1))


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["regression", "softmax", "general"])
@pytest.mark.parametrize("missing", ["", 'mapMissingTo="0"', 'mapMissingTo="0.5"'])
def test_one_hot_fields_of_a_large_category_become_a_table(
    kind: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One derived field for each value, as Spark and scikit-learn write them, beside a number."""
    for module in ("model", "nodes.graph", "nodes.regression"):
        monkeypatch.setattr(f"ringpull.inference.importers.pmml.{module}.LARGE", 100)
    count = 150
    weights = np.round(np.arange(count) % 97 / 50 - 1, 6)
    fields = (
        '<DataDictionary><DataField name="x" optype="continuous" dataType="double"/>'
        '<DataField name="user" optype="categorical" dataType="string"/>'
        '<DataField name="t" optype="continuous" dataType="double"/>'
        '<DataField name="k" optype="categorical" dataType="string"><Value value="a"/><Value value="b"/></DataField>'
        "</DataDictionary>"
    )
    hot = "".join(
        derived(f"is{each}", f'<NormDiscrete field="user" value="u{each}" {missing}/>') for each in range(count)
    )
    inputs = (
        f'<MiningSchema><MiningField name="{"k" if kind == "softmax" else "t"}" usageType="target"/>'
        '<MiningField name="x"/><MiningField name="user"/></MiningSchema>'
        f"<LocalTransformations>{hot}</LocalTransformations>"
    )
    names = ["x", *(f"is{each}" for each in range(count))]
    betas = [0.25, *weights.tolist()]
    if kind == "general":
        model = (
            f'<GeneralRegressionModel functionName="regression" modelType="generalLinear">{inputs}<ParameterList>'
            + "".join(f'<Parameter name="p{each}"/>' for each in names)
            + "</ParameterList><CovariateList>"
            + "".join(f'<Predictor name="{each}"/>' for each in names)
            + "</CovariateList><PPMatrix>"
            + "".join(f'<PPCell value="1" predictorName="{each}" parameterName="p{each}"/>' for each in names)
            + "</PPMatrix><ParamMatrix>"
            + "".join(
                f'<PCell parameterName="p{each}" beta="{beta}"/>' for each, beta in zip(names, betas, strict=True)
            )
            + "</ParamMatrix></GeneralRegressionModel>"
        )
    else:
        terms = "".join(
            f'<NumericPredictor name="{each}" coefficient="{beta}"/>' for each, beta in zip(names, betas, strict=True)
        )
        table = '<RegressionTable intercept="0" targetCategory="a">' + terms + "</RegressionTable>"
        more = '<RegressionTable intercept="0.5" targetCategory="b"/>' if kind == "softmax" else ""
        function = 'functionName="regression"'
        if kind == "softmax":
            function = 'functionName="classification" normalizationMethod="softmax"'
        model = f"<RegressionModel {function}>{inputs}{table}{more}</RegressionModel>"
    path = written(tmp_path, pmml(model, "", fields))
    report = import_pmml(path, tmp_path / "model", 1, quiet=True)
    assert [(each.name, each.dim, each.rows) for each in report.tables] == [
        ("user_coefficients", 1, count + (1 if missing else 2))
    ] or [(each.name, each.dim) for each in report.tables] == [("user_coefficients", 1)]
    users = ["u0", "u96", "u149", "nobody", ""]
    found = Exported(tmp_path / "model" / "1").score(
        {"x": np.full((5, 1), 2.0, np.float32), "user": np.array(users)}, 5
    )
    lost = np.nan if not missing else float(missing.split('"')[1]) * weights.sum()
    sums = 0.5 + np.array([weights[0], weights[96], weights[149], 0.0, lost])
    expected = 1 / (1 + np.exp(0.5 - sums)) if kind == "softmax" else sums
    name = "probabilities" if kind == "softmax" else "prediction"
    np.testing.assert_allclose(found[name][:, 0], expected, rtol=2e-6, atol=1e-6)
    assert len(read_pmml(path).graph().graph.node) < 40
