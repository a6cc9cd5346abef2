"""Documents of PMML as Spark, scikit-learn's exporters and R write them: small, several of each kind."""
# ruff: noqa: E501  (XML is told in its own lines)

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

FIELDS: Final = """
<DataDictionary>
 <DataField name="x" optype="continuous" dataType="double"/>
 <DataField name="y" optype="continuous" dataType="float">
<Interval closure="closedOpen" leftMargin="-5" rightMargin="5"/></DataField>
 <DataField name="n" optype="continuous" dataType="integer"><Value value="-99" property="missing"/></DataField>
 <DataField name="color" optype="categorical" dataType="string">
  <Value value="red"/><Value value="green"/><Value value="blue"/><Value value="?" property="missing"/></DataField>
 <DataField name="code" optype="categorical" dataType="integer"><Value value="1"/><Value value="2"/>
<Value value="7"/></DataField>
 <DataField name="open" optype="categorical" dataType="string"/>
 <DataField name="t" optype="continuous" dataType="double"/>
 <DataField name="k" optype="categorical" dataType="string"><Value value="a"/><Value value="b"/><Value value="c"/>
</DataField>
 <DataField name="b" optype="categorical" dataType="string"><Value value="no"/><Value value="yes"/></DataField>
</DataDictionary>"""

SCHEMA: Final = """
<MiningSchema>
 <MiningField name="{target}" usageType="{usage}"/>
 <MiningField name="x"/>
 <MiningField name="y" invalidValueTreatment="asMissing" missingValueReplacement="0.5"/>
 <MiningField name="n" outliers="asExtremeValues" lowValue="-2" highValue="9"/>
 <MiningField name="color" invalidValueTreatment="{color}"/>
 <MiningField name="code" invalidValueTreatment="asValue" invalidValueReplacement="2" missingValueReplacement="1"/>
 <MiningField name="open"/>
</MiningSchema>"""


def schema(target: str = "t", color: str = "asIs", usage: str = "target") -> str:
    """Return a mining schema in which fields are treated in many ways."""
    return SCHEMA.format(target=target, color=color, usage=usage)


def pmml(model: str, transformations: str = "", fields: str = FIELDS) -> str:
    """Return a document of a model."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">'
        f'<Header copyright="none"><Application name="by hand"/></Header>{fields}{transformations}\n{model}\n</PMML>'
    )


def table(category: str = "", shift: float = 0.0) -> str:
    """Return a regression table with terms of all kinds."""
    return f"""<RegressionTable intercept="{0.3 + shift}" {category}>
 <NumericPredictor name="x" coefficient="{0.7 - shift}"/><NumericPredictor name="y" exponent="2" coefficient="-0.01"/>
 <NumericPredictor name="n" coefficient="0.05"/>
 <CategoricalPredictor name="color" value="red" coefficient="{0.4 + shift}"/>
 <CategoricalPredictor name="color" value="blue" coefficient="-0.25"/>
 <CategoricalPredictor name="code" value="7" coefficient="0.125"/>
 <CategoricalPredictor name="open" value="shop" coefficient="0.5"/>
 <PredictorTerm coefficient="0.02"><FieldRef field="x"/><FieldRef field="n"/></PredictorTerm>
</RegressionTable>"""


def regression(method: str, classes: str = "") -> str:
    """Return a RegressionModel, of numbers or of these classes."""
    if not classes:
        body = table()
    else:
        body = "".join(table(f'targetCategory="{each}"', 0.2 * place) for place, each in enumerate(classes))
    target = {"": "t", "abc": "k"}.get(classes, "b")
    if target == "b":
        body = table('targetCategory="yes"') + '<RegressionTable targetCategory="no" intercept="0.0"/>'
    function = "classification" if classes else "regression"
    return pmml(
        f'<RegressionModel functionName="{function}" normalizationMethod="{method}">{schema(target)}{body}'
        "</RegressionModel>"
    )


DERIVED: Final = """
<TransformationDictionary>
 <DerivedField name="I(x^2)" optype="continuous" dataType="double">
  <Apply function="pow"><FieldRef field="x"/><Constant dataType="integer">2</Constant></Apply></DerivedField>
 <DerivedField name="scaled" optype="continuous" dataType="double">
  <NormContinuous field="n" outliers="asExtremeValues" mapMissingTo="0.5">
   <LinearNorm orig="-1" norm="0"/><LinearNorm orig="2" norm="0.4"/><LinearNorm orig="8" norm="1"/>
