"""Model of any kind: its mining schema, its own derived fields, targets and outputs, and a body of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ringpull.inference.importers.pmml.defined_functions import DefinedFunctions
from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.expressions import (
    EXPRESSIONS,
    DerivedField,
    Expression,
    Functions,
    makes_numbers,
    no_functions,
    read_derived,
    read_expression,
)
from ringpull.inference.importers.pmml.fields import DataField, MiningSchema, read_mining_schema
from ringpull.inference.importers.pmml.kinds.clustering import Clustering, read_clustering
from ringpull.inference.importers.pmml.kinds.general_regression import GeneralRegression, read_general_regression
from ringpull.inference.importers.pmml.kinds.neural_network import NeuralNetwork, read_neural_network
from ringpull.inference.importers.pmml.kinds.regression import Regression, read_regression
from ringpull.inference.importers.pmml.kinds.tree import Tree, read_tree
from ringpull.inference.importers.pmml.predicates import Predicate, read_predicate

Function = Literal["regression", "classification", "clustering"]
Casting = Literal["", "round", "ceiling", "floor"]

COMMON: Final = ("MiningSchema", "Output", "Targets", "LocalTransformations")
"""Elements that models of every kind have."""
_FEATURES: Final = ("predictedValue", "probability", "transformedValue", "decision")
_UNSERVED: Final = (
    *("predictedDisplayValue", "residual", "standardError", "entityId", "clusterId", "affinity", "clusterAffinity"),
    *("entityAffinity", "confidence", "reasonCode", "warning", "report"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What becomes of a prediction: within `low` and `high`, times `factor`, plus `constant`, cast."""

    low: float | None
    high: float | None
    factor: float
    constant: float
    cast: Casting
    default: float | None
    """Prediction in the place of a missing one."""
    priors: Mapping[str, float]
    """Probabilities in the place of missing ones, by class."""


