"""Estimators in the form in which skl2onnx takes them: copies that predict the same."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import KBinsDiscretizer


def plain_estimator(estimator: Any) -> Any:
    """Return a fitted estimator that predicts the same, itself or a copy.

    Steps of a pipeline that do nothing are left out, weights of votes are arrays, bins are not sparse, and what says
    which numbers were missing stands beside what fills them.
    """
    if isinstance(estimator, Pipeline):
        steps = [(name, plain_estimator(each)) for name, each in estimator.steps if each not in (None, "passthrough")]
        return estimator if not steps else _with(estimator, steps=steps)
    if isinstance(estimator, ColumnTransformer) and hasattr(estimator, "transformers_"):
        inner = [(name, plain_estimator(each), columns) for name, each, columns in estimator.transformers_]
        return _with(estimator, transformers_=inner)
    if isinstance(estimator, FeatureUnion):
        parts = [(name, plain_estimator(each)) for name, each in estimator.transformer_list]
        return _with(estimator, transformer_list=parts)
    if isinstance(estimator, VotingClassifier | VotingRegressor):
        weights = None if estimator.weights is None else np.asarray(estimator.weights, np.float64)
        shape = {"flatten_transform": False} if isinstance(estimator, VotingClassifier) else {}  # of transform alone
        return _with(estimator, weights=weights, **shape)
    if isinstance(estimator, SimpleImputer) and getattr(estimator, "indicator_", None) is not None:
        filled = _with(estimator, add_indicator=False, indicator_=None)  # skl2onnx leaves indicators out
        return FeatureUnion([("filled", filled), ("indicator", estimator.indicator_)])
    if isinstance(estimator, KBinsDiscretizer) and estimator.encode == "onehot":
        return _with(estimator, encode="onehot-dense")
    return estimator


def _with(estimator: Any, **attributes: Any) -> Any:
    made = copy(estimator)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def register_indicator() -> None:
    """Make sklearn's MissingIndicator known to skl2onnx."""
    update_registered_converter(MissingIndicator, "RingpullMissingIndicator", _shapes, _convert)


def _shapes(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = FloatTensorType([rows, len(operator.raw_operator.features_)])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    indicator, result = operator.raw_operator, operator.outputs[0].full_name
    given = f"{result}/given"
    inputs = [each.full_name for each in operator.inputs]
    container.add_node("Concat", inputs, given, axis=1, op_version=13, name=f"{given}/concat")
    container.add_node("Cast", given, f"{result}/numbers", to=TensorProto.FLOAT, op_version=13, name=f"{result}/float")
    missing = indicator.missing_values
    if isinstance(missing, float) and np.isnan(missing):
        container.add_node("IsNaN", f"{result}/numbers", f"{result}/is", op_version=13, name=f"{result}/isnan")
    else:
        container.add_initializer(f"{result}/missing", TensorProto.FLOAT, [], [float(missing)])
        equal = [f"{result}/numbers", f"{result}/missing"]
        container.add_node("Equal", equal, f"{result}/is", op_version=13, name=f"{result}/equal")
    chosen = np.asarray(indicator.features_, np.int64)
    container.add_initializer(f"{result}/columns", TensorProto.INT64, [len(chosen)], chosen.tolist())
    taken = [f"{result}/is", f"{result}/columns"]
    container.add_node("Gather", taken, f"{result}/taken", axis=1, op_version=13, name=f"{result}/gather")
    container.add_node("Cast", f"{result}/taken", result, to=TensorProto.FLOAT, op_version=13, name=f"{result}/cast")
