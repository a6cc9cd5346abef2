"""sklearn's histogram gradient boosting: its own trees become a forest, as skl2onnx does not take all of them.

It compares float64, as LightGBM does: `x <= t` is `x <= floor_float32(t)` for what is served.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ringpull.inference.importers.forest import Forest, Tree, floor_float32
from ringpull.inference.importers.trees.margins import BoostedTrees, Link
from ringpull.ps.errors import InvalidInput

_LINKS: Final[dict[str, Link]] = {
    "IdentityLink": "identity",
    "LogLink": "exp",
    "LogitLink": "sigmoid",
    "HalfLogitLink": "sigmoid",
    "MultinomialLogit": "softmax",
}


def forest_of_hist(model: Any) -> BoostedTrees:
    """Return the forest of a HistGradientBoostingClassifier or -Regressor.

    Raises:
        InvalidInput: It has columns of categories, or a link that is not known here.
    """
    name = type(model).__name__
    if model.is_categorical_ is not None and np.any(model.is_categorical_):
        raise InvalidInput(
            f"{name}: columns of categories (categorical_features) are not taken; encode them before it, as by"
            " OneHotEncoder in a ColumnTransformer"
        )
    link = _LINKS.get(type(model._loss.link).__name__)
    if link is None:
        raise InvalidInput(f"{name}: its loss {type(model._loss).__name__} is not known here")
    trees = [_tree(predictor.nodes, target) for rounds in model._predictors for target, predictor in enumerate(rounds)]
    base = np.asarray(model._baseline_prediction, np.float64).reshape(-1)
    return BoostedTrees(Forest(trees, len(base), "BRANCH_LEQ", base), link)


def _tree(nodes: Any, target: int) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        column=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
        threshold=floor_float32(np.where(leaf, 0.0, nodes["num_threshold"])),
        first=nodes["left"].astype(np.int64),
        second=nodes["right"].astype(np.int64),
        missing_first=nodes["missing_go_to_left"].astype(bool),
        leaf=np.where(leaf, nodes["value"], 0.0),
        target=target,
    )