</NormContinuous></DerivedField>
 <DerivedField name="is_red" optype="continuous" dataType="double">
<NormDiscrete field="color" value="red" mapMissingTo="0"/></DerivedField>
 <DerivedField name="band" optype="categorical" dataType="string">
  <Discretize field="x" defaultValue="far" mapMissingTo="none"><DiscretizeBin binValue="low">
<Interval closure="openClosed" rightMargin="-1"/></DiscretizeBin>
   <DiscretizeBin binValue="mid"><Interval closure="openOpen" leftMargin="-1" rightMargin="1.5"/></DiscretizeBin>
</Discretize></DerivedField>
 <DerivedField name="price" optype="continuous" dataType="double">
  <MapValues outputColumn="out" defaultValue="-1" mapMissingTo="3"><FieldColumnPair field="color" column="c"/>
<FieldColumnPair field="code" column="d"/>
   <InlineTable><row><c>red</c><d>1</d><out>2.5</out></row><row><c>blue</c><d>7</d><out>4</out></row></InlineTable>
</MapValues></DerivedField>
 <DerivedField name="shade" optype="categorical" dataType="string">
  <Apply function="if"><Apply function="or"><Apply function="equal"><FieldRef field="color"/>
<Constant>red</Constant></Apply>
   <Apply function="greaterThan"><FieldRef field="x"/><Constant>2</Constant></Apply></Apply>
<Constant>warm</Constant><Constant>cold</Constant></Apply></DerivedField>
 <DerivedField name="mixed" optype="continuous" dataType="double">
  <Apply function="+" mapMissingTo="0.1"><Apply function="max"><FieldRef field="x"/><FieldRef field="y"/></Apply>
   <Apply function="*"><Apply function="ln"><Apply function="+"><Constant>1.5</Constant><Apply function="abs">
<FieldRef field="x"/></Apply></Apply></Apply>
    <Apply function="floor"><FieldRef field="n"/></Apply></Apply></Apply></DerivedField>
</TransformationDictionary>"""


def derived() -> str:
    """Return a regression of derived fields of every kind."""
    names = ["I(x^2)", "scaled", "is_red", "price", "mixed"]
    terms = "".join(
        f'<NumericPredictor name="{each}" coefficient="{0.1 + place / 7}"/>' for place, each in enumerate(names)
    )
    terms += '<CategoricalPredictor name="band" value="mid" coefficient="1.5"/>'
    terms += '<CategoricalPredictor name="band" value="none" coefficient="-2.5"/>'
    terms += '<CategoricalPredictor name="shade" value="warm" coefficient="0.75"/>'
    return pmml(
        f'<RegressionModel functionName="regression">{schema()}<RegressionTable intercept="0.2">{terms}'
        "</RegressionTable></RegressionModel>",
        DERIVED,
    )


def general(kind: str, link: str = "", target: str = "t", cells: str = "", more: str = "") -> str:
    """Return a GeneralRegressionModel as R writes glm: factors, a covariate to a power, an interaction."""
    function = "regression" if target == "t" else "classification"
    matrix = """<ParameterList><Parameter name="p0" label="(Intercept)"/><Parameter name="p1"/><Parameter name="p2"/><Parameter name="p3"/><Parameter name="p4"/></ParameterList>
