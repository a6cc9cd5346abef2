"""A forest: trees that split on columns of a matrix and add up at their leaves, as nodes of an ONNX graph.

Sums are float32, as onnxruntime makes them. A source that compares float64 gives thresholds that float32 holds: of a
`<=`, the largest float32 that is not above (`floor_float32`), which sends every float32 the way that the source does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from ringpull.ps.errors import InvalidInput

ML_DOMAIN: Final = "ai.onnx.ml"
ML_OPSET: Final = 3
"""Version of the operators of a forest without sets; those with sets need `ML_OPSET_OF_SETS`."""
ML_OPSET_OF_SETS: Final = 5

Comparison = Literal["BRANCH_LEQ", "BRANCH_LT"]
"""What sends a row to the first child: column <= threshold, or <."""

_MODES: Final[dict[str, int]] = {"BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_MEMBER": 6}
_SUM: Final = 1
_NO_TRANSFORM: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree of n nodes, of which node 0 is the root."""

    column: NDArray[np.int64]
    """(n,): column that a node compares; -1 at leaves."""
    threshold: NDArray[np.float32]
    """(n,): what it is compared with; any where the node has a set."""
    first: NDArray[np.int64]
    """(n,): node for rows for which the comparison holds, or whose value is in the set."""
    second: NDArray[np.int64]
    """(n,): node for the others."""
    missing_first: NDArray[np.bool_]
    """(n,): whether NaN goes to the first."""
    leaf: NDArray[np.float64]
    """(n,): what a leaf adds."""
    target: int = 0
    """Column of the result that it adds to."""
    sets: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Values that send a row to the first child, by node: nodes that compare with several."""

    @property
    def leaves(self) -> NDArray[np.bool_]:
        """Which nodes are leaves (n,)."""
        return self.column < 0


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees whose leaves are summed by target."""

    trees: Sequence[Tree]
    targets: int
    comparison: Comparison
    base: NDArray[np.float64]
    """(targets,): what each sum begins with."""

    def __post_init__(self) -> None:
        if not self.trees:
            raise InvalidInput("the model has no trees: it gives the same score to every row")

    @property
    def has_sets(self) -> bool:
        """Whether a node compares with several values."""
        return any(tree.sets for tree in self.trees)

    @property
    def opset(self) -> int:
        """Version of the operators of `ML_DOMAIN` that it needs."""
        return ML_OPSET_OF_SETS if self.has_sets else ML_OPSET

    def node(self, given: str, result: str) -> NodeProto:
        """Return the node that makes sums (B, targets) called `result` of a matrix (B, columns) called `given`."""
        if self.has_sets:
            return _with_sets(self, given, result)
        return _without_sets(self, given, result)

    def thresholds(self) -> dict[int, NDArray[np.float32]]:
        """Return the numbers that each column is compared with, ascending, by column."""
        found: dict[int, list[NDArray[np.float32]]] = {}
        for tree in self.trees:
            inner = ~tree.leaves
            inner[list(tree.sets)] = False
            for column in np.unique(tree.column[inner]).tolist():
                found.setdefault(column, []).append(tree.threshold[inner & (tree.column == column)])
            for node, members in tree.sets.items():
                found.setdefault(int(tree.column[node]), []).append(np.asarray(members, np.float32))
        return {column: np.unique(np.concatenate(each)) for column, each in sorted(found.items())}


