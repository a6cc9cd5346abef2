"""XGBoost: a booster's own JSON becomes a forest.

XGBoost holds numbers as float32 and compares `<`, so a forest of float32 sends every row the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xgboost
from numpy.typing import NDArray

from ringpull.inference.importers.forest import Forest, Tree
from ringpull.inference.importers.trees.margins import BoostedTrees, Link
from ringpull.inference.importers.trees.trial import check_readable
from ringpull.ps.errors import CorruptData, InvalidInput

_LINKS: Final[dict[str, Link]] = {
    "binary:logistic": "sigmoid",
    "reg:logistic": "sigmoid",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "binary:hinge": "step",
    "multi:softprob": "softmax",
    "multi:softmax": "class",
    "binary:logitraw": "identity",
    "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:absoluteerror": "identity",
    "reg:quantileerror": "identity",
    "rank:pairwise": "identity",
    "rank:ndcg": "identity",
    "rank:map": "identity",
}
"""What an objective makes predictions of margins by."""


def read_xgboost(path: Path) -> Any:
    """Read a booster that XGBoost saved as JSON or UBJSON.

    Raises:
        CorruptData: The file is none.
    """
    check_readable(path, "XGBoost")
    booster = xgboost.Booster()
    try:
        booster.load_model(str(path))
    except Exception as exc:  # XGBoost's own, with its C++ trace behind
        raise CorruptData(f"{path}: XGBoost does not read it: {str(exc).strip().splitlines()[0]:.300}") from exc
    return booster


def forest_of_xgboost(booster: Any) -> BoostedTrees:
    """Return the forest of an XGBoost booster, up to its best iteration where it stopped early.

    Raises:
        InvalidInput: It is linear, its leaves are vectors, or its objective is not known here.
    """
    booster = _best(booster)
    learner: Mapping[str, Any] = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = str(learner["objective"]["name"])
    if objective not in _LINKS:
        raise InvalidInput(f"XGBoost objective {objective!r} is not known here; known are {', '.join(sorted(_LINKS))}")
    gradient: Mapping[str, Any] = learner["gradient_booster"]
    weights = gradient.get("weight_drop")
    gradient = gradient.get("gbtree", gradient)
    if "model" not in gradient or "trees" not in gradient["model"]:
        raise InvalidInput(f"XGBoost booster {gradient.get('name')!r} is not of trees; gbtree and dart are")
    model = gradient["model"]
    drop = [1.0] * len(model["trees"]) if weights is None else [float(each) for each in weights]
    trees = [
        _tree(number, each, int(target), weight)
        for number, (each, target, weight) in enumerate(zip(model["trees"], model["tree_info"], drop, strict=True))
    ]
    link = _LINKS[objective]
    parameters = learner["learner_model_param"]
    targets = max(1, int(parameters.get("num_class", 0)), int(parameters.get("num_target", 1)))
    base = _base(str(parameters["base_score"]), targets, link, objective)
    columns = {int(tree.column[node]) for tree in trees for node in tree.sets}
    return BoostedTrees(
        Forest(trees, targets, "BRANCH_LT", base), link, whole_columns=tuple(sorted(columns)), rounding="down"
    )


def predicted_by_xgboost(booster: Any, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a booster itself predicts of a matrix (B, columns): (B, targets)."""
    best = _best(booster)
    data = xgboost.DMatrix(matrix, feature_names=best.feature_names, feature_types=best.feature_types)
    found: NDArray[np.float32] = best.predict(data)
    return found.reshape(len(matrix), -1)


def _best(booster: Any) -> Any:
    """Return a booster of the rounds that it predicts with."""
    try:
        rounds = int(booster.best_iteration) + 1
    except AttributeError:
        return booster
    return booster if rounds >= booster.num_boosted_rounds() else booster[:rounds]


def _base(text: str, targets: int, link: Link, objective: str) -> NDArray[np.float64]:
    """Return the margins that sums begin with, of the scores that the file has."""
    scores = np.asarray(json.loads(text), np.float64).reshape(-1)
    if len(scores) not in (1, targets):
        raise InvalidInput(f"XGBoost base_score has {len(scores)} numbers for {targets} outputs")
    scores = np.broadcast_to(scores, (targets,))
    if link == "sigmoid" or objective == "binary:logitraw":
        return np.log(scores / (1 - scores)) if objective != "binary:logitraw" else scores.copy()
    return np.log(scores) if link == "exp" else scores.copy()


def _tree(number: int, tree: Mapping[str, Any], target: int, weight: float) -> Tree:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise InvalidInput(
            "XGBoost trees of vectors (multi_strategy='multi_output_tree') are not taken; train one output per tree"
        )
    left = np.asarray(tree["left_children"], np.int64)
    right = np.asarray(tree["right_children"], np.int64)
    conditions = np.asarray(tree["split_conditions"], np.float32)
    leaf = left < 0
    first, second = left.copy(), right.copy()
    missing_first = np.asarray(tree["default_left"], np.bool_).copy()
    sets = _sets(tree)
    for node in sets:  # a category of the set goes right
        first[node], second[node] = right[node], left[node]
        missing_first[node] = not missing_first[node]
    return Tree(
        column=np.where(leaf, -1, np.asarray(tree["split_indices"], np.int64)),
        threshold=np.where(leaf, np.float32(0), conditions).astype(np.float32),
        first=first,
        second=second,
        missing_first=missing_first,
        leaf=np.where(leaf, conditions.astype(np.float64) * weight, 0.0),
        target=target,
        sets=sets,
    )


def _sets(tree: Mapping[str, Any]) -> dict[int, list[float]]:
    nodes, segments, sizes = (tree.get(f"categories_{part}", []) for part in ("nodes", "segments", "sizes"))
    members = tree.get("categories", [])
    return {
        int(node): [float(each) for each in members[begin : begin + size]]
        for node, begin, size in zip(nodes, segments, sizes, strict=True)
    }