<FactorList><Predictor name="color"/></FactorList><CovariateList><Predictor name="x"/><Predictor name="y"/>
</CovariateList>
<PPMatrix><PPCell value="1" predictorName="x" parameterName="p1"/>
<PPCell value="green" predictorName="color" parameterName="p2"/>
<PPCell value="2" predictorName="y" parameterName="p3"/><PPCell value="1" predictorName="x" parameterName="p4"/>
<PPCell value="red" predictorName="color" parameterName="p4"/></PPMatrix>"""
    betas = cells or "".join(
        f'<PCell parameterName="p{each}" df="1" beta="{0.31 - each * 0.17}"/>' for each in range(5)
    )
    return pmml(
        f'<GeneralRegressionModel functionName="{function}" modelType="{kind}" {link} {more}>{schema(target)}{matrix}'
        f"<ParamMatrix>{betas}</ParamMatrix></GeneralRegressionModel>"
    )


def multinomial() -> str:
    """Return a multinomial logistic model, of which b is the reference."""
    cells = "".join(
        f'<PCell targetCategory="{target}" parameterName="p{each}" beta="{0.3 - each * 0.2 + shift}"/>'
        for shift, target in ((0.0, "a"), (0.25, "c"))
        for each in range(5)
    )
    return general("multinomialLogistic", target="k", cells=cells, more='targetReferenceCategory="b"')


def ordinal() -> str:
    """Return a cumulative logit model."""
    cells = '<PCell targetCategory="a" parameterName="p0" beta="-0.8"/><PCell targetCategory="b" parameterName="p0" beta="0.9"/>'
    cells += '<PCell parameterName="p1" beta="0.6"/><PCell parameterName="p2" beta="-0.4"/>'
    return general("ordinalMultinomial", 'cumulativeLink="logit"', "k", cells, 'targetReferenceCategory="c"')


def surrogate_tree(strategy: str = "defaultChild", none: str = "returnNullPrediction") -> str:
    """Return a tree as R's rpart: surrogates, sets, default children."""

    def node(name: str, score: str, counts: str, predicate: str, inner: str = "", default: str = "") -> str:
        shares = "".join(
            f'<ScoreDistribution value="{each}" recordCount="{count}"/>'
            for each, count in zip("abc", counts.split(), strict=True)
        )
        return f'<Node id="{name}" score="{score}" recordCount="9" {default}>{predicate}{shares}{inner}</Node>'

    def pair(field: str, operator: str, value: str, other: str, values: str) -> str:
        return (
            f'<CompoundPredicate booleanOperator="surrogate"><SimplePredicate field="{field}" operator="{operator}" '
            f'value="{value}"/><SimpleSetPredicate field="color" booleanOperator="{other}"><Array n="2" type="string">'
            f"{values}</Array></SimpleSetPredicate></CompoundPredicate>"
        )

    leaves = node("4", "a", "7 1 1", '<SimplePredicate field="n" operator="lessThan" value="3.5"/>')
    leaves += node("5", "c", "1 2 6", '<SimplePredicate field="n" operator="greaterOrEqual" value="3.5"/>')
    inner = node("2", "a", "8 3 7", pair("x", "lessThan", "0.1", "isIn", '"red" "green"'), leaves, 'defaultChild="5"')
    inner += node("3", "b", "0 9 1", pair("x", "greaterOrEqual", "0.1", "isNotIn", '"red" "green"'))
    root = node("1", "b", "8 12 8", "<True/>", inner, 'defaultChild="3"')
    return pmml(
        f'<TreeModel functionName="classification" missingValueStrategy="{strategy}" noTrueChildStrategy="{none}" '
        f'splitCharacteristic="binarySplit">{schema("k")}'
        f"{root}</TreeModel>"
    )