def floor_float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 numbers that are not above these (n,)."""
    with np.errstate(over="ignore"):
        near = numbers.astype(np.float32)
    return np.where(near > numbers, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def _without_sets(forest: Forest, given: str, result: str) -> NodeProto:
    trees = forest.trees
    modes: list[str] = []
    for tree in trees:
        modes += np.where(tree.leaves, "LEAF", forest.comparison).tolist()
    leaves = [np.flatnonzero(tree.leaves) for tree in trees]
    attributes: dict[str, Any] = {
        "nodes_treeids": np.repeat(np.arange(len(trees)), [len(tree.column) for tree in trees]),
        "nodes_nodeids": _joined([np.arange(len(tree.column)) for tree in trees]),
        "nodes_featureids": _joined([np.maximum(tree.column, 0) for tree in trees]),
        "nodes_values": _joined([np.where(tree.leaves, 0, tree.threshold) for tree in trees]).astype(np.float32),
        "nodes_truenodeids": _joined([np.where(tree.leaves, 0, tree.first) for tree in trees]),
        "nodes_falsenodeids": _joined([np.where(tree.leaves, 0, tree.second) for tree in trees]),
        "nodes_missing_value_tracks_true": _joined([tree.missing_first & ~tree.leaves for tree in trees]).astype(int),
        "target_treeids": np.repeat(np.arange(len(trees)), [len(each) for each in leaves]),
        "target_nodeids": _joined(leaves),
        "target_ids": np.repeat([tree.target for tree in trees], [len(each) for each in leaves]),
        "target_weights": _joined([tree.leaf[each] for tree, each in zip(trees, leaves, strict=True)]),
    }
    plain = {name: values.tolist() for name, values in attributes.items()}
    return helper.make_node(
        "TreeEnsembleRegressor",
        [given],
        [result],
        domain=ML_DOMAIN,
        nodes_modes=modes,
        n_targets=forest.targets,
        base_values=forest.base.tolist(),
        aggregate_function="SUM",
        post_transform="NONE",
        **plain,
    )


@dataclass(slots=True)
class _Flat:
    """Nodes and leaves of all trees, as the operator with sets takes them: apart from each other."""

    columns: list[int] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    first_leaf: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    second_leaf: list[int] = field(default_factory=list)
    missing_first: list[int] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tree: Tree, comparison: Comparison) -> None:
        leaves = tree.leaves
        places = np.where(leaves, np.cumsum(leaves) - 1 + len(self.weights), np.cumsum(~leaves) - 1 + len(self.columns))
        self.targets += [tree.target] * int(leaves.sum())
        self.weights += tree.leaf[leaves].tolist()
        self.roots.append(len(self.columns))
        if leaves[0]:  # a tree is at least one node that compares
            self._node(0, 0.0, _MODES[comparison], (int(places[0]), 1), (int(places[0]), 1), False)
            return
        for node in np.flatnonzero(~leaves).tolist():
            ways = [(int(places[child]), int(leaves[child])) for child in (tree.first[node], tree.second[node])]
            members = tree.sets.get(node)
            if members is not None:
                self.members += [*map(float, members), np.nan]
            mode = _MODES[comparison if members is None else "BRANCH_MEMBER"]
            threshold = float(tree.threshold[node]) if members is None else 0.0
            self._node(int(tree.column[node]), threshold, mode, ways[0], ways[1], bool(tree.missing_first[node]))

    def _node(
        self,
        column: int,
        threshold: float,
        mode: int,
        first: tuple[int, int],
        second: tuple[int, int],
        missing_first: bool,
    ) -> None:
        self.columns.append(column)
        self.thresholds.append(threshold)
        self.modes.append(mode)
        self.first.append(first[0])
        self.first_leaf.append(first[1])
        self.second.append(second[0])
        self.second_leaf.append(second[1])
        self.missing_first.append(int(missing_first))


def _with_sets(forest: Forest, given: str, result: str) -> NodeProto:
    flat = _Flat()
    for tree in forest.trees:
        flat.add(tree, forest.comparison)
    for target, base in enumerate(forest.base.tolist()):  # the operator has no base: a tree that is one leaf
        if base:
            flat.add(_constant(base, target), forest.comparison)

    def tensor(name: str, values: Sequence[float], kind: type[np.generic]) -> Any:
        return numpy_helper.from_array(np.asarray(values, kind), name)

    return helper.make_node(
        "TreeEnsemble",
        [given],
        [result],
        domain=ML_DOMAIN,
        n_targets=forest.targets,
        aggregate_function=_SUM,
        post_transform=_NO_TRANSFORM,
        tree_roots=flat.roots,
        nodes_featureids=flat.columns,
        nodes_splits=tensor("splits", flat.thresholds, np.float32),
        nodes_modes=tensor("modes", flat.modes, np.uint8),
        nodes_truenodeids=flat.first,
        nodes_trueleafs=flat.first_leaf,
        nodes_falsenodeids=flat.second,
        nodes_falseleafs=flat.second_leaf,
        nodes_missing_value_tracks_true=flat.missing_first,
        membership_values=tensor("members", flat.members, np.float32),
        leaf_targetids=flat.targets,
        leaf_weights=tensor("weights", flat.weights, np.float32),
    )


def _constant(value: float, target: int) -> Tree:
    nowhere = np.zeros(1, np.int64)
    return Tree(
        nowhere - 1, np.zeros(1, np.float32), nowhere, nowhere, np.zeros(1, np.bool_), np.array([value]), target
    )


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
