"""ClusteringModel as nodes of a graph."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.pmml.kinds.clustering import ClusterField, Clustering
from ringpull.inference.importers.pmml.nodes.graph import Graph
from ringpull.inference.importers.pmml.nodes.result import Result, largest, summed
from ringpull.inference.importers.pmml.nodes.scope import Scope


def build_clustering(scope: Scope, body: Clustering) -> Result:
    """Return the nearest center of each row, and its distances from all: (B, clusters).

    Raises:
        InvalidInput: A field is not there.
    """
    graph = scope.graph
    centers = np.array(body.centers)
    parts, missing = [], []
    for place, each in enumerate(body.fields):
        column = graph.full_column(scope.number(each.field, each.line).name)
        missing.append(graph.node("IsNaN", [column]))
        compared = _compared(graph, each, column, centers[None, :, place])
        parts.append(_raised(graph, body, compared, each.weight))
    weights = np.array([each.missing_weight for each in body.fields])
    there = graph.where(graph.joined(missing), graph.tensor([[0.0]]), graph.tensor(weights[None]))
    adjusted = graph.node("Div", [graph.tensor([[weights.sum()]]), summed(graph, there)])
    zero = graph.tensor([[0.0]])
    known = [graph.where(lost, zero, part) for lost, part in zip(missing, parts, strict=True)]
    total = graph.node("Max" if body.measure == "chebychev" else "Sum", known)
    total = graph.node("Mul", [total, adjusted])
    if body.measure == "euclidean":
        total = graph.node("Sqrt", [total])
    elif body.measure == "minkowski":
        total = graph.node("Pow", [total, graph.tensor(1 / body.power)])
    distances = graph.where(graph.both(missing), graph.tensor([[np.nan]]), total)
    return Result(largest(graph, graph.node("Neg", [distances])), distances=distances)


def _compared(graph: Graph, field: ClusterField, column: str, centers: NDArray[np.float64]) -> str:
    """Return how far a column is from the centers, (B, clusters)."""
    given = graph.tensor(centers)
    if field.comparison in ("delta", "equal"):
        same = graph.node("Equal", [column, given])
        return graph.cast(same if field.comparison == "equal" else graph.node("Not", [same]))
    apart = graph.node("Sub", [column, given])
    if field.comparison == "absDiff":
        return graph.node("Abs", [apart])
    scaled = graph.node("Mul", [graph.node("Mul", [apart, apart]), graph.tensor(-math.log(2) / field.scale**2)])
    return graph.node("Exp", [scaled])


def _raised(graph: Graph, body: Clustering, compared: str, weight: float) -> str:
    """Return the part of one field in a distance."""
    if body.measure in ("euclidean", "squaredEuclidean"):
        compared = graph.node("Mul", [compared, compared])
    elif body.measure == "minkowski":
        compared = graph.node("Pow", [compared, graph.tensor(body.power)])
    return compared if weight == 1 else graph.node("Mul", [compared, graph.tensor(weight)])
