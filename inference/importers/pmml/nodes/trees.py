"""TreeModels as nodes of a graph: one operator tells of every row the leaf it ends in, of all trees of a forest.

The operator compares float64 columns: fields as they are, and of predicates that are no comparison of a number a column
of their own, 1, 0 or NaN. What leaves say is picked from a table by their numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ringpull.inference.importers.forest import ML_DOMAIN
from ringpull.inference.importers.pmml.fields import as_single
from ringpull.inference.importers.pmml.kinds.tree import Tree, TreeNode
from ringpull.inference.importers.pmml.nodes.graph import DOUBLE, Graph, Number, constant_number
from ringpull.inference.importers.pmml.nodes.predicates import build_predicate, column_of
from ringpull.inference.importers.pmml.nodes.scope import Scope
from ringpull.inference.importers.pmml.predicates import Always, Compared, opposite
from ringpull.ps.errors import InvalidInput

_MODES: Final = {
    "lessThan": "BRANCH_LT",
    "lessOrEqual": "BRANCH_LEQ",
    "greaterThan": "BRANCH_GT",
    "greaterOrEqual": "BRANCH_GTE",
    "equal": "BRANCH_EQ",
}
_MAX_LEAVES: Final = 1 << 24
"""Leaves of one tree: float32, which the operator gives, counts so far."""

_FRAMES: Final = 50_000
"""Calls within each other while a tree is walked: some for each level, and for each child of a node."""

_Maker = Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Test:
    """A column compared with a number: true, or false, or unknown where the column is NaN."""

    column: str
    mode: str
    threshold: float


@dataclass(slots=True)
class _Nodes:
    """Nodes of one tree as the operator takes them."""

    columns: list[int] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    unknown_yes: list[int] = field(default_factory=list)
    leaves: dict[int, int] = field(default_factory=dict)
    """Row of the table of leaves, by node."""

    def add(self, mode: str, column: int = 0, threshold: float = 0.0, *, unknown_yes: bool = False) -> int:
        self.columns.append(column)
        self.modes.append(mode)
        self.thresholds.append(threshold)
        self.yes.append(0)
        self.no.append(0)
        self.unknown_yes.append(int(unknown_yes))
        return len(self.columns) - 1


class Forest:
    """Trees that are walked together."""

    def __init__(self, graph: Graph, classes: Sequence[str]) -> None:
        self._graph = graph
        self._classes = tuple(classes)
        self._columns: dict[str, int] = {}
        self._trees: list[_Nodes] = []
        self._rows: list[NDArray[np.float64]] = []
        self._starts: list[int] = []

    def add(self, scope: Scope, tree: Tree) -> None:
        """Add a tree.

        Raises:
            InvalidInput: A field is not there, or the tree has too many leaves.
        """
        self._starts.append(len(self._rows))
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _FRAMES))
        try:
            made = _Walker(self, scope, tree).made()
        finally:
            sys.setrecursionlimit(limit)
        if len(made.leaves) >= _MAX_LEAVES:
            raise InvalidInput(f"line {tree.line}: <TreeModel> has {len(made.leaves):,} leaves, too many")
        self._trees.append(made)

    @property
    def trees(self) -> int:
        """How many there are."""
        return len(self._trees)

    def column(self, tensor: str) -> int:
        """Return the place of a column (B, 1)."""
        return self._columns.setdefault(tensor, len(self._columns))

    def leaf(self, node: TreeNode | None) -> int:
        """Return the row of a leaf that says what a node does; None: that there is no prediction."""
        row = np.full(1 + len(self._classes), np.nan)
        if node is not None and not self._classes:
            row[0] = np.nan if node.score is None else constant_number(node.score)
        elif node is not None and (node.score is not None or node.shares):
            row[1:] = [node.shares.get(each, 0.0) for each in self._classes]
            row[0] = np.argmax(row[1:]) if node.score is None else self._classes.index(node.score)
        self._rows.append(row)
        return len(self._rows) - 1 - self._starts[-1]

    def made(self) -> str:
        """Return what leaves say, float64 (B, trees, 1 + classes): the score or place of the class, and the shares."""
        graph = self._graph
        if not self._columns:
            self._columns[graph.full(graph.constant(0.0))] = 0
        matrix = graph.joined([graph.full_column(each) for each in self._columns])
        trees = [each for each, tree in enumerate(self._trees) for _ in tree.columns]
        nodes = [each for tree in self._trees for each in range(len(tree.columns))]
        leaves = [(number, node, row) for number, tree in enumerate(self._trees) for node, row in tree.leaves.items()]
        thresholds = np.concatenate([each.thresholds for each in self._trees])

        def all_of(name: str) -> list[Any]:
            return [each for tree in self._trees for each in getattr(tree, name)]

        found = graph.node(
            "TreeEnsembleRegressor",
            [matrix],
            ML_DOMAIN,
            nodes_treeids=trees,
            nodes_nodeids=nodes,
            nodes_featureids=all_of("columns"),
            nodes_modes=all_of("modes"),
            nodes_values_as_tensor=helper.make_tensor("thresholds", DOUBLE, [len(thresholds)], thresholds),
            nodes_truenodeids=all_of("yes"),
            nodes_falsenodeids=all_of("no"),
            nodes_missing_value_tracks_true=all_of("unknown_yes"),
            target_treeids=[each for each, _, _ in leaves],
            target_nodeids=[each for _, each, _ in leaves],
            target_ids=[each for each, _, _ in leaves],
            target_weights_as_tensor=helper.make_tensor(
                "leaves", DOUBLE, [len(leaves)], [float(each) for _, _, each in leaves]
            ),
            n_targets=len(self._trees),
        )
        places = graph.node("Add", [graph.cast(found, 7), graph.tensor([self._starts], np.int64)])
        return graph.node("Gather", [graph.tensor(np.stack(self._rows)), places], axis=0)


class _Walker:
    """A maker of one tree's nodes."""

    def __init__(self, forest: Forest, scope: Scope, tree: Tree) -> None:
        self._forest = forest
        self._scope = scope
        self._tree = tree
        self._nodes = _Nodes()

    def made(self) -> _Nodes:
        """Return the nodes; the root's own predicate is asked, too."""
        root = self._tree.nodes[0]
        self._asked(self._test(root), lambda: self._node(root), lambda: self._leaf(None), lambda: self._leaf(None))
        return self._nodes

    def _leaf(self, node: TreeNode | None) -> int:
        made = self._nodes.add("LEAF")
        self._nodes.leaves[made] = self._forest.leaf(node)
        return made

    def _test(self, node: TreeNode) -> _Test | bool:
        """Return what tells whether a node's predicate is true."""
        predicate, graph = node.predicate, self._scope.graph
        if isinstance(predicate, Always):
            return predicate.holds
        if isinstance(predicate, Compared) and predicate.operator in _MODES:
            value = self._scope.value(predicate.field, predicate.line)
            threshold = constant_number(predicate.value)
            if isinstance(value, Number) and not np.isnan(threshold):
                threshold = as_single(threshold) if value.single else threshold
                return _Test(value.name, _MODES[predicate.operator], threshold)
        return _Test(column_of(graph, build_predicate(self._scope, predicate)), "BRANCH_GT", 0.5)

    def _asked(self, test: _Test | bool, yes: _Maker, no: _Maker, unknown: _Maker | bool) -> int:
        """Add the node of a test.

        Args:
            test: What is asked.
            yes: Maker of what follows where it is true.
            no: Where it is false.
            unknown: Where it is unknown; True and False: what follows where it is true, or false.
        """
        if isinstance(test, bool):
            return yes() if test else no()
        nodes, column = self._nodes, self._forest.column(test.column)
        if not isinstance(unknown, bool):
            known = nodes.add("BRANCH_LEQ", column, np.inf)
            nodes.yes[known] = self._asked(test, yes, no, False)
            nodes.no[known] = unknown()
            return known
        made = nodes.add(test.mode, column, test.threshold, unknown_yes=unknown)
        nodes.yes[made], nodes.no[made] = yes(), no()
        return made

    def _node(self, node: TreeNode) -> int:
        if not node.children:
            return self._leaf(node)
        children = [self._tree.nodes[each] for each in node.children]
        if self._tree.missing == "defaultChild":
            simple = len(children) == 2 and (
                opposite(children[0].predicate, children[1].predicate) or children[1].predicate == Always(True)
            )
            if simple:
                to_first = node.default == node.children[0]
                first, second = (self._maker(each) for each in children)
                return self._asked(self._test(children[0]), first, second, to_first)
            return self._chosen(node, children)
        return self._child(node, children, 0)

    def _maker(self, node: TreeNode) -> _Maker:
        return lambda: self._node(node)

    def _child(self, node: TreeNode, children: Sequence[TreeNode], place: int) -> int:
        """Add the tests of children from a place on, and the end where none is true."""
        if place == len(children):
            return self._leaf(node if self._tree.last_if_none else None)
        strategies: Mapping[str, _Maker | bool] = {
            "none": False,
            "lastPrediction": lambda: self._leaf(node),
            "nullPrediction": lambda: self._leaf(None),
        }
        if (
            place == len(children) - 2
            and self._tree.missing == "none"
            and children[place + 1].predicate == Always(True)
        ):
            return self._asked(
                self._test(children[place]), self._maker(children[place]), self._maker(children[-1]), False
            )
        unknown = strategies[self._tree.missing]
        return self._asked(
            self._test(children[place]),
            self._maker(children[place]),
            lambda: self._child(node, children, place + 1),
            unknown,
        )

    def _chosen(self, node: TreeNode, children: Sequence[TreeNode]) -> int:
        """Add nodes that go by the place of the child, which the graph computes: no child is there twice."""
        graph = self._scope.graph
        place = graph.tensor([[-1.0]])
        assert node.default is not None
        default = graph.tensor([[float(node.children.index(node.default))]])
        for number in range(len(children) - 1, -1, -1):
            truth = build_predicate(self._scope, children[number].predicate)
            if truth.unknown is not None:
                place = graph.where(truth.unknown, default, place)
            place = graph.where(truth.true, graph.tensor([[float(number)]]), place)
        column = graph.full_column(place)

        def child(number: int) -> int:
            if number == len(children):
                return self._leaf(node if self._tree.last_if_none else None)
            test = _Test(column, "BRANCH_EQ", float(number))
            return self._asked(test, self._maker(children[number]), lambda: child(number + 1), False)

        return child(0)
