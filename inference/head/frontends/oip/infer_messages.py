"""Reading a `ModelInferRequest`: its numbers stay as they lie in the message, and what is said of them is remembered.

Clients send the same names, types and shapes again and again. To find what they say by its bytes takes a tenth of the
time of reading its fields, so it is kept: by request, where shapes are the same, and by input, where some are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from ringpull.inference.head.frontends.oip.datatypes import read_contents
from ringpull.inference.head.frontends.oip.infer_calls import (
    InferCall,
    InferHead,
    TensorHead,
    check_input_parameters,
    timeout_of,
    version_of,
    wanted,
)
from ringpull.inference.head.frontends.oip.messages import ModelInferRequest, message
from ringpull.inference.head.request.received import Limits, check_count
from ringpull.ps.errors import InvalidInput

REQUESTS_KEPT: Final = 512
MAX_REQUEST_BYTES: Final = 1 << 13
"""Longest request, without values, that is remembered: what strangers send must not fill the memory."""
INPUTS_KEPT: Final = 4_096
MAX_INPUT_BYTES: Final = 256

InferInputTensor: Final = message("ModelInferRequest.InferInputTensor")


def read_message(request: Any, limits: Limits) -> InferCall:
    """Return what a message asks for, and leave it without values and id.

    Raises:
        InvalidInput: It is not as it should be; the message names the input, output or parameter.
        LimitExceeded: It has more inputs than a request may have columns.
    """
    inputs, raws, request_id = request.inputs, list(request.raw_input_contents), request.id
    check_count(len(inputs), limits.max_columns)
    if not raws:
        head = _head_of(request, [TensorHead.of(each.name, each.datatype, each.shape) for each in inputs])
        return InferCall(head, [_typed(each) for each in inputs], request_id)
    if len(raws) != len(inputs):
        raise InvalidInput(f"raw_input_contents: {len(raws)} of them for {len(inputs)} inputs; give one each, or none")
    request.ClearField("raw_input_contents")
    request.ClearField("id")
    serialized = request.SerializeToString()
    read = _known_request if len(serialized) <= MAX_REQUEST_BYTES else _read_request
    return InferCall(read(serialized), raws, request_id)


def _read_request(serialized: bytes) -> InferHead:
    """Return what a request says, whose values are elsewhere."""
    request = ModelInferRequest.FromString(serialized)
    heads = []
    for each in request.inputs:
        content = each.SerializeToString()
        heads.append((_known_input if len(content) <= MAX_INPUT_BYTES else _read_input)(content))
    return _head_of(request, heads)


def _read_input(serialized: bytes) -> TensorHead:
    """Return what an input says, whose values are elsewhere."""
    tensor = InferInputTensor.FromString(serialized)
    name = tensor.name
    if tensor.parameters:
        check_input_parameters(name, _values_of(tensor.parameters))
    if tensor.HasField("contents"):
        raise InvalidInput(f"input {name}: has contents, and the request raw_input_contents, too; give one of both")
    return TensorHead.of(name, tensor.datatype, tensor.shape)


_known_request: Final = lru_cache(REQUESTS_KEPT)(_read_request)
_known_input: Final = lru_cache(INPUTS_KEPT)(_read_input)


def _head_of(request: Any, inputs: Iterable[TensorHead]) -> InferHead:
    return InferHead(
        model=request.model_name,
        version=version_of(request.model_version),
        inputs=tuple(inputs),
        outputs=wanted((each.name, _values_of(each.parameters)) for each in request.outputs),
        timeout_s=timeout_of(_values_of(request.parameters)) if request.parameters else None,
    )


def _typed(tensor: Any) -> Any:
    """Return the values of an input with typed contents."""
    name = tensor.name
    if tensor.parameters:
        check_input_parameters(name, _values_of(tensor.parameters))
    return read_contents(name, tensor.datatype, tensor.shape, tensor.contents)


def _values_of(parameters: Any) -> dict[str, Any]:
    """Return a map of `InferParameter` as plain values; None: one without a value."""
    plain = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        plain[name] = getattr(parameter, choice) if choice else None
    return plain