@dataclass(frozen=True, slots=True)
class OutputField:
    """One output that a model gives others, or its callers, under a name."""

    name: str
    feature: str
    value: str | None
    """Class whose probability it is; None: that of the predicted one."""
    expression: Expression | None
    numeric: bool
    """Whether its values are numbers."""
    declared_text: bool
    """Whether it is declared to be a text, of whatever values."""
    line: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One model of several, and the rows it is for."""

    name: str
    predicate: Predicate
    weight: float
    model: Model
    line: int


@dataclass(frozen=True, slots=True)
class Mining:
    """Several models, and how their results become one."""

    method: str
    segments: tuple[Segment, ...]


Body = Regression | GeneralRegression | Tree | NeuralNetwork | Clustering | Mining


@dataclass(frozen=True, slots=True)
class Model:
    """One model."""

    function: Function
    schema: MiningSchema
    derived: Mapping[str, DerivedField]
    target: Target | None
    outputs: tuple[OutputField, ...]
    unserved: tuple[str, ...]
    """Names of outputs of kinds that are left out."""
    body: Body
    line: int


_READERS: Final[dict[str, Callable[[Element, tuple[str, ...]], Body]]] = {
    "RegressionModel": read_regression,
    "GeneralRegressionModel": read_general_regression,
    "TreeModel": read_tree,
    "ClusteringModel": read_clustering,
}
MODELS: Final = (*_READERS, "NeuralNetwork", "MiningModel")
_METHODS: Final = (
    *("majorityVote", "weightedMajorityVote", "average", "weightedAverage", "median", "max", "sum", "weightedSum"),
    *("selectFirst", "modelChain"),
)
_OF_CLASSES: Final = ("majorityVote", "weightedMajorityVote", "average", "weightedAverage", "selectFirst", "modelChain")


def classes_of(model: Model) -> tuple[str, ...]:
    """Return the classes of a model, in order; none of other models."""
    if model.function != "classification":
        return ()
    if isinstance(model.body, Mining):
        if model.body.method == "modelChain":
            return classes_of(model.body.segments[-1].model)
        return tuple(dict.fromkeys(each for segment in model.body.segments for each in classes_of(segment.model)))
    return () if isinstance(model.body, Clustering) else model.body.classes


def read_model(
    element: Element,
    dictionary: Mapping[str, DataField],
    targets: tuple[str, ...] = (),
    functions: Functions = no_functions,
) -> Model:
    """Read a model, of classes in the order of its target's values, else in that of `targets`.

    Raises:
        InvalidInput: It has what is not known here.
    """
    if element.tag not in MODELS:
        raise element.refusal(f"is not known here; known are {', '.join(MODELS)}")
    function: Function = element.choice(  # type: ignore[assignment]
        "functionName", ("regression", "classification", "clustering")
    )
    if element.get("isScorable") == "false":
        raise element.refusal("says of itself isScorable='false'")
    schema = read_mining_schema(element)
    named = dictionary.get(schema.target or "")
    classes = (named.texts if named is not None else ()) or targets
    local = element.first("LocalTransformations")
    functions = DefinedFunctions(local, functions)
    if element.tag == "MiningModel":
        body: Body = _read_mining(element, dictionary, classes, function, functions)
    elif element.tag == "NeuralNetwork":
        body = read_neural_network(element, functions)
    else:
        body = _READERS[element.tag](element, classes)
    if isinstance(body, Regression) and named is not None and named.ordinal and len(body.tables) > 2:
        raise element.refusal(f"has a target of {len(body.tables)} ordinal classes, which is not known here")
    outputs, unserved = _read_outputs(element.first("Output"), functions)
    return Model(
        function=function,
        schema=schema,
        derived=read_derived(local, functions),
        target=_read_target(element.first("Targets"), function),
        outputs=outputs,
        unserved=unserved,
        body=body,
        line=element.line,
    )


def _read_mining(
    element: Element,
    dictionary: Mapping[str, DataField],
    classes: tuple[str, ...],
    function: Function,
    functions: Functions,
) -> Mining:
    element.only(*COMMON, "Segmentation")
    segmentation = element.need("Segmentation")
    known = _OF_CLASSES if function == "classification" else _METHODS
    if function == "clustering":
        raise element.refusal("joins clusterings, which is not known here")
    method = segmentation.choice("multipleModelMethod", known)
    treatment = segmentation.choice("missingPredictionTreatment", ("continue", "returnMissing"), "continue")
    if treatment == "returnMissing" and method.endswith("ajorityVote"):
        raise segmentation.refusal("has missingPredictionTreatment='returnMissing' of votes, which is not known here")
    segments = []
    for number, each in enumerate(segmentation.only("Segment"), 1):
        inner = each.need(*MODELS) if each.first(*MODELS) else each.children[-1] if each.children else each
        model = read_model(inner, dictionary, classes, functions)
        predicate, name = read_predicate(each), each.get("id", str(number))
        segments.append(Segment(name, predicate, each.number("weight", 1.0), model, each.line))
        if method != "modelChain" and model.function != function:
            raise inner.refusal(f"is of {model.function}, within one of {function}")
    if not segments or (method == "modelChain" and segments[-1].model.function != function):
        raise segmentation.refusal(f"has no last segment of {function}")
    return Mining(method, tuple(segments))


def _read_target(element: Element | None, function: Function) -> Target | None:
    found = [] if element is None else element.only("Target")
    if not found:
        return None
    target = found[0]
    if len(found) > 1:
        raise found[1].refusal("is the second one; models of one target are read")
    cast: Casting = target.choice("castInteger", ("", "round", "ceiling", "floor"), "")  # type: ignore[assignment]
    priors, default = {}, None
    for each in target.only("TargetValue"):
        if "defaultValue" in each.attributes:
            default = each.number("defaultValue")
        if "priorProbability" in each.attributes:
            priors[each.attribute("value")] = each.number("priorProbability")
    made = Target(
        low=target.maybe("min"),
        high=target.maybe("max"),
        factor=target.number("rescaleFactor", 1.0),
        constant=target.number("rescaleConstant", 0.0),
        cast=cast,
        default=default,
        priors=priors,
    )
    return made if function != "clustering" else None


def _read_outputs(element: Element | None, functions: Functions) -> tuple[tuple[OutputField, ...], tuple[str, ...]]:
    made, unserved = [], []
    for each in [] if element is None else element.only("OutputField"):
        feature = each.choice("feature", (*_FEATURES, *_UNSERVED), "predictedValue")
        if feature in _UNSERVED:
            unserved.append(each.attribute("name"))
            continue
        inner = each.first(*EXPRESSIONS)
        if feature in ("transformedValue", "decision") and inner is None:
            raise each.refusal("has no expression that is known here")
        if "segmentId" in each.attributes:
            raise each.refusal("is of another segment (segmentId), which is not known here")
        value = each.attributes.get("value")
        expression = None if inner is None else read_expression(inner, each.get("dataType"), functions)
        text = each.get("dataType", "double") not in ("double", "float", "integer")
        numeric = not text or (expression is not None and makes_numbers(expression))
        made.append(OutputField(each.attribute("name"), feature, value, expression, numeric, text, each.line))
    return tuple(made), tuple(unserved)
