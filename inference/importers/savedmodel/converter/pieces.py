"""Pieces of a graph written as TensorFlow's functions, to be put in the place of ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def built(prefix: str, given: Sequence[tuple[str, Any]], build: Callable[..., Any]) -> list[Any]:
    """Return the nodes of a piece of a graph, its outputs called `PREFIX/0`, `PREFIX/1`...

    Args:
        given: Tensor and type of each that the piece takes.
        build: What makes its outputs of those.
    """
    made = tf.Graph()
    with made.as_default():
        places = [tf.compat.v1.placeholder(dtype, name=f"given_{place}") for place, (_, dtype) in enumerate(given)]
        outputs = build(*places)
        for place, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
            tf.identity(output, name=f"output_{place}")
    names = {f"given_{place}": tensor for place, (tensor, _) in enumerate(given)}
    nodes = []
    for node in made.as_graph_def().node:
        if node.name in names:
            continue
        node.name = f"{prefix}/{node.name.removeprefix('output_')}"
        renamed = []
        for each in node.input:
            name, colon, place = each.partition(":")
            renamed.append(names.get(name, f"{prefix}/{name}{colon}{place}"))
        del node.input[:]
        node.input.extend(renamed)
        nodes.append(node)
    return nodes


def become(node: Any, tensor: str, kind: Any) -> None:
    """Have an op pass on another tensor of a type."""
    node.op = "Identity"
    node.attr.clear()
    node.attr["T"].type = tf.as_dtype(kind).as_datatype_enum
    del node.input[:]
    node.input.append(tensor)
