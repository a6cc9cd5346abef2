"""LightGBM: a booster's own dump becomes a forest.

LightGBM compares float64. What is served is float32, and for float32 numbers `x <= t` is `x <= floor_float32(t)`. It
takes numbers as near to 0 as `_ZERO` for 0 itself: thresholds among them, which its bins put around 0, are moved out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.forest import Forest, Tree, floor_float32
from ringpull.inference.importers.trees.margins import BoostedTrees, Link
from ringpull.inference.importers.trees.trial import check_readable
from ringpull.ps.errors import CorruptData, InvalidInput

_LINKS: Final[dict[str, Link]] = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multiclassova": "sigmoid",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "softplus",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "custom": "identity",
}
"""What an objective makes predictions of raw scores by."""

_FIRST_LINE: Final = b"tree"
_ZERO: Final = np.float32(1e-35)
"""LightGBM's `kZeroThreshold`."""


def read_lightgbm(path: Path) -> Any:
    """Read a booster that LightGBM saved as text.

    Raises:
        CorruptData: The file is none.
    """
    try:
        with path.open("rb") as file:
            if file.readline(64).strip() != _FIRST_LINE:
                raise CorruptData(f"{path}: is no model of LightGBM: its text begins with a line that says 'tree'")
        check_readable(path, "LightGBM")
        return lightgbm.Booster(model_file=str(path))
    except (lightgbm.basic.LightGBMError, ValueError, OSError) as exc:
        raise CorruptData(f"{path}: LightGBM does not read it: {exc}") from exc


def forest_of_lightgbm(booster: Any) -> BoostedTrees:
    """Return the forest of a LightGBM booster, up to its best iteration where it stopped early.

    Raises:
        InvalidInput: It has linear leaves, takes 0 for missing, or its objective is not known here.
    """
    dump: Mapping[str, Any] = booster.dump_model(num_iteration=max(0, booster.best_iteration))
    objective, *settings = str(dump.get("objective", "custom")).split() or ["custom"]
    if objective not in _LINKS:
        raise InvalidInput(f"LightGBM objective {objective!r} is not known here; known are {', '.join(sorted(_LINKS))}")
    link = _LINKS[objective]
    if "sqrt" in settings:
        link = "signed_square"
    targets = int(dump["num_tree_per_iteration"])
    trees = [_Reader(number % targets).tree(each) for number, each in enumerate(dump["tree_info"])]
    if dump.get("average_output"):
        rounds = max(1, len(trees) // targets)
        for tree in trees:
            tree.leaf[:] /= rounds
    columns = {int(tree.column[node]) for tree in trees for node in tree.sets}
    return BoostedTrees(
        Forest(trees, targets, "BRANCH_LEQ", np.zeros(targets)),
        link,
        scale=_steepness(settings) if link == "sigmoid" else 1.0,
        whole_columns=tuple(sorted(columns)),
    )


def predicted_by_lightgbm(booster: Any, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what a booster itself predicts of a matrix (B, columns): (B, targets)."""
    found: NDArray[np.float64] = booster.predict(matrix)
    return found.reshape(len(matrix), -1)


def _steepness(settings: list[str]) -> float:
    given = [each.partition(":")[2] for each in settings if each.startswith("sigmoid:")]
    return float(given[0]) if given else 1.0


def _around_zero(thresholds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return thresholds (n,) that send all numbers up to `_ZERO` from 0 the way that 0 goes."""
    below = np.nextafter(-_ZERO, np.float32(-np.inf))
    moved = np.where((thresholds >= 0) & (thresholds < _ZERO), _ZERO, thresholds)
    return np.where((moved < 0) & (moved >= -_ZERO), below, moved).astype(np.float32)


class _Reader:
    """A reader of one tree."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._nodes: list[tuple[int, float, int, int, bool, float]] = []
        self._sets: dict[int, list[float]] = {}

    def tree(self, given: Mapping[str, Any]) -> Tree:
        """Read a tree: its nodes as they are met, depth first, without recursion."""
        waiting: list[tuple[Mapping[str, Any], int, int]] = [(given["tree_structure"], -1, 0)]
        while waiting:
            node, parent, side = waiting.pop()
            number = len(self._nodes)
            if parent >= 0:
                column, threshold, left, right, to_left, leaf = self._nodes[parent]
                left, right = (number, right) if side == 0 else (left, number)
                self._nodes[parent] = (column, threshold, left, right, to_left, leaf)
            if "leaf_value" in node:
                if node.get("leaf_coeff"):
                    raise InvalidInput("LightGBM leaves are linear models (linear_tree); train with linear_tree=False")
                self._nodes.append((-1, 0.0, 0, 0, False, float(node["leaf_value"])))
                continue
            self._nodes.append((int(node["split_feature"]), *self._split(number, node), 0.0))
            waiting += [(node["right_child"], number, 1), (node["left_child"], number, 0)]
        columns, thresholds, first, second, missing, leaves = zip(*self._nodes, strict=True)
        return Tree(
            column=np.array(columns, np.int64),
            threshold=_around_zero(floor_float32(np.array(thresholds, np.float64))),
            first=np.array(first, np.int64),
            second=np.array(second, np.int64),
            missing_first=np.array(missing, np.bool_),
            leaf=np.array(leaves, np.float64),
            target=self._target,
            sets=self._sets,
        )

    def _split(self, number: int, node: Mapping[str, Any]) -> tuple[float, int, int, bool]:
        """Return threshold, no children yet, and whether NaN goes left."""
        if node["decision_type"] == "==":
            self._sets[number] = [float(each) for each in str(node["threshold"]).split("||")]
            return 0.0, 0, 0, False  # NaN is no category: it goes right
        threshold, missing = float(node["threshold"]), node["missing_type"]
        if missing == "Zero":
            raise InvalidInput(
                "LightGBM takes 0 for missing here (zero_as_missing); train with zero_as_missing=False, and NaN for"
                " what is missing"
            )
        # Without a missing type NaN is compared as 0.
        return threshold, 0, 0, bool(node["default_left"]) if missing == "NaN" else threshold >= 0
