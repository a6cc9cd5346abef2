"""Models as nodes of a graph: of every kind, and several that become one."""

from __future__ import annotations

from ringpull.inference.importers.pmml.kinds.clustering import Clustering
from ringpull.inference.importers.pmml.kinds.general_regression import GeneralRegression
from ringpull.inference.importers.pmml.kinds.model import Mining, Model, OutputField, classes_of
from ringpull.inference.importers.pmml.kinds.neural_network import NeuralNetwork
from ringpull.inference.importers.pmml.kinds.regression import Regression
from ringpull.inference.importers.pmml.kinds.tree import Tree
from ringpull.inference.importers.pmml.nodes.clustering import build_clustering
from ringpull.inference.importers.pmml.nodes.expressions import build_expression
from ringpull.inference.importers.pmml.nodes.graph import Graph, Number, Value
from ringpull.inference.importers.pmml.nodes.neural_network import build_neural_network
from ringpull.inference.importers.pmml.nodes.predicates import build_predicate
from ringpull.inference.importers.pmml.nodes.regression import build_general_regression, build_regression
from ringpull.inference.importers.pmml.nodes.result import Result, after_target
from ringpull.inference.importers.pmml.nodes.scope import Scope
from ringpull.inference.importers.pmml.nodes.segments import Segments, Stacked
from ringpull.inference.importers.pmml.nodes.trees import Forest
from ringpull.inference.importers.pmml.predicates import Always
from ringpull.ps.errors import InvalidInput


def build_model(outer: Scope, model: Model) -> tuple[Result, dict[str, Value]]:
    """Return what a model predicts, and its outputs by name.

    Raises:
        InvalidInput: A field is not there, or is of another kind.
    """
    scope = outer.inside(model.schema, model.derived)
    result = after_target(scope.graph, _predicted(scope, model), model.target)
    result = result.masked(scope.graph, list(dict.fromkeys(scope.invalid)))
    return result, _outputs(scope, model, result)


def _predicted(scope: Scope, model: Model) -> Result:
    body = model.body
    match body:
        case Regression():
            return build_regression(scope, body, of_classes=model.function == "classification")
        case GeneralRegression():
            return build_general_regression(scope, body)
        case Tree():
            forest = Forest(scope.graph, body.classes)
            forest.add(scope, body)
            return Stacked.of_forest(scope.graph, forest, body.classes).only()
        case NeuralNetwork():
            return build_neural_network(scope, body)
        case Clustering():
            return build_clustering(scope, body)
        case Mining():
            return _joined(scope, model, body)


def _joined(scope: Scope, model: Model, body: Mining) -> Result:
    """Return the one result of several models."""
    graph = scope.graph
    if body.method == "modelChain":
        return _chained(scope, body)
    classes = classes_of(model)
    segments = Segments(graph, classes)
    forest = Forest(graph, classes)
    alone = all(isinstance(each.model.body, Tree) and each.model.target is None for each in body.segments)
    results: list[Result] = []
    for segment in body.segments:
        truth = build_predicate(scope, segment.predicate)
        active = None if segment.predicate == Always(True) else truth.true
        segments.add(active, segment.weight)
        if alone and isinstance(segment.model.body, Tree):
            inner = scope.inside(segment.model.schema, segment.model.derived)
            forest.add(inner, segment.model.body)
            segments.invalid(inner.invalid)
        else:
            results.append(build_model(scope, segment.model)[0])
    stacked = Stacked.of_forest(graph, forest, classes) if alone else Stacked.of_results(graph, results, classes)
    return segments.joined(stacked, body.method)


def _chained(scope: Scope, body: Mining) -> Result:
    """Return the result of the last model, each of which sees the outputs of those before it."""
    for segment in body.segments:
        if segment.predicate != Always(True):
            raise InvalidInput(f"line {segment.line}: <Segment> of a modelChain is for some rows alone, not known here")
        result, outputs = build_model(scope, segment.model)
        for name, value in outputs.items():
            scope.define(name, value)
    return result


def _outputs(scope: Scope, model: Model, result: Result) -> dict[str, Value]:
    """Return the outputs of a model as fields; those after one may be computed of it."""
    graph = scope.graph
    made: dict[str, Value] = {}
    data = scope.dictionary.get(model.schema.target or "")
    if model.outputs and model.schema.target:  # outputs may name it: it is what was predicted
        scope.define(model.schema.target, result.as_value(graph, "string" if data is None else data.data_type))
    for each in model.outputs:
        value: Value
        if each.feature == "predictedValue":
            value = result.as_value(graph, "string" if data is None else data.data_type)
        elif each.feature == "probability":
            value = _probability(graph, result, each)
        else:
            assert each.expression is not None
            value = build_expression(scope, each.expression)
        made[each.name] = value
        scope.define(each.name, value)
    return made


def _probability(graph: Graph, result: Result, output: OutputField) -> Number:
    if output.value is None and result.probabilities is not None:
        return Number(graph.node("ReduceMax", [result.probabilities], axes=[1], keepdims=1))
    found = result.probability(graph, output.value or "")
    if found is None:
        raise InvalidInput(f"line {output.line}: <OutputField> is the probability of {output.value!r}, no class of it")
    return Number(found)
