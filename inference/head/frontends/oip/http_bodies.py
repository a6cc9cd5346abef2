"""Bodies of inferences over HTTP: JSON, behind which tensors may lie as bytes (the binary extension).

`Inference-Header-Content-Length` says how long the JSON is; the bytes of those inputs, or outputs, whose parameters
have `binary_data_size` follow it in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from ringpull.inference.head.frontends.oip.datatypes import check_shape, from_list
from ringpull.inference.head.frontends.oip.infer_calls import (
    InferCall,
    InferHead,
    SentValues,
    TensorHead,
    check_input_parameters,
    timeout_of,
    version_of,
    wanted,
)
from ringpull.inference.head.frontends.oip.outputs import Answer
from ringpull.inference.head.request.received import Limits, check_count
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.json_writing import JsonWriter, plain
from ringpull.ps.errors import InvalidInput

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, eq=False)
class HttpInfer:
    """Inference that is asked for over HTTP."""

    call: InferCall
    binary: Mapping[str, bool]
    """Outputs that say themselves whether they are to come as bytes."""
    binary_others: bool
    """Whether the other ones are."""


def json_length(body: bytes, stated: str | None) -> int:
    """Return how many bytes of a body are JSON.

    Args:
        stated: What its header says; None: nothing, so all.

    Raises:
        InvalidInput: The header has no such number.
    """
    if stated is None:
        return len(body)
    if not (stated.isascii() and stated.isdecimal() and len(stated) <= 18 and int(stated) <= len(body)):
        raise InvalidInput(
            f"{HEADER_LENGTH} is {stated[:40]!r}; it must be the length of the JSON, at most that of the body,"
            f" {len(body)}"
        )
    return int(stated)


def read_infer(body: bytes, length: int, model: str, version: str, limits: Limits) -> HttpInfer:
    """Return what a body asks for. Tensors that lie in it as bytes stay there.

    Args:
        length: Bytes of it that are JSON.
        model: Model that the path names.
        version: Version that the path names; empty: none.

    Raises:
        InvalidInput: It is not as it should be; the message names the input, output or parameter.
        LimitExceeded: It has more inputs than a request may have columns.
    """
    asked = as_object("the body", parse_json(body[:length]))
    inputs = _objects("inputs", asked.get("inputs"))
    check_count(len(inputs), limits.max_columns)
    heads: list[TensorHead] = []
    values: list[SentValues] = []
    rest = memoryview(body)[length:]
    at = 0
    for each in inputs:
        tensor, sent = _tensor(_name("inputs", each), each, rest[at:])
        heads.append(tensor)
        values.append(sent)
        if not isinstance(sent, np.ndarray):
            at += len(sent)
    if at != len(rest):
        raise InvalidInput(f"the body has {len(rest) - at} bytes after the JSON and the data of its inputs")
    outputs = _objects("outputs", _unless_null(asked, "outputs", []))
    named = [(_name("outputs", each), parameters_of(each)) for each in outputs]
    parameters = parameters_of(asked)
    request_id = _unless_null(asked, "id", "")
    if not isinstance(request_id, str):
        raise InvalidInput("id must be a string")
    head = InferHead(
        model=model,
        version=version_of(version),
        inputs=tuple(heads),
        outputs=wanted(named),
        timeout_s=timeout_of(parameters),
    )
    call = InferCall(head, values, request_id)
    binary = {name: _flag(each, "binary_data") for name, each in named if "binary_data" in each}
    return HttpInfer(call, binary, "binary_data_output" in parameters and _flag(parameters, "binary_data_output"))


def reply_of(asked: HttpInfer, answer: Answer, out: JsonWriter) -> tuple[list[bytes], int | None]:
    """Return the body that answers, in parts.

    Args:
        out: Writes the JSON, which has not begun.

    Returns:
        Parts, of which the first is JSON; its length where others follow, else None.

    Raises:
        InvalidInput: An output cannot be JSON, as it is asked for.
        LimitExceeded, DeadlineExceeded: See `JsonWriter.write`.
    """
    head = {"model_name": answer.model, "model_version": str(answer.version)}
    if asked.call.request_id:
        head["id"] = asked.call.request_id
    out.write(json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"outputs":[')
    parts = []
    for place, each in enumerate(answer.outputs):
        told: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": each.shape}
        if asked.binary.get(each.name, asked.binary_others):
            parts.append(each.raw())
            told["parameters"] = {"binary_data_size": len(parts[-1])}
        out.write(b"," * (place > 0) + plain(told)[:-1])
        if "parameters" not in told:
            out.write(b',"data":')
            each.write(out)
        out.write(b"}")
    out.write(b"]}")
    header = out.to_bytes()
    return [header, *parts], len(header) if parts else None


def as_object(what: str, given: Any) -> Mapping[str, Any]:
    """Return what is a JSON object.

    Raises:
        InvalidInput: It is none; the message names it by `what`.
    """
    if not isinstance(given, dict):
        raise InvalidInput(f"{what} must be a JSON object")
    return given


def parameters_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of an object, those that are null left out: clients write what they have not as null.

    Raises:
        InvalidInput: They are no object.
    """
    parameters = as_object("parameters", _unless_null(given, "parameters", {}))
    return {name: value for name, value in parameters.items() if value is not None}


def _unless_null(given: Mapping[str, Any], field: str, absent: Any) -> Any:
    """Return a field; `absent`: it is absent, or null."""
    value = given.get(field)
    return absent if value is None else value


def _tensor(name: str, given: Mapping[str, Any], rest: memoryview) -> tuple[TensorHead, SentValues]:
    """Return a tensor, whose bytes are the first of the rest after the JSON if they are there."""
    datatype, shape = given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str):
        raise InvalidInput(f"input {name}: has no datatype; give one such as INT64")
    if not isinstance(shape, list) or not all(type(each) is int for each in shape):
        raise InvalidInput(f"input {name}: its shape must be a list of integers")
    parameters = parameters_of(given)
    check_input_parameters(name, parameters)
    if "binary_data_size" not in parameters:
        if given.get("data") is None:
            raise InvalidInput(f"input {name}: has no data, and no binary_data_size among its parameters")
        values = check_shape(name, datatype, shape)
        array = from_list(name, datatype, shape, _flat(name, given["data"], len(shape)), values)
        return TensorHead.of(name, datatype, shape), array
    size = parameters["binary_data_size"]
    if given.get("data") is not None:
        raise InvalidInput(f"input {name}: has data and a binary_data_size; give one of both")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"input {name}: binary_data_size is {str(size)[:40]}; after the JSON and the inputs before it the body has"
            f" {len(rest)} bytes"
        )
    return TensorHead.of(name, datatype, shape), rest[:size]


def _flat(name: str, data: Any, dimensions: int) -> list[Any]:
    """Return values that are nested as the shape is, or flat already, as one list."""
    if not isinstance(data, list):
        raise InvalidInput(f"input {name}: its data must be a list")
    flat: list[Any] = data
    for _ in range(dimensions - 1):
        nested = sum(isinstance(each, list) for each in flat)
        if not nested:
            break
        if nested < len(flat):
            raise InvalidInput(f"input {name}: its data has lists beside values")
        flat = list(chain.from_iterable(flat))
    return flat


def _objects(field: str, given: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise InvalidInput(f"{field} must be a list of objects, each with a name")
    return given


def _name(field: str, given: Mapping[str, Any]) -> str:
    name = given.get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"{field}: each must have a name, a string")
    return name


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    flag = parameters[name]
    if not isinstance(flag, bool):
        raise InvalidInput(f"parameter {name}: is {str(flag)[:40]}; it must be true or false")
    return flag
