"""Boosters of LightGBM and XGBoost, alone: one matrix in, what their `predict` gives out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ringpull.inference.importers.forest import ML_DOMAIN
from ringpull.inference.importers.trees.categories import lightgbm_categories, with_categories, xgboost_categories
from ringpull.inference.importers.trees.damaged import check_forest
from ringpull.inference.importers.trees.estimators import MATRIX, ConvertedEstimator, feature_names
from ringpull.inference.importers.trees.margins import OPSET, BoostedTrees
from ringpull.inference.schema.kinds import Dense
from ringpull.inference.schema.schema import Schema

PREDICTION: Final = "prediction"
_IR_VERSION: Final = 9


def converted_lightgbm(booster: Any) -> ConvertedEstimator:
    """Convert a booster of LightGBM, whose features are called as it calls its columns."""
    from ringpull.inference.importers.trees.lightgbm_model import forest_of_lightgbm, predicted_by_lightgbm

    names = feature_names(booster.feature_name())
    made = _converted(forest_of_lightgbm(booster), names, len(names), lambda rows: predicted_by_lightgbm(booster, rows))
    categories, notes = lightgbm_categories(booster)
    return with_categories(replace(made, notes=notes), categories)


def converted_xgboost(booster: Any) -> ConvertedEstimator:
    """Convert a booster of XGBoost; one that knows no names of its columns has one feature of all."""
    from ringpull.inference.importers.trees.xgboost_model import forest_of_xgboost, predicted_by_xgboost

    names = feature_names(booster.feature_names or ())
    made = _converted(
        forest_of_xgboost(booster), names, booster.num_features(), lambda rows: predicted_by_xgboost(booster, rows)
    )
    categories, notes = xgboost_categories(booster)
    return with_categories(replace(made, notes=notes), categories)


def matrix_schema(names: list[str], columns: int, *, takes_nan: bool) -> Schema:
    """Return the schema of a matrix (B, columns) called `MATRIX`: a feature for each name, or one of all."""
    missing = math.nan if takes_nan else None
    if not names:
        return Schema([Dense(MATRIX, columns, missing=missing)])
    if names == [MATRIX]:
        return Schema([Dense(MATRIX, missing=missing)])
    stack = MATRIX if MATRIX not in names else f"{MATRIX}_matrix"
    return Schema([Dense(name, missing=missing) for name in names], stacks={stack: names})


def by_feature(
    names: list[str], columns: int, thresholds: Mapping[int, NDArray[np.float32]]
) -> dict[str, list[NDArray[np.float32]]]:
    """Return thresholds by feature of `matrix_schema`, those of each of its columns."""
    none = np.empty(0, np.float32)
    all_columns = [thresholds.get(column, none) for column in range(columns)]
    return {MATRIX: all_columns} if not names else {name: [each] for name, each in zip(names, all_columns, strict=True)}


def matrix_argument(schema: Schema) -> str:
    """Return the argument that is the matrix."""
    return next(iter(schema.stacks), MATRIX)


def _converted(
    trees: BoostedTrees,
    names: list[str],
    columns: int,
    predicted: Callable[[NDArray[np.float32]], NDArray[Any]],
) -> ConvertedEstimator:
    check_forest(trees.forest, columns)
    schema = matrix_schema(names, columns, takes_nan=True)
    argument = matrix_argument(schema)
    nodes, initializers = trees.nodes(MATRIX, PREDICTION, columns)
    graph = helper.make_graph(
        nodes,
        "boosted trees",
        [helper.make_tensor_value_info(MATRIX, TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(PREDICTION, TensorProto.FLOAT, [None, None])],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, trees.forest.opset)]
    return ConvertedEstimator(
        graph=helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION),
        schema=schema,
        arguments={MATRIX: argument},
        outputs={PREDICTION: PREDICTION},
        scores=lambda arguments: {PREDICTION: predicted(arguments[argument])},
        thresholds=by_feature(names, columns, trees.forest.thresholds()),
    )
