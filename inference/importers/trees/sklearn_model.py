"""Estimators and pipelines of sklearn, by skl2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.base import is_classifier
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline

from ringpull.inference.importers.forest import ML_DOMAIN, ML_OPSET
from ringpull.inference.importers.trees.boosters import (
    PREDICTION,
    by_feature,
    matrix_argument,
    matrix_schema,
)
from ringpull.inference.importers.trees.categories import categories_of_model, with_categories
from ringpull.inference.importers.trees.estimators import LABEL, MATRIX, ConvertedEstimator
from ringpull.inference.importers.trees.margins import OPSET
from ringpull.inference.importers.trees.sklearn_boosters import register_converters, with_kept_nodes
from ringpull.inference.importers.trees.sklearn_columns import InputColumn, first_step, matrix_columns, named_columns
from ringpull.inference.importers.trees.sklearn_neighbors import by_distance, weigh_by_distance
from ringpull.inference.importers.trees.sklearn_plain import plain_estimator
from ringpull.inference.importers.trees.sklearn_refused import last_step, refuse_what_differs
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput

Array = NDArray[Any]

PROBABILITIES: Final = "probabilities"
_CLASSES: Final = (PROBABILITIES,)
_ENSEMBLES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_PLAIN: Final = ("Cast", "Identity", "Reshape")


def converted_sklearn(estimator: Any) -> ConvertedEstimator:
    """Convert a fitted estimator or pipeline.

    Raises:
        InvalidInput: It is not fitted, or has a part without an operator; the message names the part.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    register_converters()
    refuse_what_differs(estimator)
    columns = every = named_columns(estimator)
    if columns is None:
        names, width = matrix_columns(estimator)
        graph = _graph(estimator, [(MATRIX, FloatTensorType([None, width]))])
        _send_missing(graph, estimator)
        schema = matrix_schema(names, width, takes_nan=True)
        thresholds = by_feature(names, width, _thresholds(graph))
        arguments = {MATRIX: matrix_argument(schema)}
        notes: tuple[str, ...] = ()
        within: dict[str, tuple[int, int]] = {}
        values: dict[str, NDArray[np.int64]] = {}
    else:
        graph = _graph(estimator, [(each.name, _type_of(each)) for each in columns])
        every, columns = columns, _used(graph, columns)
        schema = Schema([each.feature for each in columns])
        for value, each in zip(graph.graph.input, columns, strict=True):
            if each.values is not None and each.vocabulary is not None:
                _number(graph, value, each.integers)
        inputs = [each.name for each in graph.graph.input]  # under names that ONNX takes
        arguments = {name: each.feature.name for name, each in zip(inputs, columns, strict=True)}
        thresholds = {}
        within = {each.feature.name: each.within for each in columns if each.within is not None}
        values = {each.feature.name: each.values for each in columns if each.values is not None}
        notes = _notes(columns, [each.name for each in every if each not in columns])
    outputs = _outputs(estimator, graph)
    converted = ConvertedEstimator(
        graph=graph,
        schema=schema,
        arguments=arguments,
        outputs=outputs,
        scores=lambda given: _scores(estimator, every, arguments, outputs, given),
        thresholds=thresholds,
        within=within,
        values=values,
        unknown=frozenset(each.feature.name for each in columns or () if each.takes_unknown),
        classes={
            name: [str(each) for each in last_step(estimator).classes_] for name in outputs.values() if name in _CLASSES
        },
        notes=notes,
    )
    categories, said = ({}, ()) if columns is not None else categories_of_model(first_step(estimator))
    return with_categories(replace(converted, notes=(*notes, *said)), categories)