def bushy_tree(strategy: str, none: str = "returnLastPrediction") -> str:
    """Return a regression tree of several children a node, and predicates put together."""
    return pmml(f"""<TreeModel functionName="regression" missingValueStrategy="{strategy}" noTrueChildStrategy="{none}"
 splitCharacteristic="multiSplit">{schema()}
<Node score="0.5"><True/>
 <Node score="1.25"><SimplePredicate field="color" operator="equal" value="red"/>
  <Node score="2"><CompoundPredicate booleanOperator="and">
<SimplePredicate field="x" operator="greaterThan" value="0.3"/>
   <SimplePredicate field="n" operator="lessOrEqual" value="4"/></CompoundPredicate></Node>
  <Node score="3"><SimplePredicate field="open" operator="isMissing"/></Node></Node>
 <Node score="-1.5"><CompoundPredicate booleanOperator="xor">
<SimplePredicate field="x" operator="lessThan" value="0.7"/>
  <SimplePredicate field="n" operator="greaterThan" value="2"/></CompoundPredicate></Node>
 <Node score="7.5"><CompoundPredicate booleanOperator="or"><SimplePredicate field="code" operator="notEqual" value="7"/>
  <SimplePredicate field="x" operator="equal" value="0.7"/></CompoundPredicate></Node></Node></TreeModel>""")


def random_tree(seed: int, classes: str = "", head: str = "", depth: int = 4, strategy: str = "none") -> str:
    """Return a tree as forests have them: binary, of numbers and one-hot columns."""
    draw = random.Random(seed)

    def node(level: int, predicate: str) -> str:
        if not level or draw.random() < 0.15:
            if not classes:
                return f'<Node score="{draw.uniform(-1, 1)!r}">{predicate}</Node>'
            counts = [draw.randint(0, 9) for _ in classes]
            counts[0] += 1
            best = classes[counts.index(max(counts))]
            shares = "".join(
                f'<ScoreDistribution value="{name}" recordCount="{count}"/>'
                for name, count in zip(classes, counts, strict=True)
            )
            return f'<Node score="{best}" recordCount="{sum(counts)}">{predicate}{shares}</Node>'
        field, split = draw.choice("xyn"), draw.uniform(-2, 3)
        low = f'<SimplePredicate field="{field}" operator="lessOrEqual" value="{split!r}"/>'
        high = f'<SimplePredicate field="{field}" operator="greaterThan" value="{split!r}"/>'
        return f"<Node>{predicate}{node(level - 1, low)}{node(level - 1, high)}</Node>"

    function = "classification" if classes else "regression"
    own = '<MiningSchema><MiningField name="x"/><MiningField name="y"/><MiningField name="n"/></MiningSchema>'
    return f'<TreeModel functionName="{function}" missingValueStrategy="{strategy}" {head}>{own}{node(depth, "<True/>")}</TreeModel>'


def forest(method: str, classes: str = "", trees: int = 7, predicates: bool = False, target: str = "") -> str:
    """Return a forest, as randomForest and gbm of R, and scikit-learn's exporter."""
    segments = ""
    for each in range(trees):
        predicate = "<True/>"
        if predicates and each % 3 == 1:
            predicate = '<SimplePredicate field="x" operator="greaterThan" value="0.25"/>'
        segments += (
            f'<Segment id="{each + 1}" weight="{1 + each / 4}">{predicate}{random_tree(each, classes)}</Segment>'
        )
    function = "classification" if classes else "regression"
    return pmml(
        f'<MiningModel functionName="{function}">{schema("k" if classes else "t", "returnInvalid")}{target}'
        f'<Segmentation multipleModelMethod="{method}">{segments}</Segmentation></MiningModel>'
    )


TARGETS: Final = '<Targets><Target field="t" rescaleFactor="0.5" rescaleConstant="1.25" min="-2" max="1.5" castInteger="{cast}"/></Targets>'


