"""Signatures that take `tf.Example`s as texts: what these are parsed into becomes the inputs.

TensorFlow Serving's `Classify` and `Regress` parse examples in the graph. Here the head parses them, by the names of
features: those that `ParseExample` gives a shape of their own become inputs of that name.
"""

from __future__ import annotations

from typing import Any, Final

import tensorflow as tf

from ringpull.inference.importers.savedmodel.converter.asking import constants_of
from ringpull.inference.importers.savedmodel.converter.flattening import Flat, pruned
from ringpull.inference.importers.savedmodel.converter.refusing import Refused

_PARSES: Final = frozenset({"ParseExample", "ParseExampleV2"})


def without_examples(name: str, flat: Flat) -> tuple[Flat, dict[str, Any]]:
    """Return a signature without the parsing of examples, and the types and shapes of the inputs that are new.

    Raises:
        Refused: A feature has any number of values, or the parsed examples are not what the caller sends.
    """
    parsing = [node for node in flat.graph.node if node.op in _PARSES]
    if not parsing:
        return flat, {}
    if len(parsing) > 1:
        raise Refused("refused", f"signature {name}: parses examples {len(parsing)} times; one is taken apart")
    (node,) = parsing
    keys, first = _dense_keys(node, flat.graph)
    taken = {each for other in flat.graph.node for each in other.input if each.split(":")[0] == node.name}
    places = {_place(each): each for each in taken}
    if sparse := [place for place in places if place < first]:
        raise Refused(
            "refused",
            f"signature {name}: an example's feature with any number of values (VarLenFeature, output {sparse[0]} of"
            f" {node.name}) is not taken apart; give it a shape (FixedLenFeature), or import a signature of tensors"
            " (--signature)",
        )
    graph, specs, inputs = flat.graph, {}, dict(flat.inputs)
    shapes = list(node.attr["dense_shapes"].list.shape)
    types = list(node.attr["Tdense"].list.type)
    for place, tensor in places.items():
        key, shape = keys[place - first], [dim.size for dim in shapes[place - first].dim]
        made = graph.node.add(name=f"ringpull_example/{place - first}", op="Placeholder")
        made.attr["dtype"].type = types[place - first]
        made.attr["shape"].shape.CopyFrom(tf.TensorShape([None, *shape]).as_proto())
        for other in graph.node:
            renamed = [made.name if each == tensor else each for each in other.input]
            del other.input[:]
            other.input.extend(renamed)
        inputs[key] = made.name
        specs[key] = tf.TensorSpec([None, *shape], tf.as_dtype(types[place - first]))
    graph = pruned(graph, flat.outputs.values())
    left = {each.name for each in graph.node}
    inputs = {key: place for key, place in inputs.items() if place in left}
    return Flat(graph, inputs, flat.outputs, flat.weights, flat.variables, flat.handles), specs


def _dense_keys(node: Any, graph: Any) -> tuple[list[str], int]:
    """Return the names of features with a shape of their own, and the place of the first one's output."""
    constants = constants_of(graph)

    def texts(place: int) -> list[str]:
        name = node.input[place].split(":")[0]
        if name not in constants:
            raise Refused("refused", f"{node.name}: the names of its features are no constants")
        return [each.decode() for each in constants[name].reshape(-1).tolist()]

    if node.op == "ParseExample":
        sparse, dense = node.attr["Nsparse"].i, node.attr["Ndense"].i
        keys = [texts(2 + sparse + place)[0] for place in range(dense)]
        return keys, 3 * sparse
    return texts(3), 3 * node.attr["num_sparse"].i


def _place(tensor: str) -> int:
    return int(tensor.split(":")[1]) if ":" in tensor else 0