def _graph(estimator: Any, types: list[tuple[str, Any]]) -> ModelProto:
    try:
        with warnings.catch_warnings(action="ignore"):  # of names of columns, and of float64 that becomes float32
            found: ModelProto = to_onnx(
                plain_estimator(estimator), initial_types=types, target_opset={"": OPSET, ML_DOMAIN: ML_OPSET}
            )
    except InvalidInput:
        raise
    except Exception as exc:  # of any root: skl2onnx's own, and what sklearn's parts raise in it
        if "Unable to find column name" in str(exc):
            raise InvalidInput(
                f"{type(estimator).__name__} has a ColumnTransformer inside of it; put it before:"
                " make_pipeline(columns, model), where the model may be one that calibrates, votes, stacks or searches"
            ) from exc
        told = (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
        raise InvalidInput(
            f"{type(estimator).__name__} cannot be turned into a graph: {told:.300}. skl2onnx says what has an"
            " operator; what has none can be done before a request is sent"
        ) from exc
    graph = with_kept_nodes(found)
    for each in graph.graph.output:  # skl2onnx takes every prediction for one column
        for dim in each.type.tensor_type.shape.dim:
            dim.Clear()
    _keep_columns(graph, last_step(estimator))
    if by_distance(last_step(estimator)):
        weigh_by_distance(graph, last_step(estimator))
    return graph


def _keep_columns(graph: ModelProto, last: Any) -> None:
    """Keep the several numbers, or labels, that a network predicts of a row: skl2onnx makes one column of them."""
    if isinstance(last, MLPClassifier) and last.n_outputs_ > 1 and last.out_activation_ == "logistic":
        graph.graph.output[0].type.tensor_type.shape.dim.add()  # a truth for each label
    columns = getattr(last, "n_outputs_", 1) if isinstance(last, MLPRegressor) else 1
    names = {each.name for each in graph.graph.output}
    for node in graph.graph.node if columns > 1 else ():
        if node.op_type == "Reshape" and node.output[0] in names:
            shape = f"{node.output[0]}/columns"
            graph.graph.initializer.append(numpy_helper.from_array(np.array([-1, columns], np.int64), shape))
            node.input[1] = shape


def _number(graph: ModelProto, value: ValueInfoProto, integers: NDArray[np.int64]) -> None:
    """Let an input of integers take the numbers of these instead."""
    own, by = value.name, f"{value.name}/integers"
    value.name = f"{own}/numbers"
    graph.graph.initializer.append(numpy_helper.from_array(integers, by))
    graph.graph.node.insert(0, helper.make_node("Gather", [by, value.name], [own], by))


def _send_missing(graph: ModelProto, estimator: Any) -> None:
    """Send NaN the way that plain trees send it, which skl2onnx leaves out; their nodes keep their numbers in it."""
    last = last_step(estimator)
    members = getattr(last, "estimators_", [last])  # forests among them, of what stacks or votes, are lists themselves
    trees = [
        each.tree_ for each in (members.flat if isinstance(members, np.ndarray) else members) if hasattr(each, "tree_")
    ]
    nodes = [each for each in graph.graph.node if each.op_type in _ENSEMBLES]
    if len(nodes) != 1 or not trees or isinstance(last, BaseGradientBoosting):
        return
    given = {each.name: each for each in nodes[0].attribute}
    left = given["nodes_missing_value_tracks_true"].ints
    places = zip(given["nodes_treeids"].ints, given["nodes_nodeids"].ints, strict=True)
    if len(left) == sum(each.node_count for each in trees):
        left[:] = [int(trees[tree].missing_go_to_left[node]) for tree, node in places]


def _type_of(column: InputColumn) -> Any:
    if isinstance(column.feature, Sparse):
        kind = StringTensorType if column.feature.dtype == "string" else Int64TensorType
        return kind([None, 1])
    return FloatTensorType([None, 1])


def _used(graph: ModelProto, columns: list[InputColumn]) -> list[InputColumn]:
    """Return the columns that a graph uses, whose inputs are in their order; the inputs of others are left out."""
    taken = {name for node in graph.graph.node for name in node.input}
    pairs = [(value, each) for value, each in zip(graph.graph.input, columns, strict=True) if value.name in taken]
    kept = [value for value, _ in pairs]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    return [each for _, each in pairs]


def _notes(columns: list[InputColumn], unused: list[str]) -> tuple[str, ...]:
    loose = [each.name for each in columns if each.strict and each.within is None]
    told = [f"column {name!r} is left out: nothing that is predicted uses it" for name in unused]
    if loose:
        told.append(
            f"a category of {', '.join(loose)} that the estimator does not know is encoded as zeros; sklearn raises an"
            " error"
        )
    return tuple(told)


def _outputs(estimator: Any, graph: ModelProto) -> dict[str, str]:
    """Return what each output of the graph that is served is called."""
    there = [each.name for each in graph.graph.output]
    last = last_step(estimator)
    if is_classifier(last):
        numbers = np.asarray(last.classes_).dtype.kind in "iub"
        return {**({there[0]: LABEL} if numbers else {}), there[1]: PROBABILITIES}
    if hasattr(last, "predict") and len(there) == 1:
        return {there[0]: PREDICTION}
    raise InvalidInput(f"{type(last).__name__} is no classifier and no regressor, so it predicts nothing")


def _scores(
    estimator: Any,
    columns: list[InputColumn] | None,
    arguments: Mapping[str, str],
    outputs: Mapping[str, str],
    given: Mapping[str, Array],
) -> dict[str, Array]:
    """Return what the estimator itself says."""
    rows: Any = given[arguments[MATRIX]] if columns is None else _frame(columns, given)
    with warnings.catch_warnings(action="ignore"):  # of a matrix without names, for one that was fitted with them
        asked, rows = _before_last(estimator, rows)
        found: dict[str, Array] = {}
        for output in outputs.values():
            if output == PROBABILITIES:
                found[output] = np.asarray(asked.predict_proba(rows))
            else:
                predicted = np.asarray(asked.predict(rows))
                found[output] = predicted if output == LABEL else predicted.reshape(len(predicted), -1)
    return found


def _before_last(estimator: Any, rows: Any) -> tuple[Any, Any]:
    """Return what predicts, and rows as it takes them: steps before it, as an encoder of millions, are gone once."""
    while isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        estimator, rows = estimator.steps[-1][1], estimator[:-1].transform(rows)
    return estimator, rows


def _frame(columns: list[InputColumn], given: Mapping[str, Array]) -> Any:
    import pandas

    rows = len(next(iter(given.values())))
    lost = np.full(rows, np.nan)  # of columns that nothing uses
    return pandas.DataFrame(
        {each.name: each.given(given[each.feature.name]) if each.feature.name in given else lost for each in columns}
    )


def _thresholds(graph: ModelProto) -> dict[int, NDArray[np.float32]]:
    """Return the numbers that trees compare columns of the matrix with, where they take it as it comes."""
    plain = {MATRIX}
    found: dict[int, list[float]] = {}
    for node in graph.graph.node:
        if not node.input or node.input[0] not in plain:
            continue
        if node.op_type in _PLAIN:
            plain.update(node.output)
        elif node.op_type in _ENSEMBLES:
            given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            values = given.get("nodes_values", given.get("nodes_values_as_tensor", []))
            values = values if isinstance(values, list) else numpy_helper.to_array(values).tolist()
            for column, value, mode in zip(given["nodes_featureids"], values, given["nodes_modes"], strict=True):
                if mode != b"LEAF":
                    found.setdefault(int(column), []).append(float(value))
    return {column: np.unique(np.array(values, np.float32)) for column, values in found.items()}