def boosted() -> str:
    """Return a boosted classification as exporters of XGBoost and LightGBM write it: a sum, then a logit of it."""
    trees = "".join(f'<Segment id="{each + 1}"><True/>{random_tree(each + 40, depth=3)}</Segment>' for each in range(5))
    own = '<MiningSchema><MiningField name="x"/><MiningField name="y"/><MiningField name="n"/></MiningSchema>'
    return pmml(f"""<MiningModel functionName="classification">{schema("b")}
<Segmentation multipleModelMethod="modelChain"><Segment id="1"><True/><MiningModel functionName="regression">{own}
<Output>
<OutputField name="margin" optype="continuous" dataType="double" feature="predictedValue" isFinalResult="false"/>
<OutputField name="scaled margin" optype="continuous" dataType="double" feature="transformedValue">
<Apply function="*"><FieldRef field="margin"/><Constant>2</Constant></Apply></OutputField></Output>
<Targets><Target rescaleConstant="-0.25"/></Targets>
<Segmentation multipleModelMethod="sum">{trees}</Segmentation></MiningModel></Segment>
<Segment id="2"><True/><RegressionModel functionName="classification" normalizationMethod="logit">
<MiningSchema><MiningField name="b" usageType="target"/><MiningField name="scaled margin"/></MiningSchema>
<Output>
<OutputField name="probability(yes)" feature="probability" value="yes" optype="continuous" dataType="double"/>
</Output>
<RegressionTable intercept="0.0" targetCategory="yes"><NumericPredictor name="scaled margin" coefficient="1.0"/>
</RegressionTable>
<RegressionTable intercept="0.0" targetCategory="no"/></RegressionModel></Segment></Segmentation></MiningModel>""")


def network(classes: bool, activation: str = "tanh", normalization: str = "softmax") -> str:
    """Return a network of one hidden layer."""
    draw = random.Random(5)
    inputs = """<NeuralInput id="0,0"><DerivedField optype="continuous" dataType="double"><NormContinuous field="x"><LinearNorm orig="0" norm="-1"/><LinearNorm orig="3" norm="1"/></NormContinuous></DerivedField></NeuralInput>
<NeuralInput id="0,1"><DerivedField optype="continuous" dataType="double"><FieldRef field="y"/></DerivedField>
</NeuralInput>
<NeuralInput id="0,2"><DerivedField optype="continuous" dataType="double"><NormDiscrete field="color" value="red"/>
</DerivedField></NeuralInput>"""

    def neurons(layer: int, count: int, before: int) -> str:
        made = ""
        for each in range(count):
            links = "".join(f'<Con from="{layer - 1},{i}" weight="{draw.uniform(-1, 1)!r}"/>' for i in range(before))
            made += f'<Neuron id="{layer},{each}" bias="{draw.uniform(-1, 1)!r}">{links}</Neuron>'
        return made

    if classes:
        outputs = "".join(
            f'<NeuralOutput outputNeuron="2,{place}"><DerivedField optype="categorical" dataType="string"><NormDiscrete field="k" value="{each}"/></DerivedField></NeuralOutput>'
            for place, each in enumerate("abc")
        )
    else:
        outputs = '<NeuralOutput outputNeuron="2,0"><DerivedField optype="continuous" dataType="double"><NormContinuous field="t"><LinearNorm orig="10" norm="0"/><LinearNorm orig="20" norm="1"/></NormContinuous></DerivedField></NeuralOutput>'
    function, last = ("classification", 3) if classes else ("regression", 1)
    normal = f'normalizationMethod="{normalization}"' if classes else ""
    return pmml(
        f'<NeuralNetwork functionName="{function}" activationFunction="{activation}">{schema("k" if classes else "t")}'
        f'<NeuralInputs numberOfInputs="3">{inputs}</NeuralInputs><NeuralLayer numberOfNeurons="4">{neurons(1, 4, 3)}</NeuralLayer>'
        f'<NeuralLayer numberOfNeurons="{last}" activationFunction="identity" {normal}>{neurons(2, last, 4)}</NeuralLayer>'
        f"<NeuralOutputs>{outputs}</NeuralOutputs></NeuralNetwork>"
    )


