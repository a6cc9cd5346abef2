"""Crosses (`SparseCross`, hashed) as arithmetic: the bucket of each combination of values, -1 where one is absent.

What a cross makes is `FingerprintCat64` of its features' values, one after the other, and the remainder by its buckets:
a text's value is its fingerprint, an integer's is itself. The op gives sparse tensors. Here each feature is a matrix
of a row's values beside one of which are there, and the cross the matrix of all combinations; where it is made dense
again, the matrix is taken.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import tensorflow as tf

from ringpull.inference.importers.savedmodel.converter.dense_again import Lifter
from ringpull.inference.importers.savedmodel.converter.fingerprints import buckets
from ringpull.inference.importers.savedmodel.converter.pieces import become, built
from ringpull.inference.importers.savedmodel.converter.refusing import Refused

CROSS: Final = "SparseCross"
_FACTOR: Final = int(np.uint64(0xC6A4A7935BD1E995).view(np.int64))
_SPARSE_DENSE: Final = "SparseToDense"


def expand_crosses(graph: Any) -> list[str]:
    """Replace the crosses of a graph, whose texts are fingerprints; return the matrices of their buckets.

    Raises:
        Refused: A cross is of texts that are none of an input, or is not hashed.
    """
    crosses = [node for node in graph.node if node.op == CROSS]
    for node in crosses:
        _expand(graph, node)
    return [f"{node.name}/ringpull/0" for node in crosses]


def _expand(graph: Any, node: Any) -> None:
    count, kinds = node.attr["N"].i, [*node.attr["sparse_types"].list.type, *node.attr["dense_types"].list.type]
    if not node.attr["hashed_output"].b or any(kind != tf.int64.as_datatype_enum for kind in kinds):
        raise Refused(
            "refused", f"{node.op} ({node.name}): only hashed crosses of inputs can be done without TensorFlow"
        )
    limit = node.attr["num_buckets"].i or 2**63 - 1
    key = int(np.uint64(node.attr["hash_key"].i % 2**64).view(np.int64))

    given, ways = _features(graph, node, count)

    def build(*tensors: Any) -> tuple[Any, Any, Any, Any]:
        left, features = list(tensors), []
        for way, taken in ways:
            features.append(way(*left[:taken]))
            del left[:taken]
        crossed, there = _crossed(features, key)
        found = tf.where(there > 0, buckets(crossed, limit), tf.constant(-1, tf.int64))
        places = tf.where(found >= 0)
        return found, places, tf.gather_nd(found, places), tf.shape(found, tf.int64)

    made = built(f"{node.name}/ringpull", given, build)
    outputs = {f"{node.name}:{place}": f"{node.name}/ringpull/{place + 1}" for place in range(3)}
    outputs[node.name] = outputs[f"{node.name}:0"]
    for other in graph.node:
        taken = [outputs.get(each, each) for each in other.input]
        del other.input[:]
        other.input.extend(taken)
    graph.node.remove(node)
    graph.node.extend(made)
    _take_matrix(graph, f"{node.name}/ringpull")


def _features(graph: Any, node: Any, count: int) -> tuple[list[tuple[str, Any]], list[tuple[Any, int]]]:
    """Return the tensors that a cross is made of, and for each feature what makes its matrix of how many of them."""
    given: list[tuple[str, Any]] = []
    ways: list[tuple[Any, int]] = []
    lifter = Lifter(graph)
    for place in range(count):
        parts = [node.input[part * count + place] for part in range(3)]
        where = lifter.origin(parts[0])
        lifted = lifter.lifted(parts[1], where) if where.op == "Where" else None
        if lifted is not None:
            given += [(lifted, tf.int64), (where.input[0], tf.bool)]
            ways.append((lambda values, there: (values, tf.cast(there, tf.int64)), 2))
        else:
            given += [(each, tf.int64) for each in parts]
            ways.append((_scattered, 3))
    for each in node.input[3 * count :]:
        given.append((each, tf.int64))
        ways.append((lambda values: (values, tf.ones_like(values)), 1))
    graph.node.extend(lifter.made)
    return given, ways


def _scattered(places: Any, values: Any, shape: Any) -> tuple[Any, Any]:
    return tf.scatter_nd(places, values, shape), tf.scatter_nd(places, places[:, 0] * 0 + 1, shape)


def _crossed(features: list[tuple[Any, Any]], key: int) -> tuple[Any, Any]:
    """Return the fingerprints of all combinations of a row's values, and which are there."""
    rows = tf.shape(features[0][0])[0]
    crossed = tf.fill([rows, 1], tf.constant(key, tf.int64))
    there = tf.fill([rows, 1], tf.constant(1, tf.int64))
    for values, present in features:
        crossed = tf.reshape(_joined(crossed[:, :, None], values[:, None, :]), [rows, -1])
        there = tf.reshape(there[:, :, None] * present[:, None, :], [rows, -1])
    return crossed, there


def _joined(one: Any, other: Any) -> Any:
    """Return `FingerprintCat64` (tsl/platform/fingerprint.h)."""
    factor = tf.constant(_FACTOR, tf.int64)
    result = tf.bitwise.bitwise_xor(one, factor)
    result = tf.bitwise.bitwise_xor(result, _mixed(other * factor) * factor) * factor
    return _mixed(_mixed(result) * factor)


def _mixed(word: Any) -> Any:
    """Return a word xor itself moved 47 bits to the right, as bits and not as a number."""
    moved = tf.math.floormod(tf.math.floordiv(word, tf.constant(2**47, tf.int64)), tf.constant(2**17, tf.int64))
    return tf.bitwise.bitwise_xor(word, moved)


def _take_matrix(graph: Any, prefix: str) -> None:
    """Have what makes a cross dense again take its matrix, in which the absent ones are replaced."""
    origin = {f"{prefix}/2": f"{prefix}/0"}
    made = []
    for node in graph.node:
        if node.op == "Identity" and node.input[0].split(":")[0] in origin and not node.name.startswith(prefix):
            origin[node.name] = f"{prefix}/0"
    for node in graph.node:
        if node.op != _SPARSE_DENSE or node.input[2].split(":")[0] not in origin:
            continue
        default = node.input[3]
        made += built(
            f"{node.name}/ringpull",
            [(f"{prefix}/0", tf.int64), (default, tf.int64)],
            lambda found, other: tf.where(found >= 0, found, other),
        )
        become(node, f"{node.name}/ringpull/0", tf.int64)
    graph.node.extend(made)
