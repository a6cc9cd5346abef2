"""Ops that tf2onnx turns into something else, or not at all, written in those that it turns rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import tensorflow as tf

from ringpull.inference.importers.savedmodel.converter.pieces import become, built
from ringpull.inference.importers.savedmodel.converter.refusing import Refused
from ringpull.inference.importers.savedmodel.converter.text_ops import MOVES

BUCKETIZE: Final = "Bucketize"
_BFLOAT16: Final = tf.bfloat16.as_datatype_enum
_CARRIES: Final = frozenset({"Const", "Placeholder", "GatherV2", "Cast"}) | MOVES
"""Ops that bfloat16 may go through, in which it stays what it is."""
_INTEGERS: Final = frozenset({tf.int8, tf.int16, tf.int32, tf.int64})


def write_plainly(graph: Any) -> None:
    """Rewrite such ops of a graph, which computes the same as before."""
    for node in list(graph.node):
        if node.op in _REWRITTEN:
            _REWRITTEN[node.op](graph, node)


def widen_bfloat16(graph: Any) -> None:
    """Have tables of bfloat16 be of float32, which holds the same numbers: onnxruntime does not take that type.

    Raises:
        Refused: Something is computed in bfloat16.
    """
    for node in graph.node:
        keys = [key for key, value in node.attr.items() if value.type == _BFLOAT16]
        if not keys:
            continue
        if node.op not in _CARRIES or (node.op == "Cast" and "DstT" in keys):
            raise Refused(
                "refused",
                f"{node.op} ({node.name}): computes in bfloat16, which onnxruntime does not; save the model so that it"
                " computes in float32 (tables may stay bfloat16)",
            )
        for key in keys:
            node.attr[key].type = tf.float32.as_datatype_enum
        if node.op == "Const":
            values = np.asarray(tf.make_ndarray(node.attr["value"].tensor), np.float32)
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))


def _one_hot(graph: Any, node: Any) -> None:
    """Have a `OneHot` give zeros below 0 in ONNX, too, whose own counts such numbers from behind."""
    index, depth = node.input[0], node.input[1]
    kind = tf.as_dtype(node.attr["TI"].type)
    given = [(index, kind), (depth, tf.int32)]
    graph.node.extend(
        built(f"{node.name}/ringpull", given, lambda index, depth: tf.where(index < 0, tf.cast(depth, kind), index))
    )
    node.input[0] = f"{node.name}/ringpull/0"


def _floor_mod(graph: Any, node: Any) -> None:
    """Have the remainder of integers have the divisor's sign, where tf2onnx gives it the dividend's."""
    _integers(graph, node, lambda one, other: tf.math.floormod(tf.math.floormod(one, other) + other, other))


def _floor_div(graph: Any, node: Any) -> None:
    """Have integers be divided down, where tf2onnx divides towards 0."""

    def build(one: Any, other: Any) -> Any:
        toward = tf.truncatediv(one, other)
        inexact = tf.not_equal(toward * other, one)
        below = tf.logical_and(inexact, tf.not_equal(one < 0, other < 0))
        return toward - tf.cast(below, toward.dtype)

    _integers(graph, node, build)


def _integers(graph: Any, node: Any, build: Callable[..., Any]) -> None:
    kind = tf.as_dtype(node.attr["T"].type)
    if kind in _INTEGERS:
        graph.node.extend(built(f"{node.name}/ringpull", [(each, kind) for each in node.input], build))
        become(node, f"{node.name}/ringpull/0", kind)


def _bucketize(graph: Any, node: Any) -> None:
    """Count boundaries that are not above a number."""
    kind = tf.as_dtype(node.attr["T"].type)
    boundaries = np.array(node.attr["boundaries"].list.f, np.float32)
    compared = kind if kind.is_floating else tf.float32  # as C++ compares an integer with a float

    def build(given: Any) -> Any:
        above = tf.cast(given, compared)[..., None] >= tf.constant(boundaries, compared)
        return tf.reduce_sum(tf.cast(above, tf.int32), -1)

    graph.node.extend(built(f"{node.name}/ringpull", [(node.input[0], kind)], build))
    become(node, f"{node.name}/ringpull/0", tf.int32)


def _dense_bincount(graph: Any, node: Any) -> None:
    """Count what a row has of each number, or whether it has it, where tf2onnx counts wrongly if it has one twice."""
    index, kind = tf.as_dtype(node.attr["Tidx"].type), tf.as_dtype(node.attr["T"].type)
    binary, weighted = node.attr["binary_output"].b, not _is_empty(graph, node.input[2])

    def build(values: Any, size: Any, weights: Any = None) -> Any:
        found = tf.cast(tf.equal(values[..., None], tf.range(size)), kind)
        if binary:
            return tf.reduce_max(found, -2)
        return tf.reduce_sum(found if weights is None else found * weights[..., None], -2)

    given = [(node.input[0], index), (node.input[1], index), *([(node.input[2], kind)] if weighted else [])]
    graph.node.extend(built(f"{node.name}/ringpull", given, build))
    become(node, f"{node.name}/ringpull/0", kind)


def _is_empty(graph: Any, tensor: str) -> bool:
    """Whether a tensor is a constant without elements."""
    by_name = {node.name: node for node in graph.node}
    node = by_name[tensor.split(":")[0]]
    while node.op == "Identity":
        node = by_name[node.input[0].split(":")[0]]
    return node.op == "Const" and 0 in [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim]


def _choose(graph: Any, node: Any, name: str, _: Any) -> None:
    """Turn a choice into `Where`; tf2onnx multiplies by 0 and 1, which makes NaN of the NaN that is not chosen.

    Args:
        graph: A graph of tf2onnx's, of which it is an op.
    """
    condition, chosen = graph.get_rank(node.input[0]), graph.get_rank(node.input[1])
    if node.type == "Select" and condition == 1 and chosen != 1:
        if chosen is None:
            raise ValueError(f"{name} chooses rows of an unknown number of dimensions")
        shape = graph.make_const(f"{name}/ringpull_shape", np.array([-1] + [1] * (chosen - 1), np.int64))
        rows = graph.make_node("Reshape", [node.input[0], shape.output[0]], dtypes=[graph.get_dtype(node.input[0])])
        graph.replace_input(node, node.input[0], rows.output[0], 0)
    node.type = "Where"


CHOICES: Final[dict[str, tuple[Callable[..., None], list[str]]]] = {"Select": (_choose, []), "SelectV2": (_choose, [])}
"""Ops that tf2onnx itself is told how to turn."""
_REWRITTEN: Final[dict[str, Callable[[Any, Any], None]]] = {
    "OneHot": _one_hot,
    "FloorMod": _floor_mod,
    "FloorDiv": _floor_div,
    BUCKETIZE: _bucketize,
    "DenseBincount": _dense_bincount,
}