def clustering(measure: str = "<squaredEuclidean/>", kind: str = "absDiff") -> str:
    """Return centers, as Spark's KMeans and R's kmeans."""
    return pmml(f"""<ClusteringModel functionName="clustering" modelClass="centerBased" numberOfClusters="3" modelName="k-means">
<MiningSchema><MiningField name="x" usageType="active"/><MiningField name="y" usageType="active"/>
<MiningField name="n" usageType="active"/></MiningSchema>
<ComparisonMeasure kind="distance">{measure}</ComparisonMeasure>
<ClusteringField field="x" compareFunction="{kind}"/>
<ClusteringField field="y" compareFunction="absDiff" fieldWeight="2"/>
<ClusteringField field="n" compareFunction="absDiff"/>
<Cluster name="cluster_0"><Array n="3" type="real">0.5 -1.25 3</Array></Cluster>
<Cluster name="cluster_1"><Array n="3" type="real">-0.5 2.0 1e0</Array></Cluster>
<Cluster name="cluster_2"><Array n="3" type="real">1.5 0 -1</Array></Cluster></ClusteringModel>""")


def every_document() -> dict[str, str]:
    """Return documents of every kind, by a name of each."""
    made = {f"regression_{each}": regression(each) for each in ("none", "logit", "exp", "probit", "cloglog", "loglog")}
    made["regression_cauchit"] = regression("cauchit")
    made |= {f"classes_{each}": regression(each, "abc") for each in ("softmax", "simplemax", "none", "logit")}
    made |= {f"binary_{each}": regression(each, "ny") for each in ("logit", "softmax", "probit", "cloglog", "loglog")}
    made["derived"] = derived()
    for link in ("identity", "log", "logit", "probit", "cloglog", "loglog", "logc", "oddspower", "power", "negbin"):
        power = 'linkParameter="0.5" distParameter="0.7"'
        made[f"glm_{link}"] = general("generalizedLinear", f'linkFunction="{link}"', more=f'offsetValue="0.1" {power}')
    made["glm_regression"] = general("regression")
    made["glm_binomial"] = general(
        "generalizedLinear", 'linkFunction="logit"', "b", more='targetReferenceCategory="no"'
    )
    made |= {"multinomial": multinomial(), "ordinal": ordinal()}
    for strategy in ("none", "lastPrediction", "nullPrediction", "defaultChild"):
        made[f"surrogates_{strategy}"] = surrogate_tree(strategy)
        if strategy != "defaultChild":
            made[f"bushy_{strategy}"] = bushy_tree(strategy)
            made[f"bushy_null_{strategy}"] = bushy_tree(strategy, "returnNullPrediction")
    for method in ("sum", "average", "weightedAverage", "median", "max", "weightedSum", "selectFirst"):
        made[f"forest_{method}"] = forest(method)
        made[f"forest_{method}_some"] = forest(method, predicates=True, trees=6)
    for method in ("majorityVote", "weightedMajorityVote", "average", "weightedAverage", "selectFirst"):
        made[f"forest_classes_{method}"] = forest(method, "abc")
        made[f"forest_classes_{method}_some"] = forest(method, "abc", predicates=True, trees=6)
    made |= {
        f"target_{each}": forest("sum", target=TARGETS.format(cast=each)) for each in ("round", "floor", "ceiling")
    }
    made["boosted"] = boosted()
    for activation in ("tanh", "logistic", "rectifier", "Elliott", "Gauss", "arctan", "square", "sine", "cosine"):
        made[f"network_{activation}"] = network(True, activation)
    made |= {
        "network_numbers": network(False, "logistic"),
        "network_simplemax": network(True, "exponential", "simplemax"),
    }
    for measure in ("squaredEuclidean", "euclidean", "chebychev", "cityBlock"):
        made[f"clusters_{measure}"] = clustering(f"<{measure}/>")
    made["clusters_minkowski"] = clustering('<minkowski p-parameter="3"/>')
    made["clusters_delta"] = clustering("<cityBlock/>", "delta")
    return made


def written(folder: Path, text: str, name: str = "model.pmml") -> Path:
    """Write a document, and return its file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
