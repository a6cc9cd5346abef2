"""TreeModel: nodes with predicates, and what is done where a predicate is unknown, or none is true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.predicates import PREDICATES, Predicate, read_predicate

_STRATEGIES: Final = ("none", "lastPrediction", "nullPrediction", "defaultChild")


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One node."""

    predicate: Predicate
    children: tuple[int, ...]
    """Numbers of its children, in their order."""
    score: str | None
    shares: dict[str, float]
    """Part of each class among its rows, adding up to 1; none where it says nothing of them."""
    default: int | None
    """Number of the child that is taken where a predicate is unknown."""
    line: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree; node 0 is the root."""

    nodes: tuple[TreeNode, ...]
    missing: str
    """Strategy where a predicate is unknown: none, lastPrediction, nullPrediction, defaultChild."""
    last_if_none: bool
    """Whether a node's own score is taken where none of its children's predicates is true; else there is none."""
    classes: tuple[str, ...]
    """Classes, in order; none of a regression."""
    line: int


def read_tree(element: Element, classes: tuple[str, ...]) -> Tree:
    """Read a TreeModel.

    Raises:
        InvalidInput: It has what is not known here.
    """
    element.only("MiningSchema", "Output", "Targets", "LocalTransformations", "Node")
    missing = element.choice("missingValueStrategy", _STRATEGIES, "none")
    last = element.choice(
        "noTrueChildStrategy", ("returnNullPrediction", "returnLastPrediction"), "returnNullPrediction"
    )
    of_classes = element.get("functionName") == "classification"
    elements = [element.need("Node")]
    children: list[list[int]] = []
    for node in elements:  # grows: breadth first
        inner = [each for each in node.only("Node", "ScoreDistribution", *PREDICATES) if each.tag == "Node"]
        children.append(list(range(len(elements), len(elements) + len(inner))))
        elements += inner
    nodes = []
    for node, own in zip(elements, children, strict=True):
        if not of_classes and "score" in node.attributes:
            node.number("score")
        default = None
        if own and "defaultChild" in node.attributes:
            named = [each for each in own if elements[each].get("id") == node.get("defaultChild")]
            if not named:
                raise node.refusal(f"has no child {node.get('defaultChild')[:80]!r}, its defaultChild")
            default = named[0]
        if own and missing == "defaultChild" and default is None:
            raise node.refusal("has no defaultChild, which missingValueStrategy='defaultChild' needs")
        score = node.attributes.get("score")
        shares = _shares(node, score) if of_classes else {}
        nodes.append(TreeNode(read_predicate(node), tuple(own), score, shares, default, node.line))
    found: dict[str, None] = {}
    if of_classes:
        found = dict.fromkeys(classes)
        for each in nodes:
            found.update(dict.fromkeys([*each.shares, *([] if each.score is None else [each.score])]))
    return Tree(tuple(nodes), missing, last == "returnLastPrediction", tuple(found), element.line)


def _shares(node: Element, score: str | None) -> dict[str, float]:
    found = node.all("ScoreDistribution")
    if not found:
        return {} if score is None else {score: 1.0}
    if all("probability" in each.attributes for each in found):
        return {each.attribute("value"): each.number("probability") for each in found}
    counts = {each.attribute("value"): each.number("recordCount") for each in found}
    total = sum(counts.values())
    if total <= 0 or min(counts.values()) < 0:
        raise node.refusal("has a <ScoreDistribution> whose recordCounts are not above 0 together")
    return {name: each / total for name, each in counts.items()}
