"""Signatures that take `tf.Example`s as texts: what these are parsed into becomes the inputs.

TensorFlow Serving's `Classify` and `Regress` parse examples in the graph. Here the head parses them, by the names of
features, each of which becomes an input of that name: one with a shape of its own (FixedLenFeature) of this shape, one
with any number of values (VarLenFeature, as estimators parse categories) of a matrix in which an empty text or -1
stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.asking import constants_of
from ringpull.inference.importers.savedmodel.converter.flattening import Flat, pruned
from ringpull.inference.importers.savedmodel.converter.pieces import built
from ringpull.inference.importers.savedmodel.converter.refusing import Refused

_PARSES: Final = frozenset({"ParseExample", "ParseExampleV2"})
NOTHING: Final[dict[Any, Any]] = {tf.string: b"", tf.int64: -1}
"""What stands for none in the matrix of a feature with any number of values."""


class _Parser(NamedTuple):
    """Names of what an op parses, in the order of its outputs."""

    node: Any
    sparse: list[str]
    dense: list[str]


def without_examples(name: str, flat: Flat) -> tuple[Flat, dict[str, Any], dict[str, Any]]:
    """Return a signature without the parsing of examples.

    Returns:
        The signature; types and shapes of the inputs that are new; what stands for none in those of any length.

    Raises:
        Refused: A feature of numbers has any number of values, or examples are parsed more than once.
    """
    parsing = [node for node in flat.graph.node if node.op in _PARSES]
    if not parsing:
        return flat, {}, {}
    if len(parsing) > 1:
        raise Refused("refused", f"signature {name}: parses examples {len(parsing)} times; one is taken apart")
    parser = _parser(parsing[0], flat.graph)
    graph, inputs = flat.graph, dict(flat.inputs)
    specs: dict[str, Any] = {}
    pads: dict[str, Any] = {}
    used = {_place(each) for node in graph.node for each in node.input if each.split(":")[0] == parser.node.name}
    for key, spec, places in _features(name, parser, used):
        made = graph.node.add(name=f"ringpull_example/{len(specs)}", op="Placeholder")
        made.attr["dtype"].type = spec.dtype.as_datatype_enum
        made.attr["shape"].shape.CopyFrom(spec.shape.as_proto())
        if len(places) > 1:
            pads[key] = NOTHING[spec.dtype]
            tensors = _sparse(graph, made.name, spec.dtype, pads[key])
        else:
            tensors = [made.name]
        _take(graph, parser.node.name, dict(zip(places, tensors, strict=True)))
        inputs[key], specs[key] = made.name, spec
    graph = pruned(graph, flat.outputs.values())
    left = {each.name for each in graph.node}
    inputs = {key: place for key, place in inputs.items() if place in left}
    return replace(flat, graph=graph, inputs=inputs), specs, pads


def _features(name: str, parser: _Parser, used: set[int]) -> list[tuple[str, tf.TensorSpec, list[int]]]:
    """Return name, type and shape, and the places of the outputs of each feature that is used."""
    node, count, found = parser.node, len(parser.sparse), []
    types = list(node.attr["sparse_types"].list.type)
    for place, key in enumerate(parser.sparse):
        places, dtype = [place, count + place, 2 * count + place], tf.as_dtype(types[place])
        if not used & set(places):
            continue
        if dtype not in NOTHING:
            raise Refused(
                "refused",
                f"signature {name}: feature {key} has any number of {dtype.name} (VarLenFeature), of which none can"
                " stand for nothing; give it a shape (FixedLenFeature), or import a signature of tensors (--signature)",
            )
        found.append((key, tf.TensorSpec([None, None], dtype), places))
    shapes, types = list(node.attr["dense_shapes"].list.shape), list(node.attr["Tdense"].list.type)
    for place, key in enumerate(parser.dense):
        if 3 * count + place in used:
            shape = [None, *(dim.size for dim in shapes[place].dim)]
            found.append((key, tf.TensorSpec(shape, tf.as_dtype(types[place])), [3 * count + place]))
    if odd := sorted(used - {place for _, _, places in found for place in places}):
        raise Refused(
            "refused",
            f"signature {name}: output {odd[0]} of {node.name} is ragged (RaggedFeature), which is not taken apart;"
            " parse it as a VarLenFeature, or import a signature of tensors (--signature)",
        )
    return found


def _sparse(graph: Any, given: str, dtype: Any, pad: Any) -> list[str]:
    """Add what makes places, values and shape of a matrix, as of a sparse tensor; return these tensors."""

    def build(matrix: Any) -> tuple[Any, Any, Any]:
        places = tf.where(tf.not_equal(matrix, tf.constant(pad, dtype)))
        return places, tf.gather_nd(matrix, places), tf.shape(matrix, tf.int64)

    graph.node.extend(built(f"{given}/ringpull", [(given, dtype)], build))
    return [f"{given}/ringpull/{place}" for place in range(3)]


def _take(graph: Any, parser: str, tensors: dict[int, str]) -> None:
    """Have what takes these outputs of a parser take other tensors."""
    for node in graph.node:
        renamed = [tensors.get(_place(each), each) if each.split(":")[0] == parser else each for each in node.input]
        del node.input[:]
        node.input.extend(renamed)


def _parser(node: Any, graph: Any) -> _Parser:
    constants = constants_of(graph)

    def texts(places: Sequence[int]) -> list[str]:
        found: list[NDArray[Any]] = []
        for place in places:
            name = node.input[place].split(":")[0]
            if name not in constants:
                raise Refused("refused", f"{node.name}: the names of its features are no constants")
            found.append(constants[name].reshape(-1))
        return [each.decode() for each in np.concatenate(found).tolist()] if found else []

    if node.op == "ParseExample":
        sparse, dense = node.attr["Nsparse"].i, node.attr["Ndense"].i
        return _Parser(node, texts(range(2, 2 + sparse)), texts(range(2 + sparse, 2 + sparse + dense)))
    return _Parser(node, texts([2]), texts([3]))


def _place(tensor: str) -> int:
    return int(tensor.split(":")[1]) if ":" in tensor else 0
