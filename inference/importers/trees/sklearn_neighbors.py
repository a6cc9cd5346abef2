"""Neighbors of sklearn that count by their distances, whose weights skl2onnx gets wrong.

It turns distances negative and then takes no less than 1e-6 of them, so that all weights are equal. Here they are made
anew, of the neighbors that its graph finds: as float64, and where one lies on the row itself, of those that do alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ringpull.ps.errors import InvalidInput

NEIGHBORS: Final = ("KNeighborsClassifier", "KNeighborsRegressor")
_METRIC: Final = "euclidean"
_FOUND: Final = ("Scan", "TopK", "Reciprocal")
_PREFIX: Final = "neighbors"


def by_distance(last: Any) -> bool:
    """Return whether an estimator is one whose neighbors count by their distances."""
    return type(last).__name__ in NEIGHBORS and last.weights == "distance"


def refuse_other_weights(last: Any) -> None:
    """Refuse neighbors that count by something else than Euclidean distances.

    Raises:
        InvalidInput: They do; the message says what instead.
    """
    name = type(last).__name__
    if name not in NEIGHBORS or last.weights in ("uniform", None):
        return
    if last.weights != "distance":
        raise InvalidInput(
            f"{name}(weights={last.weights!r:.60}) weighs by a function, which is not exported: fit it with"
            " weights='uniform' or 'distance'"
        )
    if last.effective_metric_ != _METRIC or not isinstance(last._fit_X, np.ndarray):
        what = f"metric {last.effective_metric_!r:.60}" if last.effective_metric_ != _METRIC else "sparse rows"
        raise InvalidInput(
            f"{name}(weights='distance') weighs by Euclidean distances of dense rows here, not by its {what}: fit it"
            " with weights='uniform' or on such"
        )


def weigh_by_distance(graph: ModelProto, last: Any) -> None:
    """Make the weights of a graph of neighbors anew.

    Raises:
        InvalidInput: Distances, neighbors and weights are not where skl2onnx puts them.
    """
    scan, top, weights = (_only(graph, kind) for kind in _FOUND)
    rows, places, result = scan.input[0], top.output[1], weights.output[0]
    constants = {
        "fitted": np.asarray(last._fit_X, np.float64),
        "one": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "zero": np.array(0.0),
    }
    names = {key: f"{_PREFIX}/{key}" for key in constants}
    graph.graph.initializer.extend(numpy_helper.from_array(each, names[key]) for key, each in constants.items())
    made: list[NodeProto] = []

    def node(kind: str, *given: str, **attributes: Any) -> str:
        name = f"{_PREFIX}/{len(made)}"
        made.append(helper.make_node(kind, given, [name], name, **attributes))
        return name

    asked = node("Unsqueeze", node("Cast", rows, to=TensorProto.DOUBLE), names["one"])
    apart = node("Sub", node("Gather", names["fitted"], places, axis=0), asked)
    distances = node("Sqrt", node("ReduceSum", node("Mul", apart, apart), names["last"], keepdims=0))
    on_it = node("Cast", node("Equal", distances, names["zero"]), to=TensorProto.DOUBLE)
    any_on_it = node("Cast", node("ReduceMax", on_it, axes=[1], keepdims=1), to=TensorProto.BOOL)
    chosen = node("Where", any_on_it, on_it, node("Reciprocal", distances))
    node("Cast", chosen, to=TensorProto.FLOAT)
    made[-1].output[0] = result
    place = list(graph.graph.node).index(weights)
    del graph.graph.node[place]
    for each in reversed(made):
        graph.graph.node.insert(place, each)


def _only(graph: ModelProto, kind: str) -> NodeProto:
    found = [each for each in graph.graph.node if each.op_type == kind]
    if len(found) != 1:
        raise InvalidInput(f"neighbors weighed by distance: skl2onnx makes {len(found)} {kind} of them, not one")
    return found[0]
