"""Rows by key, for clients that know models only: table T of model M is asked for as the model `M.T`.

Its input is `KEYS` (N,), its outputs are `ROWS` (N, dim), of a table of bytes (N,), and `FOUND` (N,). A served model
that is called like that is meant first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.oip.descriptions import ANY, Signature, Tensor
from ringpull.inference.head.frontends.oip.infer_calls import MAX_UNCHECKED_BYTES, InferCall
from ringpull.inference.head.frontends.oip.outputs import Answer, Output, named
from ringpull.inference.head.frontends.tensors import column_of_utf8
from ringpull.inference.head.request.full_names import TableName
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsAnswer, RowsRequest
from ringpull.inference.wire.column_codec import LENGTHS, check_utf8, column_of_texts
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import keys_of_texts
from ringpull.ps.spec import KeyType, TableSpec

KEYS: Final = "KEYS"
ROWS: Final = "ROWS"
FOUND: Final = "FOUND"

KEY_DATATYPES: Final = {KeyType.INT64: "INT64", KeyType.UINT64: "UINT64", KeyType.STRING: "BYTES"}


def signature_of(name: str, spec: TableSpec, versions: list[int]) -> Signature:
    """Return the signature of a table.

    Args:
        name: Full name of it.
        versions: Served versions that have it, ascending.
    """
    rows = Tensor(ROWS, "FP32", [ANY, spec.dim]) if spec.dim else Tensor(ROWS, "BYTES", [ANY])
    keys = Tensor(KEYS, KEY_DATATYPES[spec.key_type], [ANY])
    return Signature(name, versions, [keys], [rows, Tensor(FOUND, "BOOL", [ANY])])


def request_of(asked: InferCall, table: TableName, limits: RowLimits) -> RowsRequest:
    """Return the rows that an inference asks for.

    Raises:
        InvalidInput: It has not keys alone, or asks for an output that there is not.
        LimitExceeded: There are more keys than `limits` allow.
    """
    names = [each.name for each in asked.head.inputs]
    if names == [KEYS] and asked.head.inputs[0].shape and asked.cost > MAX_UNCHECKED_BYTES:
        limits.check_keys(asked.head.inputs[0].shape[0])  # before anything is made of them
    tensors = asked.tensors()
    if tensors.keys() != {KEYS}:
        has = ", ".join(tensors) or "none"
        raise InvalidInput(f"inputs of a table must be {KEYS} alone; these are: {has}")
    for name in asked.head.outputs:
        if name not in (ROWS, FOUND):
            raise InvalidInput(f"output {name}: a table has the outputs {ROWS} and {FOUND}")
    values = tensors[KEYS]
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise InvalidInput(f"input {KEYS}: its shape is {list(values.shape)}; it must be [N]")
    limits.check_keys(len(values))
    keys, key_type = _hashed(values.ravel())
    return RowsRequest(
        model=table.model,
        table=table.table,
        keys=keys,
        key_type=key_type,
        version=asked.head.version,
        request_id=asked.request_id,
    )


def answer_of(asked: InferCall, answer: RowsAnswer) -> Answer:
    """Return rows as the reply to an inference."""
    assert answer.found is not None  # nothing was pooled
    outputs = (Output(ROWS, answer.rows), Output(FOUND, answer.found))
    return Answer(
        model=asked.head.model,
        version=answer.version,
        outputs=tuple(named(outputs, asked.head.outputs or (ROWS, FOUND))),
    )


def _hashed(values: NDArray[Any]) -> tuple[NDArray[np.uint64], KeyType | None]:
    """Return keys as tables have them, and the type in which they were sent; None: there is none."""
    kind = values.dtype.kind
    if kind == "O":
        texts = values.tolist()
        column = column_of_utf8(KEYS, texts) if texts and isinstance(texts[0], bytes) else column_of_texts(KEYS, texts)
        lengths = np.frombuffer(column.lengths, LENGTHS)
        check_utf8(f"input {KEYS}: key", column.data, lengths)
        return keys_of_texts(column.data, lengths), KeyType.STRING
    if kind not in "iu":
        raise InvalidInput(f"input {KEYS}: keys must be integers or strings")
    if values.dtype.itemsize == 8 and kind == "u":
        return values.astype(np.uint64, copy=False), KeyType.UINT64
    return values.astype(np.int64).view(np.uint64), KeyType.INT64
