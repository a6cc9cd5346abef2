"""Requests of the protocol for the small model, and what a client does with replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.oip.messages import ModelInferRequest
from tests.inference.small_model import plain_row

INFER = "/inference.GRPCInferenceService/ModelInfer"

TENSORS: dict[str, NDArray[Any]] = {
    "user": np.array([7]),
    "item": np.array([1, 2, 3]),
    "genres": np.array([1, 2, 1]),
    "genres_offsets": np.array([0, 2, 2, 3]),
    "tags": np.array([1, 4]),
    "tags_offsets": np.array([0, 1, 2, 2]),
    "tags_weights": np.array([0.5, 2.0], np.float32),
    "history": np.array([[5], [6], [7]]),
    "age": np.array([[1.0, 2.0]], np.float32),
    "price": np.array([3.0], np.float32),
}
"""Three candidates of one user, each kind of column once."""

ROWS = [
    {**plain_row(7, 1), "genres": [1, 2], "tags": [(1, 0.5)], "history": [5]},
    {**plain_row(7, 2), "genres": [], "tags": [(4, 2.0)], "history": [6]},
    {**plain_row(7, 3), "genres": [1], "tags": [], "history": [7]},
]
"""The same rows, as the oracle takes them."""

DATATYPES = {"i1": "INT8", "i2": "INT16", "i4": "INT32", "i8": "INT64", "u1": "UINT8", "u2": "UINT16", "u4": "UINT32"}
DATATYPES |= {"u8": "UINT64", "f2": "FP16", "f4": "FP32", "f8": "FP64", "b1": "BOOL", "O8": "BYTES"}


def datatype_of(values: NDArray[Any]) -> str:
    return DATATYPES[values.dtype.str[1:].replace("|", "") if values.dtype != object else "O8"]


def raw_of(values: NDArray[Any]) -> bytes:
    """A tensor's values as the protocol has them: strings behind their lengths."""
    if values.dtype != object:
        return values.tobytes()
    texts = [each if isinstance(each, bytes) else each.encode() for each in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def infer_request(
    tensors: Mapping[str, NDArray[Any]] = TENSORS,
    outputs: Sequence[str] = (),
    *,
    parameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """A `ModelInferRequest` with raw contents."""
    return ModelInferRequest(
        **{"model_name": "ranker", **fields},
        parameters=parameters,
        inputs=[
            {"name": name, "datatype": datatype_of(values), "shape": values.shape} for name, values in tensors.items()
        ],
        outputs=[{"name": name} for name in outputs],
        raw_input_contents=[raw_of(values) for values in tensors.values()],
    )


def typed_request(tensors: Mapping[str, NDArray[Any]] = TENSORS, **fields: Any) -> Any:
    """A `ModelInferRequest` with typed contents."""
    asked = infer_request(tensors, **fields)
    asked.ClearField("raw_input_contents")
    for each, values in zip(asked.inputs, tensors.values(), strict=True):
        getattr(each.contents, CONTENTS[each.datatype]).extend(values.ravel().tolist())
    return asked


CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents", "UINT64": "uint64_contents"}


def outputs_of(reply: Any) -> dict[str, NDArray[np.float32]]:
    """The outputs of a reply."""
    assert len(reply.outputs) == len(reply.raw_output_contents)
    assert {each.datatype for each in reply.outputs} == {"FP32"}
    return {
        each.name: np.frombuffer(raw, "<f4").reshape(each.shape)
        for each, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
