"""Converters of boosted trees, LightGBM's and XGBoost's too, inside of sklearn's pipelines, for skl2onnx."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import Int64TensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ringpull.inference.importers.forest import ML_DOMAIN, ML_OPSET_OF_SETS
from ringpull.inference.importers.trees.margins import OPSET, BoostedTrees
from ringpull.inference.importers.trees.sklearn_hist import forest_of_hist
from ringpull.inference.importers.trees.sklearn_one_hot import register_one_hot
from ringpull.inference.importers.trees.sklearn_plain import register_indicator
from ringpull.ps.errors import InvalidInput

_KEPT: Final = "Kept"
_KEPT_DOMAIN: Final = "ringpull.kept"
"""Operator, and its domain, that stands for a node of a version that skl2onnx does not write, which it has inside."""


def with_kept_nodes(graph: ModelProto) -> ModelProto:
    """Return a graph of skl2onnx in which nodes of trees with sets are what they stand for."""
    if not any(node.domain == _KEPT_DOMAIN for node in graph.graph.node):
        return graph
    nodes = [_kept(node) if node.domain == _KEPT_DOMAIN else node for node in graph.graph.node]
    versions = {each.domain: each.version for each in graph.opset_import if each.domain != _KEPT_DOMAIN}
    versions[ML_DOMAIN] = ML_OPSET_OF_SETS
    made = ModelProto()
    made.CopyFrom(graph)
    del made.graph.node[:], made.opset_import[:]
    made.graph.node.extend(nodes)
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    made.ir_version = max(made.ir_version, helper.find_min_ir_version_for(made.opset_import, ignore_unknown=True))
    return made


def _kept(node: NodeProto) -> NodeProto:
    found = NodeProto.FromString(helper.get_attribute_value(node.attribute[0]))
    found.input[:], found.output[:] = node.input, node.output
    return found


@cache
def register_converters() -> None:
    """Make what is converted here known to skl2onnx, models of libraries that are installed too, once in a process."""
    register_one_hot()
    register_indicator()
    _register((HistGradientBoostingClassifier,), (HistGradientBoostingRegressor,), "Sklearn", forest_of_hist)
    if find_spec("lightgbm"):
        from lightgbm import LGBMClassifier, LGBMRanker, LGBMRegressor

        _register((LGBMClassifier,), (LGBMRegressor, LGBMRanker), "LightGbm", _lightgbm)
    if find_spec("xgboost"):
        from xgboost import XGBClassifier, XGBRanker, XGBRegressor, XGBRFClassifier, XGBRFRegressor

        _register((XGBClassifier, XGBRFClassifier), (XGBRegressor, XGBRFRegressor, XGBRanker), "XGBoost", _xgboost)


def _register(classifiers: tuple[type, ...], regressors: tuple[type, ...], maker: str, forest_of: Any) -> None:
    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "raw_scores": [False]}
    for model in classifiers:
        update_registered_converter(
            model,
            f"Ringpull{maker}{model.__name__}",
            calculate_linear_classifier_output_shapes,
            lambda scope, operator, container: _classifier(operator, container, forest_of),
            options=options,
        )
    for model in regressors:
        update_registered_converter(
            model,
            f"Ringpull{maker}{model.__name__}",
            calculate_linear_regressor_output_shapes,
            lambda scope, operator, container: _regressor(operator, container, forest_of),
        )


def _lightgbm(model: Any) -> BoostedTrees:
    from ringpull.inference.importers.trees.lightgbm_model import forest_of_lightgbm

    return forest_of_lightgbm(model.booster_)


def _xgboost(model: Any) -> BoostedTrees:
    from ringpull.inference.importers.trees.xgboost_model import forest_of_xgboost

    return forest_of_xgboost(model.get_booster())


def _regressor(operator: Any, container: Any, forest_of: Any) -> None:
    _add(operator, container, forest_of(operator.raw_operator), operator.outputs[0].full_name)


def _classifier(operator: Any, container: Any, forest_of: Any) -> None:
    model = operator.raw_operator
    label, probabilities = (each.full_name for each in operator.outputs)
    trees = forest_of(model)
    if trees.link == "class":  # multi:softmax: what predicts a class has its probabilities, too
        trees = replace(trees, link="softmax")
    raw = hasattr(model, "get_booster") and trees.link in ("step", "identity")  # XGBoost shows these as it does others
    if trees.link not in ("sigmoid", "softmax") and not (raw and trees.forest.targets == 1):
        raise InvalidInput(f"{type(model).__name__}: its objective gives no probabilities of classes")
    made = f"{probabilities}/own"
    _add(operator, container, trees, made)
    if trees.forest.targets == 1:
        container.add_initializer(f"{made}/one", TensorProto.FLOAT, [], [1.0])
        container.add_node("Sub", [f"{made}/one", made], f"{made}/other", op_version=14, name=f"{made}/sub")
        container.add_node(
            "Concat", [f"{made}/other", made], probabilities, axis=1, op_version=13, name=f"{made}/concat"
        )
    else:
        container.add_node("Identity", made, probabilities, op_version=16, name=f"{made}/identity")
    numbers = isinstance(operator.outputs[0].type, Int64TensorType)
    classes = np.asarray(model.classes_).tolist()
    kind = TensorProto.INT64 if numbers else TensorProto.STRING
    values = classes if numbers else [str(each).encode() for each in classes]
    container.add_initializer(f"{made}/classes", kind, [len(values)], values)
    container.add_node(
        "ArgMax", probabilities, f"{made}/largest", axis=1, keepdims=0, op_version=13, name=f"{made}/argmax"
    )
    container.add_node(
        "Gather", [f"{made}/classes", f"{made}/largest"], label, axis=0, op_version=13, name=f"{made}/gather"
    )


def _without_missing(model: Any, container: Any, given: str) -> str:
    """Return a matrix with NaN for the number that a model of XGBoost takes for missing, besides NaN (`missing=0`)."""
    missing = getattr(model, "missing", None) if hasattr(model, "get_booster") else None
    if missing is None or np.isnan(missing):
        return given
    made = f"{given}/present"
    container.add_initializer(f"{made}/missing", TensorProto.FLOAT, [], [float(missing)])
    container.add_initializer(f"{made}/nan", TensorProto.FLOAT, [], [float("nan")])
    container.add_node("Equal", [given, f"{made}/missing"], f"{made}/is", op_version=13, name=f"{made}/equal")
    container.add_node("Where", [f"{made}/is", f"{made}/nan", given], made, op_version=16, name=f"{made}/where")
    return made


def _add(operator: Any, container: Any, trees: BoostedTrees, result: str) -> None:
    """Add the nodes of a forest behind the one input of an operator."""
    (given,) = operator.inputs
    columns = given.type.shape[1]
    name = given.full_name
    cast = f"{result}/float"
    container.add_node("Cast", name, cast, to=TensorProto.FLOAT, op_version=13, name=f"{cast}/cast")
    cast = _without_missing(operator.raw_operator, container, cast)
    nodes, initializers = trees.nodes(cast, result, int(columns))
    for tensor in initializers:
        container.initializers.append(tensor)
    for number, node in enumerate(nodes):
        if node.domain == ML_DOMAIN and trees.forest.has_sets:
            container.add_node(
                _KEPT,
                list(node.input),
                list(node.output),
                op_domain=_KEPT_DOMAIN,
                op_version=1,
                name=f"{result}/{number}",
                node=node.SerializeToString(),
            )
            continue
        version = trees.forest.opset if node.domain == ML_DOMAIN else OPSET
        container.add_node(
            node.op_type,
            list(node.input),
            list(node.output),
            op_domain=node.domain,
            op_version=version,
            name=f"{result}/{number}",
            **{each.name: helper.get_attribute_value(each) for each in node.attribute},
        )
