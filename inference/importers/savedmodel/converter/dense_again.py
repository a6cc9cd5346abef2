"""Sparse tensors that are made dense again, as indicator columns do, written for the dense one that they came of.

Such a column takes the values that are there (`Where`, `GatherNd`), computes something of each, and puts them back into
their places (`SparseToDense`). How many there are differs from batch to batch, so none of it can be read by rows. The
same is computed of all values here, and a default taken where there was none.
"""

from __future__ import annotations

from typing import Any, Final

import tensorflow as tf

from ringpull.inference.importers.savedmodel.converter.pieces import become, built

_EACH_BY_ITSELF: Final = frozenset(
    {"Add", "AddV2", "Sub", "Mul", "Minimum", "Maximum", "FloorMod", "FloorDiv", "Cast", "Identity", "Fill", "Shape"}
    | {"Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual", "LogicalOr", "LogicalAnd", "LogicalNot"}
    | {"Select", "SelectV2"}
)
"""Ops that compute of each value without looking at the others, and those by which constants get as many."""


def take_dense(graph: Any) -> None:
    """Rewrite a graph's sparse tensors of a dense one that are made dense again."""
    for node in [each for each in graph.node if each.op == "SparseToDense"]:
        lifter = Lifter(graph)
        where = lifter.origin(node.input[0])
        values = lifter.lifted(node.input[2], where) if where.op == "Where" else None
        if values is None or values == node.input[2]:
            continue
        kind = tf.as_dtype(node.attr["T"].type)
        given = [(where.input[0], tf.bool), (values, kind), (node.input[3], kind)]
        graph.node.extend(lifter.made)
        graph.node.extend(built(f"{node.name}/ringpull", given, tf.where))
        become(node, f"{node.name}/ringpull/0", kind)


class Lifter:
    """Finds, for values taken out of a dense tensor by `Where`, the same computed of all of its values."""

    def __init__(self, graph: Any) -> None:
        self._by_name = {node.name: node for node in graph.node}
        self._lifted: dict[str, str | None] = {}
        self.made: list[Any] = []

    def origin(self, tensor: str) -> Any:
        """Return the op that a tensor comes of."""
        node = self._by_name[tensor.split(":")[0]]
        while node.op == "Identity":
            node = self._by_name[node.input[0].split(":")[0]]
        return node

    def lifted(self, tensor: str, where: Any) -> str | None:
        """Return the tensor that is computed of all values; itself where it depends on none; None: it cannot be."""
        node = self._by_name[tensor.split(":")[0]]
        if node.name not in self._lifted:
            self._lifted[node.name] = self._lift(node, where)
        found = self._lifted[node.name]
        return tensor if found == node.name else found

    def _lift(self, node: Any, where: Any) -> str | None:
        if node.op == "Const":
            return str(node.name)
        if node.op == "GatherNd":
            return str(node.input[0]) if self.origin(node.input[1]) is where else None
        table = node.op == "GatherV2" and self.origin(node.input[0]).op == "Const" and not node.attr["batch_dims"].i
        if node.op not in _EACH_BY_ITSELF and not table:
            return None
        inputs = [self.lifted(each, where) for each in node.input]
        taken = [each for each in inputs if each is not None]
        if len(taken) < len(inputs):
            return None
        if taken == list(node.input):
            return str(node.name)
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        copy.name = f"{node.name}/ringpull_of_{where.name}"
        del copy.input[:]
        copy.input.extend(taken)
        copy.attr.pop("_output_shapes", None)
        self.made.append(copy)
        self._by_name[copy.name] = copy
        return str(copy.name)
