"""`TensorProto`s as clients write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.schema.columns import Column, Ragged

NAMES = {
    "float16": ("DT_HALF", "half_val"),
    "float32": ("DT_FLOAT", "float_val"),
    "float64": ("DT_DOUBLE", "double_val"),
    "int8": ("DT_INT8", "int_val"),
    "int16": ("DT_INT16", "int_val"),
    "int32": ("DT_INT32", "int_val"),
    "int64": ("DT_INT64", "int64_val"),
    "uint8": ("DT_UINT8", "int_val"),
    "uint16": ("DT_UINT16", "int_val"),
    "uint32": ("DT_UINT32", "uint32_val"),
    "uint64": ("DT_UINT64", "uint64_val"),
    "bool": ("DT_BOOL", "bool_val"),
    "object": ("DT_STRING", "string_val"),
}


def dims(*sizes: int) -> dict[str, Any]:
    return {"dim": [{"size": size} for size in sizes]}


def tensor(values: Any, *, listed: bool = False) -> Any:
    """A tensor as `tf.make_tensor_proto` makes it: numbers in `tensor_content`, strings and `listed` ones in a list."""
    array = np.asarray(values)
    if array.dtype.kind in "UO" and array.size:
        encode = np.vectorize(lambda text: text.encode() if isinstance(text, str) else text, otypes=[object])
        array = encode(array)
    dtype, field = NAMES[array.dtype.name]
    if array.dtype.kind == "O" or listed:
        flat = array.ravel()
        given = flat.view(np.uint16) if field == "half_val" else flat
        content = {field: given.tolist()}
    else:
        content = {"tensor_content": array.tobytes()}
    return messages.TensorProto(dtype=dtype, tensor_shape=dims(*array.shape), **content)


def tensors(columns: Mapping[str, Column]) -> dict[str, Any]:
    """Columns as a client sends them: ragged ones with their offsets, and weights."""
    inputs = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            inputs[name] = tensor(column.values)
            inputs[f"{name}_offsets"] = tensor(column.offsets)
            if column.weights is not None:
                inputs[f"{name}_weights"] = tensor(column.weights)
        else:
            inputs[name] = tensor(column)
    return inputs
