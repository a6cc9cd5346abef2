"""Asking TensorFlow what one op of a graph makes of given values, outside the graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ringpull.inference.importers.savedmodel.converter.refusing import Refused, brief

TABLES: Final = frozenset({"HashTableV2"})
"""Ops that make a table of look-ups, in graphs of TensorFlow 1."""


def ask(
    node: Any, given: Mapping[int, NDArray[Any]], constants: Mapping[str, NDArray[Any]], handles: Mapping[str, Any]
) -> NDArray[Any]:
    """Return the first output of an op for given values.

    Args:
        given: Values by place of the op's inputs; the others are constants or tables of look-ups.

    Raises:
        Refused: TensorFlow fails on them, or an input is neither.
    """
    taken: list[Any] = []
    for place, each in enumerate(node.input):
        name = each.split(":")[0]
        if place in given:
            taken.append(tf.constant(given[place]))
        elif name in constants:
            taken.append(tf.constant(constants[name]))
        elif name in handles:
            taken.append(handles[name])
        else:
            raise Refused("refused", f"{node.op} ({node.name}): takes {name}, which is no constant")
    function = getattr(tf.raw_ops, node.op)
    names = [name for name in inspect.signature(function).parameters if name != "name"]
    arguments: dict[str, Any] = dict(zip(names, taken, strict=False))
    for name in names[len(taken) :]:
        if name in node.attr:
            arguments[name] = _plain(node.attr[name])
    try:
        found = function(**arguments)
    except Exception as exc:  # errors of TensorFlow have no root of their own
        raise Refused("refused", f"{node.op} ({node.name}) cannot be asked for what it knows: {brief(exc)}") from exc
    first = found[0] if isinstance(found, tuple | list) else found
    array: NDArray[Any] = first.numpy()
    return array


def table_of(node: Any) -> Any:
    """Return the table of look-ups that an op of a graph of TensorFlow 1 makes, by the name that it is shared under.

    Raises:
        Refused: It has no such name.
    """
    shared = node.attr["shared_name"].s
    if not shared:
        raise Refused("refused", f"{node.op} ({node.name}): is a table of look-ups that nothing else can read")
    types = {key: tf.as_dtype(node.attr[key].type) for key in ("key_dtype", "value_dtype")}
    return tf.raw_ops.HashTableV2(container=node.attr["container"].s, shared_name=shared, **types)


def table_keys(handle: Any, find: Any) -> list[Any]:
    """Return the keys of a table of look-ups: bytes, or integers.

    Args:
        find: An op that looks in it: to ask for other types than its keys and values have ends the process.

    Raises:
        Refused: It cannot be read.
    """
    key, value = (tf.as_dtype(find.attr[name].type) for name in ("Tin", "Tout"))
    try:
        keys, _ = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=key, Tvalues=value)
    except Exception as exc:  # errors of TensorFlow have no root of their own
        raise Refused("refused", f"the table of {find.op} ({find.name}) cannot be read: {brief(exc)}") from exc
    return list(keys.numpy().tolist())


def constants_of(graph: Any) -> dict[str, NDArray[Any]]:
    """Return the constants of texts and numbers by name, also those that ops pass on as they are, or cast."""
    found: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op == "Const" and _size(node) <= 1 << 20:
            found[node.name] = np.asarray(tf.make_ndarray(node.attr["value"].tensor))
    grew = True
    while grew:
        grew = False
        for node in graph.node:
            if node.op in ("Identity", "Cast") and node.name not in found and node.input[0].split(":")[0] in found:
                given = found[node.input[0].split(":")[0]]
                cast = node.op == "Cast" and given.dtype.kind in "iufb"
                found[node.name] = given.astype(tf.as_dtype(node.attr["DstT"].type).as_numpy_dtype) if cast else given
                grew = True
    return found


def _size(node: Any) -> int:
    shape = node.attr["value"].tensor.tensor_shape
    return int(np.prod([dim.size for dim in shape.dim], dtype=np.int64))


def _plain(value: Any) -> Any:
    """Return an attribute of an op as Python has it."""
    kind = value.WhichOneof("value")
    plain = getattr(value, kind)
    return tf.as_dtype(plain) if kind == "type" else plain
